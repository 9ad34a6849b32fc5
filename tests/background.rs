//! Commits and checkpoints in the background while threads train: every commit holds whole batches, in their order.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use embedrock::{
    Admission, At, CommitId, CommitPolicy, Expiry, Initializer, Optimizer, Store, StoreOptions, TableSchema, Update,
};

/// The value of each table's groups.
type Values = BTreeMap<(String, u64), u64>;

const DIM: usize = 4;
/// Keys that one batch raises together: a commit must show all of them at one value.
const GROUP: u64 = 300;
const GROUPS: u64 = 6;

fn schema(name: &str) -> TableSchema {
    TableSchema::new(name, DIM).optimizer(Optimizer::sgd(1.0)).initializer(Initializer::zeros()).admission(Admission::always())
}

fn options() -> StoreOptions {
    // So few hot rows that every batch promotes and demotes, uncommitted rows too.
    StoreOptions::default().memory_budget(24 << 20).threads(2).shards(4).hot_rows(700)
}

/// The value of each group, after a check that all of its rows agree.
fn values(store: &Store) -> Values {
    let mut values = BTreeMap::new();
    for table in store.tables() {
        table
            .for_each_row(|key, _, row, _| {
                let value = row[0] as u64;
                assert!(row.iter().all(|lane| *lane == value as f32), "a row is torn: {row:?}");
                let seen = *values.entry((table.name(), key / GROUP)).or_insert(value);
                assert_eq!(seen, value, "key {key} of {} is of another batch than the rest of its group", table.name());
                Ok(())
            })
            .unwrap();
        for group in 0..GROUPS {
            let rows = (group * GROUP..(group + 1) * GROUP).filter(|key| table.contains(*key).unwrap()).count() as u64;
            assert!(rows == 0 || rows == GROUP, "group {group} has {rows} of {GROUP} rows");
        }
    }
    values
}

fn train(store: &Store, name: &str, seed: u64, stop: &AtomicBool, batches: &[AtomicU64]) {
    let table = store.table(name).unwrap();
    let minus_one = vec![-1.0; GROUP as usize * DIM];
    let mut random = seed;
    while !stop.load(Ordering::Relaxed) {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let group = (random >> 33) % GROUPS;
        let keys: Vec<u64> = (group * GROUP..(group + 1) * GROUP).collect();
        if random >> 60 == 0 {
            let removed = table.remove(&keys).unwrap() as u64;
            assert!(removed == 0 || removed == GROUP);
        } else {
            table.apply_gradients(&keys, &minus_one, &Update::at(1_700_000_000)).unwrap();
        }
        batches[0].fetch_add(1, Ordering::Relaxed);
    }
}

fn trained(dir: &std::path::Path, twin: bool, seed: u64) -> Vec<(CommitId, Values)> {
    let store = Store::open(dir, with_twin(options().commit_policy(CommitPolicy::default().every_batches(7)), twin)).unwrap();
    for name in ["a", "b"] {
        store.create_table(schema(name)).unwrap();
    }
    let stop = AtomicBool::new(false);
    let batches = [AtomicU64::new(0)];
    let mut ids = Vec::new();
    std::thread::scope(|scope| {
        let (store, stop, batches) = (&store, &stop, &batches);
        scope.spawn(move || train(store, "a", seed, stop, batches));
        scope.spawn(move || train(store, "b", seed + 1, stop, batches));
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                store.checkpoint().unwrap();
            }
        });
        for i in 0..60u32 {
            let state = i.to_le_bytes();
            let ticket = match i % 3 {
                0 => store.commit_in_background(|| state.to_vec()).map(Some).unwrap(),
                1 => store.commit_if_due(|| state.to_vec()).unwrap(),
                _ => {
                    ids.push(store.commit(&state).unwrap());
                    None
                }
            };
            if i % 2 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            ids.extend(ticket.map(|ticket| ticket.wait().unwrap()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(batches[0].load(Ordering::Relaxed) > 0);
    assert!(ids.is_sorted_by(|a, b| a.sequence < b.sequence), "{ids:?}");
    assert_eq!(store.last_commit().unwrap().id, *ids.last().unwrap());
    drop(store);
    // Each commit that is kept opens, whole.
    let kept = Store::open(dir, with_twin(options(), twin)).unwrap().commits().unwrap();
    assert!(kept.len() >= 2 && kept.last() == ids.last(), "{kept:?}");
    kept.into_iter()
        .map(|id| {
            let store = Store::open(dir, with_twin(options().open_at(At::Commit(id)), twin)).unwrap();
            (id, values(&store))
        })
        .collect()
}

#[cfg(feature = "testing")]
fn with_twin(options: StoreOptions, twin: bool) -> StoreOptions {
    options.twin(twin || !cfg!(feature = "rocksdb"))
}

#[cfg(not(feature = "testing"))]
fn with_twin(options: StoreOptions, _: bool) -> StoreOptions {
    options
}

#[test]
fn every_commit_holds_whole_batches() {
    let runs: u64 = std::env::var("EMBEDROCK_BACKGROUND_RUNS").map_or(2, |runs| runs.parse().unwrap());
    for seed in 0..runs {
        for twin in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let commits = trained(&dir.path().join("store"), twin, seed);
            assert!(commits.iter().any(|(_, values)| values.values().any(|value| *value > 0)));
        }
    }
}

/// Commits of several threads share syncs: each is durable when its call returns, none is lost, and they stand in one order.
#[test]
fn commits_of_several_threads_are_durable_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let (threads, each) = (4u64, 40u64);
    {
        let store = Store::open(dir.path().join("store"), options()).unwrap();
        let table = store.create_table(schema("t")).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let (store, table) = (&store, &table);
                scope.spawn(move || {
                    for i in 1..=each {
                        table.assign(&[thread], &[i as f32; DIM], &Update::at(1_700_000_000)).unwrap();
                        let id = store.commit(&thread.to_le_bytes()).unwrap();
                        assert!(store.durable_commit().unwrap().sequence >= id.sequence);
                    }
                });
            }
        });
    }
    let store = Store::open(dir.path().join("store"), options()).unwrap();
    assert_eq!(store.durable_commit().unwrap().sequence, threads * each);
    assert_eq!(store.commits().unwrap().len() as u64, threads * each);
    let mut rows = vec![0.0; threads as usize * DIM];
    store.table("t").unwrap().lookup(&(0..threads).collect::<Vec<_>>(), &mut rows).unwrap();
    assert_eq!(rows, vec![each as f32; threads as usize * DIM]);
}

