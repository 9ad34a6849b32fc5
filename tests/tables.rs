//! Tables that come and go while bases are written: a base knows of them before the commit does that says so.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;
use std::sync::Arc;

use embedrock::testing::SimFs;
use embedrock::{Expiry, Optimizer, Replica, Store, StoreOptions, TableSchema, Update};

const DIR: &str = "/disk/store";

fn options(fs: &SimFs) -> StoreOptions {
    StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(12 << 20).threads(1).shards(2).hot_rows(20)
}

fn fill(store: &Store, name: &str, round: u64) {
    let schema = TableSchema::new(name, 2).optimizer(Optimizer::adagrad(0.1)).expiry(Expiry::after_secs(900 + round as u32));
    let table = store.create_table(schema).unwrap();
    let keys: Vec<u64> = (round * 10..round * 10 + 40).collect();
    table.apply_gradients(&keys, &vec![0.5; 80], &Update::at(100 + round)).unwrap();
    table.remove(&[round * 11]).unwrap();
}

/// What happens to the tables between a commit and the base after it.
fn change(store: &Store, round: u64) {
    let (new, old) = (format!("t{round}"), format!("t{}", round.saturating_sub(1)));
    match round % 4 {
        0 => fill(store, &new, round),
        1 => store.drop_table(&old).unwrap(),
        2 => {
            // The same name under three numbers, of which the base sees the last.
            for _ in 0..2 {
                fill(store, &new, round);
                store.drop_table(&new).unwrap();
            }
            fill(store, &new, round + 1);
        }
        _ => {
            fill(store, &old, round);
            store.drop_table(&old).unwrap();
            fill(store, &new, round);
            store.drop_table(&new).unwrap();
        }
    }
    fill(store, "stays", round);
}

/// Once a base did not load where a table had been created since the commit that it follows, nor where one had been dropped that deltas name:
/// older ones served, until retention had removed those.
#[test]
fn bases_load_whatever_was_created_and_dropped_since_their_commit() {
    let fs = SimFs::new();
    fs.make_dirs(Path::new("/disk")).unwrap();
    for round in 0..12 {
        let store = Store::open(DIR, options(&fs)).unwrap();
        change(&store, round);
        let base = store.checkpoint().unwrap();
        fill(&store, "stays", round + 1);
        store.commit(b"").unwrap();
        let digest = store.digest().unwrap();
        let names: Vec<String> = store.tables().iter().map(|table| table.schema().name().to_owned()).collect();
        drop(store);

        let store = Store::open(DIR, options(&fs)).unwrap();
        let report = store.recovery();
        assert_eq!((report.base, report.damaged_bases.as_slice()), (Some(base), &[][..]), "round {round}");
        assert_eq!(store.digest().unwrap(), digest, "round {round}");
        assert_eq!(store.tables().iter().map(|table| table.schema().name().to_owned()).collect::<Vec<_>>(), names);
        drop(store);

        fs.make_dirs(Path::new("/disk/replica")).unwrap();
        let replica = Replica::open(DIR, "/disk/replica", options(&fs)).unwrap();
        let mut row = [0.0; 2];
        assert_eq!(replica.lookup("stays", &[round * 10 + 45], &mut row).unwrap(), 1);
    }
}
