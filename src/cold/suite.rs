//! The tests both cold tiers must pass, and the few that only one can.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::twin::{TwinCold, TwinFaults, TwinOptions};
use super::{ColdBatch, ColdRows, ColdTier};
use crate::error::{Error, Result};
use crate::expiry::Horizons;
use crate::types::{TableId, mix};

const T: TableId = TableId(3);
#[cfg(feature = "rocksdb")]
const MEMORY: usize = 16 << 20;
#[cfg(feature = "rocksdb")]
const SMALL: super::rocks::RocksOptions =
    super::rocks::RocksOptions { memory: MEMORY, readers: 5, many_reads: false, traffic: false };

type Open = fn(&Path, Option<&Path>) -> Result<Box<dyn ColdTier>>;

fn twin(live: &Path, from: Option<&Path>) -> Result<Box<dyn ColdTier>> {
    let options = TwinOptions { seed: 5, compact_every: 3, flush_bytes: 4096, ..TwinOptions::default() };
    Ok(Box::new(TwinCold::open(Arc::new(crate::fs::RealFs), live, from, options)?))
}

#[cfg(feature = "rocksdb")]
fn rocks(live: &Path, from: Option<&Path>) -> Result<Box<dyn ColdTier>> {
    Ok(Box::new(super::rocks::RocksCold::open(live, from, SMALL)?))
}

/// As [`rocks`], but on a kernel that takes many reads at once.
#[cfg(feature = "rocksdb")]
fn rocks_of_many_reads(live: &Path, from: Option<&Path>) -> Result<Box<dyn ColdTier>> {
    let options = super::rocks::RocksOptions { many_reads: super::takes_many_reads(), ..SMALL };
    Ok(Box::new(super::rocks::RocksCold::open(live, from, options)?))
}

fn each(test: fn(Open, &Path)) {
    let dir = tempfile::tempdir().unwrap();
    let tiers: &[(&str, Open)] = &[
        ("twin", twin),
        #[cfg(feature = "rocksdb")]
        ("rocks", rocks),
        #[cfg(feature = "rocksdb")]
        ("rocks_of_many_reads", rocks_of_many_reads),
    ];
    for (name, open) in tiers {
        let dir = dir.path().join(name);
        fs::create_dir(&dir).unwrap();
        test(*open, &dir);
    }
}

fn row(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| mix(seed ^ (i << 32)) as u8).collect()
}

fn get(cold: &dyn ColdTier, keys: &[u64]) -> Vec<Option<Vec<u8>>> {
    let mut out = vec![None; keys.len()];
    cold.get_many(T, keys, &mut |i, value| out[i] = Some(value.to_vec())).unwrap();
    out
}

fn all(cold: &dyn ColdTier) -> Vec<(u64, Vec<u8>)> {
    let out = walked(&mut *cold.rows(T, 0..=u64::MAX).unwrap());
    assert!(out.is_sorted_by(|a, b| a.0 < b.0));
    out
}

fn walked(rows: &mut dyn ColdRows) -> Vec<(u64, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some((key, value)) = rows.next().unwrap() {
        out.push((key, value.to_vec()));
    }
    out
}

fn put(cold: &dyn ColdTier, rows: &[(u64, u32)]) {
    let mut batch = ColdBatch::new();
    rows.iter().for_each(|(key, time)| batch.put(*key, *time, &row(*key, 16)));
    cold.write(T, &batch).unwrap();
}

fn value(key: u64, time: u32) -> Vec<u8> {
    [time.to_le_bytes().to_vec(), row(key, 16)].concat()
}

