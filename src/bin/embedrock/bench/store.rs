//! This store, through its public batch calls.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Instant;

use embedrock::{Initializer, Missing, Optimizer, Store, StoreOptions, Table, TableSchema, Update};

use super::candidate::{Built, Candidate, Failure};
use super::workload::{Batch, LEARNING_RATE, Site, all_rows, value_of};

/// The event time of all updates.
const NOW: u64 = 1_700_000_000;

struct InStore {
    table: Table,
    _store: Store,
    _dir: Temporary,
}

/// Removed when dropped.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn build(site: &Site) -> Built {
    let dir = Temporary(site.dir.join(format!("embedrock-bench-{}", std::process::id())));
    let optimizer = if site.trains { Optimizer::adagrad(LEARNING_RATE) } else { Optimizer::sgd(LEARNING_RATE) };
    let plan = embedrock::plan(site.rows, site.dim, &optimizer);
    let budget = plan.memory_bytes as usize * 2 + (512 << 20);
    let store = Store::open(&dir.0, StoreOptions::default().memory_budget(budget).threads(site.threads))?;
    let schema =
        TableSchema::new("rows", site.dim).optimizer(optimizer).missing(Missing::Zeros).initializer(Initializer::zeros());
    let table = store.create_table(schema)?;
    let mut seconds = 0.0;
    for thread in 0..site.threads {
        for (batch, rows) in all_rows(site, thread) {
            let values: Vec<f32> = rows.iter().flat_map(|&row| std::iter::repeat_n(value_of(row), site.dim)).collect();
            let begun = Instant::now();
            table.assign(&batch.keys, &values, &Update::at(NOW))?;
            seconds += begun.elapsed().as_secs_f64();
        }
    }
    Ok(Some((Box::new(InStore { table, _store: store, _dir: dir }), seconds)))
}

impl Candidate for InStore {
    fn name(&self) -> &'static str {
        "embedrock"
    }

    fn callers(&self, _: usize) -> usize {
        1
    }

    fn sums_duplicates(&self) -> bool {
        true
    }

    fn lookup(&self, _: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure> {
        self.table.lookup(&batch.keys, out)?;
        Ok(())
    }

    fn update(&self, _: usize, batch: &Batch, gradients: &[f32]) -> Result<(), Failure> {
        Ok(self.table.apply_gradients(&batch.keys, gradients, &Update::at(NOW))?)
    }
}
