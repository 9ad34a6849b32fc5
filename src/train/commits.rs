//! When a job commits: rows and trainer together, in the background, every so many batches and at the end.
#![forbid(unsafe_code)]

use crate::{CommitId, Result, Store, Ticket};

pub(crate) struct Commits<'a> {
    store: &'a Store,
    /// Batches between two commits; 0 commits only at the end.
    every: u64,
    /// Commits between two checkpoints; 0 makes none.
    checkpoint_every: u64,
    last: Option<CommitId>,
    /// Says when that is durable, if this run cut it.
    ticket: Option<Ticket>,
    /// Batches since then.
    batches: u64,
    cut: u64,
}

impl<'a> Commits<'a> {
    pub(crate) fn new(store: &'a Store, every: u64, checkpoint_every: u64) -> Commits<'a> {
        let last = store.last_commit().map(|commit| commit.id);
        Commits { store, every, checkpoint_every, last, ticket: None, batches: 0, cut: 0 }
    }

    /// The last commit; it may still be on its way to the disk.
    pub(crate) fn last(&self) -> Option<CommitId> {
        self.last
    }

    /// Batches until the next one is due.
    pub(crate) fn room(&self) -> u64 {
        if self.every > 0 { self.every.saturating_sub(self.batches) } else { u64::MAX }
    }

    /// So many more batches are done; whether that made a commit due, which is then cut. Training goes on while it is written: what it
    /// fails with the next one says, or the end of the run.
    pub(crate) fn count(&mut self, batches: u64, state: impl FnOnce() -> Vec<u8>) -> Result<bool> {
        self.batches += batches;
        let due = self.every > 0 && self.batches >= self.every;
        if due {
            self.cut(state)?;
        }
        Ok(due)
    }

    /// What is not committed yet is; returns when it is durable. Whether there was anything.
    pub(crate) fn finish(&mut self, state: impl FnOnce() -> Vec<u8>) -> Result<bool> {
        let due = self.batches > 0 || self.last.is_none();
        if due {
            self.cut(state)?;
        }
        self.ticket.take().map_or(Ok(due), |ticket| ticket.wait().map(|_| due))
    }

    fn cut(&mut self, state: impl FnOnce() -> Vec<u8>) -> Result<()> {
        let state = state();
        let ticket = self.store.commit_in_background(|| state)?;
        self.last = Some(ticket.id());
        self.ticket = Some(ticket);
        self.batches = 0;
        self.cut += 1;
        if self.checkpoint_every > 0 && self.cut.is_multiple_of(self.checkpoint_every) {
            self.store.checkpoint_in_background()?;
        }
        Ok(())
    }
}
