//! Who may use a store: one process, once; and a forked child not at all.

use embedrock::{Error, Store, StoreOptions, Update, verify};

use crate::{DIM, T, filled, options, schema, train, truth};

/// Runs `child` in a forked process, which must end by itself, and returns its exit code.
fn forked(child: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child uses only what this thread has, allocates under the C library's own handlers, and ends in `_exit`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: plain system call; a child that hangs is killed.
        unsafe { libc::alarm(60) };
        let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child)).unwrap_or(99);
        // SAFETY: ends the process without running what belongs to the parent.
        unsafe { libc::_exit(code) }
    }
    let mut status = 0;
    // SAFETY: `pid` is our child and `status` outlives the call.
    assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
    assert!(libc::WIFEXITED(status), "the child ended by a signal: status {status}");
    libc::WEXITSTATUS(status)
}

/// A forked process that did this and then only waits to be killed; after some minutes it ends by itself.
pub(crate) fn forked_alive(child: impl FnOnce()) -> libc::pid_t {
    let (mut ready, mut done) = std::io::pipe().unwrap();
    // SAFETY: as in `forked`.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        // SAFETY: plain system call; a child that nobody kills is killed.
        unsafe { libc::alarm(600) };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            child();
            std::io::Write::write_all(&mut done, b"x").unwrap();
        }));
        loop {
            // SAFETY: plain system calls.
            unsafe { if done.is_ok() { libc::pause() } else { libc::_exit(99) } };
        }
    }
    drop(done);
    std::io::Read::read_exact(&mut ready, &mut [0]).unwrap();
    pid
}

#[test]
fn a_forked_child_is_refused_and_disturbs_nothing() {
    for twin in [true, !cfg!(feature = "rocksdb")] {
        let dir = tempfile::tempdir().unwrap();
        let options = options().twin(twin).hot_rows(50);
        let store = Store::open(dir.path(), options.clone()).unwrap();
        let table = store.create_table(schema()).unwrap();
        (0..5).for_each(|number| train(&table, number));
        store.commit(b"before").unwrap();
        store.checkpoint_in_background().unwrap();
        let (before, path) = (store.digest().unwrap(), dir.path().to_owned());
        // Cut and not written: nobody in the child will.
        let ticket = store.begin_commit(b"pending").unwrap();
        // The child gets the only handles of its copy, so that it drops them too.
        let (child_table, child_store) = (table.clone(), &store);
        let code = forked(move || {
            let at = Update::at(T + 9);
            let calls = [
                child_table.lookup(&[1], &mut [0.0; DIM]).map(drop),
                child_table.contains(1).map(drop),
                child_table.apply_gradients(&[1], &[0.5; DIM], &at),
                child_table.assign(&[1], &[0.5; DIM], &at).map(drop),
                child_table.assign_add(&[1], &[0.5; DIM], &at).map(drop),
                child_table.remove(&[1]).map(drop),
                child_table.prefetch(&[1]),
                child_table.for_each_row(|_, _, _, _| Ok(())),
                child_store.create_table(schema()).map(drop),
                child_store.drop_table("t"),
                child_store.commit(b"child").map(drop),
                child_store.commit_in_background(Vec::new).map(drop),
                child_store.checkpoint().map(drop),
                child_store.digest().map(drop),
                child_store.commits().map(drop),
                child_store.checkpoint_in_background().map(drop),
                ticket.wait().map(drop),
            ];
            if child_store.stats() != embedrock::StoreStats::default() || ticket.is_durable() {
                return 51;
            }
            let refused = calls.iter().position(|call| !matches!(call, Err(Error::ForkedChild)));
            let again = Store::open(&path, StoreOptions::default());
            let locked = matches!(again, Err(Error::Locked { .. }));
            refused.map_or(i32::from(!locked) * 50, |at| at as i32 + 1)
        });
        assert_eq!(code, 0, "the call of this number, or 50 for the lock");
        // A child that drops or closes its copy leaves the parent's files, threads and lock alone.
        let mut ours = Some((table, store));
        let code = forked(|| {
            let (table, store) = ours.take().unwrap();
            drop(table);
            i32::from(!matches!(store.close(), Err(Error::ForkedChild)))
        });
        assert_eq!(code, 0);
        let (table, store) = ours.take().unwrap();
        assert_eq!(store.digest().unwrap(), before);
        assert!(matches!(Store::open(dir.path(), options.clone()), Err(Error::Locked { .. })));
        (5..9).for_each(|number| train(&table, number));
        store.commit(b"after").unwrap();
        let digest = store.digest().unwrap();
        drop((table, store));
        let store = Store::open(dir.path(), options).unwrap();
        assert_eq!((store.digest().unwrap(), &store.last_commit().unwrap().state[..]), (digest, &b"after"[..]));
    }
}

#[test]
fn a_child_that_lives_on_keeps_nobody_out() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let child = std::thread::scope(|scope| {
        let child = scope.spawn(|| {
            forked(|| {
                // Until the parent is done with its side of the pipe, of which the child has a copy.
                let mut byte = [0];
                i32::from(std::io::Read::read_exact(&mut reader, &mut byte).is_err())
            })
        });
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(store);
        let reopened = Store::open(dir.path(), options()).map(drop);
        std::io::Write::write_all(&mut &writer, b"x").unwrap();
        (child.join().unwrap(), reopened)
    });
    assert_eq!(child.0, 0);
    child.1.unwrap();
}