/// The files of an open store are checked while threads train, commit and write bases; damage is found all the same.
#[test]
fn an_open_store_is_verified_while_it_works() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, options()).unwrap();
    for name in ["a", "b"] {
        store.create_table(schema(name)).unwrap();
    }
    let (stop, batches) = (AtomicBool::new(false), [AtomicU64::new(0)]);
    std::thread::scope(|scope| {
        let (store, stop, batches) = (&store, &stop, &batches);
        scope.spawn(move || train(store, "a", 5, stop, batches));
        scope.spawn(move || train(store, "b", 6, stop, batches));
        scope.spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                store.commit_in_background(Vec::new).unwrap();
                store.checkpoint_in_background().unwrap();
            }
        });
        for _ in 0..20 {
            let report = store.verify().unwrap();
            assert!(report.damage.is_empty() && report.files > 1, "{report:?}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    store.commit(b"").unwrap();
    let log = std::fs::read_dir(path.join("log")).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).unwrap();
    let damage = store.verify().unwrap().damage;
    assert!(damage.iter().any(|damage| damage.path == log), "{damage:?}");
}

/// Expired rows leave memory though nobody asks for their room, and those that come next take their places.
#[test]
fn expired_rows_leave_memory_by_themselves() {
    const T: u64 = 1_700_000_000;
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions::default().memory_budget(64 << 20).threads(1);
    let store = Store::open(dir.path().join("s"), options).unwrap();
    let schema = TableSchema::new("t", 16).expiry(Expiry::after_secs(100)).slot_expiry(5, Expiry::never());
    let table = store.create_table(schema).unwrap();
    let rows = vec![0.5; 20_000 * 16];
    let keys = |from: u64| (from..from + 20_000).collect::<Vec<u64>>();
    table.assign(&keys(0), &rows, &Update::at(T)).unwrap();
    table.assign(&[5 << 48], &rows[..16], &Update::at(T)).unwrap();
    store.commit(b"").unwrap();
    let before = store.stats().tables[0].clone();
    assert_eq!((before.hot_rows, before.expired), (20_001, 0));
    // Moves the clock, which wakes the thread.
    table.assign(&[u64::MAX], &rows[..16], &Update::at(T + 100)).unwrap();
    while store.stats().tables[0].hot_rows > 2 {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(store.stats().tables[0].expired, 20_000);
    assert!(table.contains(5 << 48).unwrap() && !table.contains(7).unwrap());
    table.assign(&keys(1 << 32), &rows, &Update::at(T + 101)).unwrap();
    let after = store.stats().tables[0].clone();
    assert!(after.hot_rows == 20_002 && after.memory_bytes <= before.memory_bytes + (1 << 20), "{before:?} {after:?}");
}
