//! A store whose files were changed, with checksums made right or not: opening it is an error, or gives a store that works.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use embedrock::testing::{SimFs, disk_of, repair_store, verify_simulated};
use embedrock::{At, Store, StoreOptions, Update};
use libfuzzer_sys::fuzz_target;

type Files = BTreeMap<PathBuf, Vec<u8>>;

const DIR: &str = "/disk/store";

/// Stores after more and more operations, without their live directories, which no open reads.
static STORES: LazyLock<Vec<Files>> = LazyLock::new(|| {
    let after = |end: u64| {
        let fs = driver::disk();
        driver::Driver::default().run(&fs, end).unwrap().unwrap();
        let mut files = fs.kill().files();
        files.retain(|path, _| !path.starts_with("/disk/store/live"));
        files
    };
    [3, 20, 60, 150].map(after).to_vec()
});

#[derive(Arbitrary, Debug)]
struct Input {
    store: u8,
    edits: Vec<Edit>,
    repaired: bool,
    at: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Edit {
    file: u8,
    offset: u16,
    change: Change,
}

#[derive(Arbitrary, Debug)]
enum Change {
    Xor(u8),
    Set(u32),
    Insert(Vec<u8>),
    Cut(u8),
    Truncate,
    CopyFrom { offset: u16, length: u8 },
    Remove,
    Rename(u8),
}

impl Edit {
    fn apply(&self, files: &mut Files) {
        let Some(path) = files.keys().nth(usize::from(self.file) % files.len().max(1)).cloned() else { return };
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
        }
    }
}

fn options(fs: &SimFs) -> StoreOptions {
    StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(16 << 20).threads(1).shards(2).create(false)
}

fuzz_target!(|input: Input| {
    let mut files = STORES[usize::from(input.store) % STORES.len()].clone();
    input.edits.iter().take(8).for_each(|edit| edit.apply(&mut files));
    if input.repaired {
        repair_store(&mut files, Path::new(DIR));
    }
    let Ok(fs) = disk_of(&files) else { return };
    let _ = verify_simulated(&fs, Path::new(DIR));
    let Ok(store) = Store::open(DIR, options(&fs)) else { return };
    let at = input.at.and_then(|at| store.commits().ok().and_then(|ids| ids.get(usize::from(at)).copied()));
    let store = match at {
        Some(id) => {
            drop(store);
            match Store::open(DIR, options(&fs).open_at(At::Commit(id))) {
                Ok(store) => store,
                Err(_) => return,
            }
        }
        None => store,
    };
    // What opened works, and comes back as it was.
    for table in store.tables() {
        let values = vec![0.5; table.dim() * 2];
        let _ = table.apply_gradients(&[1, u64::MAX], &values, &Update::at(0));
    }
    let Ok(digest) = store.digest() else { return };
    if store.commit(b"fuzzed").is_ok() {
        drop(store);
        let again = Store::open(DIR, options(&fs)).expect("a store that committed opens");
        assert_eq!(again.digest().expect("as before"), digest);
    }
});
