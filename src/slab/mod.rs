//! Slabs: memory-mapped arenas of fixed-size rows, and the keys, times and flags beside them.
//!
//! A slab maps whole chunks, is charged for their pages as rows come to them, and never moves a row. Free rows form a list through their own first lane.

mod chunk;
mod steps;

pub(crate) use chunk::Backing;
use chunk::{Chunk, SPREAD_BYTES};
use steps::Steps;

use crate::error::Result;
use crate::index::prefetch;
use crate::memory::HUGE_PAGE_BYTES;
use crate::plant::{Bug, planted};
use crate::types::{Key, UnixSeconds};

/// The row goes into the delta of an even epoch, of an odd one: two, because the next delta fills while one is being written.
pub(crate) const UNCOMMITTED: [u16; 2] = [1, 16];
/// The row goes into some delta.
pub(crate) const ANY_UNCOMMITTED: u16 = UNCOMMITTED[0] | UNCOMMITTED[1];
/// The cold tier holds no copy of the row, or an older one: it must be written before it may be dropped.
pub(crate) const NEWER_THAN_COLD: u16 = 2;
/// The row belongs to the batch in hand and must stay hot.
pub(crate) const PINNED: u16 = 4;
/// The key was removed; its cold copy, if any, still has to be deleted.
pub(crate) const TOMBSTONE: u16 = 8;
/// The row is being written to the cold tier and leaves memory afterwards, if nobody uses it meanwhile.
pub(crate) const LEAVING: u16 = 32;
/// The row was brought in ahead of its use, and was not used yet: `touches` is the step that it was brought for.
pub(crate) const AHEAD: u16 = 64;

/// What is kept of a hot row besides its lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub(crate) struct RowMeta {
    /// Whose row it is.
    pub(crate) key: Key,
    /// Event time of the last update.
    pub(crate) time: UnixSeconds,
    /// What the row was used, as `shard/policy.rs` counts; a hint, never state.
    pub(crate) touches: u16,
    /// `UNCOMMITTED`, `NEWER_THAN_COLD`, `PINNED`, `TOMBSTONE`, `LEAVING`, `AHEAD`.
    pub(crate) flags: u16,
}

impl RowMeta {
    /// Whether any of `flags` is set.
    pub(crate) fn has(self, flags: u16) -> bool {
        self.flags & flags != 0
    }
}

const META_BYTES: usize = size_of::<RowMeta>();
const NO_ROW: u32 = u32::MAX;

/// A row with its meta. To have it reads neither.
#[derive(Clone, Copy)]
pub(crate) struct Entry<'a> {
    pub(crate) meta: &'a RowMeta,
    pub(crate) lanes: &'a [f32],
}

impl Entry<'_> {
    /// Asks the processor to bring the meta and the first `bytes` of the lanes near.
    #[inline(always)]
    pub(crate) fn prefetch(self, bytes: usize) {
        prefetch((&raw const *self.meta).cast());
        for line in (0..bytes).step_by(64) {
            prefetch(self.lanes.as_ptr().cast::<u8>().wrapping_add(line));
        }
    }
}

/// A slab to be read.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    chunks: &'a [Chunk],
    chunk_rows: u32,
    reciprocal: u64,
}

impl<'a> Rows<'a> {
    #[inline(always)]
    pub(crate) fn entry(self, row: u32) -> Entry<'a> {
        let (chunk, at) = split(row, self.chunk_rows, self.reciprocal);
        self.chunks[chunk].entry(at)
    }
}

/// The row's chunk and its number there: a division by a multiplication, exact for all u32 (Lemire, Kaser, Kurz 2019).
#[inline(always)]
fn split(row: u32, chunk_rows: u32, reciprocal: u64) -> (usize, usize) {
    let chunk = ((u128::from(reciprocal) * u128::from(row)) >> 64) as u32;
    (chunk as usize, (row - chunk * chunk_rows) as usize)
}

/// An arena of rows of `lanes` f32s. Row numbers are stable until freed.
pub(crate) struct Slab {
    lanes: usize,
    chunk_rows: u32,
    // Invariant: 2^64 / chunk_rows, rounded up.
    reciprocal: u64,
    backing: Backing,
    chunks: Vec<Chunk>,
    steps: Steps,
    // Invariant: rows below `granted` are accounted and lie in `chunks`; it is what `steps` leads to.
    granted: usize,
    // Invariant: at most `granted`; rows at and above `fresh` were never handed out; those below are in use or on the free list.
    fresh: u32,
    free_head: u32,
    free_len: u32,
}

impl Slab {
    /// An empty slab whose chunks hold as many rows as fit into `chunk_bytes`, a multiple of 8, and end with a huge page if they are
    /// as large as one.
    pub(crate) fn new(lanes: usize, chunk_bytes: usize, backing: Backing) -> Slab {
        let bytes = if chunk_bytes < HUGE_PAGE_BYTES {
            chunk_bytes
        } else {
            chunk_bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES - SPREAD_BYTES
        };
        let chunk_rows = (bytes / (lanes * 4 + META_BYTES) / 8 * 8).max(8) as u32;
        Slab {
            lanes,
            chunk_rows,
            reciprocal: u64::MAX / u64::from(chunk_rows) + 1,
            backing,
            chunks: Vec::new(),
            steps: Steps::new(chunk_rows as usize, lanes),
            granted: 0,
            fresh: 0,
            free_head: NO_ROW,
            free_len: 0,
        }
    }

