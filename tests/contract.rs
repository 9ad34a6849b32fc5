//! The contract, row by row: what each wrong argument, wrong file and failing machine leads to, and that nothing is lost by it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[path = "contract/arguments.rs"]
mod arguments;
#[path = "contract/directory.rs"]
mod directory;
#[path = "contract/failures.rs"]
mod failures;
#[path = "contract/process.rs"]
mod process;
#[path = "contract/readers.rs"]
mod readers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use embedrock::{Error, Initializer, Optimizer, Store, StoreOptions, Table, TableSchema, Update};

const DIM: usize = 2;
/// An event time, in seconds.
const T: u64 = 1_700_000_000;

/// With the cold tier's twin, as most of the contract is the same with either.
fn options() -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).shards(2).twin(true)
}

fn schema() -> TableSchema {
    TableSchema::new("t", DIM).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.05))
}

/// Trains batch `number` of a fixed sequence.
fn train(table: &Table, number: u64) {
    let keys: Vec<u64> = (0..40).map(|i| (number * 13 + i * i) % 500).collect();
    let grads: Vec<f32> = (0..40 * DIM as u64).map(|i| ((i * 7 + number) % 13) as f32 / 13.0 - 0.5).collect();
    table.apply_gradients(&keys, &grads, &Update::at(T + number)).unwrap();
}

/// A store in `dir` with two commits, a base between them and cold rows; closed. Returns the digest of its rows.
fn filled(dir: &Path, options: StoreOptions) -> String {
    let store = Store::open(dir, options.hot_rows(60)).unwrap();
    let table = store.create_table(schema()).unwrap();
    (0..20).for_each(|number| train(&table, number));
    store.commit(b"first").unwrap();
    store.checkpoint().unwrap();
    (20..30).for_each(|number| train(&table, number));
    store.commit(b"second").unwrap();
    assert!(store.stats().tables[0].demoted > 0);
    store.digest().unwrap().to_string()
}

/// Every file below a directory but LOCK, which names the last process that looked.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if entry.file_type().unwrap().is_dir() {
            all.extend(contents(&path));
            all.insert(path, Vec::new());
        } else if entry.file_name() != "LOCK" {
            let bytes = std::fs::read(&path).unwrap_or_default();
            all.insert(path, bytes);
        }
    }
    all
}

/// As `contents`, without what every open makes anew.
fn truth(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    contents(dir).into_iter().filter(|(path, _)| !path.starts_with(dir.join("live"))).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The error of opening a store.
fn refused(dir: &Path, options: StoreOptions) -> Error {
    match Store::open(dir, options) {
        Ok(store) => panic!("opened {store:?}: {}", store.recovery()),
        Err(error) => error,
    }
}
