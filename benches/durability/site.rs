//! The store that is measured: how it is opened, filled and trained.

use std::path::{Path, PathBuf};
use std::time::Instant;

use embedrock::{Initializer, Optimizer, Store, StoreOptions, Table, TableSchema, Update};

use crate::workload::{self, Distribution, Workload, key_of};

pub(crate) type Failure = Box<dyn std::error::Error>;

const A_BATCH: usize = 8192;
const TIME: u64 = 1_700_000_000;
const ZIPF: f64 = 1.05;
/// What the program, the log's buffers and the like may take beside the budget.
pub(crate) const POOL_BYTES: u64 = 40 << 20;

/// What all parts of a run have in common.
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) rows: u64,
    pub(crate) dim: usize,
    pub(crate) batch: usize,
    pub(crate) threads: usize,
    pub(crate) seconds: f64,
    pub(crate) turns: usize,
}

impl Site {
    /// Bytes of a row in a log or base.
    pub(crate) fn image_bytes(&self) -> u64 {
        self.dim as u64 * 8 + 16
    }

    pub(crate) fn data_bytes(&self) -> u64 {
        self.rows * self.image_bytes()
    }

    /// A budget for all rows, or for a share of them.
    pub(crate) fn budget(&self, cold: bool) -> usize {
        let data = self.data_bytes() as usize;
        if cold { (data / 4).max(32 << 20) } else { data * 3 / 2 + (384 << 20) }
    }

    pub(crate) fn options(&self, cold: bool) -> StoreOptions {
        StoreOptions::default().memory_budget(self.budget(cold)).threads(self.threads)
    }

    pub(crate) fn open(&self, name: &str, cold: bool) -> Result<(Store, Table), Failure> {
        let store = Store::open(self.path(name), self.options(cold))?;
        let schema =
            TableSchema::new("row", self.dim).optimizer(Optimizer::adagrad(0.05)).initializer(Initializer::uniform(0.05));
        let table = store.create_table(schema)?;
        Ok((store, table))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn remove(&self, name: &str) -> Result<(), Failure> {
        Ok(std::fs::remove_dir_all(self.path(name))?)
    }

    /// Trains one row in `every` once, in an order that has nothing to do with their places.
    pub(crate) fn touch(&self, table: &Table, every: u64) -> Result<(), Failure> {
        let gradients = vec![0.01; A_BATCH * self.dim];
        let mut keys: Vec<u64> = (0..self.rows).step_by(every as usize).map(key_of).collect();
        keys.sort_unstable_by_key(|key| key.swap_bytes());
        for keys in keys.chunks(A_BATCH) {
            table.apply_gradients(keys, &gradients[..keys.len() * self.dim], &Update::at(TIME))?;
        }
        Ok(())
    }

    /// A store of all rows with one commit.
    pub(crate) fn filled(&self, name: &str, cold: bool) -> Result<(Store, Table), Failure> {
        let (store, table) = self.open(name, cold)?;
        self.touch(&table, 1)?;
        store.commit(b"filled")?;
        Ok((store, table))
    }
}

/// Batches of which every other is uniform, the rest Zipf.
pub(crate) struct Batches {
    kinds: [Workload; 2],
    gradients: Vec<f32>,
    rows: Vec<f32>,
}

impl Batches {
    pub(crate) fn new(site: &Site) -> Batches {
        let drawn = workload::Site { dir: site.dir.clone(), rows: site.rows, dim: site.dim, trains: true, threads: 1 };
        let kinds = [Distribution::Uniform, Distribution::Zipf(ZIPF)].map(|kind| Workload::new(&drawn, kind, site.batch));
        let values = site.batch * site.dim;
        Batches { kinds, gradients: (0..values).map(|i| 1e-3 + (i % 7) as f32 * 1e-3).collect(), rows: vec![0.0; values] }
    }

    /// Looks up and trains batch number `at`; returns the seconds.
    pub(crate) fn train(&mut self, table: &Table, at: usize) -> Result<f64, Failure> {
        let kind = &self.kinds[at % 2].present[0];
        let keys = &kind[at / 2 % kind.len()].keys;
        let begun = Instant::now();
        table.lookup(keys, &mut self.rows)?;
        table.apply_gradients(keys, &self.gradients, &Update::at(TIME))?;
        Ok(begun.elapsed().as_secs_f64())
    }
}

/// The digest of a store opened anew, as its next user finds it.
pub(crate) fn reopened(site: &Site, name: &str, cold: bool) -> Result<embedrock::Digest, Failure> {
    Ok(site.open(name, cold)?.0.digest()?)
}

/// An error where two digests differ.
pub(crate) fn same(what: &str, found: &embedrock::Digest, expected: &embedrock::Digest) -> Result<(), Failure> {
    if found == expected { Ok(()) } else { Err(format!("{what}: digest {found:?}, expected {expected:?}").into()) }
}

/// The median.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The size of each segment of a store's log.
pub(crate) fn segments(store: &Path) -> Result<Vec<(std::ffi::OsString, u64)>, Failure> {
    let entries = std::fs::read_dir(store.join("log"))?;
    entries
        .map(|entry| Ok(entry?))
        .map(|entry: Result<_, Failure>| entry.and_then(|e| Ok((e.file_name(), e.metadata()?.len()))))
        .collect()
}
