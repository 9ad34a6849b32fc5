//! The model itself: what survives which crash, what fails when.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::*;
use crate::fs::{read_all, write_atomic};

const MODES: [CrashMode; 6] = CrashMode::ALL;

fn at(name: &str) -> PathBuf {
    Path::new("/d").join(name)
}

fn disk() -> SimFs {
    let fs = SimFs::new();
    fs.make_dirs(Path::new("/d")).unwrap();
    fs
}

/// A file with a synced name, and `synced` in it.
fn file(fs: &SimFs, name: &str, synced: &[u8]) -> Box<dyn WriteFile> {
    let mut file = fs.create(&at(name)).unwrap();
    file.append(synced).unwrap();
    file.sync().unwrap();
    fs.sync_dir(Path::new("/d")).unwrap();
    file
}

fn content(fs: &SimFs, name: &str) -> Option<Vec<u8>> {
    fs.files().remove(&at(name))
}

fn outcomes(fs: &SimFs, mode: CrashMode, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..200).map(|seed| content(&fs.crash(mode, seed), name)).collect()
}

#[test]
fn what_was_synced_survives_everything() {
    let fs = disk();
    let _file = file(&fs, "a", b"synced");
    for mode in MODES {
        assert_eq!(outcomes(&fs, mode, "a"), BTreeSet::from([Some(b"synced".to_vec())]), "{mode:?}");
    }
}

#[test]
fn each_mode_loses_in_its_own_way() {
    let fs = disk();
    let mut file = file(&fs, "a", b"0");
    file.append(b"1").unwrap();
    file.append(b"2").unwrap();
    let set = |all: &[&[u8]]| all.iter().map(|bytes| Some(bytes.to_vec())).collect::<BTreeSet<_>>();
    assert_eq!(outcomes(&fs, CrashMode::DropUnsynced, "a"), set(&[b"0"]));
    assert_eq!(outcomes(&fs, CrashMode::Subset, "a"), set(&[b"0", b"01", b"0\x002", b"012"]));
    assert_eq!(outcomes(&fs, CrashMode::Prefix, "a"), set(&[b"0", b"01", b"012"]));
    assert_eq!(outcomes(&fs, CrashMode::Entries, "a"), set(&[b"0", b"012"]));
    let garbage = outcomes(&fs, CrashMode::Garbage, "a");
    assert!(garbage.iter().flatten().all(|bytes| bytes.len() == 3 && bytes[0] == b'0') && garbage.len() > 9);
    assert_eq!(content(&fs, "a").unwrap(), b"012", "the disk itself is as it was");
    assert_eq!(content(&fs.kill(), "a").unwrap(), b"012");
    assert_eq!(content(&fs.kill().crash(CrashMode::DropUnsynced, 0), "a").unwrap(), b"0");
}

#[test]
fn writes_tear_at_sectors() {
    let fs = disk();
    let mut file = file(&fs, "a", &[1; 700]);
    file.append(&[2; 1000]).unwrap();
    let torn = outcomes(&fs, CrashMode::Torn, "a");
    for bytes in torn.iter().flatten() {
        assert!(bytes[..700].iter().all(|&byte| byte == 1));
        for sector in [700..1024, 1024..1536, 1536..1700] {
            let part = bytes.get(sector.start..sector.end.min(bytes.len())).unwrap_or_default();
            assert!(part.windows(2).all(|pair| pair[0] == pair[1]), "a sector is old or new");
        }
    }
    assert_eq!(torn.len(), 8);
}

#[test]
fn a_name_needs_its_directory_synced() {
    let fs = disk();
    let mut file = fs.create(&at("a")).unwrap();
    file.append(b"x").unwrap();
    file.sync().unwrap();
    assert_eq!(content(&fs.crash(CrashMode::DropUnsynced, 0), "a"), None);
    assert_eq!(outcomes(&fs, CrashMode::Entries, "a"), BTreeSet::from([None, Some(b"x".to_vec())]));
    fs.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(content(&fs.crash(CrashMode::DropUnsynced, 0), "a").unwrap(), b"x");
    fs.remove_file(&at("a")).unwrap();
    assert_eq!(content(&fs, "a"), None);
    assert_eq!(content(&fs.crash(CrashMode::DropUnsynced, 0), "a").unwrap(), b"x", "it comes back");
    fs.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(content(&fs.crash(CrashMode::DropUnsynced, 0), "a"), None);
    let mut four = [0; 4];
    file.append(b"y").unwrap();
    assert!(fs.open_read(&at("a")).is_err(), "open, but without a name");
    assert_eq!(SimReader::new(&fs, &at("a"), 2, 2).read_at(0, &mut four).unwrap(), 2);
}