#[test]
fn rows_come_and_go() {
    each(|open, dir| {
        let cold = open(&dir.join("live"), None).unwrap();
        assert!(cold.get_many(T, &[1], &mut |_, _| ()).is_err());
        cold.create_table(T, 20).unwrap();
        cold.create_table(T, 20).unwrap();
        assert!(matches!(cold.create_table(T, 21), Err(Error::Cold { .. })));
        cold.create_table(TableId(u32::MAX), 8).unwrap();
        assert_eq!(cold.tables(), [T, TableId(u32::MAX)]);
        put(&*cold, &[(u64::MAX, 9), (0, 7), (256, 1), (1, 2)]);
        assert_eq!(
            get(&*cold, &[0, 1, 2, 256, u64::MAX]),
            [Some(value(0, 7)), Some(value(1, 2)), None, Some(value(256, 1)), Some(value(u64::MAX, 9))]
        );
        let mut batch = ColdBatch::new();
        batch.put(1, 5, &row(1, 16));
        batch.delete(1);
        batch.delete(0);
        batch.put(0, 8, &row(0, 16));
        batch.delete(77);
        cold.write(T, &batch).unwrap();
        assert_eq!(all(&*cold), [(0, value(0, 8)), (256, value(256, 1)), (u64::MAX, value(u64::MAX, 9))]);
        batch.put(2, 1, &row(2, 16));
        batch.put(3, 1, b"wrong length");
        assert!(matches!(cold.write(T, &batch), Err(Error::Cold { .. })));
        assert_eq!(get(&*cold, &[2, 3]), [None, None]);
        let mut before = cold.rows(T, 1..=u64::MAX - 1).unwrap();
        put(&*cold, &[(255, 1), (256, 2)]);
        assert_eq!(walked(&mut *before), [(256, value(256, 1))]);
        drop(before);
        assert_eq!(walked(&mut *cold.rows(T, 255..=256).unwrap()), [(255, value(255, 1)), (256, value(256, 2))]);
        assert_eq!(walked(&mut *cold.rows(T, 257..=u64::MAX).unwrap()), [(u64::MAX, value(u64::MAX, 9))]);
        cold.drop_table(T).unwrap();
        cold.drop_table(T).unwrap();
        assert!(cold.rows(T, 0..=u64::MAX).is_err());
        cold.create_table(T, 20).unwrap();
        assert!(all(&*cold).is_empty());
    });
}

#[test]
fn several_tables_are_read_at_once_in_their_order() {
    each(|open, dir| {
        let cold = open(&dir.join("live"), None).unwrap();
        let tables = [TableId(9), T, TableId(4)];
        for (table, last) in tables.into_iter().zip(1..) {
            cold.create_table(table, 20).unwrap();
            let mut batch = ColdBatch::new();
            (0..last * 500).for_each(|key| batch.put(key, table.0, &value(key, table.0)[4..]));
            cold.write(table, &batch).unwrap();
        }
        let keys: Vec<u64> = (0..2000).collect();
        let mut found = Vec::new();
        cold.get_parts(
            &[(tables[0], &keys), (tables[1], &[]), (tables[2], &keys), (tables[1], &keys[990..])],
            &mut |at, read| {
                found.push((at, read.to_vec()));
            },
        )
        .unwrap();
        let expected = |table: TableId, keys: std::ops::Range<u64>, first: usize| {
            keys.zip(first..).map(move |(key, at)| (at, value(key, table.0)))
        };
        let expected =
            expected(tables[0], 0..500, 0).chain(expected(tables[2], 0..1500, 2000)).chain(expected(tables[1], 990..1000, 4000));
        assert!(found == expected.collect::<Vec<_>>(), "{} found", found.len());
        assert!(cold.get_parts(&[(T, &keys), (TableId(77), &keys)], &mut |_, _| ()).is_err());
    });
}

/// More keys than are read in a round, of which some are missing and some come again.
#[test]
fn many_rows_are_read_in_order() {
    each(|open, dir| {
        let cold = open(&dir.join("live"), None).unwrap();
        cold.create_table(T, 20).unwrap();
        let rows: Vec<(u64, u32)> = (0..9_000).map(|key| (key * 3, key as u32)).collect();
        put(&*cold, &rows);
        let mut keys: Vec<u64> = (0..27_000).filter(|key| key % 2 == 0).chain((0..27_000).step_by(63)).collect();
        keys.sort_unstable();
        let expected: Vec<_> = keys.iter().map(|key| (key % 3 == 0).then(|| value(*key, (key / 3) as u32))).collect();
        assert!(get(&*cold, &keys) == expected);
    });
}

