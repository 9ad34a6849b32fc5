//! Filling a shard from a base or a delta.
#![forbid(unsafe_code)]

use super::image::{read_lanes, split_image};
use super::{Env, IMAGE_HEADER_BYTES, Shard};
use crate::error::Result;
use crate::index::{Index, TOMBSTONE_BIT};
use crate::plant::{Bug, planted};
use crate::slab::{LEAVING, NEWER_THAN_COLD, TOMBSTONE};
use crate::types::{Key, UnixSeconds, mix};

/// Rows whose places are brought near together.
const ROWS_TOGETHER: usize = 32;

impl Shard {
    /// Puts rows as a base or a delta has them, given as images one behind the other; of equal keys the last counts.
    pub(crate) fn load_rows(&mut self, env: &Env<'_>, images: &[u8]) -> Result<()> {
        let size = IMAGE_HEADER_BYTES + env.schema.row_bytes();
        for group in images.chunks(ROWS_TOGETHER * size) {
            let rows = || group.chunks_exact(size).filter_map(split_image);
            rows().for_each(|(key, ..)| self.prefetch_key(mix(key)));
            // Of those that are there already. Which they are may change with the rows before them.
            rows().for_each(|(key, ..)| _ = self.probe(mix(key), env.schema.row_bytes()));
            rows().try_for_each(|(key, time, lanes)| self.load(env, key, time, lanes))?;
        }
        Ok(())
    }

    /// Makes the index large enough for `rows` rows, where the budget has room.
    pub(crate) fn expect_rows(&mut self, env: &Env<'_>, rows: usize) {
        let capacity = rows.next_multiple_of(self.slab.chunk_rows());
        let Some(buckets) = self.index.growth_for(capacity) else { return };
        if env.context.budget.try_reserve_for_rows(Index::bytes_for(buckets)) {
            self.rebuild_index(env.context, buckets);
        }
    }

    /// Puts a row as a base or a delta has it: newer than any cold copy, committed.
    fn load(&mut self, env: &Env<'_>, key: Key, time: UnixSeconds, lanes: &[u8]) -> Result<()> {
        let row = self.row_to_load(env, key, 0)?;
        read_lanes(lanes, self.slab.row_mut(row));
        let meta = self.slab.meta_mut(row);
        meta.time = time;
        meta.flags = meta.flags & LEAVING | if planted(Bug::CommittedTakenForCold) { 0 } else { NEWER_THAN_COLD };
        Ok(())
    }

    /// Removes a key as a delta does: a tombstone covers the cold copy that a base may hold.
    pub(crate) fn load_removed(&mut self, env: &Env<'_>, key: Key) -> Result<()> {
        let row = self.row_to_load(env, key, TOMBSTONE_BIT)?;
        let meta = self.slab.meta_mut(row);
        meta.flags = meta.flags & LEAVING | NEWER_THAN_COLD | TOMBSTONE;
        self.removed.push(key);
        Ok(())
    }

    fn row_to_load(&mut self, env: &Env<'_>, key: Key, bit: u32) -> Result<u32> {
        if let Some(raw) = self.raw(key) {
            self.tombstones -= usize::from(raw & TOMBSTONE_BIT != 0);
            self.tombstones += usize::from(bit != 0);
            let row = raw & !TOMBSTONE_BIT;
            self.replace(key, row | bit);
            return Ok(row);
        }
        self.reserve(env, 1)?;
        let row = self.slab.allocate().ok_or_else(|| env.context.budget.too_small(env.schema.row_bytes()))?;
        self.insert(key, row | bit);
        self.tombstones += usize::from(bit != 0);
        Ok(row)
    }
}