#[test]
fn a_rename_is_whole_and_syncing_either_directory_keeps_it() {
    for synced in ["/d/x", "/d/y"] {
        let fs = disk();
        for dir in ["x", "y"] {
            fs.make_dirs(&at(dir)).unwrap();
        }
        fs.create_dir(&at("x/tmp")).unwrap();
        fs.create(&at("x/tmp/f")).unwrap().sync().unwrap();
        fs.sync_dir(&at("x/tmp")).unwrap();
        fs.rename(&at("x/tmp"), &at("y/real")).unwrap();
        for (mode, seed) in MODES.into_iter().flat_map(|mode| (0..50).map(move |seed| (mode, seed))) {
            let after = fs.crash(mode, seed);
            let found = [at("x/tmp"), at("y/real")].into_iter().filter(|path| after.exists(path).unwrap()).count();
            assert!(found <= 1, "{mode:?} {seed}");
        }
        fs.sync_dir(Path::new(synced)).unwrap();
        for mode in MODES {
            assert_eq!(fs.crash(mode, 1).files().into_keys().collect::<Vec<_>>(), [at("y/real/f")]);
        }
    }
}

#[test]
fn an_atomic_write_is_the_old_or_the_new() {
    let calls = {
        let fs = disk();
        write_atomic(&fs, &at("a"), b"old").unwrap();
        let before = fs.calls();
        write_atomic(&fs, &at("a"), b"new!").unwrap();
        fs.calls() - before
    };
    for (n, mode) in (1..=calls).flat_map(|n| MODES.map(|mode| (n, mode))) {
        let fs = disk();
        write_atomic(&fs, &at("a"), b"old").unwrap();
        fs.fail_nth(n, FaultKind::Io, FaultSpan::Forever);
        assert!(write_atomic(&fs, &at("a"), b"new!").is_err());
        for seed in 0..20 {
            let after = content(&fs.crash(mode, seed), "a").unwrap();
            assert!(after == b"old" || after == b"new!", "call {n}, {mode:?}");
        }
    }
}

#[test]
fn a_left_out_sync_is_noticed() {
    for class in [SyncClass::Files, SyncClass::Dirs] {
        let fs = disk();
        write_atomic(&fs, &at("a"), b"old").unwrap();
        fs.ignore_syncs(class);
        write_atomic(&fs, &at("a"), b"new!").unwrap();
        let all: BTreeSet<_> = MODES.into_iter().flat_map(|mode| outcomes(&fs, mode, "a")).collect();
        assert!(all.len() > 1, "{class:?}: {all:?}");
        fs.heal();
        fs.sync_dir(Path::new("/d")).unwrap();
    }
}

#[test]
fn a_failed_sync_loses_the_data_and_hides_it() {
    let fs = disk();
    let mut file = file(&fs, "a", b"0");
    file.append(b"1").unwrap();
    fs.fail_next_sync();
    assert!(matches!(file.sync(), Err(Error::Io { action: "sync", .. })));
    file.sync().unwrap();
    assert_eq!(read_all(&fs, &at("a"), 9).unwrap(), b"01");
    for mode in MODES {
        assert_eq!(outcomes(&fs, mode, "a"), BTreeSet::from([Some(b"0".to_vec())]));
    }
}

#[test]
fn the_nth_call_fails_once_or_for_good() {
    let fs = disk();
    let mut file = file(&fs, "a", b"");
    fs.fail_nth(2, FaultKind::NoSpace, FaultSpan::Once);
    file.append(b"12").unwrap();
    assert!(matches!(file.append(b"3456"), Err(Error::NoSpace { action: "write", .. })));
    assert_eq!((file.len(), content(&fs, "a").unwrap()), (2, b"1234".to_vec()), "a part was written");
    file.append(b"x").unwrap();
    assert_eq!(content(&fs, "a").unwrap(), b"12x4");
    fs.fail_nth(1, FaultKind::Io, FaultSpan::Forever);
    assert!(file.append(b"y").is_err() && file.sync().is_err() && fs.exists(&at("a")).is_err());
    fs.heal();
    fs.exists(&at("a")).unwrap();
}