#[test]
fn a_checkpoint_is_all_that_survives() {
    each(|open, dir| {
        let (live, base, base2) = (dir.join("live"), dir.join("base"), dir.join("base2"));
        let cold = open(&live, None).unwrap();
        cold.create_table(T, 20).unwrap();
        cold.create_table(TableId(8), 20).unwrap();
        put(&*cold, &[(1, 1), (2, 2)]);
        cold.checkpoint(&base).unwrap();
        assert!(matches!(cold.checkpoint(&base), Err(Error::TargetExists { .. })));
        put(&*cold, &[(3, 3), (1, 9)]);
        drop(cold);
        noise(&live);
        for _ in 0..2 {
            let cold = open(&live, Some(&base)).unwrap();
            assert_eq!(cold.tables(), [T, TableId(8)]);
            cold.create_table(T, 20).unwrap();
            assert_eq!(all(&*cold), [(1, value(1, 1)), (2, value(2, 2))]);
            put(&*cold, &[(4, 4)]);
        }
        let cold = open(&live, Some(&base)).unwrap();
        put(&*cold, &[(5, 5)]);
        cold.drop_table(TableId(8)).unwrap();
        cold.checkpoint(&base2).unwrap();
        drop(cold);
        fs::remove_dir_all(&base).unwrap();
        let cold = open(&live, Some(&base2)).unwrap();
        assert_eq!((all(&*cold).len(), cold.tables()), (3, vec![T]));
        drop(cold);
        assert!(open(&live, None).unwrap().tables().is_empty());
    });
}

fn noise(dir: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // A new file in its place: the old one may be linked from a checkpoint.
        fs::remove_file(&path).unwrap();
        fs::write(&path, row(path.as_os_str().len() as u64, 5000)).unwrap();
    }
    fs::create_dir(dir.join("lost+found")).unwrap();
    fs::write(dir.join("CURRENT"), "MANIFEST-999999\n").unwrap();
}

#[test]
fn large_batches() {
    each(|open, dir| {
        const ROWS: u64 = 100_000;
        let (live, base) = (dir.join("live"), dir.join("base"));
        let cold = open(&live, None).unwrap();
        cold.create_table(T, 260).unwrap();
        for round in 1..=2u32 {
            let mut batch = ColdBatch::new();
            (0..ROWS).for_each(|key| batch.put(mix(key), round, &row(key, 256)));
            cold.write(T, &batch).unwrap();
        }
        cold.checkpoint(&base).unwrap();
        assert!(cold.disk_bytes() >= ROWS * 260);
        assert!(cold.memory_bytes() > 0);
        drop(cold);
        let cold = open(&live, Some(&base)).unwrap();
        let mut keys: Vec<(u64, u64)> = (0..2 * ROWS).map(|key| (mix(key), key)).collect();
        keys.sort_unstable();
        let mixed: Vec<u64> = keys.iter().map(|key| key.0).collect();
        let mut hits = 0;
        cold.get_many(T, &mixed, &mut |i, value| {
            hits += 1;
            assert!(keys[i].1 < ROWS && value[..4] == 2u32.to_le_bytes() && value[4..] == row(keys[i].1, 256));
        })
        .unwrap();
        assert_eq!(hits, ROWS);
        assert_eq!(all(&*cold).len() as u64, ROWS);
    });
}

#[test]
fn only_expired_rows_may_go() {
    each(|open, dir| {
        let cold = open(&dir.join("live"), None).unwrap();
        cold.create_table(T, 20).unwrap();
        cold.expire(TableId(99), Horizons::before(2));
        cold.expire(T, Horizons::before(51));
        for round in 0..20u64 {
            let rows: Vec<(u64, u32)> = (0..100).map(|i| (round * 100 + i, i as u32)).collect();
            put(&*cold, &rows);
        }
        cold.checkpoint(&dir.join("base")).unwrap();
        let found = all(&*cold);
        let kept = found.iter().filter(|(key, _)| key % 100 > 50).count();
        assert_eq!(kept, 20 * 49);
        assert!(found.iter().all(|(key, v)| *v == value(*key, (key % 100) as u32)));
        cold.expire(T, Horizons::default());
    });
}

