//! Copies elsewhere: what the target has is not sent again, an interrupted copy is never taken for a whole one, and what comes back is
//! the commit, bit for bit.
#![cfg(all(feature = "remote", feature = "testing"))]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use embedrock::{
    At, CommitId, Error, Initializer, Optimizer, Quantization, Remote, Retention, Store, StoreOptions, TableSchema, Transfer,
    Update, Upload,
};

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
        // Which store's newest is meant must be said.
        let ids: Vec<String> = remote.copies().unwrap().iter().map(|copy| copy.store_id()).collect();
        let error = remote.restore(At::Latest, dir.path().join("none"), |restore| restore, &mut |_| ()).unwrap_err();
        assert!(matches!(error, Error::InvalidOption { option: "store", .. }), "{error}");
        assert!(ids.iter().all(|id| error.to_string().contains(id)), "{error}");
        let [here, there] = [ids.first(), ids.last()].map(|id| remote.of_store(&id.unwrap()[..9]));
        for (name, at, expected) in [
            ("newest", At::Latest, (third, third_digest)),
            ("second", At::Commit(second), (second, second_digest)),
            ("first", At::Commit(first), (first, first_digest)),
        ] {
            let target = dir.path().join(name);
            let of = if name == "newest" { &there } else { &here };
            assert_eq!(restore(of, at, &target), expected, "{name}");
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

/// Rows of Adagrad, as training leaves them.
fn adagrad(store: &Store) {
    let schema = TableSchema::new("t", DIM).optimizer(Optimizer::adagrad(0.05)).initializer(Initializer::uniform(0.05));
    let table = store.create_table(schema).unwrap();
    for batch in 0..30u64 {
        let keys: Vec<u64> = (0..400).map(|k| (batch * 7919 + k * k) % 3000).collect();
        let noise = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 16_777_216.0 - 0.5;
        let grads: Vec<f32> = (0..(keys.len() * DIM) as u64).map(|i| noise(i + batch * 99_991)).collect();
        table.apply_gradients(&keys, &grads, &Update::at(1_700_000_000 + batch)).unwrap();
        if batch % 10 == 5 {
            store.commit(&batch.to_le_bytes()).unwrap();
            store.checkpoint().unwrap();
        }
    }
    store.commit(b"trained").unwrap();
}

fn rows(store: &Path) -> Vec<(u64, u32, Vec<f32>, Vec<f32>)> {
    let mut rows = Vec::new();
    let store = Store::open(store, options().create(false)).unwrap();
    let table = store.table("t").unwrap();
    table
        .for_each_row(|key, time, embedding, state| {
            rows.push((key, time, embedding.to_vec(), state.to_vec()));
            Ok(())
        })
        .unwrap();
    rows.sort_by_key(|row| row.0);
    rows
}

#[test]
fn a_compressed_copy_is_smaller_and_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (store, place) = (Store::open(dir.path().join("store"), options()).unwrap(), dir.path().join("copies"));
    adagrad(&store);
    let remote = Remote::open(place.to_str().unwrap()).unwrap();
    let packed = Upload::default().compress(3);
    let sent = store.upload_as(&remote, &packed, &mut |_| ()).unwrap();
    assert!(sent.moved < sent.total * 9 / 10 && sent.done == sent.total, "{sent:?}");
    assert_eq!(store.upload_as(&remote, &packed, &mut |_| ()).unwrap().moved, 0);
    let copies = remote.copies().unwrap();
    assert_eq!((copies.len(), copies[0].compressed, copies[0].quantization), (1, true, None));
    let target = dir.path().join("restored");
    assert_eq!(restore(&remote, At::Latest, &target).1, store.digest().unwrap().to_string());
    std::fs::remove_dir_all(&target).unwrap();
    // A plain copy beside it has chunks of its own.
    upload(&store, &remote);
    assert_eq!(restore(&remote, At::Latest, &target).1, store.digest().unwrap().to_string());
    std::fs::remove_dir_all(&target).unwrap();
    std::fs::remove_file(place.join("copies").join(&remote.copies().unwrap()[1].name)).unwrap();
    for object in files_below(&place.join("chunks")).iter().filter(|path| path.extension().is_some()) {
        let whole = std::fs::read(object).unwrap();
        for at in [0, 1, whole.len() / 2, whole.len() - 1] {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            std::fs::write(object, flipped).unwrap();
            let error = remote.restore(At::Latest, &target, |restore| restore, &mut |_| ()).unwrap_err().to_string();
            assert!(error.contains(object.file_name().unwrap().to_str().unwrap()) && !target.exists(), "byte {at}: {error}");
            let _ = std::fs::remove_dir_all(dir.path().join("tmp-copy-restored"));
        }
        std::fs::write(object, whole).unwrap();
    }
    restore(&remote, At::Latest, &target);
}

