//! Finds of the fuzz targets, by name.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;
mod hostile;

use embedrock::Error;
use hostile::{files, open, open_with_commit};

/// `commits` once counted from the first sequence number to the last, whatever a file said that the last was.
#[test]
fn a_commit_with_a_number_out_of_turn_ends_the_history() {
    let files = files(40);
    let commits = open(files.clone()).unwrap().commits().unwrap();
    assert!(commits.len() > 1, "{commits:?}");
    for sequence in [1 << 50, u64::MAX, 0] {
        match open_with_commit(files.clone(), sequence) {
            Err(Error::Corrupt { what, .. }) => assert!(what.contains("durable"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}
