//! What may lie in a directory: other formats, other files, links, halves. Refused by name, or passed over; never overwritten.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use embedrock::{At, Error, Store, StoreOptions, restore, restore_with, verify};

use crate::{contents, copy, filled, options, refused, schema, train, truth};

/// The plain files that are the truth of a store.
fn files(dir: &Path) -> Vec<PathBuf> {
    truth(dir).into_keys().filter(|path| path.is_file()).collect()
}

fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// The checksum over a file's first bytes, where that of the format follows them.
fn reseal(bytes: &mut [u8], from: usize, to: usize) {
    let sum = crc32fast::hash(&bytes[from..to]);
    bytes[to..to + 4].copy_from_slice(&sum.to_le_bytes());
}

fn version(bytes: &mut [u8], at: usize, version: u32) {
    bytes[at..at + 4].copy_from_slice(&version.to_le_bytes());
}

#[test]
fn a_newer_format_is_named_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let digest = filled(&path, options());
    // (file, where its sums are, what follows them); the first also as a newer version would be whose length is unknown here.
    let identity = |bytes: &mut Vec<u8>| {
        for at in [0, 40] {
            version(bytes, at + 8, 2);
            reseal(bytes, at, at + 36);
        }
    };
    let longer = |bytes: &mut Vec<u8>| {
        version(bytes, 8, 9);
        bytes.extend_from_slice(&[7; 100]);
        bytes[40..].fill(3);
    };
    let segment = |bytes: &mut Vec<u8>| {
        version(bytes, 8, 2);
        reseal(bytes, 0, 84);
    };
    let manifest = |bytes: &mut Vec<u8>| {
        version(bytes, 8, 2);
        let end = bytes.len() - 4;
        reseal(bytes, 0, end);
    };
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, u32, Change); 4] = [
        ("IDENTITY", 2, identity),
        ("IDENTITY", 9, longer),
        ("log/00000001.log", 2, segment),
        ("base/00000001/MANIFEST", 2, manifest),
    ];
    for (name, newer, change) in changes {
        let file = path.join(name);
        let original = fs::read(&file).unwrap();
        edit(&file, change);
        let before = truth(&path);
        let results = [
            Store::open(&path, options()).map(drop),
            restore(&path, At::Latest, dir.path().join("copy")).map(drop),
            verify(&path).map(drop),
        ];
        for result in results {
            match result {
                Err(Error::FormatTooNew { path, found, supported: 1 }) => assert_eq!((path, found), (file.clone(), newer)),
                other => panic!("{name}: {other:?}"),
            }
        }
        assert_eq!(truth(&path), before, "{name}");
        fs::write(&file, original).unwrap();
    }
    // No program ever wrote a version 0.
    let original = fs::read(path.join("IDENTITY")).unwrap();
    edit(&path.join("IDENTITY"), |bytes| {
        for at in [0, 40] {
            version(bytes, at + 8, 0);
            reseal(bytes, at, at + 36);
        }
    });
    let error = refused(&path, options());
    assert!(matches!(&error, Error::Corrupt { what, .. } if what.contains("version 0")), "{error}");
    fs::write(path.join("IDENTITY"), original).unwrap();
    assert_eq!(Store::open(&path, options()).unwrap().digest().unwrap().to_string(), digest);
}

#[test]
fn a_directory_of_something_else_is_not_taken() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d");
    for name in ["thesis.txt", "log/00000001.log", "base/00000001/MANIFEST", "live/CURRENT", "tmp-dir/x", "DURABLE"] {
        fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
        fs::write(path.join(name), "years of work").unwrap();
        let before = contents(dir.path());
        for options in [options(), options().create(false)] {
            let error = refused(&path, options);
            assert!(matches!(&error, Error::NotAStore { path: named, .. } if *named == path), "{name}: {error}");
        }
        for result in [verify(&path).map(drop), restore(&path, At::Latest, dir.path().join("t")).map(drop)] {
            assert!(matches!(result, Err(Error::NotAStore { .. })), "{name}: {result:?}");
        }
        assert_eq!(contents(dir.path()), before, "{name}");
        fs::remove_dir_all(&path).unwrap();
    }
    fs::write(&path, "a file").unwrap();
    let error = refused(&path, options());
    assert!(matches!(error, Error::NotAStore { .. }) && fs::read(&path).unwrap() == b"a file", "{error}");
    let error = refused(&dir.path().join("no/such/parent"), options());
    assert!(matches!(error, Error::Io { action: "create", .. }), "{error}");
    assert!(!dir.path().join("no").exists());
}

