//! Stores as files that a target changes, and what must hold of a store that opens all the same.
#![allow(dead_code, reason = "each target uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use embedrock::testing::{SimFs, disk_of, repair_store};
use embedrock::{Optimizer, Result, Store, StoreOptions, TableSchema, Update};

use crate::driver;

pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) const DIR: &str = "/disk/store";

/// Stores after more and more operations, without their live directories, which no open reads.
pub(crate) static STORES: LazyLock<Vec<Files>> = LazyLock::new(|| {
    let after = |end: u64| {
        let fs = driver::disk();
        driver::Driver::default().run(&fs, end).unwrap().unwrap();
        let mut files = fs.kill().files();
        files.retain(|path, _| !path.starts_with("/disk/store/live"));
        set_uuid(&mut files);
        files
    };
    [3, 20, 60, 150].map(after).to_vec()
});

/// A store's own uuid is drawn from the time; finds must be found again.
fn set_uuid(files: &mut Files) {
    let at = |bytes: &[u8]| match bytes.first_chunk::<8>() {
        Some(b"EMBROCK\0") => vec![12, 52],
        Some(b"EMBROCKL") => vec![12],
        _ => Vec::new(),
    };
    for bytes in files.values_mut() {
        at(bytes).into_iter().for_each(|at| put(bytes, at, &[7; 16]));
    }
    repair_store(files, Path::new(DIR));
}

/// A change of one file.
#[derive(Arbitrary, Clone, Debug)]
pub(crate) struct Edit {
    file: u8,
    offset: u16,
    change: Change,
}

#[derive(Arbitrary, Clone, Debug)]
enum Change {
    Xor(u8),
    Set(u32),
    Insert(Vec<u8>),
    Cut(u8),
    Truncate,
    CopyFrom {
        offset: u16,
        length: u8,
    },
    Remove,
    Rename(u8),
    /// Takes the place of another file, and that one its.
    Swap(u8),
}

impl Edit {
    pub(crate) fn apply(&self, files: &mut Files) {
        let path_at = |files: &Files, at: u8| files.keys().nth(usize::from(at) % files.len().max(1)).cloned();
        let Some(path) = path_at(files, self.file) else { return };
        let Some(bytes) = files.get_mut(&path) else { return };
        let at = usize::from(self.offset) % (bytes.len() + 1);
        match &self.change {
            Change::Xor(bits) => bytes[at..].iter_mut().take(1).for_each(|byte| *byte ^= bits),
            Change::Set(value) => bytes[at..].iter_mut().zip(value.to_le_bytes()).for_each(|(byte, new)| *byte = new),
            Change::Insert(new) => drop(bytes.splice(at..at, new.iter().copied())),
            Change::Cut(length) => drop(bytes.drain(at..(at + usize::from(*length)).min(bytes.len()))),
            Change::Truncate => bytes.truncate(at),
            Change::CopyFrom { offset, length } => {
                let from = usize::from(*offset) % (bytes.len() + 1);
                let copied = bytes[from..(from + usize::from(*length)).min(bytes.len())].to_vec();
                bytes[at..].iter_mut().zip(copied).for_each(|(byte, new)| *byte = new);
            }
            Change::Remove => drop(files.remove(&path)),
            Change::Rename(number) => {
                if let Some(bytes) = files.remove(&path) {
                    files.insert(path.with_file_name(format!("{number:08}.log")), bytes);
                }
            }
            Change::Swap(other) => {
                let bytes = std::mem::take(bytes);
                let other = path_at(files, *other).and_then(|other| files.get_mut(&other));
                let theirs = other.map(|other| std::mem::replace(other, bytes));
                theirs.into_iter().for_each(|theirs| drop(files.insert(path.clone(), theirs)));
            }
        }
    }
}

pub(crate) fn options(fs: &SimFs) -> StoreOptions {
    StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(16 << 20).threads(1).shards(2).create(false)
}

/// What opened works, or says why not, and comes back as it was. Returns whether it opened.
pub(crate) fn works(fs: &SimFs, options: &StoreOptions) -> bool {
    let Ok(store) = Store::open(DIR, options.clone()) else { return false };
    let _ = work(&store);
    let digest = store.digest();
    if let (Ok(digest), Ok(_)) = (digest, store.commit(b"fuzzed")) {
        drop(store);
        let again = Store::open(DIR, self::options(fs)).expect("a store that committed opens");
        assert_eq!(again.digest().expect("as before"), digest);
    }
    true
}

fn work(store: &Store) -> Result<()> {
    for table in store.tables() {
        let values = vec![0.5; table.dim() * 2];
        let _ = table.apply_gradients(&[1, u64::MAX], &values, &Update::at(0));
        let _ = table.remove(&[2]);
        let _ = table.prefetch(&[3, 4, 5]);
        let mut rows = vec![0.0; table.dim() * 8];
        let _ = table.lookup(&[0, 1, 2, 3, 4, 5, 6, 7], &mut rows);
    }
    store.checkpoint()?;
    let fresh = store.create_table(TableSchema::new("fresh", 2).optimizer(Optimizer::sgd(0.5)))?;
    fresh.assign(&[1], &[1.0, 2.0], &Update::at(0)).map(drop)
}

/// Writes `bytes` over what is at `at`.
pub(crate) fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// The first store's files of which it is that store, and no other.
pub(crate) fn identity() -> (PathBuf, Vec<u8>) {
    let path = Path::new(DIR).join("IDENTITY");
    let bytes = STORES[0][&path].clone();
    (path, bytes)
}

/// A simulated disk with these files, and the directories that every store has.
pub(crate) fn disk(files: &Files) -> Option<SimFs> {
    let fs = disk_of(files).ok()?;
    ["log", "base"].iter().try_for_each(|name| fs.make_dirs(&Path::new(DIR).join(name))).ok()?;
    Some(fs)
}
