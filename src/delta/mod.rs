//! Deltas: cut between two batches, written while training goes on, closed by a commit.
#![forbid(unsafe_code)]

mod cut;
mod log;
mod visits;

use std::sync::Arc;

pub(crate) use cut::{Cut, write_part};
pub(crate) use log::{DeltaLog, Tip};
pub(crate) use visits::{Visit, Visits, read_if};

use crate::types::{CommitHash, CommitId};

/// Payload bytes after which a frame is closed.
pub(crate) const FRAME_BYTES: usize = 1 << 20;
/// The epoch in which a store opens.
pub(crate) const FIRST_EPOCH: u64 = 1;

/// A commit as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its name.
    pub id: CommitId,
    /// A hash over it and its ancestors.
    pub hash: CommitHash,
    /// The store's clock at the commit: the largest event time seen, if any.
    pub clock: Option<u32>,
    /// The trainer's own state, as given to the commit.
    pub state: Arc<[u8]>,
}
