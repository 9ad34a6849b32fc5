//! Finds of the fuzz targets, by name.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use embedrock::testing::{disk_of, repair_store, verify_simulated};
use embedrock::{Error, Result, Store, StoreOptions};

const DIR: &str = "/disk/store";
/// Where frames begin in a segment; bytes of a frame's header; the kind of a commit frame.
const FRAMES: usize = 88;
const FRAME_HEADER: usize = 12;
const COMMIT: u8 = 8;

fn files(operations: u64) -> BTreeMap<PathBuf, Vec<u8>> {
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

fn open(mut files: BTreeMap<PathBuf, Vec<u8>>) -> Result<Store> {
    repair_store(&mut files, Path::new(DIR));
    let fs = disk_of(&files)?;
    verify_simulated(&fs, Path::new(DIR))?;
    Store::open(DIR, StoreOptions::default().simulated(Arc::new(fs)).memory_budget(16 << 20))
}

/// `commits` once counted from the first sequence number to the last, whatever a file said that the last was.
#[test]
fn a_commit_with_a_number_out_of_turn_ends_the_history() {
    let files = files(40);
    let commits = open(files.clone()).unwrap().commits().unwrap();
    assert!(commits.len() > 1, "{commits:?}");
    for sequence in [1 << 50, u64::MAX, 0] {
        let mut files = files.clone();
        let segment = files.iter_mut().rfind(|(path, _)| path.extension().is_some_and(|ext| ext == "log")).unwrap().1;
        last_commit(segment)[8..16].copy_from_slice(&u64::to_le_bytes(sequence));
        match open(files) {
            Err(Error::Corrupt { what, .. }) => assert!(what.contains("durable"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}
