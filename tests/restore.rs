//! A restore that is cut off anywhere is gone on with: the same rows in the end, nothing taken for whole before it is, nothing that was
//! finished done again.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use embedrock::testing::{CrashMode, FaultKind, FaultSpan, SimFs};
use embedrock::{
    Error, Initializer, Optimizer, Restore, RestoreProgress, RestoreReport, RestoreStage, Store, StoreOptions, TableSchema,
    Update,
};

const SOURCE: &str = "/disk/source";
const TARGET: &str = "/disk/target";
const STAGED: &str = "/disk/tmp-restore-target/tmp-cold/twin.rows";
const BASE: &str = "/disk/tmp-restore-target/base/00000001/MANIFEST";
const DIM: usize = 8;

fn options(fs: &SimFs) -> StoreOptions {
    StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(12 << 20).threads(1).shards(2).hot_rows(60)
}

/// A store with cold rows, bases, deltas after them, and no log from before them: what they hold is nowhere else.
fn source() -> SimFs {
    let fs = SimFs::new();
    fs.make_dirs(Path::new("/disk")).unwrap();
    let store = Store::open(SOURCE, options(&fs)).unwrap();
    let schema =
        |name: &str| TableSchema::new(name, DIM).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.1));
    let tables = ["a", "b"].map(|name| store.create_table(schema(name)).unwrap());
    for round in 0..12u64 {
        for table in &tables {
            let keys: Vec<u64> = (round * 40..round * 40 + 100).collect();
            table.apply_gradients(&keys, &vec![0.5; keys.len() * DIM], &Update::at(1000 + round)).unwrap();
            table.remove(&[round * 7]).unwrap();
        }
        store.commit(format!("state {round}").as_bytes()).unwrap();
        if [1, 3, 5, 7].contains(&round) {
            store.checkpoint().unwrap();
        }
    }
    drop((tables, store));
    fs
}

fn restore(fs: &SimFs) -> embedrock::Result<RestoreReport> {
    Restore::of(SOURCE).options(options(fs)).to(TARGET)
}

fn digest(fs: &SimFs) -> String {
    let store = Store::open(TARGET, options(fs).create(false)).unwrap();
    assert_eq!(&store.last_commit().unwrap().state[..], b"state 11");
    store.digest().unwrap().to_string()
}

fn cold_of_source(fs: &SimFs) -> (PathBuf, Vec<u8>) {
    fs.files().into_iter().rfind(|(path, _)| path.starts_with(SOURCE) && path.ends_with("cold/twin.rows")).unwrap()
}

/// Damages what a restore reads of the source's base, so that one that reads it again fails.
fn spoil(fs: &SimFs, name: &str) {
    for path in fs.files().keys().filter(|path| path.starts_with(SOURCE) && path.ends_with(name)) {
        fs.corrupt(path, 300, 0x10).unwrap();
    }
}

