//! A throw-away stand-in for the engine: only to compile and try the trainer in this branch.
#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::unwrap_used, reason = "thrown away at the merge")]
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::{CommitHash, CommitId, Result};

#[derive(Clone, Copy, Debug)]
pub struct Optimizer(pub f32);
impl Optimizer {
    pub fn adagrad(lr: f32) -> Optimizer {
        Optimizer(lr)
    }
}
#[derive(Clone, Copy, Debug)]
pub struct Initializer(pub f32);
impl Initializer {
    pub fn uniform(a: f32) -> Initializer {
        Initializer(a)
    }
}
#[derive(Clone, Debug)]
pub struct TableSchema {
    name: String,
    dim: usize,
    lr: f32,
    init: f32,
}
impl TableSchema {
    pub fn new(name: &str, dim: usize) -> TableSchema {
        TableSchema { name: name.to_string(), dim, lr: 0.05, init: 0.0 }
    }
    pub fn optimizer(mut self, o: Optimizer) -> TableSchema {
        self.lr = o.0;
        self
    }
    pub fn initializer(mut self, i: Initializer) -> TableSchema {
        self.init = i.0;
        self
    }
}
#[derive(Clone, Copy, Debug)]
pub struct Update(pub u64);
impl Update {
    pub fn at(t: u64) -> Update {
        Update(t)
    }
}
type Rows = HashMap<u64, (Vec<f32>, Vec<f32>)>;
#[derive(Clone, Debug)]
pub struct Table {
    schema: TableSchema,
    rows: Arc<Mutex<Rows>>,
    committed: Arc<Mutex<Rows>>,
}
impl Table {
    fn initial(&self, key: u64, out: &mut [f32]) {
        for (i, o) in out.iter_mut().enumerate() {
            let r = crate::types::mix(key.wrapping_mul(31).wrapping_add(i as u64 * 7919 + 1));
            *o = ((r >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0) * self.schema.init;
        }
    }
    pub fn lookup(&self, keys: &[u64], out: &mut [f32]) -> Result<usize> {
        let rows = self.rows.lock().unwrap();
        let mut found = 0;
        for (key, out) in keys.iter().zip(out.chunks_mut(self.schema.dim)) {
            if let Some((row, _)) = rows.get(key) {
                out.copy_from_slice(row);
                found += 1;
            } else {
                self.initial(*key, out);
            }
        }
        Ok(found)
    }
    pub fn apply_gradients(&self, keys: &[u64], grads: &[f32], _u: &Update) -> Result<()> {
        let dim = self.schema.dim;
        let mut order: Vec<u64> = vec![];
        let mut sums: HashMap<u64, Vec<f32>> = HashMap::new();
        for (key, grad) in keys.iter().zip(grads.chunks(dim)) {
            let sum = sums.entry(*key).or_insert_with(|| {
                order.push(*key);
                vec![0.0; dim]
            });
            sum.iter_mut().zip(grad).for_each(|(s, g)| *s += g);
        }
        let mut rows = self.rows.lock().unwrap();
        for key in order {
            let (row, acc) = rows.entry(key).or_insert_with(|| {
                let mut row = vec![0.0; dim];
                self.initial(key, &mut row);
                (row, vec![0.1; dim])
            });
            for ((w, n), g) in row.iter_mut().zip(acc).zip(&sums[&key]) {
                *n += g * g;
                *w -= self.schema.lr * g / (n.sqrt() + 1e-10);
            }
        }
        Ok(())
    }
    pub fn prefetch(&self, _keys: &[u64]) -> Result<()> {
        Ok(())
    }
    pub fn len(&self) -> u64 {
        self.rows.lock().unwrap().len() as u64
    }
    /// Test help: forget what was not committed.
    pub fn crash(&self) {
        *self.rows.lock().unwrap() = self.committed.lock().unwrap().clone();
    }
    pub fn dump(&self) -> Vec<(u64, Vec<u32>, Vec<u32>)> {
        let bits = |v: &Vec<f32>| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let mut all: Vec<_> = self.rows.lock().unwrap().iter().map(|(k, (r, a))| (*k, bits(r), bits(a))).collect();
        all.sort();
        all
    }
}
#[derive(Clone, Debug)]
pub struct Commit {
    pub id: CommitId,
    pub hash: CommitHash,
    pub clock: u32,
    pub state: Arc<[u8]>,
}
#[derive(Clone, Debug, Default)]
pub struct TableStats {
    pub name: String,
    pub rows: u64,
    pub hot_rows: u64,
}
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    pub memory_bytes: usize,
    pub memory_budget: usize,
    pub cold_disk_bytes: u64,
    pub log_bytes: u64,
    pub tables: Vec<TableStats>,
}
#[derive(Default)]
pub struct Store {
    tables: Mutex<HashMap<String, Table>>,
    last: Mutex<Option<Commit>>,
}
impl Store {
    pub fn new() -> Store {
        Store::default()
    }
    pub fn create_table(&self, schema: TableSchema) -> Result<Table> {
        let mut tables = self.tables.lock().unwrap();
        let make = || Table { schema: schema.clone(), rows: Arc::default(), committed: Arc::default() };
        Ok(tables.entry(schema.name.clone()).or_insert_with(make).clone())
    }
    pub fn commit(&self, state: &[u8]) -> Result<CommitId> {
        let mut last = self.last.lock().unwrap();
        let id = CommitId { timeline: 1, sequence: last.as_ref().map_or(1, |c| c.id.sequence + 1) };
        for table in self.tables.lock().unwrap().values() {
            *table.committed.lock().unwrap() = table.rows.lock().unwrap().clone();
        }
        *last = Some(Commit { id, hash: CommitHash::default(), clock: 0, state: state.into() });
        Ok(id)
    }
    pub fn checkpoint(&self) -> Result<u64> {
        Ok(1)
    }
    pub fn last_commit(&self) -> Option<Commit> {
        self.last.lock().unwrap().clone()
    }
    pub fn stats(&self) -> StoreStats {
        let stat = |t: &Table| TableStats { name: t.schema.name.clone(), rows: t.len(), hot_rows: t.len() };
        StoreStats { tables: self.tables.lock().unwrap().values().map(stat).collect(), ..StoreStats::default() }
    }
}
