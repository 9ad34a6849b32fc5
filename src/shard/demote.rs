//! Making room: more memory while the budget lasts, then demotion of the rows that were least touched.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use super::image::{push_image, push_lanes};
use super::policy::{self, FRESH, Ghosts, PROBATION, PROBATION_SHARE};
use super::{Env, Shard};
use crate::cold::ColdBatch;
use crate::context::Context;
use crate::error::Result;
use crate::index::{Index, TOMBSTONE_BIT};
use crate::kill_point::{KillPoint, reach};
use crate::plant::{Bug, planted};
use crate::slab::{AHEAD, ANY_UNCOMMITTED, LEAVING, NEWER_THAN_COLD, PINNED, RowMeta};
use crate::types::{Key, UnixSeconds, mix};

/// Rows demoted by a batch at once are at least this share of the shard, so a full shard does not demote row by row.
const DEMOTE_SHARE: usize = 32;
/// Once memory is used up and less than this share of a shard's rows is free, some leave in the background until that share is.
const LOW_SHARE: usize = 32;
const HIGH_SHARE: usize = 16;
/// After so many rounds every row was chosen that is not pinned, but for those on probation and those brought in ahead: these go
/// in the rounds after.
const ROUNDS: usize = 5;
const LAST_ROUNDS: usize = 5;
/// How many buckets ahead of the hand their lines, and the metas of their rows, are brought near.
const LINES_AHEAD: usize = 12;
const METAS_AHEAD: usize = 4;
/// Bytes of images written to the cold tier at once.
const BATCH_BYTES: usize = 4 << 20;

/// Where the search for rows that leave goes on, and what it remembers.
#[derive(Default)]
pub(super) struct Hand {
    /// The bucket last passed.
    at: usize,
    /// Rows on probation, oldest first; may name rows that left since.
    probation: VecDeque<u32>,
    ghosts: Ghosts,
    /// Rows that it was made for; none as long as no row had to leave.
    rows: usize,
}

impl Hand {
    fn of(rows: usize, at: usize) -> Hand {
        Hand {
            at,
            probation: VecDeque::with_capacity(Hand::most_on_probation(rows)),
            ghosts: Ghosts::of(rows.max(1)),
            rows: rows.max(1),
        }
    }

    fn most_on_probation(rows: usize) -> usize {
        rows / PROBATION_SHARE * 2 + 8
    }

    fn bytes_for(rows: usize) -> usize {
        Hand::most_on_probation(rows) * size_of::<u32>() + Ghosts::bytes_for(rows.max(1))
    }

    pub(super) fn memory_bytes(&self) -> usize {
        if self.rows == 0 { 0 } else { Hand::bytes_for(self.rows) }
    }

    /// The history of a row that comes in.
    pub(super) fn begin(&mut self, mixed: u64, row: u32) -> u16 {
        if self.rows == 0 || self.ghosts.take(mixed) || self.probation.len() == Hand::most_on_probation(self.rows) {
            return FRESH;
        }
        self.probation.push_back(row);
        FRESH | PROBATION
    }
}