#[test]
fn an_empty_or_half_made_directory_becomes_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let made: [&[&str]; 5] = [&[], &["LOCK"], &["LOCK", "log/"], &["LOCK", "log/", "base/"], &["log/", "base/", "tmp-IDENTITY"]];
    for (at, names) in made.into_iter().enumerate() {
        let path = dir.path().join(format!("s{at}"));
        fs::create_dir(&path).unwrap();
        for name in names {
            match name.strip_suffix('/') {
                Some(name) => fs::create_dir(path.join(name)).unwrap(),
                None => fs::write(path.join(name), "EMBR").unwrap(),
            }
        }
        assert!(matches!(refused(&path, options().create(false)), Error::NotAStore { .. }), "{names:?}");
        let digest = filled(&path, options());
        assert_eq!(Store::open(&path, options()).unwrap().digest().unwrap().to_string(), digest);
    }
}

#[test]
fn foreign_files_in_a_store_are_neither_read_nor_removed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let digest = filled(&path, options());
    let names = ["notes.txt", "log/notes.txt", "log/1.log", "log/00000001.log.bak", "base/notes.txt", "base/old/hot.rows"];
    for name in names {
        fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
        fs::write(path.join(name), "mine").unwrap();
    }
    for _ in 0..4 {
        let store = Store::open(&path, options()).unwrap();
        assert_eq!(store.digest().unwrap().to_string(), digest);
        store.checkpoint().unwrap();
        store.commit(b"").unwrap();
    }
    assert!(names.iter().all(|name| fs::read(path.join(name)).unwrap() == b"mine"));
    assert_eq!(verify(&path).unwrap().damage, []);
}

/// After part of a store was deleted it opens with the same rows, or says what is missing.
fn with_parts_deleted(store: &Path, digest: &str) -> (usize, usize) {
    let dir = tempfile::tempdir().unwrap();
    let all: Vec<PathBuf> = truth(store).into_keys().map(|path| path.strip_prefix(store).unwrap().to_owned()).collect();
    let (mut opened, mut refused) = (0, 0);
    for (at, first) in all.iter().enumerate() {
        for second in &all[at..] {
            // An erased history beside an erased mark of it is a store that was just made.
            let names = [first, second].map(|path| path.to_string_lossy());
            if names[0] == "DURABLE" && (names[1].starts_with("log") || names[1].starts_with("base")) {
                continue;
            }
            let path = dir.path().join("s");
            copy(store, &path);
            for name in [first, second] {
                let target = path.join(name);
                if target.is_dir() { fs::remove_dir_all(target).unwrap() } else { drop(fs::remove_file(target)) }
            }
            match Store::open(&path, options()) {
                Ok(store) => {
                    assert_eq!(store.digest().unwrap().to_string(), digest, "without {first:?} and {second:?}");
                    opened += 1;
                }
                Err(Error::Corrupt { .. } | Error::NotAStore { .. } | Error::Io { .. }) => refused += 1,
                Err(error) => panic!("without {first:?} and {second:?}: {error}"),
            }
            fs::remove_dir_all(path).unwrap();
        }
    }
    (opened, refused)
}

#[test]
fn a_store_that_was_half_deleted_never_opens_with_less() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let digest = filled(&path, options());
    let (opened, refused) = with_parts_deleted(&path, &digest);
    assert!(opened > 10 && refused > 10, "{opened} opened, {refused} refused");
    // A restored store has no log before its first commit: its base is all there is.
    let target = dir.path().join("restored");
    restore_with(&path, At::Latest, &target, &options()).unwrap();
    let (opened, refused) = with_parts_deleted(&target, &digest);
    assert!(opened > 0 && refused > 10, "{opened} opened, {refused} refused");
    let manifest = target.join("base/00000001/MANIFEST");
    edit(&manifest, |bytes| bytes[30] ^= 1);
    let error = crate::refused(&target, options());
    assert!(matches!(&error, Error::Corrupt { path, .. } if *path == manifest), "{error}");
}

