//! Filling a shard from a base or a delta, and emptying its uncommitted rows into one.
#![forbid(unsafe_code)]

use super::image::read_lanes;
use super::{Env, Shard};
use crate::error::Result;
use crate::index::TOMBSTONE_BIT;
use crate::slab::{NEWER_THAN_COLD, TOMBSTONE, UNCOMMITTED};
use crate::types::{Key, UnixSeconds, mix};

use super::index_hash;

/// Takes a key and, unless it was removed, its time and lanes.
type UncommittedVisitor<'a> = dyn FnMut(Key, Option<(UnixSeconds, &[f32])>) -> Result<()> + 'a;

impl Shard {
    /// Puts a row as a base or a delta has it: newer than any cold copy, committed.
    pub(crate) fn load(&mut self, env: &Env<'_>, key: Key, time: UnixSeconds, lanes: &[u8]) -> Result<()> {
        let row = self.row_to_load(env, key, 0)?;
        read_lanes(lanes, self.slab.row_mut(row));
        let meta = self.slab.meta_mut(row);
        meta.time = time;
        meta.flags = NEWER_THAN_COLD;
        Ok(())
    }

    /// Removes a key as a delta does: a tombstone covers the cold copy that a base may hold.
    pub(crate) fn load_removed(&mut self, env: &Env<'_>, key: Key) -> Result<()> {
        let row = self.row_to_load(env, key, TOMBSTONE_BIT)?;
        let meta = self.slab.meta_mut(row);
        meta.flags = NEWER_THAN_COLD | TOMBSTONE;
        Ok(())
    }

    fn row_to_load(&mut self, env: &Env<'_>, key: Key, bit: u32) -> Result<u32> {
        let hash = index_hash(mix(key));
        if let Some(raw) = self.index.find(key, hash) {
            self.tombstones -= usize::from(raw & TOMBSTONE_BIT != 0);
            self.tombstones += usize::from(bit != 0);
            let row = raw & !TOMBSTONE_BIT;
            self.index.replace(key, hash, row | bit);
            return Ok(row);
        }
        self.reserve(env, 1)?;
        let row = self.slab.allocate().ok_or_else(|| env.context.budget.too_small(env.schema.row_bytes()))?;
        self.insert(key, row | bit);
        self.tombstones += usize::from(bit != 0);
        Ok(row)
    }

    /// Visits each uncommitted row, tombstones as `None`, in ascending key order.
    pub(crate) fn for_each_uncommitted(&self, visit: &mut UncommittedVisitor<'_>) -> Result<()> {
        let mut keys = self.dirty.clone();
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            match self.get(key) {
                Some((meta, _)) if !meta.has(UNCOMMITTED) => {}
                Some((meta, _)) if Shard::is_tombstone(meta) => visit(key, None)?,
                Some((meta, lanes)) => visit(key, Some((meta.time, lanes)))?,
                None => {}
            }
        }
        Ok(())
    }

    /// After a durable commit: nothing is uncommitted any more.
    pub(crate) fn mark_committed(&mut self) {
        for at in 0..self.dirty.len() {
            if let Some(raw) = self.raw(self.dirty[at]) {
                self.slab.meta_mut(raw & !TOMBSTONE_BIT).flags &= !UNCOMMITTED;
            }
        }
        self.dirty.clear();
        self.uncommitted = 0;
    }
}
