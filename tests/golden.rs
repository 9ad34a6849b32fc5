//! Stores of each format version, committed under `tests/golden`, read back for ever: every commit, bit for bit.
//!
//! When the format changes, add a set to `SETS` and write it beside the older ones, which stay (raise `VERSION` if the whole changed):
//! `cargo test --release --features cli,testing --test golden -- --ignored`, then the same without RocksDB
//! (`cargo test --no-default-features --features testing --test golden -- --ignored`), and commit what appeared.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use embedrock::{
    Admission, At, CommitId, Expiry, Initializer, Optimizer, Schedule, Segment, Store, StoreOptions, Table, TableSchema, Update,
    restore_with, slot_of, verify,
};

/// Of what this program writes.
const VERSION: u32 = 1;
type Schemas = fn() -> Vec<TableSchema>;

/// The sets, each with the tables of its store: of schemas that the first version can hold, and of those that it cannot.
const SETS: [(&str, Schemas); 2] = [("v1", schemas), ("v1-schema-2", newer_schemas)];
/// A sliding filter, rules of feature slots and a time to live that becomes longer: they stand in logs and bases, whatever the cold tier.
const RULES: (&str, Schemas, &str) = ("v1-rules", schemas_with_rules, "twin");
/// A table of those that lives longer from the second commit on.
const LONGER: &str = "longer";
const DIM: usize = 3;
const T: u64 = 1_700_000_000;
/// What was written with RocksDB only a program with RocksDB can read.
const COLD: &[&str] = if cfg!(feature = "rocksdb") { &["twin", "rocksdb"] } else { &["twin"] };

fn set(name: &str, cold: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}-{cold}"))
}

fn sets() -> impl Iterator<Item = (&'static str, Schemas, &'static str)> {
    SETS.into_iter().flat_map(|(name, schemas)| COLD.iter().map(move |cold| (name, schemas, *cold))).chain([RULES])
}

fn options(cold: &str) -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).shards(2).hot_rows(10).seed(42).twin(cold == "twin")
}

/// One table for each optimizer of the first version, with each kind of initializer, admission and expiry among them.
fn schemas() -> Vec<TableSchema> {
    let new = |name: &str| TableSchema::new(name, DIM);
    vec![
        new("sgd").optimizer(Optimizer::sgd(0.1)).initializer(Initializer::constant(0.5)),
        new("adagrad").optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.05)),
        new("rowwise").optimizer(Optimizer::rowwise_adagrad(0.1)).initializer(Initializer::ones()).expiry(Expiry::after_secs(8)),
        new("adam").optimizer(Optimizer::adam(0.01)).initializer(Initializer::normal(0.1)).admission(Admission::count(2)),
        new("ftrl").optimizer(Optimizer::ftrl(0.1)).admission(Admission::probabilistic(2)),
    ]
}

/// The other optimizers, schedules, clipping, rows of several segments.
fn newer_schemas() -> Vec<TableSchema> {
    let new = |name: &str| TableSchema::new(name, DIM);
    let random = Initializer::uniform(0.05);
    let part = |dim, optimizer| Segment::new(dim).optimizer(optimizer).initializer(random);
    let ones = Segment::new(1).optimizer(Optimizer::batch_softmax(0.1)).initializer(Initializer::ones());
    vec![
        new("a").segments([part(1, Optimizer::ftrl(0.1).l1(0.05)), part(2, Optimizer::momentum(0.1).nesterov(true))]),
        new("b").optimizer(Optimizer::adagrad(0.1).schedule(Schedule::cosine(12, 0.1).warm_up(3))),
        new("c").optimizer(Optimizer::adam_w(0.01).clip_value(0.4).clip_norm(0.5)).initializer(random),
        new("d")
            .segments(
                [Optimizer::adam(0.01).nesterov(true), Optimizer::amsgrad(0.01), Optimizer::adagrad_w(0.1)].map(|o| part(1, o)),
            )
            .expiry(Expiry::after_secs(8)),
        new("e")
            .segments([part(1, Optimizer::lazy_adam(0.01)), part(2, Optimizer::group_ftrl(0.1).group_lasso(0.1))])
            .admission(Admission::count(2)),
        new("f").segments([part(2, Optimizer::group_adagrad(0.1).group_lasso(0.01)), ones]),
        new("g").segments([Optimizer::adadelta(1.0), Optimizer::moving_average(), Optimizer::rmsprop(0.01)].map(|o| part(1, o))),
        new("h").optimizer(Optimizer::rmsprop_v2(0.01)).initializer(random),
    ]
}