#[test]
fn damaged_checkpoints_are_refused() {
    each(|open, dir| {
        let (live, base) = (dir.join("live"), dir.join("base"));
        let cold = open(&live, None).unwrap();
        cold.create_table(T, 20).unwrap();
        put(&*cold, &(0..3000).map(|key| (key, 1)).collect::<Vec<_>>());
        cold.checkpoint(&base).unwrap();
        drop(cold);
        let read = |from: &Path| {
            let cold = open(&live, Some(from))?;
            let mut rows = cold.rows(T, 0..=u64::MAX)?;
            while rows.next()?.is_some() {}
            Ok::<_, Error>(())
        };
        read(&base).unwrap();
        let copy = dir.join("copy");
        for name in fs::read_dir(&base).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
            if name.starts_with("OPTIONS") {
                continue;
            }
            let damages: [fn(&mut Vec<u8>); 4] = [
                |bytes| bytes[3] ^= 0x40,
                |bytes| bytes.truncate(bytes.len() / 2),
                |bytes| bytes.clear(),
                |bytes| bytes.fill(0xa5),
            ];
            for (number, damage) in damages.into_iter().enumerate() {
                fresh_copy(&base, &copy);
                let mut bytes = fs::read(copy.join(&name)).unwrap();
                damage(&mut bytes);
                fs::write(copy.join(&name), bytes).unwrap();
                let error = read(&copy).unwrap_err();
                assert!(matches!(error, Error::Corrupt { .. }), "{name}, damage {number}: {error:?}");
            }
            fresh_copy(&base, &copy);
            fs::remove_file(copy.join(&name)).unwrap();
            let error = read(&copy).unwrap_err();
            assert!(matches!(error, Error::Corrupt { .. }), "{name} missing: {error:?}");
        }
    });
}

fn fresh_copy(from: &Path, to: &PathBuf) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn injected_failures_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Arc::new(TwinFaults::default());
    let options = TwinOptions { faults: Arc::clone(&faults), ..TwinOptions::default() };
    let cold = TwinCold::open(Arc::new(crate::fs::RealFs), &dir.path().join("live"), None, options.clone()).unwrap();
    cold.create_table(T, 20).unwrap();
    put(&cold, &[(1, 1)]);
    let mut batch = ColdBatch::new();
    batch.put(2, 2, &row(2, 16));
    faults.write.store(2, Ordering::SeqCst);
    put(&cold, &[(1, 1)]);
    assert!(cold.write(T, &batch).is_err());
    assert_eq!(get(&cold, &[1, 2]), [Some(value(1, 1)), None]);
    cold.write(T, &batch).unwrap();
    faults.read.store(1, Ordering::SeqCst);
    assert!(cold.get_many(T, &[1], &mut |_, _| ()).is_err());
    faults.checkpoint.store(1, Ordering::SeqCst);
    let base = dir.path().join("base");
    assert!(cold.checkpoint(&base).is_err());
    let reopened = TwinCold::open(Arc::new(crate::fs::RealFs), &dir.path().join("live"), Some(&base), options);
    assert!(matches!(reopened, Err(Error::Corrupt { .. })));
    cold.checkpoint(&dir.path().join("base2")).unwrap();
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks_refuses_what_is_no_checkpoint() {
    use super::rocks::{RocksCold, RocksOptions};
    let dir = tempfile::tempdir().unwrap();
    let (live, base, copy) = (dir.path().join("live"), dir.path().join("base"), dir.path().join("copy"));
    assert!(matches!(RocksCold::open(&live, None, RocksOptions { memory: 1, ..SMALL }), Err(Error::BudgetTooSmall { .. })));
    let cold = rocks(&live, None).unwrap();
    cold.create_table(T, 20).unwrap();
    put(&*cold, &[(1, 1)]);
    cold.checkpoint(&base).unwrap();
    drop(cold);
    let refused = |what: &str| {
        let error = rocks(&live, Some(&copy)).err();
        assert!(matches!(error, Some(Error::Corrupt { .. })), "{what}: {error:?}");
    };
    for name in ["000099.log", "x.sst", "LOCK", "MANIFEST-", "evil\n.sst", "000001.sst "] {
        fresh_copy(&base, &copy);
        fs::write(copy.join(name), b"").unwrap();
        refused(name);
    }
    for current in ["MANIFEST-999999\n", "../base/MANIFEST-000005\n", "", "/etc/passwd\n", "CURRENT\n", "MANIFEST-000005"] {
        fresh_copy(&base, &copy);
        fs::write(copy.join("CURRENT"), current).unwrap();
        refused(current);
    }
    fresh_copy(&base, &copy);
    std::os::unix::fs::symlink(base.join("CURRENT"), copy.join("000077.sst")).unwrap();
    refused("a link");
    fresh_copy(&base, &copy);
    fs::create_dir(copy.join("000077.sst")).unwrap();
    refused("a directory");
    fs::remove_dir_all(&live).unwrap();
    // Whatever is in the way of the live directory goes, and a link's target stays.
    std::os::unix::fs::symlink(&base, &live).unwrap();
    drop(rocks(&live, None).unwrap());
    assert!(base.join("CURRENT").exists());
}

