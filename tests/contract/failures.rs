//! A failing disk: what goes on, what is refused, and what comes back.

use std::path::Path;
use std::sync::Arc;

use embedrock::testing::{CrashMode, FaultKind, FaultSpan, SimFs};
use embedrock::{Error, Store, StoreOptions, Table, Update};

use crate::{DIM, T, schema, train};

fn disk() -> (SimFs, StoreOptions) {
    let fs = SimFs::new();
    fs.make_dirs(Path::new("/d")).unwrap();
    let options = StoreOptions::default().memory_budget(24 << 20).threads(1).shards(2).simulated(Arc::new(fs.clone()));
    (fs, options)
}

fn trained(options: &StoreOptions) -> (Store, Table, String) {
    let store = Store::open("/d/s", options.clone()).unwrap();
    let table = store.create_table(schema()).unwrap();
    (0..5).for_each(|number| train(&table, number));
    store.commit(b"durable").unwrap();
    let digest = store.digest().unwrap().to_string();
    (store, table, digest)
}

#[test]
fn a_failed_sync_poisons_every_change_and_no_read() {
    let (fs, options) = disk();
    let (store, table, digest) = trained(&options);
    train(&table, 5);
    let changed = store.digest().unwrap();
    fs.fail_next_sync();
    let first = store.commit(b"lost").unwrap_err();
    assert!(matches!(first, Error::Io { action: "sync", .. }), "{first}");
    let at = Update::at(T + 9);
    let changes = [
        table.apply_gradients(&[1], &[0.5; DIM], &at),
        table.assign(&[1], &[0.5; DIM], &at).map(drop),
        table.assign_add(&[1], &[0.5; DIM], &at).map(drop),
        table.remove(&[1]).map(drop),
        store.create_table(schema()).map(drop),
        store.drop_table("t"),
        store.commit(b"").map(drop),
        store.commit_in_background(Vec::new).map(drop),
        store.checkpoint().map(drop),
    ];
    for (at, result) in changes.into_iter().enumerate() {
        assert!(matches!(result, Err(Error::Poisoned { .. })), "call {at}: {result:?}");
    }
    assert!(table.contains(1).is_ok() && table.lookup(&[1, 2], &mut [0.0; 2 * DIM]).is_ok());
    assert_eq!(store.digest().unwrap(), changed, "reads go on, and see what is in memory");
    table.for_each_row(|_, _, _, _| Ok(())).unwrap();
    assert_eq!(&store.last_commit().unwrap().state[..], b"durable", "not what may be lost");
    assert!(matches!(store.close(), Err(Error::Poisoned { .. })));
    drop(table);
    for crash in [false, true] {
        let fs = if crash { fs.crash(CrashMode::DropUnsynced, 7) } else { fs.kill() };
        let store = Store::open("/d/s", options.clone().simulated(Arc::new(fs))).unwrap();
        let state = store.last_commit().unwrap().state;
        match (&state[..], crash) {
            (b"durable", _) => assert_eq!(store.digest().unwrap().to_string(), digest),
            (b"lost", false) => assert_eq!(store.digest().unwrap(), changed),
            other => panic!("{other:?}"),
        }
        store.commit(b"goes on").unwrap();
    }
}

#[test]
fn a_failed_write_is_tried_again_by_the_next_call() {
    for kind in [FaultKind::Io, FaultKind::NoSpace] {
        let (fs, options) = disk();
        let (store, table, _) = trained(&options);
        train(&table, 5);
        let rows = store.digest().unwrap();
        fs.fail_nth(1, kind, FaultSpan::Forever);
        for _ in 0..3 {
            let error = store.commit(b"pending").unwrap_err();
            match kind {
                FaultKind::NoSpace => assert!(matches!(error, Error::NoSpace { .. }), "{error}"),
                _ => assert!(matches!(error, Error::Io { .. }), "{error}"),
            }
            assert!(store.create_table(crate::TableSchema::new("new", 1)).is_err() && store.drop_table("t").is_err());
            assert!(store.checkpoint().is_err());
            assert_eq!((store.digest().unwrap(), store.tables().len()), (rows, 1));
            assert_eq!(&store.last_commit().unwrap().state[..], b"durable");
        }
        train(&table, 6);
        fs.heal();
        let id = store.commit(b"all of it").unwrap();
        let rows = store.digest().unwrap();
        drop((table, store));
        let store = Store::open("/d/s", options.simulated(Arc::new(fs.crash(CrashMode::DropUnsynced, 1)))).unwrap();
        let last = store.last_commit().unwrap();
        assert_eq!((last.id, &last.state[..], store.digest().unwrap()), (id, &b"all of it"[..], rows));
    }
}

#[test]
fn an_open_that_fails_leaves_the_store_as_it_was() {
    let (fs, options) = disk();
    let (store, table, digest) = trained(&options);
    store.checkpoint().unwrap();
    drop((table, store));
    let begun = fs.calls();
    drop(Store::open("/d/s", options.clone()).unwrap());
    let calls = fs.calls() - begun;
    assert!(calls > 10, "{calls}");
    for kind in [FaultKind::Io, FaultKind::NoSpace] {
        for n in 1..=calls {
            fs.fail_nth(n, kind, FaultSpan::Forever);
            let opened = Store::open("/d/s", options.clone()).map(|store| store.digest().map(|digest| digest.to_string()));
            match opened {
                Ok(found) => assert_eq!(found.unwrap(), digest, "{kind:?} at call {n}"),
                Err(Error::Io { .. } | Error::NoSpace { .. } | Error::Poisoned { .. } | Error::Cold { .. }) => {}
                Err(error) => panic!("{kind:?} at call {n}: {error}"),
            }
            fs.heal();
            let store = Store::open("/d/s", options.clone()).unwrap();
            assert_eq!(store.digest().unwrap().to_string(), digest, "{kind:?} at call {n}");
            assert_eq!(store.recovery().damaged_bases, [""; 0]);
        }
    }
}

#[test]
fn a_creation_that_fails_is_begun_again() {
    let (fs, options) = disk();
    drop(Store::open("/d/whole", options.clone()).unwrap());
    for (n, name) in (1..=fs.calls()).map(|n| (n, format!("/d/s{n}"))) {
        fs.fail_nth(n, FaultKind::NoSpace, FaultSpan::Forever);
        let first = Store::open(&name, options.clone()).map(drop);
        fs.heal();
        let store = Store::open(&name, options.clone()).unwrap_or_else(|error| panic!("call {n}, after {first:?}: {error}"));
        store.commit(b"").unwrap();
    }
}