#[test]
fn links_lead_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (path, outside) = (dir.path().join("s"), dir.path().join("outside"));
    let digest = filled(&path, options());
    fs::create_dir(&outside).unwrap();
    for file in files(&path) {
        let elsewhere = outside.join("file");
        fs::rename(&file, &elsewhere).unwrap();
        symlink(&elsewhere, &file).unwrap();
        let bytes = fs::read(&elsewhere).unwrap();
        match Store::open(&path, options()) {
            // The other base or the whole log serves instead.
            Ok(store) => {
                assert!(file.starts_with(path.join("base")), "{}", file.display());
                assert_eq!(store.digest().unwrap().to_string(), digest);
            }
            Err(error) => assert!(error.to_string().contains(file.file_name().unwrap().to_str().unwrap()), "{error}"),
        }
        assert_eq!(fs::read(&elsewhere).unwrap(), bytes, "written through the link {}", file.display());
        fs::remove_file(&file).unwrap();
        fs::rename(&elsewhere, &file).unwrap();
    }
    fs::write(outside.join("mine"), "years of work").unwrap();
    fs::remove_dir_all(path.join("live")).unwrap();
    for name in ["live", "tmp-x", "trash-y"] {
        symlink(&outside, path.join(name)).unwrap();
    }
    fs::create_dir(path.join("tmp-z")).unwrap();
    symlink(&outside, path.join("tmp-z/inside")).unwrap();
    let store = Store::open(&path, options()).unwrap();
    assert_eq!(store.digest().unwrap().to_string(), digest);
    drop(store);
    assert_eq!(fs::read(outside.join("mine")).unwrap(), b"years of work");
    assert!(["tmp-x", "trash-y", "tmp-z"].iter().all(|name| fs::symlink_metadata(path.join(name)).is_err()));
}

#[test]
fn a_manifest_names_no_file_outside_its_base() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let digest = filled(&path, options());
    let manifest = path.join("base/00000001/MANIFEST");
    let original = fs::read(&manifest).unwrap();
    let at = original.windows(5).position(|window| window == b"cold/").unwrap();
    let length = usize::from(original[at - 1]);
    for name in ["../../IDENTITY", "/etc/passwd", "cold/../../../x", "cold/..", "cold/a/b", "..", ".", "cold/", "cold\\x", "a\0b"]
    {
        let mut bytes = original[..at - 1].to_vec();
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name.as_bytes());
        bytes.extend_from_slice(&original[at + length..]);
        let end = bytes.len() - 4;
        reseal(&mut bytes, 0, end);
        fs::write(&manifest, &bytes).unwrap();
        let damage = verify(&path).unwrap().damage;
        assert!(damage.iter().any(|damage| damage.path == manifest), "{name:?}: {damage:?}");
        let store = Store::open(&path, options()).unwrap();
        assert_eq!((store.recovery().base, store.digest().unwrap().to_string()), (None, digest.clone()), "{name:?}");
        assert!(store.recovery().damaged_bases[0].contains("MANIFEST"));
    }
}

#[test]
fn settings_of_speed_and_memory_change_at_will() {
    let dir = tempfile::tempdir().unwrap();
    let (path, plain) = (dir.path().join("s"), dir.path().join("plain"));
    let slabs = dir.path().join("slabs");
    fs::create_dir(&slabs).unwrap();
    let changes: [fn(StoreOptions) -> StoreOptions; 7] = [
        |options| options.shards(1),
        |options| options.shards(64).threads(2),
        |options| options.memory_budget(300 << 20),
        |options| options.memory_budget(12 << 20).hot_rows(10),
        |options| options.hot_rows(0).shards(3),
        |options| options.seed(99),
        |options| options,
    ];
    for (path, file_slabs) in [(&path, true), (&plain, false)] {
        for (at, change) in changes.iter().enumerate() {
            let changed = if file_slabs { change(options().file_slabs(&slabs)) } else { options() };
            let store = Store::open(path, changed).unwrap();
            let table = store.create_table(schema()).unwrap();
            (0..5).for_each(|number| train(&table, at as u64 * 5 + number));
            store.commit(b"").unwrap();
            if at % 2 == 0 {
                store.checkpoint().unwrap();
            }
        }
    }
    let digest = |path: &Path| Store::open(path, options()).unwrap().digest().unwrap();
    assert_eq!(digest(&path), digest(&plain));
    assert!(fs::read_dir(&slabs).unwrap().next().is_none(), "slabs in files are unlinked");
}
