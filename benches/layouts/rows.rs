//! Where a row lies, and its meta of 16 bytes, of which the first eight are the key.

use crate::bench::candidate::Failure;
use crate::bench::limit::{Ahead, Floats, prefetch};

/// f32s of a meta.
const META: usize = 4;
/// Rows of a block.
const BLOCK: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Metas in an array of their own.
    Apart,
    /// The metas of eight rows, then the rows.
    Blocks,
    /// Each row's meta before it.
    Headers,
}

/// The rows of one thread.
pub(crate) struct Rows {
    layout: Layout,
    lanes: usize,
    metas: Floats,
    rows: Floats,
}

impl Rows {
    pub(crate) fn new(layout: Layout, lanes: usize, count: usize) -> Result<Rows, Failure> {
        let metas = if layout == Layout::Apart { count * META } else { 0 };
        let rows = match layout {
            Layout::Apart => count * lanes,
            Layout::Blocks => count.div_ceil(BLOCK) * BLOCK * (META + lanes),
            Layout::Headers => count * (META + lanes),
        };
        Ok(Rows { layout, lanes, metas: Floats::new(metas)?, rows: Floats::new(rows)? })
    }

    #[inline(always)]
    fn meta_at(&self, row: usize) -> usize {
        match self.layout {
            Layout::Apart => row * META,
            Layout::Blocks => row / BLOCK * BLOCK * (META + self.lanes) + row % BLOCK * META,
            Layout::Headers => row * (META + self.lanes),
        }
    }

    #[inline(always)]
    fn row_at(&self, row: usize) -> usize {
        match self.layout {
            Layout::Apart => row * self.lanes,
            Layout::Blocks => row / BLOCK * BLOCK * (META + self.lanes) + BLOCK * META + row % BLOCK * self.lanes,
            Layout::Headers => row * (META + self.lanes) + META,
        }
    }

    #[inline(always)]
    pub(crate) fn key(&self, row: u32) -> u64 {
        let metas = if self.layout == Layout::Apart { self.metas.get() } else { self.rows.get() };
        let words: &[u32] = bytemuck::cast_slice(&metas[self.meta_at(row as usize)..][..2]);
        u64::from(words[0]) | u64::from(words[1]) << 32
    }

    pub(crate) fn set_key(&mut self, row: u32, key: u64) {
        let at = self.meta_at(row as usize);
        let metas = if self.layout == Layout::Apart { self.metas.get_mut() } else { self.rows.get_mut() };
        let words: &mut [u32] = bytemuck::cast_slice_mut(&mut metas[at..][..2]);
        (words[0], words[1]) = (key as u32, (key >> 32) as u32);
    }

    #[inline(always)]
    pub(crate) fn row(&self, row: u32) -> &[f32] {
        &self.rows.get()[self.row_at(row as usize)..][..self.lanes]
    }

    #[inline(always)]
    pub(crate) fn row_mut(&mut self, row: u32) -> &mut [f32] {
        let at = self.row_at(row as usize);
        &mut self.rows.get_mut()[at..][..self.lanes]
    }

    /// Brings the first `lanes` of a row near, and its meta where it is looked at.
    #[inline(always)]
    pub(crate) fn prefetch(&self, row: u32, lanes: usize, meta: bool, way: Ahead) {
        let (meta_at, row_at) = (self.meta_at(row as usize), self.row_at(row as usize));
        if meta && self.layout == Layout::Headers {
            // Its lines from the one on that the meta is in: rows do not begin with a line.
            let begin = meta_at / 16 * 16;
            return prefetch(&self.rows.get()[begin..row_at + lanes], way);
        }
        if meta {
            let metas = if self.layout == Layout::Apart { self.metas.get() } else { self.rows.get() };
            prefetch(&metas[meta_at..][..META], way);
        }
        prefetch(&self.rows.get()[row_at..][..lanes], way);
    }
}
