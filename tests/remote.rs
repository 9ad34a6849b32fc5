//! Copies elsewhere: what the target has is not sent again, an interrupted copy is never taken for a whole one, and what comes back is
//! the commit, bit for bit.
#![cfg(all(feature = "remote", feature = "testing"))]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use embedrock::{At, CommitId, Error, Remote, Retention, Store, StoreOptions, TableSchema, Transfer, Update};

const DIM: usize = 8;

fn options() -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).shards(2).hot_rows(300)
}

fn train(store: &Store, batch: u64) {
    let table = store.create_table(TableSchema::new("t", DIM)).unwrap();
    let keys: Vec<u64> = (0..200).map(|k| (batch * 7919 + k * 31) % 1500).collect();
    let grads: Vec<f32> = keys.iter().flat_map(|key| [(key % 17) as f32 / 16.0 - 0.5; DIM]).collect();
    table.apply_gradients(&keys, &grads, &Update::at(1_700_000_000 + batch)).unwrap();
}

/// A commit after a few batches, and a base now and then.
fn work(store: &Store, from: u64, to: u64) -> CommitId {
    let mut last = None;
    for batch in from..to {
        train(store, batch);
        if batch % 3 == 0 {
            last = Some(store.commit(&batch.to_le_bytes()).unwrap());
        }
        if batch % 8 == 0 {
            store.checkpoint().unwrap();
        }
    }
    last.unwrap_or_else(|| store.commit(b"end").unwrap())
}

fn upload(store: &Store, remote: &Remote) -> Transfer {
    store.upload(remote, &mut |_| ()).unwrap()
}

fn restore(remote: &Remote, at: At, target: &Path) -> (CommitId, String) {
    let report = remote.restore(at, target, |restore| restore, &mut |_| ()).unwrap();
    (report.commit, digest(target))
}

fn digest(store: &Path) -> String {
    Store::open(store, options().create(false)).unwrap().digest().unwrap().to_string()
}

/// The digest of the store's last durable commit.
fn committed(store: &Store, dir: &Path) -> String {
    let target = dir.join("committed");
    let _ = std::fs::remove_dir_all(&target);
    let copy = Remote::open("memory:").unwrap();
    upload(store, &copy);
    restore(&copy, At::Latest, &target).1
}

#[test]
fn a_copy_sends_what_is_new_and_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("copies");
    for remote in [Remote::open("memory:").unwrap(), Remote::open(place.to_str().unwrap()).unwrap()] {
        let path = dir.path().join("store");
        let store = Store::open(&path, options()).unwrap();
        work(&store, 0, 40);
        let first = store.commit(b"first").unwrap();
        let first_digest = store.digest().unwrap().to_string();
        let all = upload(&store, &remote);
        assert!(all.done == all.total && all.moved > 0 && all.moved <= all.total, "{all:?}");
        assert_eq!(upload(&store, &remote).moved, 0);
        assert_eq!(remote.copies().unwrap().len(), 1, "the same copy twice");
        train(&store, 41);
        let second = store.commit(b"second").unwrap();
        let second_digest = store.digest().unwrap().to_string();
        let more = upload(&store, &remote);
        assert!(more.moved > 0 && more.moved < all.moved, "{more:?} after {all:?}");
        drop(store);

        // Restored to the older, trained otherwise: files of the same names and other content, on another timeline.
        let older = dir.path().join("older");
        assert_eq!(restore(&remote, At::Commit(first), &older), (first, first_digest.clone()));
        let store = Store::open(&older, options()).unwrap();
        assert_eq!(&*store.last_commit().unwrap().state, b"first");
        let third = work(&store, 100, 130);
        let third_digest = committed(&store, dir.path());
        upload(&store, &remote);
        drop(store);
        for (name, at, expected) in [
            ("newest", At::Latest, (third, third_digest)),
            ("second", At::Commit(second), (second, second_digest)),
            ("first", At::Commit(first), (first, first_digest)),
        ] {
            let target = dir.path().join(name);
            assert_eq!(restore(&remote, at, &target), expected, "{name}");
            std::fs::remove_dir_all(target).unwrap();
        }
        let error = remote.restore(At::Latest, &older, |restore| restore, &mut |_| ()).unwrap_err();
        assert!(matches!(error, Error::TargetExists { .. }), "{error}");
        let missing = At::Commit(CommitId { timeline: 9, sequence: 9 });
        let error = remote.restore(missing, dir.path().join("none"), |restore| restore, &mut |_| ()).unwrap_err();
        assert!(matches!(&error, Error::UnknownCommit { why, .. } if why.contains("--list")), "{error}");
        for path in [path, older, dir.path().join("committed")] {
            std::fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
fn an_interrupted_copy_is_not_one_and_the_next_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), options()).unwrap();
    work(&store, 0, 20);
    let expected = committed(&store, dir.path());
    let mut interrupted = 0;
    for nth in 1.. {
        let remote = Remote::open("memory:").unwrap();
        remote.fail_from(nth);
        let result = store.upload(&remote, &mut |_| ());
        remote.fail_from(0);
        if let Err(error) = result {
            assert!(matches!(error, Error::Remote { .. }), "{error}");
            assert_eq!(remote.copies().unwrap(), [], "interrupted at call {nth}");
            let there: u64 = remote.objects().unwrap().iter().map(|(_, bytes)| bytes).sum();
            let again = upload(&store, &remote);
            assert_eq!(again.moved + there, upload(&store, &Remote::open("memory:").unwrap()).moved, "sent again at call {nth}");
            interrupted += 1;
        }
        let target = dir.path().join("restored");
        assert_eq!(restore(&remote, At::Latest, &target).1, expected);
        std::fs::remove_dir_all(target).unwrap();
        if interrupted < nth {
            break;
        }
    }
    assert!(interrupted > 3, "{interrupted}");
}

