//! Rows that leave memory in the background: marked, written to the cold tier while the shard is open to others, then dropped if
//! nobody changed them meanwhile.
//!
//! A row that is marked belongs to whoever marked it: no batch demotes it and no sweep deletes its cold copy, so what is written
//! without the shard's lock is never older than what the cold tier has. A marked row counts as written: that it is newer than its
//! cold copy is forgotten at once, and noted again by whoever changes it.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use super::{Env, Shard};
use crate::cold::ColdBatch;
use crate::error::Result;
use crate::index::TOMBSTONE_BIT;
use crate::kill_point::{KillPoint, reach};
use crate::plant::{Bug, planted};
use crate::slab::{LEAVING, NEWER_THAN_COLD, PINNED};
use crate::types::Key;

/// Bytes of rows that leave at once: a batch that comes by waits for their copies.
pub(crate) const LEAVING_BYTES: usize = 256 << 10;
/// As few as so many rows are worth a visit.
const MIN_ROWS: usize = 32;

/// Rows of a shard on their way out, and what is to be written of them meanwhile.
pub(crate) struct Leaving {
    keys: Vec<Key>,
    batch: ColdBatch,
}

impl Leaving {
    #[cfg(feature = "testing")]
    pub(crate) fn rows(&self) -> usize {
        self.keys.len()
    }

    /// Writes what the cold tier lacks. Without the shard's lock.
    pub(crate) fn write(&self, env: &Env<'_>) -> Result<()> {
        if self.batch.is_empty() { Ok(()) } else { env.write_cold(&self.batch) }
    }
}

impl Shard {
    /// Chooses and marks rows that leave because room is short, also for those of the mixed keys that [`Shard::take_off`] will bring
    /// `ahead`. To be followed by [`Leaving::write`] and [`Shard::end_leaving`]. On an error nothing changed.
    pub(crate) fn begin_leaving(&mut self, env: &Env<'_>, ahead: &[u64]) -> Result<Option<Leaving>> {
        let wanted =
            self.shortage(env, self.places_wanted(env, ahead)).min((LEAVING_BYTES / env.schema.row_bytes()).max(MIN_ROWS));
        if wanted == 0 { Ok(None) } else { self.begin_leaving_of(env, wanted) }
    }

    /// As [`Shard::begin_leaving`], so many rows in any case.
    pub(crate) fn begin_leaving_of(&mut self, env: &Env<'_>, wanted: usize) -> Result<Option<Leaving>> {
        let victims = self.victims(env, wanted);
        if victims.is_empty() {
            return Ok(None);
        }
        self.log_uncommitted(env, &victims)?;
        reach(KillPoint::ImagesLogged);
        let batch = self.cold_batch(&victims);
        for &(_, raw) in &victims {
            let meta = self.slab.meta_mut(raw & !TOMBSTONE_BIT);
            meta.flags = meta.flags & !NEWER_THAN_COLD | LEAVING;
        }
        Ok(Some(Leaving { keys: victims.into_iter().map(|(key, _)| key).collect(), batch }))
    }

    /// Drops the rows, but for those that are in use or were changed; if they were not `written`, all stay.
    pub(crate) fn end_leaving(&mut self, env: &Env<'_>, leaving: Leaving, written: bool) {
        reach(KillPoint::ColdWritten);
        let mut left = 0;
        for key in leaving.keys {
            let Some(raw) = self.raw(key) else { continue };
            let meta = self.slab.meta_mut(raw & !TOMBSTONE_BIT);
            meta.flags &= !LEAVING;
            if !written && !planted(Bug::UnwrittenRowDropped) {
                meta.flags |= NEWER_THAN_COLD;
            }
            let changed = meta.has(NEWER_THAN_COLD) && !planted(Bug::ChangedRowDropped);
            if !changed && !meta.has(PINNED) {
                self.forget(key, raw);
                left += 1;
            } else if raw & TOMBSTONE_BIT != 0 {
                // A sweep has passed it by.
                self.removed.push(key);
            }
        }
        reach(KillPoint::RowsDemoted);
        env.counters.demoted.fetch_add(left, Relaxed);
    }
}
