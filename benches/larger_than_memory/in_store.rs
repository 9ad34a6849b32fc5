//! This store: beyond memory, and with as many rows as its memory holds.

use std::path::PathBuf;

use embedrock::{Initializer, Missing, Optimizer, Store, StoreOptions, Table, TableSchema, Update};

use crate::drive::{Candidate, Failure, Site, fill};

/// The event time of all updates.
const NOW: u64 = 1_700_000_000;

pub(crate) struct InStore {
    name: &'static str,
    store: Store,
    table: Table,
    gradients: Vec<f32>,
    dir: PathBuf,
    keep: bool,
}

impl Drop for InStore {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn schema(site: &Site) -> TableSchema {
    // With a rate of 1 and gradients of -1 a row gains 1 an update, exactly.
    let optimizer = Optimizer::sgd(1.0);
    TableSchema::new("rows", site.dim).optimizer(optimizer).missing(Missing::Zeros).initializer(Initializer::zeros())
}

fn made(site: &Site, dir: PathBuf, name: &'static str, options: StoreOptions, keep: bool) -> Result<InStore, Failure> {
    if !keep || !dir.exists() {
        let store = Store::open(&dir, options.clone())?;
        let table = store.create_table(schema(site))?;
        fill(site, |keys, rows| Ok(table.assign(keys, rows, &Update::at(NOW)).map(drop)?))?;
        store.commit(b"")?;
        store.checkpoint()?;
        drop(table);
        store.close()?;
    }
    let store = Store::open(&dir, options)?;
    let table = store.create_table(schema(site))?;
    if table.len() != site.rows {
        return Err(format!("{}: holds {} rows, expected {}", dir.display(), table.len(), site.rows).into());
    }
    Ok(InStore { name, store, table, gradients: Vec::new(), dir, keep })
}

pub(crate) fn in_memory(site: &Site) -> Result<InStore, Failure> {
    let dir = site.dir.join(format!("embedrock-memory-{}", std::process::id()));
    let options = StoreOptions::default().memory_budget(site.budget * 3 + (64 << 20));
    made(site, dir, "embedrock, in memory", options, false).map(|store| store.with_gradients(site))
}

pub(crate) fn beyond_memory(site: &Site) -> Result<InStore, Failure> {
    let of = if site.keep { format!("{}x{}", site.rows, site.dim) } else { std::process::id().to_string() };
    let dir = site.dir.join(format!("embedrock-beyond-{of}"));
    let options = StoreOptions::default().memory_budget(site.budget);
    let options = site.cold_memory.map_or(options.clone(), |bytes| options.cold_memory(bytes));
    made(site, dir, "embedrock", options, site.keep).map(|store| store.with_gradients(site))
}

impl InStore {
    fn with_gradients(mut self, site: &Site) -> InStore {
        const MOST_KEYS: usize = 1 << 16;
        self.gradients = vec![-1.0; MOST_KEYS * site.dim];
        self
    }
}

impl Candidate for InStore {
    fn name(&self) -> &str {
        self.name
    }

    fn lookup(&self, keys: &[u64], out: &mut [f32]) -> Result<(), Failure> {
        Ok(self.table.lookup(keys, out).map(drop)?)
    }

    fn update(&self, keys: &[u64]) -> Result<(), Failure> {
        let values = keys.len() * self.table.dim();
        Ok(self.table.apply_gradients(keys, &self.gradients[..values], &Update::at(NOW))?)
    }

    fn takes_any_key(&self) -> bool {
        true
    }

    fn looks_ahead(&self) -> bool {
        true
    }

    fn ahead(&self, keys: &[u64]) -> Result<(), Failure> {
        Ok(self.table.prefetch(keys)?)
    }

    fn misses(&self) -> Option<u64> {
        self.store.stats().tables.first().map(|table| table.cold_reads)
    }

    fn memory_bytes(&self) -> usize {
        self.store.stats().memory_bytes
    }
}