/// Batches of the first version's tables name no step: their Adam counts by itself.
/// As the first set's, with rules of feature slots.
fn schemas_with_rules() -> Vec<TableSchema> {
    const KEY: u64 = 0x0123_4567_89ab_cdef;
    let new = |name: &str| TableSchema::new(name, DIM);
    vec![
        new("sliding")
            .admission(Admission::sliding(2, 9, 500))
            .slot_threshold(slot_of(KEY), 1)
            .slot_threshold(slot_of(3 * KEY), 30),
        new(LONGER).optimizer(Optimizer::adagrad(0.1)).expiry(Expiry::after_secs(4)),
        new("slots").slot_expiry(slot_of(2 * KEY), Expiry::never()).slot_expiry(slot_of(5 * KEY), Expiry::after_secs(1)),
        new("counted").optimizer(Optimizer::adam(0.01)).admission(Admission::count(2)).slot_threshold(slot_of(KEY), 4),
        new("drawn").admission(Admission::probabilistic(2)).slot_threshold(slot_of(7 * KEY), 1),
    ]
}

fn train(table: &Table, number: u64) {
    let known = schemas().iter().any(|schema| schema.name() == table.name());
    let update = if known { Update::at(T + number) } else { Update::at(T + number).step(number + 1) };
    let keys: Vec<u64> = (0..8).map(|i| (number * 31 + i * i * 7) % 50 * 0x0123_4567_89ab_cdef).collect();
    let grads: Vec<f32> = (0..8 * table.dim() as u64).map(|i| ((i * 7 + number * 5) % 13) as f32 / 13.0 - 0.5).collect();
    table.apply_gradients(&keys, &grads, &update).unwrap();
}

/// Runs the fixed sequence of calls that every set was written by; returns a line for each commit.
fn write(dir: &Path, schemas: &[TableSchema], cold: &str) -> String {
    let store = Store::open(dir, options(cold)).unwrap();
    let tables: Vec<Table> = schemas.iter().map(|schema| store.create_table(schema.clone()).unwrap()).collect();
    let mut lines = String::new();
    for commit in 0..4u64 {
        for number in commit * 4..commit * 4 + 4 {
            tables.iter().take(tables.len() - commit as usize / 3).for_each(|table| train(table, number));
        }
        tables[0].remove(&[0, 31 * 0x0123_4567_89ab_cdef]).unwrap();
        tables[1].assign(&[u64::MAX], &[f32::MIN_POSITIVE, -0.0, 1e30], &Update::at(T)).unwrap();
        match commit {
            1 => {
                let changed = schemas[1].clone().optimizer(Optimizer::adagrad(0.3));
                let longer = schemas[1].name() == LONGER;
                drop(store.create_table(if longer { changed.expiry(Expiry::after_secs(11)) } else { changed }));
            }
            2 => store.drop_table(schemas[schemas.len() - 1].name()).unwrap(),
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
    for (name, schemas, cold) in sets() {
        let set = set(name, cold);
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
    for (name, schemas, cold) in sets() {
        let dir = tempfile::tempdir().unwrap();
        let lines = write(&dir.path().join("s"), &schemas(), cold);
        let identity = fs::read(dir.path().join("s/IDENTITY")).unwrap();
        assert_eq!(identity[8..12], VERSION.to_le_bytes(), "a new version needs a set of its own: see the top of this file");
        // Rows are the same bits for ever: formulas and draws are part of the format.
        assert_eq!(lines, fs::read_to_string(set(name, cold).join("expected.txt")).unwrap());
    }
}

#[test]
#[ignore = "writes a new set; see the top of the file"]
fn write_a_set() {
    for (name, schemas, cold) in sets() {
        let set = set(name, cold);
        if set.exists() {
            continue;
        }
        fs::create_dir_all(&set).unwrap();
        let lines = write(&set.join("store"), &schemas(), cold);
        let third = CommitId { timeline: 1, sequence: 3 };
        restore_with(&set.join("store"), At::Commit(third), &set.join("restored"), &options(cold)).unwrap();
        fs::write(set.join("expected.txt"), lines).unwrap();
        for name in ["store", "restored"] {
            let _ = fs::remove_dir_all(set.join(name).join("live"));
            let _ = fs::remove_file(set.join(name).join("LOCK"));
        }
    }
}
