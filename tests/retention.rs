//! Which commits stay, and when bases are written without being asked for.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;

use embedrock::{At, CommitId, Optimizer, Retention, Store, StoreOptions, TableSchema, Update};

const ROWS: u64 = 4_000;
const DIM: usize = 64;

fn options() -> StoreOptions {
    StoreOptions::default().memory_budget(64 << 20).threads(1)
}

/// A commit a minute, with all rows in it, and a base after each if asked for.
fn commit(store: &Store, minutes: std::ops::Range<u64>, bases: bool) -> Vec<CommitId> {
    let table = store.create_table(TableSchema::new("t", DIM).optimizer(Optimizer::sgd(1.0))).unwrap();
    let keys: Vec<u64> = (0..ROWS).collect();
    let mut ids = Vec::new();
    for minute in minutes {
        table.assign(&keys, &vec![minute as f32; keys.len() * DIM], &Update::at(1_000_000 + 60 * minute)).unwrap();
        ids.push(store.commit(&minute.to_le_bytes()).unwrap());
        if bases {
            store.checkpoint().unwrap();
        }
    }
    ids
}

fn bases(dir: &Path) -> usize {
    std::fs::read_dir(dir.join("base")).unwrap().count()
}

#[test]
fn as_many_bases_and_as_long_a_time_are_kept_as_asked_for() {
    for (retention, expected) in [
        (Retention::default(), 2),
        (Retention::default().bases(0), 2),
        (Retention::default().bases(4), 4),
        (Retention::default().seconds(60 * 5), 6),
        (Retention::default().bases(7).seconds(60), 7),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store");
        let store = Store::open(&path, options().retention(retention)).unwrap();
        let ids = commit(&store, 0..12, true);
        let kept = store.commits().unwrap();
        assert_eq!(kept, ids[ids.len() - expected..], "{retention:?}");
        assert_eq!(bases(&path), expected, "{retention:?}");
        drop(store);
        // The oldest that is listed can be had.
        let store = Store::open(&path, options().open_at(At::Commit(kept[0]))).unwrap();
        let mut row = [0.0; DIM];
        store.table("t").unwrap().lookup(&[17], &mut row).unwrap();
        assert_eq!(row, [(12 - expected) as f32; DIM]);
    }
}

/// What cannot serve is not kept in the place of what can.
#[test]
fn a_damaged_base_does_not_count_among_those_kept() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    drop(commit(&Store::open(&path, options()).unwrap(), 0..6, true));
    let newest = std::fs::read_dir(path.join("base")).unwrap().map(|entry| entry.unwrap().path()).max().unwrap();
    let mut hot = std::fs::read(newest.join("hot.rows")).unwrap();
    let middle = hot.len() / 2;
    hot[middle] ^= 1;
    std::fs::write(newest.join("hot.rows"), hot).unwrap();
    let store = Store::open(&path, options()).unwrap();
    let served = store.recovery().base.unwrap();
    assert!(store.recovery().damaged_bases.len() == 1 && newest.ends_with(format!("{:08}", served + 1)));
    let is_there = |number: u64| path.join(format!("base/{number:08}")).exists();
    // One sound base more is one too few to do without the old one.
    commit(&store, 6..7, true);
    commit(&store, 7..8, false);
    assert!(is_there(served) && is_there(served + 2));
    commit(&store, 8..9, true);
    commit(&store, 9..10, false);
    assert!(!is_there(served) && !is_there(served + 1) && is_there(served + 2) && is_there(served + 3));
}

#[test]
fn a_base_is_written_when_the_log_has_outgrown_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, options()).unwrap();
    commit(&store, 0..40, false);
    assert_eq!((bases(&path), store.commits().unwrap().len()), (0, 40), "none without being asked");
    drop(store);
    // The log from before counts: 40 MB of it, where bases below 16 MiB count as 16.
    let store = Store::open(&path, options().checkpoint_ratio(2.0)).unwrap();
    commit(&store, 40..41, false);
    store.close().unwrap();
    assert_eq!(bases(&path), 1);
    let store = Store::open(&path, options().checkpoint_ratio(2.0)).unwrap();
    commit(&store, 41..60, false);
    store.close().unwrap();
    assert_eq!(bases(&path), 1, "20 MB are less than twice 16 MiB");
    let store = Store::open(&path, options().checkpoint_ratio(2.0)).unwrap();
    commit(&store, 60..80, false);
    store.close().unwrap();
    assert_eq!(bases(&path), 2);
    let report = Store::open(&path, options()).unwrap();
    assert!(report.recovery().base.is_some() && report.recovery().commits_replayed < 40, "{}", report.recovery());
}
