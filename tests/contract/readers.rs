//! Who reads a store beside the one that holds it, and what is kept for him.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use embedrock::{At, Error, Restore, Store, StoreOptions, Update, restore, verify};

use crate::process::{as_nobody, forked_alive};
use crate::{DIM, T, contents, filled, options, schema, train};

/// As `options`, to read only, with temporary files in a directory of the test.
fn reading(scratch: &Path) -> StoreOptions {
    options().read_only(true).scratch(scratch)
}

fn scratch(dir: &Path) -> PathBuf {
    let path = dir.join("scratch");
    let _ = std::fs::create_dir(&path);
    path
}

fn entries(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

#[test]
fn a_reader_sees_the_last_durable_commit_of_a_store_that_another_holds() {
    for twin in [true, !cfg!(feature = "rocksdb")] {
        let dir = tempfile::tempdir().unwrap();
        let (path, scratch) = (dir.path().join("s"), scratch(dir.path()));
        let digest = filled(&path, options().twin(twin));
        let store = Store::open(&path, options().twin(twin).hot_rows(60)).unwrap();
        let commits = store.commits().unwrap();
        train(&store.table("t").unwrap(), 40);
        let before = contents(&path);

        let reader = Store::open(&path, reading(&scratch).twin(twin).hot_rows(60)).unwrap();
        assert_eq!(reader.digest().unwrap().to_string(), digest);
        assert_eq!((reader.last_commit().unwrap().id, &reader.last_commit().unwrap().state[..]), (commits[1], &b"second"[..]));
        assert_eq!((reader.commits().unwrap(), reader.verify().unwrap().damage), (commits.clone(), Vec::new()));
        let older = Store::open(&path, reading(&scratch).twin(twin).open_at(At::Commit(commits[0]))).unwrap();
        assert_eq!(&older.last_commit().unwrap().state[..], b"first");
        let copy = restore(&path, At::Commit(commits[0]), dir.path().join("copy")).map(|report| report.commit);
        assert_eq!((copy.unwrap(), entries(&scratch)), (commits[0], 2));
        assert_eq!(contents(&path), before, "a reader wrote");

        // The writer goes on, and a reader stays where it is; the next one sees more.
        train(&store.table("t").unwrap(), 41);
        let third = store.commit(b"third").unwrap();
        assert_eq!(reader.digest().unwrap().to_string(), digest);
        let newer = Store::open(&path, reading(&scratch).twin(twin)).unwrap();
        assert_eq!((newer.durable_commit(), newer.digest().unwrap()), (Some(third), store.digest().unwrap()));
        let table = reader.table("t").unwrap();
        drop((reader, older, newer));
        // A handle keeps its rows; the last one takes the temporary files along.
        assert_eq!(table.lookup(&(0..500).collect::<Vec<_>>(), &mut [0.0; 500 * DIM]).unwrap() as u64, table.len());
        assert_eq!(entries(&scratch), 1);
        drop(table);
        assert_eq!(entries(&scratch), 0);
    }
}

#[test]
fn a_store_that_is_only_read_refuses_every_change() {
    let dir = tempfile::tempdir().unwrap();
    let (path, scratch) = (dir.path().join("s"), scratch(dir.path()));
    let digest = filled(&path, options());
    let before = contents(&path);
    let reader = Store::open(&path, reading(&scratch).hot_rows(60)).unwrap();
    let table = reader.create_table(schema()).unwrap();
    let at = Update::at(T + 99);
    table.prefetch(&(0..300).collect::<Vec<_>>()).unwrap();
    for refused in [
        table.apply_gradients(&[1], &[0.5; DIM], &at),
        table.assign(&[1], &[0.5; DIM], &at).map(drop),
        table.assign_add(&[1], &[0.5; DIM], &at).map(drop),
        table.remove(&[1]).map(drop),
        reader.create_table(embedrock::TableSchema::new("new", 2)).map(drop),
        reader.drop_table("t"),
        reader.commit(b"x").map(drop),
        reader.commit_in_background(Vec::new).map(drop),
        reader.checkpoint().map(drop),
        reader.checkpoint_in_background().map(drop),
    ] {
        assert!(matches!(&refused, Err(Error::ReadOnly { path: named }) if *named == path), "{refused:?}");
    }
    let other = reader.create_table(embedrock::TableSchema::new("t", DIM + 1));
    assert!(matches!(other, Err(Error::SchemaMismatch { .. })), "{other:?}");
    assert_eq!(reader.digest().unwrap().to_string(), digest);
    assert_eq!(reader.close().unwrap(), 0);
    drop(table);
    assert_eq!((contents(&path), entries(&scratch)), (before, 0));
    // Nothing is made where there is no store.
    let none = Store::open(dir.path().join("none"), reading(&scratch)).unwrap_err();
    assert!(matches!(none, Error::NotAStore { .. }) && !dir.path().join("none").exists(), "{none}");
    let nowhere = Store::open(&path, reading(&dir.path().join("none"))).unwrap_err();
    assert!(nowhere.to_string().contains("none"), "{nowhere}");
}

#[test]
fn a_reader_goes_no_farther_than_what_is_published_as_durable() {
    let dir = tempfile::tempdir().unwrap();
    let (path, scratch) = (dir.path().join("s"), scratch(dir.path()));
    let store = Store::open(&path, options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    train(&table, 0);
    let first = store.commit(b"").unwrap();
    let mark = std::fs::read(path.join("DURABLE")).unwrap();
    train(&table, 1);
    let second = store.commit(b"").unwrap();
    // As between the writing of a commit and its sync.
    let published = std::fs::read(path.join("DURABLE")).unwrap();
    std::fs::write(path.join("DURABLE"), mark).unwrap();
    assert_eq!(Store::open(&path, reading(&scratch)).unwrap().durable_commit(), Some(first));
    let early = Store::open(&path, reading(&scratch).open_at(At::Commit(second))).unwrap_err();
    assert!(
        matches!(&early, Error::UnknownCommit { why, .. } if why.contains("not durable") || why.contains("durable")),
        "{early}"
    );
    std::fs::write(path.join("DURABLE"), published).unwrap();
    assert_eq!(Store::open(&path, reading(&scratch)).unwrap().durable_commit(), Some(second));
}

#[test]
fn a_commit_whose_mark_a_crash_took_is_published_when_the_store_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, scratch) = (dir.path().join("s"), scratch(dir.path()));
    filled(&path, options());
    let mark = std::fs::read(path.join("DURABLE")).unwrap();
    let store = Store::open(&path, options()).unwrap();
    train(&store.table("t").unwrap(), 40);
    let third = store.commit(b"third").unwrap();
    drop(store);
    // As a process leaves it that dies between the commit's sync and its mark.
    std::fs::write(path.join("DURABLE"), mark).unwrap();
    let seen = || Store::open(&path, reading(&scratch)).unwrap().last_commit().unwrap().id;
    assert_ne!(seen(), third);
    let store = Store::open(&path, options()).unwrap();
    assert_eq!((store.last_commit().unwrap().id, seen()), (third, third));
}

