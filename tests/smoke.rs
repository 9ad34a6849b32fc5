//! The store end to end: rows survive commits, crashes and restores, and nothing else does.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use embedrock::{At, Initializer, Optimizer, Store, StoreOptions, TableSchema, Update, restore, verify};

fn schema() -> TableSchema {
    TableSchema::new("t", 8).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.05))
}

fn options() -> StoreOptions {
    StoreOptions::default().memory_budget(32 << 20).threads(1)
}

fn train(store: &Store, batches: std::ops::Range<u64>) {
    let table = store.create_table(schema()).unwrap();
    for batch in batches {
        let keys: Vec<u64> = (0..500).map(|i| (batch * 37 + i * i) % 20_000).collect();
        let grads: Vec<f32> = (0..500 * 8).map(|i| ((i as u64 * 7 + batch) % 13) as f32 / 13.0 - 0.5).collect();
        table.apply_gradients(&keys, &grads, &Update::at(1_000_000 + batch)).unwrap();
    }
}

#[test]
fn a_crash_loses_what_was_not_committed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, options()).unwrap();
    train(&store, 0..50);
    store.commit(b"a").unwrap();
    let committed = store.digest().unwrap();
    train(&store, 50..60);
    assert_ne!(store.digest().unwrap(), committed);
    drop(store);
    let store = Store::open(&path, options()).unwrap();
    assert_eq!(store.digest().unwrap(), committed);
    assert_eq!(&store.last_commit().unwrap().state[..], b"a");
    assert!(verify(&path).is_err(), "the store is in use");
    drop(store);
    assert_eq!(verify(&path).unwrap().damage, []);
}

#[test]
fn a_tenth_of_the_rows_hot_gives_the_same_digest() {
    let dir = tempfile::tempdir().unwrap();
    let digests: Vec<_> = [None, Some(500)]
        .into_iter()
        .enumerate()
        .map(|(i, cap)| {
            let path = dir.path().join(format!("store{i}"));
            let capped = || cap.map_or(options(), |cap| options().hot_rows(cap).threads(2));
            let store = Store::open(&path, capped()).unwrap();
            train(&store, 0..60);
            store.commit(b"").unwrap();
            store.checkpoint().unwrap();
            train(&store, 60..120);
            if let Some(cap) = cap {
                let stats = store.stats();
                assert!(stats.tables[0].hot_rows <= cap as u64 + 16, "{stats:?}");
                assert!(stats.tables[0].demoted_writes > 0 && stats.tables[0].promoted > 0);
            }
            store.commit(b"x").unwrap();
            let digest = store.digest().unwrap();
            drop(store);
            let store = Store::open(&path, capped()).unwrap();
            assert_eq!(store.digest().unwrap(), digest);
            assert_eq!(store.recovery().base, Some(1));
            let rows = store.table("t").unwrap().len();
            drop(store);
            let target = dir.path().join(format!("restored{i}"));
            restore(&path, At::Latest, &target).unwrap();
            let restored = Store::open(&target, options().shards(7)).unwrap();
            assert_eq!(restored.digest().unwrap(), digest);
            assert_eq!(restored.table("t").unwrap().len(), rows);
            assert_eq!(&restored.last_commit().unwrap().state[..], b"x");
            assert_eq!(restored.commit(b"y").unwrap().timeline, 2);
            drop(restored);
            assert_eq!(verify(&target).unwrap().damage, []);
            digest
        })
        .collect();
    assert_eq!(digests[0], digests[1]);
}

#[test]
fn replace_says_what_was_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), options().hot_rows(0)).unwrap();
    let table = store.create_table(schema()).unwrap();
    let (mut initial, mut old) = (vec![0.0; 8], vec![9.0; 3 * 8]);
    table.lookup(&[7], &mut initial).unwrap();
    let rows: Vec<f32> = (0..24).map(|i| i as f32).collect();
    assert_eq!(table.replace(&[7, 8, 7], &rows, &Update::at(1), &mut old).unwrap(), 2);
    assert_eq!((&old[..8], &old[16..]), (&initial[..], &initial[..]));
    table.prefetch(&[8]).unwrap();
    assert_eq!(table.replace(&[7, 8], &[0.5; 16], &Update::at(2), &mut old[..16]).unwrap(), 2);
    assert_eq!((&old[..8], &old[8..16]), (&rows[16..], &rows[8..16]));
    let short = table.replace(&[7], &[1.0; 8], &Update::at(3), &mut []).unwrap_err();
    assert!(short.to_string().contains("rows"), "{short}");
    table.lookup(&[7], &mut initial).unwrap();
    assert_eq!(initial, [0.5; 8]);
}
