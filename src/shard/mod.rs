//! A shard: the rows of one part of a table's keys, index and slab and admission counts together. It knows no log.
#![forbid(unsafe_code)]

mod absent;
mod ahead;
mod batch;
mod capture;
mod demote;
mod gradients;
mod hints;
mod image;
mod leave;
mod load;
mod marks;
mod plan;
mod policy;
mod shrink;
mod sweep;
mod values;
mod view;
mod waiting;

pub(crate) use ahead::Flight;
pub(crate) use batch::{Batch, Op};
pub(crate) use capture::{Part, Scan};
pub(crate) use image::{IMAGE_HEADER_BYTES, misfit, push_image, read_lanes, split_cold};
#[cfg(feature = "testing")]
pub(crate) use leave::Leaving;
pub(crate) use plan::Plan;
pub(crate) use values::Values;
pub(crate) use view::View;
pub(crate) use waiting::Together;

use std::ops::RangeInclusive;

use self::marks::Marks;
use crate::admission::{Counts, SlidingFilter};
use crate::cold::{ColdBatch, ColdTier};
use crate::context::Context;
use crate::error::Result;
use crate::index::{Index, TOMBSTONE_BIT};
use crate::schema::TableSchema;
use crate::slab::{Backing, RowMeta, Slab};
use crate::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use crate::types::{Key, TableId, mix};

/// What a shard's work needs of its table and store.
#[derive(Clone, Copy)]
pub(crate) struct Env<'a> {
    pub(crate) table: TableId,
    pub(crate) schema: &'a TableSchema,
    pub(crate) context: &'a Context,
    pub(crate) has_cold: &'a AtomicBool,
    pub(crate) counters: &'a Counters,
    pub(crate) filter: &'a SlidingFilter,
    /// How many the table has.
    pub(crate) shards: usize,
}

impl Env<'_> {
    fn cold(&self) -> &dyn ColdTier {
        &*self.context.cold
    }

    pub(crate) fn may_be_cold(&self) -> bool {
        self.has_cold.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Writes rows on their way out of memory.
    pub(crate) fn write_cold(&self, batch: &ColdBatch) -> Result<()> {
        // Before the rows leave: who finds them gone must look in the cold tier.
        self.has_cold.store(true, std::sync::atomic::Ordering::Release);
        self.cold().write(self.table, batch)?;
        self.counters.demoted_writes.fetch_add(batch.len() as u64, std::sync::atomic::Ordering::Relaxed);
        Ok(())
    }
}

/// What a table counts as it works.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) rows: AtomicI64,
    /// Keys looked up, and of those the ones found in memory and in the cold tier.
    pub(crate) looked_up: AtomicU64,
    pub(crate) hot_hits: AtomicU64,
    pub(crate) cold_hits: AtomicU64,
    /// Distinct keys of batches that change rows, and of those the ones found in memory; what was found cold is promoted.
    pub(crate) updated: AtomicU64,
    pub(crate) updated_hot: AtomicU64,
    pub(crate) cold_reads: AtomicU64,
    pub(crate) promoted: AtomicU64,
    pub(crate) demoted: AtomicU64,
    pub(crate) demoted_writes: AtomicU64,
    /// Keys of batches that got no row.
    pub(crate) refused: AtomicU64,
    /// Rows freed because they had expired.
    pub(crate) expired: AtomicU64,
    /// Rows brought in ahead of their use, and those of them that a batch used.
    pub(crate) ahead: AtomicU64,
    pub(crate) claimed: AtomicU64,
}

/// See the module.
pub(crate) struct Shard {
    index: Index,
    slab: Slab,
    /// The epoch of the delta that changes go into.
    epoch: u64,
    // Invariant: marks all rows whose `uncommitted_bit` is set, and none that is not in use.
    dirty: Marks,
    /// Rows in the slab that go into the delta of this epoch.
    uncommitted: usize,
    /// What the delta of the epoch before still needs.
    cut: capture::Cut,
    /// Keys whose tombstones can be freed once the delta that holds them is durable, if they are tombstones still.
    removed: Vec<Key>,
    counts: Counts,
    /// Bytes of `counts` that the budget knows of.
    counts_bytes: usize,
    hand: demote::Hand,
    flights: ahead::Flights,
    hints: hints::Hints,
    waiting: waiting::Waiting,
    absent: absent::Absent,
    tombstones: usize,
}

/// The shard of a mixed key, of `shards`: by its high half. The index inside uses the low half.
#[inline(always)]
pub(crate) fn shard_of(mixed: u64, shards: usize) -> usize {
    (((mixed >> 32) * shards as u64) >> 32) as usize
}

/// The mixed keys of a shard.
pub(crate) fn range_of(shard: usize, shards: usize) -> RangeInclusive<u64> {
    let from = |shard: usize| (((shard as u64) << 32).div_ceil(shards as u64)) << 32;
    from(shard)..=if shard + 1 == shards { u64::MAX } else { from(shard + 1) - 1 }
}

