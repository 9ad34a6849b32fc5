//! A store's life in few steps, small enough for Miri: batches, demotion, a commit written between them, a base, a crash.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;
use std::sync::Arc;

use embedrock::testing::{CrashMode, SimFs, verify_simulated};
use embedrock::{Admission, Expiry, Initializer, Optimizer, Store, StoreOptions, TableSchema, Update};

fn open(fs: &SimFs) -> Store {
    let options = StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(1 << 20);
    Store::open("/disk/store", options.threads(1).shards(2).hot_rows(3)).unwrap()
}

#[test]
fn a_small_store_comes_back_as_it_was() {
    let fs = SimFs::new();
    fs.make_dirs(Path::new("/disk")).unwrap();
    let store = open(&fs);
    let schema = TableSchema::new("t", 3).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.1));
    let table = store.create_table(schema.admission(Admission::count(2)).expiry(Expiry::after_secs(9))).unwrap();
    let keys = [1, u64::MAX, 1, 3, 0, 5, u64::MAX, 5, 3, 0];
    table.apply_gradients(&keys, &[0.5; 30], &Update::at(10)).unwrap();
    store.begin_commit(b"first").unwrap();
    table.assign(&[1, 7, 7], &[1.0; 9], &Update::at(12)).unwrap();
    store.step_commit(1).unwrap();
    assert_eq!(table.remove(&[3, 4]).unwrap(), 1);
    store.checkpoint().unwrap();
    table.prefetch(&keys).unwrap();
    store.commit(b"second").unwrap();
    let digest = store.digest().unwrap();
    table.apply_gradients(&[9, 9], &[f32::MAX; 6], &Update::at(13)).unwrap();
    drop((table, store));

    let fs = fs.crash(CrashMode::DropUnsynced, 0);
    assert_eq!(verify_simulated(&fs, Path::new("/disk/store")).unwrap().damage, []);
    let store = open(&fs);
    assert_eq!((&*store.last_commit().unwrap().state, store.digest().unwrap()), (&b"second"[..], digest));
    let (table, mut rows) = (store.table("t").unwrap(), [0.0; 12]);
    assert_eq!(table.lookup(&[1, 3, 7, u64::MAX], &mut rows).unwrap(), 3);
    assert_eq!(rows[..3], [1.0; 3]);
}
