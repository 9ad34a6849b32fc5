//! Making room: more memory while the budget lasts, then demotion of the rows that were least touched.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Relaxed, Release};

use super::image::{push_image, push_lanes};
use super::{Env, Shard};
use crate::cold::ColdBatch;
use crate::error::Result;
use crate::index::{Index, TOMBSTONE_BIT};
use crate::kill_point::{KillPoint, reach};
use crate::plant::{Bug, planted};
use crate::slab::{ANY_UNCOMMITTED, NEWER_THAN_COLD, PINNED};
use crate::types::{Key, mix};

/// Rows demoted at once are at least this share of the shard, so a full shard does not demote row by row.
const DEMOTE_SHARE: usize = 16;
/// The hand halves touch counts as it passes: after this many rounds every row that is not pinned was chosen.
const MAX_ROUNDS: usize = 17;
/// Bytes of images written to the cold tier at once.
const BATCH_BYTES: usize = 4 << 20;

impl Shard {
    /// Makes sure that `rows` more rows can be allocated and indexed. On an error nothing is lost.
    pub(crate) fn reserve(&mut self, env: &Env<'_>, rows: usize) -> Result<()> {
        while self.slab.available() < rows {
            if self.grow(env)? {
                continue;
            }
            let wanted = rows - self.slab.available();
            let freed = self.demote(env, wanted.max(self.index.len() / DEMOTE_SHARE))?;
            if freed < wanted {
                let bytes = wanted * (env.schema.row_bytes() + size_of::<crate::slab::RowMeta>());
                return Err(env.context.budget.too_small(bytes));
            }
        }
        Ok(())
    }

    /// Adds a chunk, and the index places for it, if the budget has both.
    pub(super) fn grow(&mut self, env: &Env<'_>) -> Result<bool> {
        let budget = &env.context.budget;
        let capacity =
            self.slab.memory_bytes() / self.slab.chunk_bytes().max(1) * self.slab.chunk_rows() + self.slab.chunk_rows();
        let buckets = self.index.growth_for(capacity);
        let index_bytes = buckets.map_or(0, Index::bytes_for);
        let bytes = self.slab.chunk_bytes() + index_bytes;
        if !budget.try_reserve(bytes) {
            return Ok(false);
        }
        if let Err(error) = self.slab.grow() {
            budget.release(bytes);
            return Err(error);
        }
        if let Some(buckets) = buckets {
            self.rebuild_index(env, buckets);
        }
        reach(KillPoint::ShardGrown);
        Ok(true)
    }

    /// Gives the index `buckets` buckets, whose bytes the caller has reserved; those of the old ones are given back.
    pub(super) fn rebuild_index(&mut self, env: &Env<'_>, buckets: usize) {
        let before = self.index.memory_bytes();
        let Shard { index, slab, .. } = self;
        index.rebuild(buckets, |row| slab.prefetch(row, 0), |row| mix(slab.key(row)));
        env.context.budget.release(before);
    }

    /// Demotes down to `rows` hot rows, as far as rows are not pinned.
    pub(crate) fn demote_to(&mut self, env: &Env<'_>, rows: usize) -> Result<()> {
        if self.index.len() > rows {
            self.demote(env, self.index.len() - rows)?;
        }
        Ok(())
    }

    /// Moves up to `wanted` rows to the cold tier and returns how many left.
    ///
    /// Order: images of uncommitted rows go to the open delta, then rows newer than their cold copy and the deletes of
    /// tombstones to the cold tier, then the rows leave the slab. A failure before the last step changes nothing.
    pub(super) fn demote(&mut self, env: &Env<'_>, wanted: usize) -> Result<usize> {
        let batch_rows = (BATCH_BYTES / env.schema.row_bytes()).max(64);
        let mut freed = 0;
        while freed < wanted {
            let victims = self.victims(env, (wanted - freed).min(batch_rows));
            if victims.is_empty() {
                break;
            }
            self.write_cold(env, &victims)?;
            reach(KillPoint::ColdWritten);
            for &(key, raw) in &victims {
                self.forget(key, raw);
            }
            reach(KillPoint::RowsDemoted);
            freed += victims.len();
            env.counters.demoted.fetch_add(victims.len() as u64, Relaxed);
        }
        Ok(freed)
    }

