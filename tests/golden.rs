//! Stores of each format version, committed under `tests/golden`, read back for ever: every commit, bit for bit.
//!
//! When the format changes, raise `VERSION` and write a set of the new version beside the older ones, which stay:
//! `cargo test --release --features cli,testing --test golden -- --ignored`, then the same without RocksDB
//! (`cargo test --no-default-features --features testing --test golden -- --ignored`), and commit what appeared.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use embedrock::{
    Admission, At, CommitId, Expiry, Initializer, Optimizer, Store, StoreOptions, Table, TableSchema, Update, restore_with,
    verify,
};

/// Of the newest set, and of what this program writes.
const VERSION: u32 = 1;
const DIM: usize = 3;
const T: u64 = 1_700_000_000;
/// What was written with RocksDB only a program with RocksDB can read.
const COLD: &[&str] = if cfg!(feature = "rocksdb") { &["twin", "rocksdb"] } else { &["twin"] };

fn set(version: u32, cold: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v{version}-{cold}"))
}

fn options(cold: &str) -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).shards(2).hot_rows(10).seed(42).twin(cold == "twin")
}

/// One table for each optimizer, with each kind of initializer, admission and expiry among them.
fn schemas() -> [TableSchema; 5] {
    let new = |name: &str| TableSchema::new(name, DIM);
    [
        new("sgd").optimizer(Optimizer::sgd(0.1)).initializer(Initializer::constant(0.5)),
        new("adagrad").optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.05)),
        new("rowwise").optimizer(Optimizer::rowwise_adagrad(0.1)).initializer(Initializer::ones()).expiry(Expiry::after_secs(8)),
        new("adam").optimizer(Optimizer::adam(0.01)).initializer(Initializer::normal(0.1)).admission(Admission::count(2)),
        new("ftrl").optimizer(Optimizer::ftrl(0.1)).admission(Admission::probabilistic(2)),
    ]
}

fn train(table: &Table, number: u64) {
    let keys: Vec<u64> = (0..8).map(|i| (number * 31 + i * i * 7) % 50 * 0x0123_4567_89ab_cdef).collect();
    let grads: Vec<f32> = (0..8 * DIM as u64).map(|i| ((i * 7 + number * 5) % 13) as f32 / 13.0 - 0.5).collect();
    table.apply_gradients(&keys, &grads, &Update::at(T + number)).unwrap();
}

/// Runs the fixed sequence of calls that every set was written by; returns a line for each commit.
fn write(dir: &Path, cold: &str) -> String {
    let store = Store::open(dir, options(cold)).unwrap();
    let tables = schemas().map(|schema| store.create_table(schema).unwrap());
    let mut lines = String::new();
    for commit in 0..4u64 {
        for number in commit * 4..commit * 4 + 4 {
            tables.iter().take(5 - commit as usize / 3).for_each(|table| train(table, number));
        }
        tables[0].remove(&[0, 31 * 0x0123_4567_89ab_cdef]).unwrap();
        tables[1].assign(&[u64::MAX], &[f32::MIN_POSITIVE, -0.0, 1e30], &Update::at(T)).unwrap();
        match commit {
            1 => drop(store.create_table(schemas()[1].clone().optimizer(Optimizer::adagrad(0.3)))),
            2 => store.drop_table("ftrl").unwrap(),
            _ => {}
        }
        let state = [commit as u8 + 1; 9].repeat(commit as usize);
        let id = store.commit(&state).unwrap();
        writeln!(lines, "{id} {} {} state bytes, {} tables", store.digest().unwrap(), state.len(), store.tables().len()).unwrap();
        if commit == 1 {
            store.checkpoint().unwrap();
        }
    }
    // What no commit holds, as a crash leaves it.
    train(&tables[0], 99);
    assert!(store.stats().tables.iter().any(|table| table.demoted_writes > 0));
    lines
}

/// The line of the commit that a store is at.
fn line(store: &Store) -> String {
    let last = store.last_commit().unwrap();
    assert!(last.state.iter().all(|byte| u64::from(*byte) == last.id.sequence), "{:?}", last.state);
    let (digest, tables) = (store.digest().unwrap(), store.tables().len());
    format!("{} {digest} {} state bytes, {tables} tables", last.id, last.state.len())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn every_version_is_read_back() {
    for (version, cold) in (1..=VERSION).flat_map(|version| COLD.iter().map(move |cold| (version, *cold))) {
        let set = set(version, cold);
        let expected = fs::read_to_string(set.join("expected.txt")).unwrap_or_else(|error| panic!("{}: {error}", set.display()));
        let dir = tempfile::tempdir().unwrap();
        let work = |name: &str| {
            copy(&set.join(name), &dir.path().join(name));
            // A restored store has an empty log, and git keeps no empty directories.
            fs::create_dir_all(dir.path().join(name).join("log")).unwrap();
            dir.path().join(name)
        };
        let (store, restored) = (work("store"), work("restored"));
        for (path, expected) in [(&store, expected.lines().last().unwrap()), (&restored, expected.lines().nth(2).unwrap())] {
            assert_eq!(verify(path).unwrap().damage, [], "{}", set.display());
            let store = Store::open(path, options(cold)).unwrap();
            assert_eq!(line(&store), expected, "{}", set.display());
            assert_eq!((store.recovery().base, store.recovery().damaged_bases.len()), (Some(1), 0), "{}", set.display());
        }
        for expected in expected.lines() {
            let id: CommitId = expected.split(' ').next().unwrap().parse().unwrap();
            let target = dir.path().join(id.to_string());
            restore_with(&store, At::Commit(id), &target, &options(cold)).unwrap();
            assert_eq!(line(&Store::open(&target, options(cold)).unwrap()), expected, "{}", set.display());
        }
        // It can be gone on with.
        let store = Store::open(&store, options(cold)).unwrap();
        train(&store.create_table(schemas()[0].clone()).unwrap(), 40);
        store.commit(b"").unwrap();
        store.checkpoint().unwrap();
    }
}

#[test]
fn what_is_written_now_is_of_the_newest_set() {
    for cold in COLD {
        let dir = tempfile::tempdir().unwrap();
        let lines = write(&dir.path().join("s"), cold);
        let identity = fs::read(dir.path().join("s/IDENTITY")).unwrap();
        assert_eq!(identity[8..12], VERSION.to_le_bytes(), "a new version needs a set of its own: see the top of this file");
        // Rows are the same bits for ever: formulas and draws are part of the format.
        assert_eq!(lines, fs::read_to_string(set(VERSION, cold).join("expected.txt")).unwrap());
    }
}

#[test]
#[ignore = "writes a new set; see the top of the file"]
fn write_a_set() {
    for cold in COLD {
        let set = set(VERSION, cold);
        if set.exists() {
            continue;
        }
        fs::create_dir_all(&set).unwrap();
        let lines = write(&set.join("store"), cold);
        let third = CommitId { timeline: 1, sequence: 3 };
        restore_with(&set.join("store"), At::Commit(third), &set.join("restored"), &options(cold)).unwrap();
        fs::write(set.join("expected.txt"), lines).unwrap();
        for name in ["store", "restored"] {
            let _ = fs::remove_dir_all(set.join(name).join("live"));
            let _ = fs::remove_file(set.join(name).join("LOCK"));
        }
    }
}