#[test]
fn a_quantised_copy_has_rows_as_near_as_is_said_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("store");
    let store = Store::open(&path, options()).unwrap();
    adagrad(&store);
    let (digest, commit) = (store.digest().unwrap().to_string(), store.durable_commit().unwrap());
    train_past(&store);
    let remote = Remote::open("memory:").unwrap();
    let whole = upload(&store, &Remote::open("memory:").unwrap()).total;
    for (codec, near) in [(Quantization::Bf16, 1.0 / 256.0), (Quantization::Int8, 1.0 / 255.0), (Quantization::F16, 1.0 / 2048.0)]
    {
        let upload = Upload::default().quantize(codec).memory_budget(24 << 20).scratch(dir.path());
        let sent = store.upload_as(&remote, &upload, &mut |_| ()).unwrap();
        assert!(sent.total < whole, "{codec}: {sent:?} of {whole}");
        assert_eq!(store.upload_as(&remote, &upload, &mut |_| ()).unwrap().moved, 0, "{codec}: the same again");
        let copy = remote.copies().unwrap().pop().unwrap();
        assert_eq!((copy.commit, copy.quantization, copy.commits.len()), (commit, Some(codec), 1));
        let target = dir.path().join(codec.name());
        let report = remote.restore(At::Latest, &target, |restore| restore, &mut |_| ()).unwrap();
        assert_eq!((report.commit, report.quantization), (commit, Some(codec)));
        assert_ne!(self::digest(&target), digest);
        let exact = dir.path().join("exact");
        let _ = std::fs::remove_dir_all(&exact);
        embedrock::restore(&path, At::Commit(commit), &exact).unwrap();
        let (mut changed, expected) = (0, rows(&exact));
        for (row, quantised) in expected.iter().zip(rows(&target)) {
            assert_eq!((row.0, row.1, &row.3), (quantised.0, quantised.1, &quantised.3), "{codec}");
            let most = row.2.iter().fold(0f32, |most, x| most.max(x.abs()));
            assert!(
                row.2.iter().zip(&quantised.2).all(|(x, y)| (x - y).abs() <= most * 1.01 * near),
                "{codec}: {row:?} {quantised:?}"
            );
            changed += usize::from(row.2 != quantised.2);
        }
        assert!(changed > expected.len() / 2, "{codec}: {changed}");
        // It is a store like any other: it goes on, commits and is copied again.
        let again = Store::open(&target, options()).unwrap();
        assert_eq!(
            (&again.last_commit().unwrap().state[..], again.table("t").unwrap().len()),
            (&b"trained"[..], expected.len() as u64)
        );
        adagrad(&again);
        let after = again.digest().unwrap().to_string();
        drop(again);
        assert_eq!(self::digest(&target), after);
        assert!(embedrock::verify(&target).unwrap().damage.is_empty());
    }
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("embedrock-")), "{left:?}");
}

/// Updates that no commit holds: no part of any copy.
fn train_past(store: &Store) {
    store.table("t").unwrap().assign(&[1, 2], &[9.0; 2 * DIM], &Update::at(0)).unwrap();
}