/// What a shard takes to grow.
pub(super) struct Growth {
    /// Of the index, where it grows too.
    buckets: Option<usize>,
    pub(super) bytes: usize,
}

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
        if rows > 0 && self.shortage(env, 0) > 0 {
            env.context.room.ask();
        }
        Ok(())
    }

    /// The rows that should leave now, ahead of the batches that will want their room, where `promised` of the free places are not for
    /// these: none while there is memory to grow into.
    pub(super) fn shortage(&self, env: &Env<'_>, promised: usize) -> usize {
        let (rows, free) = (self.slab.capacity(), self.slab.available().saturating_sub(promised));
        if free >= rows / LOW_SHARE || env.context.budget.left_for_rows() >= self.growth().bytes {
            0
        } else {
            (rows / HIGH_SHARE + promised).saturating_sub(self.slab.available())
        }
    }

    /// One step more of rows, with their marks and the index places that they need.
    pub(super) fn growth(&self) -> Growth {
        let (before, (rows, bytes)) = (self.slab.capacity(), self.slab.next_step());
        let buckets = self.index.growth_for(before + rows);
        let marks = Shard::marks_bytes(before + rows) - Shard::marks_bytes(before);
        Growth { buckets, bytes: bytes + marks + buckets.map_or(0, Index::bytes_for) }
    }

    /// Adds room for rows, and what goes with it, if the budget has all of it.
    pub(super) fn grow(&mut self, env: &Env<'_>) -> Result<bool> {
        let budget = &env.context.budget;
        let Growth { buckets, bytes } = self.growth();
        if !budget.try_reserve_for_rows(bytes) {
            return Ok(false);
        }
        if let Err(error) = self.slab.grow() {
            budget.release(bytes);
            return Err(error);
        }
        self.fit_marks();
        if let Some(buckets) = buckets {
            self.rebuild_index(env.context, buckets);
        }
        reach(KillPoint::ShardGrown);
        Ok(true)
    }

    /// Gives back the memory that holds no row, and the index places beyond `buckets` that no row needs.
    pub(super) fn give_back(&mut self, context: &Context, buckets: usize) {
        self.shrink_rows(context);
        let enough = Index::holds(buckets, self.index.len());
        if buckets < self.index.buckets() && enough && context.budget.try_reserve(Index::bytes_for(buckets)) {
            self.rebuild_index(context, buckets);
        }
    }

    /// Gives back the memory at the end of the slab that holds no row.
    pub(super) fn shrink_rows(&mut self, context: &Context) {
        let before = Shard::marks_bytes(self.slab.capacity());
        let bytes = self.slab.shrink();
        self.fit_marks();
        context.budget.release(bytes + before - Shard::marks_bytes(self.slab.capacity()));
    }

    /// Gives the index `buckets` buckets, whose bytes the caller has reserved; those of the old ones are given back.
    pub(super) fn rebuild_index(&mut self, context: &Context, buckets: usize) {
        let before = self.index.memory_bytes();
        let Shard { index, slab, .. } = self;
        index.rebuild(buckets, |row| slab.prefetch(row, 0), |row| mix(slab.key(row)));
        context.budget.release(before);
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
        let meta = self.slab.meta(row);
        if meta.has(AHEAD) {
            self.hints.forget();
        }
        if meta.has(ANY_UNCOMMITTED) {
            self.uncommitted -= usize::from(meta.has(self.uncommitted_bit()));
            self.dirty.clear(row);
            self.cut.owed.clear(row);
        }
        self.slab.release(row);
    }

    /// Who leaves, by the policy; expired rows and tombstones at once, pinned rows never.
    pub(super) fn victims(&mut self, env: &Env<'_>, wanted: usize) -> Vec<(Key, u32)> {
        let knew = self.hand.rows > 0;
        self.remember(env);
        let clock = env.context.now();
        let mut victims = Vec::with_capacity(wanted);
        let mut left = self.index.buckets() * (ROUNDS + LAST_ROUNDS);
        while victims.len() < wanted && left > 0 {
            let last = left <= self.index.buckets() * LAST_ROUNDS;
            let most = if last { 0 } else { self.index.len() / PROBATION_SHARE };
            if self.hand.probation.len() > most {
                self.end_probation(env, clock, &mut victims);
            } else {
                self.pass(env, (clock, last), wanted, &mut victims);
                left -= 1;
            }
        }
        // A second round may meet a bucket again before anything was removed.
        victims.sort_unstable();
        victims.dedup();
        if victims.is_empty() && !knew {
            self.remember_nothing(env);
        }
        victims
    }

    /// Once rows leave it is remembered which: not before, as it takes memory.
    fn remember(&mut self, env: &Env<'_>) {
        let rows = self.index.len();
        if self.hand.rows >= rows / 2 && self.hand.rows > 0 {
            return;
        }
        let probation = self.let_go_of_hand(env);
        if env.context.budget.try_reserve(Hand::bytes_for(rows)) {
            self.hand = Hand::of(rows, self.hand.at);
            self.hand.probation.extend(probation);
        } else {
            self.excuse(probation);
        }
    }

    /// These rows are on no list any more: without a list they would be on probation for ever.
    fn excuse(&mut self, probation: VecDeque<u32>) {
        for row in probation {
            if self.slab.is_known(row) && !self.slab.meta(row).has(AHEAD) {
                self.slab.meta_mut(row).touches &= !PROBATION;
            }
        }
    }

    fn remember_nothing(&mut self, env: &Env<'_>) {
        let probation = self.let_go_of_hand(env);
        self.excuse(probation);
    }

    /// Gives its memory back; returns the rows that were on probation.
    fn let_go_of_hand(&mut self, env: &Env<'_>) -> VecDeque<u32> {
        env.context.budget.release(self.hand.memory_bytes());
        let at = self.hand.at;
        std::mem::replace(&mut self.hand, Hand { at, ..Hand::default() }).probation
    }

    fn is_gone(env: &Env<'_>, raw: u32, meta: RowMeta, clock: UnixSeconds) -> bool {
        raw & TOMBSTONE_BIT != 0 || env.schema.lifetimes().expired(meta.key, meta.time, clock)
    }

    /// The oldest row on probation leaves or stays for longer.
    fn end_probation(&mut self, env: &Env<'_>, clock: UnixSeconds, victims: &mut Vec<(Key, u32)>) {
        let Some(row) = self.hand.probation.pop_front().filter(|row| self.slab.is_known(*row)) else { return };
        let meta = self.slab.meta(row);
        // Its number may have gone to another row since, or to none.
        let raw = self.raw(meta.key).filter(|raw| raw & !TOMBSTONE_BIT == row);
        let Some(raw) = raw.filter(|_| meta.touches & PROBATION != 0 && !meta.has(AHEAD)) else { return };
        // One that cannot leave now has no second probation: the hand takes it.
        let stays = policy::tried(meta.touches);
        self.slab.meta_mut(row).touches = stays.unwrap_or(0);
        if !meta.has(PINNED | LEAVING) && (stays.is_none() || Shard::is_gone(env, raw, meta, clock)) {
            self.hand.ghosts.push(mix(meta.key));
            victims.push((meta.key, raw));
        }
    }

    /// The hand goes on by a bucket.
    fn pass(&mut self, env: &Env<'_>, (clock, last): (UnixSeconds, bool), wanted: usize, victims: &mut Vec<(Key, u32)>) {
        let buckets = self.index.buckets();
        self.hand.at = (self.hand.at + 1) % buckets;
        self.index.prefetch_bucket((self.hand.at + LINES_AHEAD) % buckets);
        for raw in self.index.bucket((self.hand.at + METAS_AHEAD) % buckets) {
            self.slab.prefetch(raw & !TOMBSTONE_BIT, 0);
        }
        for raw in self.index.bucket(self.hand.at) {
            let meta = self.slab.meta_mut(raw & !TOMBSTONE_BIT);
            if meta.has(PINNED | LEAVING) || victims.len() == wanted {
                continue;
            }
            let gone = Shard::is_gone(env, raw, *meta, clock);
            let stays = match meta.touches {
                // Hints that nobody has used yet: the step that they were brought for is still to come.
                _ if meta.has(AHEAD) => (!last).then_some(meta.touches),
                history if history & PROBATION != 0 => Some(history),
                history => policy::passed(history),
            };
            match stays {
                Some(history) if !gone => meta.touches = history,
                _ => victims.push((meta.key, raw)),
            }
        }
    }

    fn write_cold(&mut self, env: &Env<'_>, victims: &[(Key, u32)]) -> Result<()> {
        self.log_uncommitted(env, victims)?;
        reach(KillPoint::ImagesLogged);
        let batch = self.cold_batch(victims);
        if !batch.is_empty() {
            env.write_cold(&batch)?;
        }
        Ok(())
    }

    /// What the cold tier must be told before these rows may leave.
    pub(super) fn cold_batch(&self, victims: &[(Key, u32)]) -> ColdBatch {
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
        batch
    }

    /// Rows that are to leave memory before their delta was written go into the log now: into the delta being written those that
    /// it is still owed, into the one after it those changed since its cut.
    pub(super) fn log_uncommitted(&self, env: &Env<'_>, victims: &[(Key, u32)]) -> Result<()> {
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