impl Shard {
    /// An empty shard with room for its first rows, which other tables could not make for it later.
    pub(crate) fn new(env: &Env<'_>, chunk_bytes: usize, backing: Backing) -> Result<Shard> {
        let index = Index::new();
        env.context.budget.reserve(index.memory_bytes())?;
        let mut shard = Shard {
            index,
            slab: Slab::new(env.schema.lanes(), chunk_bytes, backing),
            epoch: env.context.epoch(),
            dirty: Marks::default(),
            uncommitted: 0,
            cut: capture::Cut::default(),
            removed: Vec::new(),
            counts: Counts::default(),
            counts_bytes: 0,
            hand: demote::Hand::default(),
            flights: ahead::Flights::default(),
            hints: hints::Hints::default(),
            waiting: waiting::Waiting::default(),
            absent: absent::Absent::default(),
            tombstones: 0,
        };
        if shard.grow(env)? {
            return Ok(shard);
        }
        let needed = env.context.budget.too_small(shard.growth().bytes);
        shard.release_all(env.context);
        Err(needed)
    }

    /// Gives the shard's bytes back to the budget, before it is dropped.
    pub(crate) fn release_all(&mut self, context: &Context) {
        context.budget.release(self.memory_bytes());
    }

    /// Bytes of the budget that the shard holds.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.index.memory_bytes()
            + self.slab.memory_bytes()
            + Shard::marks_bytes(self.slab.capacity())
            + self.counts_bytes
            + self.hand.memory_bytes()
            + self.hints.memory_bytes()
            + self.waiting.memory_bytes()
            + self.absent.memory_bytes()
    }

    /// Hot rows, tombstones not counted.
    pub(crate) fn hot_rows(&self) -> usize {
        self.index.len() - self.tombstones
    }

    /// Hot rows with updates that no commit holds yet, tombstones too; twice those in the delta being written and the next.
    pub(crate) fn uncommitted(&self) -> usize {
        self.uncommitted + self.owed_rows()
    }

    pub(crate) fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    fn raw(&self, key: Key) -> Option<u32> {
        self.find(key, mix(key))
    }

    /// The row number of a key, tombstones marked.
    fn find(&self, key: Key, mixed: u64) -> Option<u32> {
        self.index.find(mixed, |row| self.slab.key(row) == key)
    }

    fn replace(&mut self, key: Key, raw: u32) {
        let Shard { index, slab, .. } = self;
        index.replace(mix(key), |row| slab.key(row) == key, raw);
    }

    /// The shard to be read.
    #[inline(always)]
    pub(crate) fn view(&self) -> View<'_> {
        View { index: self.index.lines(), slab: self.slab.rows() }
    }

    /// Brings the home bucket of a mixed key near.
    #[inline(always)]
    pub(crate) fn prefetch_key(&self, mixed: u64) {
        self.index.lines().prefetch(mixed);
    }

    /// The row number that is most likely the key's, tombstones marked, and its row brought near.
    #[inline(always)]
    pub(crate) fn probe(&self, mixed: u64, prefetch_bytes: usize) -> Option<u32> {
        let raw = self.index.lines().candidate(mixed)?;
        self.slab.prefetch(raw & !TOMBSTONE_BIT, if raw & TOMBSTONE_BIT == 0 { prefetch_bytes } else { 0 });
        Some(raw)
    }

    /// The row number of the key, where the index line says that it may be there.
    #[inline(always)]
    fn confirm(&self, raw: Option<u32>, key: Key, mixed: u64) -> Option<u32> {
        let raw = raw?;
        if self.slab.key(raw & !TOMBSTONE_BIT) == key { Some(raw) } else { self.find_again(key, mixed) }
    }

    /// Another key has the same tag.
    #[cold]
    #[inline(never)]
    fn find_again(&self, key: Key, mixed: u64) -> Option<u32> {
        self.find(key, mixed)
    }

    /// Every hot key with its meta and lanes, tombstones too.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, RowMeta, &[f32])> + '_ {
        self.index.iter().map(|raw| {
            let row = raw & !TOMBSTONE_BIT;
            let meta = self.slab.meta(row);
            (meta.key, meta, self.slab.row(row))
        })
    }

    fn insert(&mut self, key: Key, raw: u32) {
        let (row, mixed) = (raw & !TOMBSTONE_BIT, mix(key));
        let meta = self.slab.meta_mut(row);
        (meta.key, meta.touches) = (key, self.hand.begin(mixed, row));
        self.index.insert(mixed, raw);
        // Whoever reads its cold copy now is late.
        self.flights.ground(key);
        self.absent.forget(mixed);
    }

    fn mark_uncommitted(&mut self, row: u32) {
        let bit = self.uncommitted_bit();
        let meta = self.slab.meta_mut(row);
        let is_first = !meta.has(bit);
        meta.flags |= bit | crate::slab::NEWER_THAN_COLD;
        if is_first {
            self.note_uncommitted(row);
        }
    }

    /// A row became one that the open delta needs.
    #[inline(always)]
    fn note_uncommitted(&mut self, row: u32) {
        self.uncommitted += 1;
        self.dirty.set(row);
    }

    /// Bytes of the marks of so many rows: of those that the open delta needs, and of those that the one being written needs.
    fn marks_bytes(rows: usize) -> usize {
        2 * Marks::bytes_for(rows)
    }

    /// Has marks for the rows that there is memory for, no more and no less.
    fn fit_marks(&mut self) {
        self.dirty.fit(self.slab.capacity());
        self.cut.owed.fit(self.slab.capacity());
    }

    /// Counts grow by themselves: they are charged after a batch, whether the budget has room or not.
    fn charge_counts(&mut self, context: &Context) {
        let bytes = if self.counts.is_empty() { 0 } else { self.counts.memory_bytes() };
        context.budget.charge(bytes);
        context.budget.release(self.counts_bytes);
        self.counts_bytes = bytes;
    }
}