/// New ids must not cost a read of the device each: the filters of all runs say that they are not there.
#[cfg(feature = "rocksdb")]
#[test]
fn rocks_reads_no_rows_for_keys_that_it_never_had() {
    const ROWS: u64 = 100_000;
    let counted = super::rocks::RocksOptions { traffic: true, ..SMALL };
    let dir = tempfile::tempdir().unwrap();
    let (live, base) = (dir.path().join("live"), dir.path().join("base"));
    let cold = super::rocks::RocksCold::open(&live, None, counted).unwrap();
    cold.create_table(T, 260).unwrap();
    for part in 0..10 {
        let mut batch = ColdBatch::new();
        (part * ROWS / 10..(part + 1) * ROWS / 10).for_each(|key| batch.put(mix(key), 1, &row(key, 256)));
        cold.write(T, &batch).unwrap();
    }
    cold.checkpoint(&base).unwrap();
    let flushed = cold.traffic().unwrap();
    assert!(flushed.flushed_bytes >= ROWS * 260, "{flushed:?}");
    drop(cold);
    let cold = super::rocks::RocksCold::open(&live, Some(&base), counted).unwrap();
    let ask = |keys: std::ops::Range<u64>| {
        let mut mixed: Vec<u64> = keys.map(mix).collect();
        mixed.sort_unstable();
        let (before, mut found) = (cold.traffic().unwrap(), 0);
        cold.get_many(T, &mixed, &mut |_, _| found += 1).unwrap();
        (found, cold.traffic().unwrap().row_blocks - before.row_blocks)
    };
    // A filter of ten bits a key is wrong of one key in a hundred, for each run that waits to be merged.
    let (found, blocks) = ask(ROWS..2 * ROWS);
    assert!(found == 0 && blocks < ROWS / 5, "{blocks} blocks read for {ROWS} keys");
    cold.compact(T).unwrap();
    assert!(cold.traffic().unwrap().compacted_bytes >= ROWS * 260);
    let (found, blocks) = ask(2 * ROWS..3 * ROWS);
    assert!(found == 0 && blocks < ROWS / 50, "{blocks} blocks read for {ROWS} keys");
    // Unlike those that it has: with 15 rows a block, each once.
    let (found, blocks) = ask(0..ROWS);
    assert!(found == ROWS && blocks > ROWS / 20, "{blocks} blocks read for {ROWS} rows");
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks_filters_and_indexes_are_as_planned() {
    const ROWS: u64 = 60_000;
    let dir = tempfile::tempdir().unwrap();
    let cold = super::rocks::RocksCold::open(&dir.path().join("live"), None, SMALL).unwrap();
    for (table, row_bytes) in [(T, 64), (TableId(4), 260), (TableId(5), 1024)] {
        cold.create_table(table, row_bytes + super::TIME_BYTES).unwrap();
        for part in 0..ROWS / 1000 {
            let mut batch = ColdBatch::new();
            (part * 1000..(part + 1) * 1000).for_each(|key| batch.put(mix(key), 1, &row(key, row_bytes)));
            cold.write(table, &batch).unwrap();
        }
        cold.checkpoint(&dir.path().join(table.0.to_string())).unwrap();
        cold.compact(table).unwrap();
        let (taken, planned) = (cold.index_bytes(table).unwrap(), crate::plan::cold_index_bytes(ROWS, row_bytes as u64));
        println!("rows of {row_bytes} bytes: {taken} bytes taken, {planned} planned");
        assert!((0.9..1.15).contains(&(taken as f64 / planned as f64)), "{taken} bytes taken, {planned} planned");
    }
}

#[cfg(feature = "rocksdb")]
#[test]
fn rocks_compactions_drop_expired_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (live, base) = (dir.path().join("live"), dir.path().join("base"));
    let cold = super::rocks::RocksCold::open(&live, None, SMALL).unwrap();
    cold.create_table(T, 20).unwrap();
    put(&cold, &[(1, 10), (2, 11), (3, 0), (4, u32::MAX)]);
    cold.compact(T).unwrap();
    assert_eq!(all(&cold).len(), 4);
    cold.checkpoint(&base).unwrap();
    drop(cold);
    let cold = super::rocks::RocksCold::open(&live, Some(&base), SMALL).unwrap();
    cold.expire(T, Horizons::before(11));
    put(&cold, &[(5, 1)]);
    cold.compact(T).unwrap();
    assert_eq!(all(&cold).iter().map(|row| row.0).collect::<Vec<_>>(), [2, 4]);
}