#[test]
fn a_restore_cut_at_any_call_is_gone_on_with() {
    let source = source();
    let whole = source.kill();
    let report = restore(&whole).unwrap();
    let expected = digest(&whole);
    let cold = cold_of_source(&source).1;
    assert!(cold.len() > 10_000, "too few cold rows: {}", cold.len());
    let files: Vec<PathBuf> = whole.files().into_keys().filter(|path| path.starts_with(TARGET)).collect();
    let calls = {
        let counted = source.kill();
        restore(&counted).unwrap();
        counted.calls()
    };
    let (mut copied, mut finished, mut named) = (0, 0, 0);
    for call in 1..=calls {
        for mode in [None, Some(CrashMode::ALL[call as usize % CrashMode::ALL.len()])] {
            let place = format!("call {call}, {mode:?}");
            let cut = source.kill();
            cut.fail_nth(call, FaultKind::Io, FaultSpan::Forever);
            let first = restore(&cut);
            let after = mode.map_or_else(|| SimFs::kill(&cut), |mode| cut.crash(mode, call));
            let left = after.files();
            if left.keys().any(|path| path.starts_with(TARGET)) {
                named += 1;
                assert!(matches!(restore(&after), Err(Error::TargetExists { .. })), "{place}");
                assert_eq!(digest(&after), expected, "{place}");
                continue;
            }
            assert!(first.is_err(), "{place}");
            // What is finished is not read again, so damage that came to the source since does not matter.
            if left.contains_key(Path::new(BASE)) {
                spoil(&after, "hot.rows");
                spoil(&after, "twin.rows");
                finished += 1;
            } else if left.get(Path::new(STAGED)) == Some(&cold) {
                spoil(&after, "twin.rows");
                copied += 1;
            }
            assert_eq!(restore(&after).map_err(|error| format!("{place}: {error}")).unwrap(), report);
            let entries: Vec<PathBuf> = after.files().into_keys().filter(|path| !path.starts_with(SOURCE)).collect();
            assert_eq!(entries.iter().filter(|path| path.to_string_lossy().contains("tmp-")).count(), 0, "{place}: {entries:?}");
            assert_eq!(digest(&after), expected, "{place}");
            let again: Vec<PathBuf> = after.files().into_keys().filter(|path| path.starts_with(TARGET)).collect();
            assert_eq!(again, files, "{place}");
        }
    }
    assert!(copied > 50 && finished > 10 && named > 0, "{copied} {finished} {named}");
    // The damage above is seen by who reads it.
    for name in ["hot.rows", "twin.rows"] {
        let spoilt = source.kill();
        spoil(&spoilt, name);
        assert!(matches!(restore(&spoilt), Err(Error::Corrupt { .. })), "{name}");
        assert!(
            spoilt.files().keys().all(|path| path.starts_with(SOURCE)),
            "{name}: nothing is kept of what cannot be gone on with"
        );
    }
}

#[test]
fn only_a_restore_of_the_same_rows_is_gone_on_with() {
    let fs = source();
    let calls = {
        let counted = fs.kill();
        restore(&counted).unwrap();
        counted.calls()
    };
    // Cut off just before it gets its name: its base is finished.
    let cut = fs.kill();
    let mut left = (1..calls).rev().map(|call| {
        let cut = cut.kill();
        cut.fail_nth(call, FaultKind::Io, FaultSpan::Forever);
        let _ = restore(&cut);
        cut.kill()
    });
    let left =
        left.find(|fs| fs.files().contains_key(Path::new(BASE)) && !fs.files().keys().any(|path| path.starts_with(TARGET)));
    let left = left.unwrap();
    let subset = Restore::of(SOURCE).options(options(&left)).tables(["b"]).to(TARGET).unwrap();
    assert_eq!(subset.tables.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b"]);
    let store = Store::open(TARGET, options(&left)).unwrap();
    assert_eq!(store.tables().len(), 1);
}

#[test]
fn progress_knows_its_length() {
    let fs = source();
    let seen = Arc::new(Mutex::new(Vec::<RestoreProgress>::new()));
    let told = Arc::clone(&seen);
    Restore::of(SOURCE).options(options(&fs)).progress(move |progress| told.lock().unwrap().push(progress)).to(TARGET).unwrap();
    let seen = seen.lock().unwrap();
    let stages = [RestoreStage::Copying, RestoreStage::Reading, RestoreStage::Writing];
    let order: Vec<usize> = seen.iter().map(|at| stages.iter().position(|stage| *stage == at.stage).unwrap()).collect();
    assert!(order.is_sorted(), "{order:?}");
    for stage in stages {
        let of: Vec<&RestoreProgress> = seen.iter().filter(|at| at.stage == stage).collect();
        assert!(
            of.iter().all(|at| at.total == of[0].total && at.done <= at.total) && of.is_sorted_by_key(|at| at.done),
            "{of:?}"
        );
        assert!(of.last().unwrap().done * 10 >= of[0].total * 9 && of[0].total > 1000, "{stage:?}: {of:?}");
    }
    assert_eq!(seen.iter().find(|at| at.stage == RestoreStage::Copying).unwrap().total, cold_of_source(&fs).1.len() as u64);
}