#[test]
fn a_full_disk_takes_what_fits_and_recovers() {
    let fs = disk();
    let mut file = file(&fs, "a", b"12345");
    fs.set_capacity(Some(8));
    file.write_at(0, b"54321").unwrap();
    assert!(matches!(file.append(b"6789"), Err(Error::NoSpace { .. })));
    assert_eq!((fs.used(), content(&fs, "a").unwrap()), (8, b"54321678".to_vec()));
    assert!(matches!(fs.create(&at("b")), Err(Error::NoSpace { .. })));
    fs.set_capacity(None);
    file.append(b"6789").unwrap();
    fs.remove_file(&at("a")).unwrap();
    assert_eq!(fs.used(), 0);
}

#[test]
fn a_tree_may_be_half_removed() {
    let fs = disk();
    fs.make_dirs(&at("t/u")).unwrap();
    for name in ["t/1", "t/2", "t/u/3"] {
        drop(fs.create(&at(name)).unwrap());
    }
    fs.fail_nth(3, FaultKind::Io, FaultSpan::Once);
    assert!(fs.remove_dir_all(&at("t")).is_err());
    assert_eq!(fs.files().into_keys().collect::<Vec<_>>(), [at("t/u/3")]);
    fs.remove_dir_all(&at("t")).unwrap();
    assert!(!fs.exists(&at("t")).unwrap());
}

#[test]
fn locks_exclude_until_dropped_or_killed() {
    let fs = disk();
    let guard = fs.lock(&at("LOCK")).unwrap();
    assert!(matches!(fs.lock(&at("LOCK")), Err(Error::Locked { pid: Some(_), .. })));
    let next = fs.kill();
    let other = next.lock(&at("LOCK")).unwrap();
    drop(guard);
    drop(fs.lock(&at("LOCK")).unwrap());
    assert!(next.lock(&at("LOCK")).is_err(), "the dead one's guard releases nothing");
    drop(other);
}

#[test]
fn it_refuses_what_a_real_one_refuses() {
    let fs = disk();
    drop(file(&fs, "a", b"x"));
    assert!(fs.create(&at("a")).is_err() && fs.create_dir(&at("a")).is_err() && fs.create_dir(Path::new("/d")).is_err());
    assert!(fs.create(&at("no/a")).is_err() && fs.create_dir(&at("no/a")).is_err() && fs.create(&at("a/b")).is_err());
    assert!(fs.list(&at("a")).is_err() && fs.remove_dir_all(&at("no")).is_err() && fs.remove_file(Path::new("/d")).is_err());
    assert!(matches!(fs.open_read(Path::new("/d")), Err(Error::Corrupt { .. })));
    fs.make_dirs(&at("full/x")).unwrap();
    fs.make_dirs(&at("empty")).unwrap();
    assert!(fs.rename(&at("empty"), &at("full")).is_err() && fs.rename(&at("a"), &at("empty")).is_err());
    assert!(fs.rename(&at("empty"), &at("a")).is_err() && fs.rename(&at("no"), &at("b")).is_err());
    fs.rename(&at("full"), &at("empty")).unwrap();
    let names: Vec<_> = fs.list(Path::new("/d")).unwrap().into_iter().map(|e| (e.name, e.is_dir, e.len)).collect();
    assert_eq!(names, [("a".into(), false, 1), ("empty".into(), true, 0)]);
}

#[test]
fn tests_can_damage_files() {
    let fs = disk();
    drop(file(&fs, "a", b"abc"));
    fs.corrupt(&at("a"), 1, 0x01).unwrap();
    fs.corrupt(&at("a"), 9, 0x01).unwrap();
    assert_eq!(content(&fs.crash(CrashMode::DropUnsynced, 0), "a").unwrap(), b"acc");
    fs.resize(&at("a"), 1).unwrap();
    assert_eq!(read_all(&fs, &at("a"), 9).unwrap(), b"a");
    assert!(fs.corrupt(&at("b"), 0, 1).is_err());
}
