//! What moves rows between the tiers, counted: a row is read from the cold tier once, by whoever needs it first.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use embedrock::{Initializer, Optimizer, Store, StoreOptions, Table, TableSchema, TableStats, Update};

const DIM: usize = 4;
const ROWS: u64 = 2000;

fn options() -> StoreOptions {
    StoreOptions::default().twin(true).memory_budget(64 << 20).threads(2).prefetch_threads(2)
}

/// A store that was filled with few rows in memory and opened again with room for all, so that most are cold.
fn mostly_cold(dir: &Path) -> Store {
    let store = Store::open(dir, options().hot_rows(64)).unwrap();
    let schema = TableSchema::new("t", DIM).optimizer(Optimizer::sgd(1.0)).initializer(Initializer::zeros());
    let table = store.create_table(schema).unwrap();
    let keys: Vec<u64> = (0..ROWS).collect();
    let rows: Vec<f32> = keys.iter().flat_map(|&key| [key as f32; DIM]).collect();
    table.assign(&keys, &rows, &Update::at(1)).unwrap();
    store.commit(b"").unwrap();
    store.checkpoint().unwrap();
    drop((table, store));
    Store::open(dir, options()).unwrap()
}

fn stats(store: &Store) -> TableStats {
    store.stats().tables.remove(0)
}

fn check(table: &Table, keys: &[u64]) {
    let mut rows = vec![0.0; keys.len() * DIM];
    assert_eq!(table.lookup(keys, &mut rows).unwrap(), keys.len());
    assert!(keys.iter().zip(rows.chunks(DIM)).all(|(&key, row)| row == [key as f32; DIM]), "{rows:?}");
}

#[test]
fn what_a_lookup_reads_is_in_memory_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = mostly_cold(dir.path());
    let (table, digest) = (store.table("t").unwrap(), store.digest().unwrap());
    // Each twice: equal keys are read once.
    let keys: Vec<u64> = (0..ROWS).flat_map(|key| [key, key]).collect();
    check(&table, &keys);
    let first = stats(&store);
    assert!(first.cold_reads > ROWS * 9 / 10 && first.cold_reads <= ROWS, "{first:?}");
    assert_eq!((first.promoted, first.hot_rows), (first.cold_reads, ROWS));
    check(&table, &keys);
    table.assign_add(&[3, 4], &[0.0; 2 * DIM], &Update::at(1)).unwrap();
    let second = stats(&store);
    assert_eq!((second.cold_reads, second.updated_hot), (first.cold_reads, first.updated_hot + 2));
    assert_eq!(store.digest().unwrap(), digest);
}

#[test]
fn a_batch_reads_what_it_lacks_of_all_shards_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = mostly_cold(dir.path());
    let table = store.table("t").unwrap();
    let keys: Vec<u64> = (0..ROWS + 500).chain(0..100).collect();
    table.apply_gradients(&keys, &vec![0.0; keys.len() * DIM], &Update::at(1)).unwrap();
    let after = stats(&store);
    let missing = after.updated - after.updated_hot;
    assert_eq!((after.updated, after.rows, after.hot_rows), (ROWS + 500, ROWS + 500, ROWS + 500), "{after:?}");
    assert_eq!((after.cold_reads, after.promoted), (missing, missing - 500));
    check(&table, &(0..ROWS).collect::<Vec<_>>());
}

#[test]
fn lookups_use_what_was_brought_ahead_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = mostly_cold(dir.path());
    let table = store.table("t").unwrap();
    let keys: Vec<u64> = (500..600).collect();
    table.prefetch(&keys).unwrap();
    while stats(&store).cold_reads == 0 || stats(&store).prefetched < stats(&store).cold_reads {
        std::thread::sleep(Duration::from_millis(1));
    }
    let brought = stats(&store);
    check(&table, &keys);
    let after = stats(&store);
    assert_eq!((after.prefetched_used, after.cold_reads), (brought.prefetched, brought.cold_reads));
    assert!(brought.prefetched > 90, "{brought:?}");
}

/// A new id is looked up, read ahead and updated: whoever asks first asks for all.
#[test]
fn what_was_found_nowhere_is_asked_for_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = mostly_cold(dir.path());
    let table = store.table("t").unwrap();
    let new: Vec<u64> = (ROWS..ROWS + 100).collect();
    let mut rows = vec![1.0; new.len() * DIM];
    assert_eq!(table.lookup(&new, &mut rows).unwrap(), 0);
    assert_eq!(stats(&store).cold_reads, 100);
    table.prefetch(&new).unwrap();
    while store.stats().prefetches_waiting > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(table.lookup(&new, &mut rows).unwrap(), 0);
    assert_eq!(table.remove(&new).unwrap(), 0);
    let values: Vec<f32> = new.iter().flat_map(|&key| [key as f32; DIM]).collect();
    table.assign(&new, &values, &Update::at(1)).unwrap();
    // One that has many beside it may be pushed out.
    let again = stats(&store).cold_reads - 100;
    assert!(again < 10, "{again} asked for again");
    table.begin_leaving(ROWS as usize).unwrap();
    table.end_leaving(true).unwrap();
    assert!(stats(&store).hot_rows < 10, "{:?}", stats(&store));
    check(&table, &new);
}

/// Rows that a lookup brings up have places or are not kept: a lookup with a store of few rows in memory reads all of it.
#[test]
fn lookups_of_more_rows_than_fit_read_them_all_and_keep_the_cap() {
    let dir = tempfile::tempdir().unwrap();
    drop(mostly_cold(dir.path()));
    let store = Store::open(dir.path(), options().hot_rows(64)).unwrap();
    let table = store.table("t").unwrap();
    for _ in 0..3 {
        check(&table, &(0..ROWS).collect::<Vec<_>>());
        assert!(stats(&store).hot_rows <= 64, "{:?}", stats(&store));
    }
}

