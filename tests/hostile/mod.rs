//! Stores whose files were changed and whose checksums were made right again.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embedrock::testing::{SimFs, disk_of, repair_store, verify_simulated};
use embedrock::{Result, Store, StoreOptions};

use crate::driver;

pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

pub(crate) const DIR: &str = "/disk/store";
/// Where frames begin in a segment; bytes of a frame's header; the kinds of frames of rows and of commits.
const FRAMES: usize = 88;
pub(crate) const FRAME_HEADER: usize = 12;
pub(crate) const ROWS: u8 = 4;
const COMMIT: u8 = 8;

pub(crate) fn files(operations: u64) -> Files {
    let fs = driver::disk();
    driver::Driver::default().run(&fs, operations).unwrap().unwrap();
    fs.kill().files()
}

/// The kind and the payload of each frame of a segment.
pub(crate) fn frames(segment: &[u8]) -> Vec<(u8, Range<usize>)> {
    let (mut at, mut frames) = (FRAMES, Vec::new());
    while at + FRAME_HEADER <= segment.len() {
        let payload = at + FRAME_HEADER;
        let end = payload + u32::from_le_bytes(segment[at..at + 4].try_into().unwrap()) as usize;
        frames.push((segment[at + 4], payload..end));
        at = end;
    }
    frames
}

/// A frame that [`open`] makes the checksum of.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..], &[kind, 0, 0, 0, 0, 0, 0, 0], payload].concat()
}

/// The newest segment and its bytes.
pub(crate) fn segment(files: &mut Files) -> (&Path, &mut Vec<u8>) {
    let (path, bytes) = files.iter_mut().rfind(|(path, _)| path.extension().is_some_and(|ext| ext == "log")).unwrap();
    (path, bytes)
}

/// The payload of the last commit frame of the newest segment.
pub(crate) fn last_commit(files: &mut Files) -> &mut [u8] {
    let (_, bytes) = segment(files);
    let commit = frames(bytes).into_iter().rfind(|(kind, _)| *kind == COMMIT).unwrap().1;
    &mut bytes[commit]
}

pub(crate) fn options(fs: &SimFs) -> StoreOptions {
    StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(16 << 20).threads(1)
}

/// A disk with these files, their checksums made right.
pub(crate) fn disk(mut files: Files) -> SimFs {
    repair_store(&mut files, Path::new(DIR));
    let fs = disk_of(&files).unwrap();
    ["log", "base"].iter().for_each(|name| fs.make_dirs(&Path::new(DIR).join(name)).unwrap());
    fs
}

pub(crate) fn open(files: Files) -> Result<Store> {
    let fs = disk(files);
    verify_simulated(&fs, Path::new(DIR))?;
    Store::open(DIR, options(&fs))
}

/// The store with another number in its last commit.
pub(crate) fn open_with_commit(mut files: Files, sequence: u64) -> Result<Store> {
    last_commit(&mut files)[8..16].copy_from_slice(&sequence.to_le_bytes());
    open(files)
}