    /// Takes a row out of the index and the slab.
    pub(super) fn forget(&mut self, key: Key, raw: u32) {
        let Shard { index, slab, .. } = self;
        index.remove(mix(key), |row| slab.key(row) == key);
        self.tombstones -= usize::from(raw & TOMBSTONE_BIT != 0);
        let row = raw & !TOMBSTONE_BIT;
        self.uncommitted -= usize::from(self.slab.meta(row).has(self.uncommitted_bit()));
        self.slab.release(row);
    }

    /// Second chance over the buckets, halving touch counts; expired rows and tombstones at once, pinned rows never.
    fn victims(&mut self, env: &Env<'_>, wanted: usize) -> Vec<(Key, u32)> {
        let clock = env.context.now();
        let mut victims = Vec::with_capacity(wanted);
        let mut left = self.index.buckets() * MAX_ROUNDS;
        while victims.len() < wanted && left > 0 {
            self.hand = (self.hand + 1) % self.index.buckets();
            left -= 1;
            for raw in self.index.bucket(self.hand) {
                let meta = self.slab.meta_mut(raw & !TOMBSTONE_BIT);
                if meta.has(PINNED) || victims.len() == wanted {
                    continue;
                }
                let gone = raw & TOMBSTONE_BIT != 0 || env.schema.lifetimes().expired(meta.key, meta.time, clock);
                if meta.touches == 0 || gone {
                    victims.push((meta.key, raw));
                } else {
                    meta.touches /= 2;
                }
            }
        }
        // A second round may meet a bucket again before anything was removed.
        victims.sort_unstable();
        victims.dedup();
        victims
    }

    fn write_cold(&mut self, env: &Env<'_>, victims: &[(Key, u32)]) -> Result<()> {
        self.log_uncommitted(env, victims)?;
        reach(KillPoint::ImagesLogged);
        let (mut batch, mut lanes) = (ColdBatch::new(), Vec::new());
        for &(key, raw) in victims {
            let row = raw & !TOMBSTONE_BIT;
            let meta = self.slab.meta(row);
            if raw & TOMBSTONE_BIT != 0 {
                if !planted(Bug::RemovedRowUncovered) {
                    batch.delete(mix(key));
                }
            } else if meta.has(NEWER_THAN_COLD) && (meta.has(ANY_UNCOMMITTED) || !planted(Bug::NewerTakenForUncommitted)) {
                lanes.clear();
                push_lanes(&mut lanes, self.slab.row(row));
                batch.put(mix(key), meta.time, &lanes);
            }
        }
        if !batch.is_empty() {
            env.has_cold.store(true, Release);
            env.counters.demoted_writes.fetch_add(batch.len() as u64, Relaxed);
            env.cold().write(env.table, &batch)?;
        }
        Ok(())
    }

    /// Rows that are to leave memory before their delta was written go into the log now: into the delta being written those that
    /// it is still owed, into the one after it those changed since its cut.
    fn log_uncommitted(&self, env: &Env<'_>, victims: &[(Key, u32)]) -> Result<()> {
        for (bit, epoch) in [(self.owed_bit(), self.epoch - 1), (self.uncommitted_bit(), self.epoch)] {
            let lost = if epoch == self.epoch { Bug::DemotedImageLost } else { Bug::OwedImageLost };
            if planted(lost) {
                continue;
            }
            let (mut images, mut removed) = (Vec::new(), Vec::new());
            for &(key, raw) in victims {
                let row = raw & !TOMBSTONE_BIT;
                let meta = self.slab.meta(row);
                if !meta.has(bit) {
                    continue;
                }
                if raw & TOMBSTONE_BIT != 0 {
                    removed.push(key);
                } else {
                    push_image(&mut images, key, meta.time, self.slab.row(row));
                }
            }
            if !images.is_empty() {
                env.context.journal.append_images(env.table, epoch, env.schema.lanes(), &images)?;
            }
            if !removed.is_empty() {
                env.context.journal.append_removed(env.table, epoch, &removed)?;
            }
        }
        Ok(())
    }
}
