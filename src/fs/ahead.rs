//! Makes a growing file durable while it is written: without that the disk waits for the program, and at the end the program for it.
#![forbid(unsafe_code)]

use super::SyncFile;
use crate::error::Result;
use crate::sync::{is_finished, thread};

/// Bytes written after which another sync is begun. With less, syncs cost more than they save.
const EVERY_BYTES: u64 = 16 << 20;

/// Syncs of one file, one at a time, each in a thread of its own.
#[derive(Default)]
pub(crate) struct SyncAhead {
    under_way: Option<thread::JoinHandle<Result<()>>>,
    begun_at: u64,
}

impl SyncAhead {
    /// To be called as the file grows, here to `position`: begins a sync when it is time for one and none is under way. Fails as the
    /// sync before did: what that lost is unknown, and later ones will not tell.
    pub(crate) fn grown(&mut self, position: u64, syncer: impl FnOnce() -> Result<Box<dyn SyncFile>>) -> Result<()> {
        // A shorter file is another one.
        self.begun_at = self.begun_at.min(position);
        if position - self.begun_at < EVERY_BYTES || self.under_way.as_ref().is_some_and(|thread| !is_finished(thread)) {
            return Ok(());
        }
        self.finish()?;
        // Without a handle or a thread the sync at the end does it all.
        let Ok(syncer) = syncer() else { return Ok(()) };
        self.begun_at = position;
        let thread = thread::Builder::new().name("embedrock-sync".into()).spawn(move || syncer.sync());
        self.under_way = thread.ok();
        Ok(())
    }

    /// Waits for the sync under way.
    pub(crate) fn finish(&mut self) -> Result<()> {
        let Some(thread) = self.under_way.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