#[test]
fn an_interrupted_restore_goes_on_with_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let (store, remote) = (Store::open(dir.path().join("store"), options()).unwrap(), Remote::open("memory:").unwrap());
    work(&store, 0, 20);
    let (expected, total) = (committed(&store, dir.path()), upload(&store, &remote).total);
    let target = dir.path().join("restored");
    let (mut fetched, mut attempts) = (0, 0);
    loop {
        // Each attempt comes a call further than the one before.
        attempts += 1;
        remote.fail_from(3 + attempts);
        let mut moved = 0;
        let result = remote.restore(At::Latest, &target, |restore| restore, &mut |transfer| moved = transfer.moved);
        fetched += moved;
        match result {
            Ok(_) => break,
            Err(error) => assert!(matches!(error, Error::Remote { .. }) && !target.exists(), "{error}"),
        }
    }
    remote.fail_from(0);
    assert!(attempts > 3, "{attempts}");
    assert_eq!(fetched, total, "nothing is fetched twice");
    assert_eq!(digest(&target), expected);
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("tmp-")), "{left:?}");
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_damaged_copy_is_refused_by_the_name_of_its_object() {
    let dir = tempfile::tempdir().unwrap();
    let (store, place) = (Store::open(dir.path().join("store"), options()).unwrap(), dir.path().join("copies"));
    work(&store, 0, 20);
    let remote = Remote::open(place.to_str().unwrap()).unwrap();
    upload(&store, &remote);
    let target = dir.path().join("restored");
    for object in files_below(&place) {
        let whole = std::fs::read(&object).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 8;
        let mut longer = whole.clone();
        longer.push(0);
        for changed in [Some(flipped), Some(whole[..whole.len() - 1].to_vec()), Some(longer), Some(Vec::new()), None] {
            match &changed {
                Some(bytes) => std::fs::write(&object, bytes).unwrap(),
                None => std::fs::remove_file(&object).unwrap(),
            }
            let error = remote.restore(At::Latest, &target, |restore| restore, &mut |_| ()).unwrap_err().to_string();
            let name = object.file_name().unwrap().to_str().unwrap();
            let gone = changed.is_none() && object.starts_with(place.join("copies"));
            assert!(error.contains(name) || gone, "{name}: {error}");
            assert!(!target.exists());
            // What was fetched whole before would be used.
            let _ = std::fs::remove_dir_all(dir.path().join("tmp-copy-restored"));
        }
        std::fs::write(&object, whole).unwrap();
    }
    restore(&remote, At::Latest, &target);
}

#[test]
fn copies_are_whole_while_threads_train_and_old_files_go() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, options().threads(2).retention(Retention::default())).unwrap();
    work(&store, 0, 10);
    let (remote, stop) = (Remote::open("memory:").unwrap(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (store, stop) = (&store, &stop);
            scope.spawn(move || {
                for batch in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    train(store, 1000 * (thread + 1) + batch);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                store.commit(b"").unwrap();
                store.checkpoint().unwrap();
            }
        });
        for at in 0..12 {
            let _ = upload(&store, &remote);
            let target = dir.path().join("restored");
            let (commit, _) = restore(&remote, At::Latest, &target);
            assert_eq!(Some(commit), remote.copies().unwrap().last().map(|copy| copy.commit), "copy {at}");
            std::fs::remove_dir_all(target).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    // Retention goes on once nobody reads.
    store.checkpoint().unwrap();
    store.commit(b"").unwrap();
    let bases = std::fs::read_dir(path.join("base")).unwrap().count();
    assert!(bases <= 3, "{bases} bases");
}

#[test]
fn a_place_that_is_not_known_is_named() {
    for (place, said) in [("ftp://host/x", "none of file, s3, gs, az"), ("/dev/null/x", "Not a directory")] {
        let error = Remote::open(place).unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(said), "{error}");
    }
    #[cfg(not(feature = "s3"))]
    assert!(Remote::open("s3://bucket/x").unwrap_err().to_string().contains("Cargo feature s3"));
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), options()).unwrap();
    let error = store.upload(&Remote::open("memory:").unwrap(), &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::UnknownCommit { .. }), "{error}");
}