    /// Rows a chunk holds.
    pub(crate) fn chunk_rows(&self) -> usize {
        self.chunk_rows as usize
    }

    /// Bytes of a row's lanes.
    pub(crate) fn row_bytes(&self) -> usize {
        self.lanes * 4
    }

    /// Rows that one more step gives, and bytes that it costs.
    pub(crate) fn next_step(&self) -> (usize, usize) {
        let next = self.steps.after(self.granted);
        (next - self.granted, self.steps.bytes(next) - self.memory_bytes())
    }

    /// The most rows, up to so many, that fill all memory that there is for them.
    pub(crate) fn whole_steps(&self, rows: usize) -> usize {
        self.steps.whole(rows)
    }

    /// Bytes accounted: the pages that rows may lie in.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.steps.bytes(self.granted)
    }

    /// Rows that there is memory for, in use or not.
    pub(crate) fn capacity(&self) -> usize {
        self.granted
    }

    /// Whether a row of this number was handed out, and may still be.
    pub(crate) fn is_known(&self, row: u32) -> bool {
        row < self.fresh
    }

    /// Rows that can be allocated without growing.
    pub(crate) fn available(&self) -> usize {
        self.granted - self.fresh as usize + self.free_len as usize
    }

    /// Grows by one step. On an error nothing changed.
    pub(crate) fn grow(&mut self) -> Result<()> {
        let next = self.steps.after(self.granted);
        if next > self.chunks.len() * self.chunk_rows() {
            let chunk = Chunk::map(self.chunk_rows(), self.lanes, &self.backing)?;
            self.chunks.push(chunk);
        }
        self.granted = next;
        Ok(())
    }

    /// Takes a row; its lanes hold anything, its meta is zero. `None` when the slab must grow first.
    pub(crate) fn allocate(&mut self) -> Option<u32> {
        let row = if self.free_head != NO_ROW {
            let row = self.free_head;
            self.free_head = self.row(row)[0].to_bits();
            self.free_len -= 1;
            row
        } else if (self.fresh as usize) < self.granted {
            self.fresh += 1;
            self.fresh - 1
        } else {
            return None;
        };
        if !planted(Bug::FlagsKept) {
            *self.meta_mut(row) = RowMeta::default();
        }
        Some(row)
    }

    /// Gives back the memory at the end that holds no row, but for the first step, and returns its bytes.
    pub(crate) fn shrink(&mut self) -> usize {
        let before = self.memory_bytes();
        self.granted = self.steps.holding(self.fresh.max(1) as usize).min(self.granted);
        self.chunks.truncate(self.granted.div_ceil(self.chunk_rows()));
        let after = self.memory_bytes();
        let own = after - self.granted / self.chunk_rows() * self.steps.bytes(self.chunk_rows());
        if own > 0
            && let Some(last) = self.chunks.last_mut()
        {
            last.give_back(own);
        }
        before - after
    }

    /// Gives a row back.
    pub(crate) fn release(&mut self, row: u32) {
        if row + 1 == self.fresh {
            self.fresh -= 1;
            return;
        }
        self.push_free(row);
    }

    fn push_free(&mut self, row: u32) {
        let next = self.free_head;
        self.row_mut(row)[0] = f32::from_bits(next);
        self.free_head = row;
        self.free_len += 1;
    }

    /// Rows from number `rows` on are no longer in use, and of those below the ones that are not `used`. What the former hold can be read
    /// until [`Slab::shrink`], unless they are handed out again.
    pub(crate) fn retreat(&mut self, rows: usize, used: impl Fn(u32) -> bool) {
        self.fresh = self.fresh.min(u32::try_from(rows).unwrap_or(u32::MAX));
        (self.free_head, self.free_len) = (NO_ROW, 0);
        for row in (0..self.fresh).rev().filter(|row| !used(*row)) {
            self.push_free(row);
        }
    }

    /// The slab to be read: what is asked of it does not pass by the slab itself each time.
    #[inline(always)]
    pub(crate) fn rows(&self) -> Rows<'_> {
        Rows { chunks: &self.chunks, chunk_rows: self.chunk_rows, reciprocal: self.reciprocal }
    }

    #[inline(always)]
    fn split(&self, row: u32) -> (usize, usize) {
        split(row, self.chunk_rows, self.reciprocal)
    }

    #[inline(always)]
    fn place(&self, row: u32) -> (&Chunk, usize) {
        let (chunk, at) = self.split(row);
        (&self.chunks[chunk], at)
    }

    /// The row's lanes: embedding, then optimizer state.
    #[inline(always)]
    pub(crate) fn row(&self, row: u32) -> &[f32] {
        let (chunk, at) = self.place(row);
        chunk.row(at)
    }

    /// The row's lanes, to change.
    #[inline(always)]
    pub(crate) fn row_mut(&mut self, row: u32) -> &mut [f32] {
        let (index, at) = self.split(row);
        self.chunks[index].row_mut(at)
    }

    /// The row's meta and lanes, to change.
    #[inline(always)]
    pub(crate) fn entry_mut(&mut self, row: u32) -> (&mut RowMeta, &mut [f32]) {
        let (index, at) = self.split(row);
        self.chunks[index].entry_mut(at)
    }

    /// The row's time and flags.
    #[inline(always)]
    pub(crate) fn meta(&self, row: u32) -> RowMeta {
        let (chunk, at) = self.place(row);
        chunk.meta(at)
    }

    /// The row's time and flags, to change.
    #[inline(always)]
    pub(crate) fn meta_mut(&mut self, row: u32) -> &mut RowMeta {
        let (index, at) = self.split(row);
        self.chunks[index].meta_mut(at)
    }

    /// Asks the processor to bring the row's meta and its first `bytes` near.
    #[inline(always)]
    pub(crate) fn prefetch(&self, row: u32, bytes: usize) {
        self.rows().entry(row).prefetch(bytes);
    }

    /// The key of a row that is in use.
    #[inline(always)]
    pub(crate) fn key(&self, row: u32) -> Key {
        self.meta(row).key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: u32 = if cfg!(miri) { 100 } else { 1000 };

    #[test]
    fn rows_are_distinct_reused_and_keep_their_content() {
        let mut slab = Slab::new(3, 1 << 10, Backing::Anonymous);
        let mut rows = Vec::new();
        for i in 0..ROWS {
            let row = slab.allocate().unwrap_or_else(|| {
                slab.grow().unwrap();
                slab.allocate().unwrap()
            });
            slab.row_mut(row).fill(i as f32);
            slab.meta_mut(row).time = i;
            rows.push(row);
        }
        for (i, &row) in rows.iter().enumerate() {
            assert_eq!(slab.row(row), [i as f32; 3]);
            assert_eq!(slab.meta(row).time, i as u32);
        }
        let before = slab.memory_bytes();
        for &row in &rows[..ROWS as usize / 2] {
            slab.release(row);
        }
        for _ in 0..ROWS / 2 {
            let row = slab.allocate().unwrap();
            assert!(rows[..ROWS as usize / 2].contains(&row));
            assert_eq!(slab.meta(row), RowMeta::default());
        }
        assert_eq!(slab.memory_bytes(), before);
        let last = ROWS - 1;
        assert_eq!(slab.row(rows[last as usize]), [last as f32; 3]);
    }

    #[test]
    fn every_row_has_its_place_whatever_a_chunk_holds() {
        for lanes in [1, 3, 16, 100, 128, 1000] {
            for chunk_bytes in [0, 1 << 16, (2 << 20) - 1, 2 << 20, 11 << 20] {
                let slab = Slab::new(lanes, chunk_bytes, Backing::Anonymous);
                let rows = slab.chunk_rows;
                let bytes = slab.steps.bytes(rows as usize);
                assert!(rows.is_multiple_of(8) && (bytes <= chunk_bytes.next_multiple_of(4096) || rows == 8));
                let ends = (0..u32::MAX / rows)
                    .step_by(997)
                    .chain([u32::MAX / rows - 1])
                    .flat_map(|chunk| [chunk * rows, chunk * rows + rows - 1]);
                for row in ends.chain([0, 1, u32::MAX >> 1, u32::MAX]) {
                    assert_eq!(slab.split(row), ((row / rows) as usize, (row % rows) as usize), "{row} by {rows}");
                }
            }
        }
    }

    #[test]
    fn rows_given_back_in_reverse_free_their_chunks() {
        let mut slab = Slab::new(3, 1 << 10, Backing::Anonymous);
        slab.grow().unwrap();
        let kept = slab.allocate().unwrap();
        (0..4).for_each(|_| slab.grow().unwrap());
        let rows: Vec<u32> = (0..3 * slab.chunk_rows()).map(|_| slab.allocate().unwrap()).collect();
        let (_, chunk) = slab.next_step();
        assert_eq!((slab.shrink(), slab.memory_bytes()), (chunk, 4 * chunk));
        rows.iter().rev().for_each(|&row| slab.release(row));
        assert_eq!((slab.shrink(), slab.memory_bytes()), (3 * chunk, chunk));
        assert_eq!((slab.available(), kept), (slab.chunk_rows() - 1, 0));
    }

    #[test]
    #[cfg_attr(miri, ignore = "Miri maps no files")]
    fn file_backed_slabs_allocate_before_they_map() {
        let dir = tempfile::tempdir().unwrap();
        let mut slab = Slab::new(16, 1 << 16, Backing::File(dir.path().to_path_buf()));
        slab.grow().unwrap();
        let row = slab.allocate().unwrap();
        slab.row_mut(row)[15] = 7.0;
        assert_eq!(slab.row(row)[15], 7.0);
        let missing = Slab::new(16, 1 << 16, Backing::File(dir.path().join("absent"))).grow();
        assert!(missing.is_err());
    }
}