/// What a shard remembers of rows on probation is made anew once it has many more rows; those that were on it can leave all the same.
#[test]
fn rows_on_probation_leave_also_after_the_shard_has_grown() {
    let dir = tempfile::tempdir().unwrap();
    drop(mostly_cold(dir.path()));
    let store = Store::open(dir.path(), options().threads(1).hot_rows(64)).unwrap();
    let table = store.table("t").unwrap();
    for keys in [20, 50, 120, 300, 800, ROWS] {
        check(&table, &(0..keys).collect::<Vec<_>>());
        assert!(stats(&store).hot_rows <= 64, "{keys} keys: {:?}", stats(&store));
    }
}

#[test]
fn each_row_is_visited_once_while_rows_move() {
    let dir = tempfile::tempdir().unwrap();
    drop(mostly_cold(dir.path()));
    let store = Store::open(dir.path(), options().hot_rows(ROWS as usize / 8)).unwrap();
    let table = store.table("t").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for seed in 0..2u64 {
            let (table, done) = (&table, &done);
            threads.spawn(move || {
                let mut at = seed;
                while !done.load(Ordering::Relaxed) {
                    let keys: Vec<u64> = (0..100).map(|i| (at * 7919 + i * 31) % ROWS).collect();
                    at += 2;
                    match at % 4 {
                        0 | 1 => table.apply_gradients(&keys, &vec![0.0; keys.len() * DIM], &Update::at(1)).unwrap(),
                        _ => check(table, &keys),
                    }
                }
            });
        }
        let mut walk = 0;
        while !done.load(Ordering::Relaxed) {
            walk += 1;
            let mut seen = vec![0u32; ROWS as usize];
            let visited = table.for_each_row(|key, _, row, _| {
                seen[key as usize] += if row == [key as f32; DIM] { 1 } else { 100 };
                Ok(())
            });
            // On a busy machine the others have done little by then. They stop before anything here panics.
            let enough = walk >= 40 && stats(&store).promoted > ROWS || walk == 100_000;
            done.store(enough || visited.is_err() || seen.iter().any(|&times| times != 1), Ordering::Relaxed);
            visited.unwrap();
            assert!(
                seen.iter().all(|&times| times == 1),
                "walk {walk}: {:?}",
                seen.iter().enumerate().find(|(_, times)| **times != 1)
            );
        }
    });
    assert!(stats(&store).promoted > ROWS, "{:?}", stats(&store));
}

/// Batches further ahead than hints have places for: what has none is not read ahead, so nothing is read much more than once a use.
#[test]
fn look_ahead_beyond_its_share_reads_little_in_vain() {
    const WIDE: usize = 64;
    const MANY: u64 = 160_000;
    const A_BATCH: u64 = 2000;
    const AHEAD: u64 = 8;
    const BATCHES: u64 = 80;
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options().memory_budget(12 << 20)).unwrap();
    let schema = TableSchema::new("t", WIDE).optimizer(Optimizer::sgd(1.0)).initializer(Initializer::zeros());
    let table = store.create_table(schema).unwrap();
    let keys = |batch: u64| -> Vec<u64> { (0..A_BATCH).map(|i| ((batch * A_BATCH + i) * 7919) % MANY).collect() };
    for first in (0..MANY).step_by(A_BATCH as usize) {
        let keys: Vec<u64> = (first..first + A_BATCH).collect();
        table.assign(&keys, &vec![0.0; keys.len() * WIDE], &Update::at(1)).unwrap();
    }
    let before = stats(&store);
    assert!(before.hot_rows * 3 < MANY, "{before:?}");
    (0..AHEAD).for_each(|batch| table.prefetch(&keys(batch)).unwrap());
    while store.stats().prefetches_waiting > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut rows = vec![0.0; A_BATCH as usize * WIDE];
    for batch in 0..BATCHES {
        table.prefetch(&keys(batch + AHEAD)).unwrap();
        // As a trainer that has something else to do in between.
        std::thread::sleep(Duration::from_millis(2));
        match batch % 2 {
            0 => table.apply_gradients(&keys(batch), &vec![-1.0; rows.len()], &Update::at(1)).unwrap(),
            _ => drop(table.lookup(&keys(batch), &mut rows).unwrap()),
        }
    }
    let after = stats(&store);
    let reads = after.cold_reads - before.cold_reads;
    assert!(reads * 10 <= (BATCHES + AHEAD) * A_BATCH * 11, "{reads} reads: {after:?}");
    let (brought, used) = (after.prefetched - before.prefetched, after.prefetched_used - before.prefetched_used);
    // On a busy machine look-ahead is late, and what batches read themselves is not brought.
    assert!(brought > A_BATCH / 4 && used * 10 > brought * 7, "{brought} brought, {used} of them used: {after:?}");
    check_counts(&table, &(0..MANY).collect::<Vec<_>>());

    fn check_counts(table: &Table, keys: &[u64]) {
        let mut rows = vec![0.0; keys.len() * WIDE];
        assert_eq!(table.lookup(keys, &mut rows).unwrap(), keys.len());
        let sum: f64 = rows.chunks(WIDE).map(|row| f64::from(row[0])).sum();
        assert_eq!(sum, (BATCHES / 2 * A_BATCH) as f64);
    }
}