#[test]
fn a_store_on_a_disk_that_cannot_be_written_is_read_checked_and_restored() {
    if !as_nobody("readers::a_store_on_a_disk_that_cannot_be_written_is_read_checked_and_restored") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (path, scratch) = (dir.path().join("s"), scratch(dir.path()));
    let digest = filled(&path, options());
    std::fs::remove_file(path.join("LOCK")).unwrap();
    let before = contents(&path);
    let chmod = |dirs: u32, files: u32| {
        for name in before.keys() {
            let mode = if name.is_dir() { dirs | 0o200 } else { files };
            std::fs::set_permissions(name, Permissions::from_mode(mode)).unwrap();
        }
        for name in before.keys().rev().filter(|name| name.is_dir()).chain([&path]) {
            std::fs::set_permissions(name, Permissions::from_mode(dirs)).unwrap();
        }
    };
    chmod(0o500, 0o400);
    let opened = Store::open(&path, options()).map(drop);
    let read = Store::open(&path, reading(&scratch)).map(|store| store.digest().unwrap().to_string());
    let (report, target) = (verify(&path), dir.path().join("restored"));
    let dry = Restore::of(&path).options(options().scratch(&scratch)).dry_run();
    let restored = Restore::of(&path).options(options()).to(&target);
    chmod(0o700, 0o600);
    assert!(matches!(opened, Err(Error::ReadOnly { .. })), "{opened:?}");
    assert_eq!((read.unwrap(), report.unwrap().damage), (digest.clone(), Vec::new()));
    assert_eq!(dry.unwrap(), restored.unwrap());
    assert_eq!(Store::open(&target, options()).unwrap().digest().unwrap().to_string(), digest);
    assert_eq!((contents(&path), entries(&scratch)), (before, 0));
}

/// A process that pins the oldest base and segment, as readers do.
fn pinned(path: &Path) -> (libc::pid_t, [PathBuf; 2]) {
    let oldest = |of: &str| std::fs::read_dir(path.join(of)).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let files = [oldest("log"), oldest("base").join("MANIFEST")];
    let names = files.clone();
    let reader = forked_alive(move || {
        for name in &names {
            let file = File::open(name).unwrap();
            file.lock_shared().unwrap();
            std::mem::forget(file);
        }
    });
    (reader, files)
}

#[test]
fn what_another_process_reads_is_kept_until_it_ends_however_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let store = Store::open(&path, options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    let grow = |from: u64| {
        for number in from..from + 4 {
            train(&table, number);
            store.checkpoint().unwrap();
            store.commit(b"").unwrap();
        }
    };
    grow(0);
    let (reader, files) = pinned(&path);
    let first = std::fs::read(&files[0]).unwrap();
    grow(4);
    assert_eq!(std::fs::read(&files[0]).unwrap(), first);
    assert!(files[1].exists());
    // Bases between those read and those kept went all the same.
    assert_eq!(entries(&path.join("base")), 3);
    // SAFETY: plain system calls on our own child.
    let ended = unsafe { (libc::kill(reader, libc::SIGKILL), libc::waitpid(reader, std::ptr::null_mut(), 0)) };
    assert_eq!(ended, (0, reader));
    grow(8);
    assert!(!files[0].exists() && !files[1].exists());
    assert_eq!(entries(&path.join("base")), 2);
}

#[test]
fn readers_open_whole_commits_while_old_files_go() {
    let dir = tempfile::tempdir().unwrap();
    let (path, scratch) = (dir.path().join("s"), scratch(dir.path()));
    let store = Store::open(&path, options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    train(&table, 0);
    store.commit(&store.digest().unwrap().0).unwrap();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                train(&table, number);
                store.checkpoint().unwrap();
                store.commit(&store.digest().unwrap().0).unwrap();
            }
        });
        for _ in 0..60 {
            let reader = Store::open(&path, reading(&scratch)).unwrap();
            assert_eq!(reader.digest().unwrap().0, reader.last_commit().unwrap().state[..]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
