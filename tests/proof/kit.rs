//! The hostile kit: stores whose files were replaced by what an enemy would put there. Each command refuses, or shows the same rows; in
//! bounded memory and time, and nothing outside the store changes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use embedrock::testing::repair_store;

use crate::command::{Place, files_below};
use crate::driver::draw;
use crate::{Figures, Plan};

/// Address space that a command may take: its budget, RocksDB and the program are well below.
const ADDRESS_SPACE_KIB: u64 = 1 << 20;
const SECONDS: u32 = 60;

type Change = Box<dyn Fn(&Path, &Path)>;
/// A name, and what is done to a path, with a directory outside at hand.
type Replacement = (&'static str, fn(&Path, &Path));

/// What may be in the place of a file: its path, and that of a directory outside.
const REPLACEMENTS: [Replacement; 10] = [
    ("a link to the same bytes", |path, outside| {
        fs::rename(path, outside.join("moved")).unwrap();
        symlink(outside.join("moved"), path).unwrap();
    }),
    ("a hard link to the same bytes", |path, outside| fs::hard_link(path, outside.join("linked")).unwrap()),
    ("a link to endless zeros", |path, _| {
        fs::remove_file(path).unwrap();
        symlink("/dev/zero", path).unwrap();
    }),
    ("a pipe", |path, _| {
        fs::remove_file(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }),
    ("a directory", |path, _| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
    }),
    ("nothing", |path, _| fs::write(path, "").unwrap()),
    ("half", |path, _| fs::write(path, &fs::read(path).unwrap()[..fs::metadata(path).unwrap().len() as usize / 2]).unwrap()),
    ("itself twice", |path, _| fs::write(path, fs::read(path).unwrap().repeat(2)).unwrap()),
    ("noise", |path, _| {
        let length = fs::metadata(path).unwrap().len();
        fs::write(path, (0..length).map(|at| draw(at) as u8).collect::<Vec<_>>()).unwrap();
    }),
    ("64 GiB with a hole", |path, _| OpenOptions::new().write(true).open(path).unwrap().set_len(64 << 30).unwrap()),
];

/// What may be in the place of a directory.
const FOR_DIRECTORIES: [Replacement; 3] = [
    ("a link outside", |path, outside| {
        fs::remove_dir_all(path).unwrap();
        symlink(outside, path).unwrap();
    }),
    ("a file", |path, _| {
        fs::remove_dir_all(path).unwrap();
        fs::write(path, "a file").unwrap();
    }),
    ("a pipe", |path, _| {
        fs::remove_dir_all(path).unwrap();
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    }),
];

/// Names that lie beside those of the store.
const NAMES: [&[u8]; 10] = [
    b"log/99999999999999999999.log",
    b"log/00000000.log",
    b"log/18446744073709551615.log",
    b"log/0000000a.log",
    b"log/new\nline\x1b[31m.log",
    b"log/\xff\xfe.log",
    b"base/18446744073709551615/MANIFEST",
    b"base/00000000/MANIFEST",
    b"base/..x/MANIFEST",
    b"tmp-\xff/x",
];

/// Where a manifest holds numbers, and how wide these are: number, timeline, sequence, first segment, files.
const NUMBERS: [(usize, usize); 5] = [(12, 8), (20, 8), (28, 8), (53, 8), (61, 4)];

pub(crate) fn run(plan: &Plan) -> Figures {
    let place = Place::new();
    place.ok("train deepfm --store whole --batch-size 64 --factors 4 --memory-budget 24MiB --hot-rows 200 --commit-every 4 \
              --checkpoint-every 3 --samples 2000");
    let digest = place.digest("whole");
    let (mut refused, mut harmless, changes) = (0, 0, changes(&place.path("whole"), plan.seed));
    for (what, may_differ, change) in &changes {
        copy(&place.path("whole"), &place.path("s"));
        let outside = place.path("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("mine"), "years of work").unwrap();
        change(&place.path("s"), &outside);
        let before = snapshot(&outside);
        for line in ["verify s", "restore s --to t --memory-budget 24MiB", "inspect s --digest --memory-budget 24MiB"] {
            let (code, said) = limited(&place, line).map_err(|how| format!("{what}: {line}: {how}"))?;
            if code != 0 && line.starts_with("restore") && place.path("t").exists() {
                return Err(format!("{what}: {line} failed and left its target"));
            }
            let same = !line.starts_with("inspect") || said.contains(&digest) || *may_differ;
            if code == 0 && !same {
                return Err(format!("{what}: other rows were read"));
            }
            *(if code == 0 { &mut harmless } else { &mut refused }) += 1;
        }
        if snapshot(&outside) != before {
            return Err(format!("{what}: something outside changed"));
        }
        for dir in ["s", "t", "outside"].map(|name| place.path(name)) {
            let _ = fs::remove_dir_all(dir);
        }
    }
    assert!(refused > 0 && harmless > 0);
    Ok(format!(
        "{} changes, three commands each: refused {refused}, the same rows {harmless}; bytes outside 0, panics 0, within {} MiB of \
         address space",
        changes.len(),
        ADDRESS_SPACE_KIB >> 10
    ))
}

/// Runs a command with little memory and time: its exit code and what it said.
fn limited(place: &Place, line: &str) -> Result<(i32, String), String> {
    let words = format!("ulimit -v {ADDRESS_SPACE_KIB} && exec timeout -s KILL {SECONDS} \"$0\" {line}");
    let exe = env!("CARGO_BIN_EXE_embedrock");
    let output = Command::new("bash").args(["-c", &words, exe]).current_dir(place.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(code @ 0..=2) if !said.contains("panicked") => Ok((code, said)),
        code => Err(format!("ended with {code:?} (killed after {SECONDS} s or for memory, if by a signal): {said}")),
    }
}

/// Names, whether rows may differ by the forger's own choice, and what is done.
fn changes(store: &Path, seed: u64) -> Vec<(String, bool, Change)> {
    let mut changes: Vec<(String, bool, Change)> = Vec::new();
    for file in kinds(store) {
        for (what, replace) in REPLACEMENTS {
            let name = file.clone();
            changes.push((
                format!("{} is {what}", file.display()),
                false,
                Box::new(move |store, outside| replace(&store.join(&name), outside)),
            ));
        }
    }
    for name in ["log", "base", "base/00000001", "live"] {
        for (what, replace) in FOR_DIRECTORIES.into_iter().filter(|_| store.join(name).exists()) {
            changes.push((
                format!("{name} is {what}"),
                false,
                Box::new(move |store, outside| replace(&store.join(name), outside)),
            ));
        }
    }
    for name in NAMES {
        let create = move |store: &Path, _: &Path| {
            let path = store.join(OsStr::from_bytes(name));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "EMBROCKL and more").unwrap();
        };
        changes.push((format!("{:?} was added", String::from_utf8_lossy(name)), false, Box::new(create)));
    }
    for (at, bytes) in NUMBERS {
        let largest = move |store: &Path, _: &Path| {
            edit(
                store,
                |path| path.ends_with("MANIFEST") && path.components().count() == 3,
                |file| file[at..at + bytes].fill(0xff),
            );
        };
        changes.push((format!("byte {at} of each manifest begins the largest number"), false, Box::new(largest)));
    }
    for round in 0..40 {
        let forge = move |store: &Path, _: &Path| {
            let random = draw(seed << 16 | round);
            let kind = ["log", "rows", "MANIFEST"][random as usize % 3];
            edit(
                store,
                |path| path.to_string_lossy().ends_with(kind),
                |file| {
                    let at = (random >> 8) as usize % file.len().max(1);
                    let end = (at + [1, 2, 4, 8][(random >> 4) as usize % 4]).min(file.len());
                    file[at..end].fill([0xff, 0, 0x7f, 1][(random >> 2) as usize % 4]);
                },
            );
        };
        changes.push((format!("forgery {round}, its checksums right"), true, Box::new(forge)));
    }
    changes
}

/// One file of each kind.
fn kinds(store: &Path) -> Vec<PathBuf> {
    let mut kinds = BTreeMap::new();
    for file in files_below(store).into_iter().filter(|file| !file.starts_with("live") && !file.ends_with("LOCK")) {
        let (name, dir) = (file.file_name().unwrap().to_string_lossy().into_owned(), file.components().count());
        let kind = name.trim_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned();
        kinds.insert((kind, dir), file);
    }
    kinds.into_values().collect()
}

/// Changes the chosen files and makes all checksums right again.
fn edit(store: &Path, chosen: impl Fn(&Path) -> bool, change: impl Fn(&mut Vec<u8>)) {
    let mut files: BTreeMap<PathBuf, Vec<u8>> =
        files_below(store).into_iter().map(|file| (store.join(&file), fs::read(store.join(&file)).unwrap())).collect();
    for (path, bytes) in files.iter_mut().filter(|(path, _)| chosen(path.strip_prefix(store).unwrap())) {
        let before = bytes.clone();
        change(bytes);
        assert_eq!(bytes.len(), before.len(), "{}", path.display());
    }
    repair_store(&mut files, store);
    files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Names and bytes below a directory, links not followed. What a link inside names is the same file before and after.
fn snapshot(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |entry: fs::DirEntry| (entry.path(), fs::read(entry.path()).unwrap_or_default());
    fs::read_dir(dir).unwrap().map(|entry| read(entry.unwrap())).collect()
}
