//! Giving memory back: rows leave, and those that stay move together, until the slab's last pages are empty.
#![forbid(unsafe_code)]

use super::policy::PROBATION;
use super::{Env, Shard};
use crate::error::Result;
use crate::index::{Index, TOMBSTONE_BIT};
use crate::slab::{AHEAD, RowMeta};

impl Shard {
    /// Rows that there is memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.slab.capacity()
    }

    /// Keeps memory for no more than `rows` rows, as far as the others can leave. No batch may be between prepare and apply, and no row on
    /// its way. On an error rows may have left, and nothing is lost. Cost: a pass over the index, and a copy of the rows that move.
    pub(crate) fn shrink_to(&mut self, env: &Env<'_>, rows: usize) -> Result<()> {
        let rows = self.slab.whole_steps(rows);
        self.demote_to(env, rows)?;
        self.move_below(rows.max(self.index.len()));
        self.shrink_rows(env.context);
        self.forget_absent(env.context);
        let buckets = Index::buckets_for(self.slab.capacity());
        if buckets < self.index.buckets() {
            // Beside the old one for a moment, whether or not there is room: it is smaller than what goes.
            env.context.budget.charge(Index::bytes_for(buckets));
            self.rebuild_index(env.context, buckets);
        }
        Ok(())
    }

    /// Moves all rows to numbers below `rows`, of which there are enough.
    fn move_below(&mut self, rows: usize) {
        let mut used = vec![0u64; rows.div_ceil(64)];
        let mut above: Vec<u32> = Vec::new();
        for raw in self.index.iter() {
            let row = (raw & !TOMBSTONE_BIT) as usize;
            match used.get_mut(row / 64) {
                Some(word) if row < rows => *word |= 1 << (row % 64),
                _ => above.push(raw),
            }
        }
        self.slab.retreat(rows, |row| used[row as usize / 64] >> (row % 64) & 1 == 1);
        for raw in above {
            let old = raw & !TOMBSTONE_BIT;
            let (meta, lanes) = (self.slab.meta(old), self.slab.row(old).to_vec());
            let Some(new) = self.slab.allocate() else { continue };
            self.slab.row_mut(new).copy_from_slice(&lanes);
            *self.slab.meta_mut(new) = meta;
            self.replace(meta.key, new | raw & TOMBSTONE_BIT);
            self.move_marks(meta, old, new);
            if meta.has(AHEAD) {
                self.release_hint(new);
            } else {
                // The list of rows on probation names the old number.
                self.slab.meta_mut(new).touches &= !PROBATION;
            }
        }
    }

    fn move_marks(&mut self, meta: RowMeta, old: u32, new: u32) {
        if meta.has(self.uncommitted_bit()) {
            self.dirty.set(new);
        }
        if meta.has(self.owed_bit()) {
            self.cut.owed.set(new);
            self.cut.next = self.cut.next.min(new as usize);
        }
        self.dirty.clear(old);
        self.cut.owed.clear(old);
    }
}