#[test]
fn an_interrupted_quantised_copy_is_not_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), options()).unwrap();
    adagrad(&store);
    let upload = Upload::default().quantize(Quantization::Int8).compress(1).memory_budget(24 << 20).scratch(dir.path());
    for nth in 1.. {
        let remote = Remote::open("memory:").unwrap();
        remote.fail_from(nth);
        let result = store.upload_as(&remote, &upload, &mut |_| ());
        remote.fail_from(0);
        if result.is_ok() {
            assert!(nth > 3, "{nth}");
            break;
        }
        assert_eq!(remote.copies().unwrap(), [], "interrupted at call {nth}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "temporary files");
}

#[test]
fn one_copy_that_cannot_be_read_stands_in_the_way_of_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (store, place) = (Store::open(dir.path().join("store"), options()).unwrap(), dir.path().join("copies"));
    let remote = Remote::open(place.to_str().unwrap()).unwrap();
    let mut commits = Vec::new();
    for part in 0..2 {
        commits.push(work(&store, part * 20, part * 20 + 20));
        upload(&store, &remote);
    }
    let newest = place.join("copies").join(&remote.copies().unwrap()[1].name);
    let whole = std::fs::read(&newest).unwrap();
    let mut newer = whole.clone();
    newer[8] = 3;
    for (bytes, typed) in [(whole[..whole.len() / 2].to_vec(), false), (newer, true)] {
        std::fs::write(&newest, bytes).unwrap();
        assert_eq!(remote.copies().unwrap().len(), 1);
        let unreadable = remote.unreadable().unwrap();
        assert!(unreadable.len() == 1 && newest.ends_with(&unreadable[0].0), "{unreadable:?}");
        assert_eq!(matches!(unreadable[0].1, Error::FormatTooNew { .. }), typed);
        let target = dir.path().join("restored");
        let error = remote.restore(At::Latest, &target, |restore| restore, &mut |_| ()).unwrap_err();
        assert_eq!(error.to_string(), unreadable[0].1.to_string());
        assert_eq!(restore(&remote, At::Commit(commits[0]), &target).0, commits[0]);
        std::fs::remove_dir_all(&target).unwrap();
        upload(&store, &remote);
        let copies = remote.copies().unwrap();
        assert_eq!((copies.len(), copies[1].commit), (2, commits[1]));
        assert_eq!(restore(&remote, At::Latest, &target).0, commits[1]);
        std::fs::remove_dir_all(&target).unwrap();
        std::fs::remove_file(place.join("copies").join(&copies[1].name)).unwrap();
    }
}

#[test]
fn a_damaged_chunk_of_the_right_length_is_mended_by_an_upload_that_rechecks() {
    for compress in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (store, place) = (Store::open(dir.path().join("store"), options()).unwrap(), dir.path().join("copies"));
        adagrad(&store);
        let remote = Remote::open(place.to_str().unwrap()).unwrap();
        let plain = if compress { Upload::default().compress(3) } else { Upload::default() };
        store.upload_as(&remote, &plain, &mut |_| ()).unwrap();
        let object =
            files_below(&place.join("chunks")).into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
        let mut bytes = std::fs::read(&object).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&object, bytes).unwrap();
        let target = dir.path().join("restored");
        assert_eq!(store.upload_as(&remote, &plain, &mut |_| ()).unwrap().moved, 0);
        let error = remote.restore(At::Latest, &target, |restore| restore, &mut |_| ()).unwrap_err();
        assert!(error.to_string().contains("recheck"), "{error}");
        let mended = store.upload_as(&remote, &plain.clone().recheck(true), &mut |_| ()).unwrap().moved;
        assert_eq!(mended, std::fs::metadata(&object).unwrap().len());
        assert_eq!(store.upload_as(&remote, &plain.recheck(true), &mut |_| ()).unwrap().moved, 0);
        assert_eq!(restore(&remote, At::Latest, &target).1, store.digest().unwrap().to_string());
    }
}

#[test]
fn a_restore_that_goes_on_takes_no_file_of_another_copy() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), options()).unwrap();
    let remote = Remote::open("memory:").unwrap();
    let first = work(&store, 0, 20);
    upload(&store, &remote);
    let second = work(&store, 20, 40);
    upload(&store, &remote);
    // The newer copy is fetched whole, and the restore then fails.
    let target = dir.path().join("restored");
    let failed = remote.restore(At::Latest, &target, |restore| restore.tables(["none"]), &mut |_| ());
    assert!(matches!(failed, Err(Error::UnknownTable { .. })), "{failed:?}");
    let downloaded = dir.path().join("tmp-copy-restored");
    assert!(!files_below(&downloaded).is_empty());
    assert_eq!(restore(&remote, At::Commit(first), &target).0, first);
    std::fs::remove_dir_all(&target).unwrap();
    // And a copy of another store's, with more files than are wanted.
    let other = Store::open(dir.path().join("other"), options()).unwrap();
    work(&other, 100, 160);
    let elsewhere = Remote::open("memory:").unwrap();
    upload(&other, &elsewhere);
    let failed = elsewhere.restore(At::Latest, &target, |restore| restore.tables(["none"]), &mut |_| ());
    assert!(failed.is_err() && !files_below(&downloaded).is_empty());
    assert_eq!(restore(&remote, At::Latest, &target).0, second);
}
