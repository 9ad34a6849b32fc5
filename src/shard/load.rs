//! Filling a shard from a base or a delta.
#![forbid(unsafe_code)]

use super::image::read_lanes;
use super::{Env, Shard};
use crate::error::Result;
use crate::index::TOMBSTONE_BIT;
use crate::plant::{Bug, planted};
use crate::slab::{NEWER_THAN_COLD, TOMBSTONE};
use crate::types::{Key, UnixSeconds};

impl Shard {
    /// Puts a row as a base or a delta has it: newer than any cold copy, committed.
    pub(crate) fn load(&mut self, env: &Env<'_>, key: Key, time: UnixSeconds, lanes: &[u8]) -> Result<()> {
        let row = self.row_to_load(env, key, 0)?;
        read_lanes(lanes, self.slab.row_mut(row));
        let meta = self.slab.meta_mut(row);
        meta.time = time;
        meta.flags = if planted(Bug::CommittedTakenForCold) { 0 } else { NEWER_THAN_COLD };
        Ok(())
    }

    /// Removes a key as a delta does: a tombstone covers the cold copy that a base may hold.
    pub(crate) fn load_removed(&mut self, env: &Env<'_>, key: Key) -> Result<()> {
        let row = self.row_to_load(env, key, TOMBSTONE_BIT)?;
        self.slab.meta_mut(row).flags = NEWER_THAN_COLD | TOMBSTONE;
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
