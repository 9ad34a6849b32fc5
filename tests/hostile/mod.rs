//! Stores whose files were changed and whose checksums were made right again.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embedrock::testing::{disk_of, repair_store, verify_simulated};
use embedrock::{Result, Store, StoreOptions};

use crate::driver;

const DIR: &str = "/disk/store";
/// Where frames begin in a segment; bytes of a frame's header; the kind of a commit frame.
const FRAMES: usize = 88;
const FRAME_HEADER: usize = 12;
const COMMIT: u8 = 8;

pub(crate) fn files(operations: u64) -> BTreeMap<PathBuf, Vec<u8>> {
    let fs = driver::disk();
    driver::Driver::default().run(&fs, operations).unwrap().unwrap();
    fs.kill().files()
}

/// The payload of the last commit frame of a segment.
fn last_commit(segment: &mut [u8]) -> &mut [u8] {
    let (mut at, mut last) = (FRAMES, None);
    while at + FRAME_HEADER <= segment.len() {
        let payload = at + FRAME_HEADER;
        let end = payload + u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
        last = if segment[at + 4] == COMMIT { Some(payload..end) } else { last };
        at = end;
    }
    &mut segment[last.unwrap()]
}

pub(crate) fn open(mut files: BTreeMap<PathBuf, Vec<u8>>) -> Result<Store> {
    repair_store(&mut files, Path::new(DIR));
    let fs = disk_of(&files)?;
    verify_simulated(&fs, Path::new(DIR))?;
    Store::open(DIR, StoreOptions::default().simulated(Arc::new(fs)).memory_budget(16 << 20))
}

/// The store with another number in its last commit.
pub(crate) fn open_with_commit(mut files: BTreeMap<PathBuf, Vec<u8>>, sequence: u64) -> Result<Store> {
    let segment = files.iter_mut().rfind(|(path, _)| path.extension().is_some_and(|ext| ext == "log")).unwrap().1;
    last_commit(segment)[8..16].copy_from_slice(&sequence.to_le_bytes());
    open(files)
}
