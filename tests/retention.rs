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