#[test]
fn a_second_open_is_refused_with_the_process_named_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    filled(&path, options());
    let _store = Store::open(&path, options()).unwrap();
    let before = truth(&path);
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    for name in [path.clone(), link, dir.path().join("s/../s")] {
        let calls = [Store::open(&name, options()).map(drop), verify(&name).map(drop)];
        for result in calls {
            assert!(matches!(&result, Err(Error::Locked { pid: Some(pid), .. }) if *pid == std::process::id()), "{result:?}");
        }
    }
    assert_eq!(truth(&path), before);
}

/// Its cold tier is open still, and writes: two of them in one directory would spoil each other's files.
#[test]
fn a_store_is_in_use_until_the_last_of_its_tables_is_let_go_of() {
    for twin in [true, cfg!(not(feature = "rocksdb"))] {
        let dir = tempfile::tempdir().unwrap();
        let options = options().twin(twin);
        filled(dir.path(), options.clone());
        let store = Store::open(dir.path(), options.clone()).unwrap();
        let (table, digest) = (store.table("t").unwrap(), store.digest().unwrap());
        let other = table.clone();
        store.close().unwrap();
        drop(table);
        for _ in 0..2 {
            let refused = Store::open(dir.path(), options.clone()).err().unwrap();
            assert!(matches!(&refused, Error::Locked { pid: Some(pid), .. } if *pid == std::process::id()), "{refused}");
            assert!(refused.to_string().ends_with("close the other store first, and let go of its tables"), "{refused}");
        }
        // Readers have a cold tier of their own.
        assert_eq!(Store::open(dir.path(), options.clone().read_only(true)).unwrap().digest().unwrap(), digest);
        drop(other);
        assert_eq!(Store::open(dir.path(), options).unwrap().digest().unwrap(), digest);
    }
}

#[test]
fn two_that_create_a_store_at_once_make_one() {
    for _ in 0..20 {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let commits: u64 = std::thread::scope(|scope| {
            let work = |name: &'static [u8]| {
                let path = path.clone();
                move || {
                    let mut commits = 0;
                    while commits < 2 {
                        match Store::open(&path, options()) {
                            Ok(store) => {
                                store.commit(name).unwrap();
                                commits += 1;
                            }
                            Err(Error::Locked { .. } | Error::NotAStore { .. }) => {}
                            Err(Error::Io { action: "create", source, .. })
                                if source.kind() == std::io::ErrorKind::AlreadyExists => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    commits
                }
            };
            let threads = [scope.spawn(work(b"a")), scope.spawn(work(b"b"))];
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        let store = Store::open(&path, options()).unwrap();
        assert_eq!(store.last_commit().unwrap().id.sequence, commits, "a commit went into a store that another replaced");
    }
}

#[test]
fn a_panic_in_the_callers_code_leaves_the_store_usable() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    train(&table, 0);
    let quiet = |run: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err();
    assert!(quiet(&|| drop(store.commit_with(|| panic!("in the trainer's state")))));
    assert!(quiet(&|| drop(table.for_each_row(|_, _, _, _| panic!("in a visitor")))));
    assert_eq!(store.last_commit().map(|commit| commit.id), None);
    train(&table, 1);
    assert_eq!(store.commit(b"").unwrap().sequence, 1);
    let digest = store.digest().unwrap();
    drop((table, store));
    assert_eq!(Store::open(dir.path(), options()).unwrap().digest().unwrap(), digest);
}

/// Runs the calling test again as a user without rights, as root may do all; whether it is that run.
pub(crate) fn as_nobody(test: &str) -> bool {
    const INSIDE: &str = "EMBEDROCK_TEST_AS_NOBODY";
    // SAFETY: plain system call.
    if std::env::var_os(INSIDE).is_some() || unsafe { libc::geteuid() } != 0 {
        return true;
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // A copy, as the user may not reach where this program lies.
    let program = dir.path().join("contract");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = std::process::Command::new(program);
    std::os::unix::process::CommandExt::uid(&mut command, 65_534);
    let output = command.args(["--exact", test]).current_dir("/").env(INSIDE, "1").env("TMPDIR", "/tmp").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    false
}

#[test]
fn without_permission_nothing_is_changed_and_the_file_is_named() {
    if !as_nobody("process::without_permission_nothing_is_changed_and_the_file_is_named") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let digest = filled(&path, options());
    let before = truth(&path);
    let mode = |name: &str, mode| {
        std::fs::set_permissions(path.join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    for (name, forbidden, usual) in
        [("LOCK", 0o400, 0o600), ("IDENTITY", 0, 0o600), ("log/00000001.log", 0, 0o600), ("base/00000001/MANIFEST", 0, 0o600)]
    {
        mode(name, forbidden);
        let error = crate::refused(&path, options());
        mode(name, usual);
        assert!(error.to_string().contains(name), "{error}");
        let typed = match name {
            "LOCK" => matches!(error, Error::ReadOnly { .. }),
            _ => matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied),
        };
        assert!(typed, "{name}: {error:?}");
        assert_eq!(truth(&path), before, "{name}");
    }
    mode("", 0o500);
    let made = Store::open(path.join("inside"), options()).map(drop);
    mode("", 0o700);
    assert!(matches!(&made, Err(Error::ReadOnly { path: named }) if named.ends_with("inside")), "{made:?}");
    assert_eq!(Store::open(&path, options()).unwrap().digest().unwrap().to_string(), digest);
}
