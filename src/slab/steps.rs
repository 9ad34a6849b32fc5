//! How a slab grows: by chunks of the address space, of which only the huge pages count that rows have come to.
//!
//! A chunk begins with the metas of all its rows, so its rows fill its pages from the first to the last. Small chunks, which have small
//! pages, are taken whole.
#![forbid(unsafe_code)]

use super::META_BYTES;
use super::chunk::{Chunk, SPREAD_BYTES};
use crate::memory::HUGE_PAGE_BYTES;

/// What chunks are like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Steps {
    chunk_rows: usize,
    row_bytes: usize,
    chunk_bytes: usize,
}

impl Steps {
    pub(super) fn new(chunk_rows: usize, lanes: usize) -> Steps {
        Steps { chunk_rows, row_bytes: lanes * 4, chunk_bytes: Chunk::bytes(chunk_rows, lanes) }
    }

    /// Bytes that the first `rows` rows come to.
    pub(super) fn bytes(&self, rows: usize) -> usize {
        let (chunks, rest) = (rows / self.chunk_rows, rows % self.chunk_rows);
        let of_rest = match rest {
            0 => 0,
            _ if self.chunk_bytes < HUGE_PAGE_BYTES => self.chunk_bytes,
            _ => (self.before_rows() + rest * self.row_bytes).next_multiple_of(HUGE_PAGE_BYTES).min(self.chunk_bytes),
        };
        chunks * self.chunk_bytes + of_rest
    }

    /// The rows that fit into the pages of the first `rows` rows: as many or more.
    pub(super) fn holding(&self, rows: usize) -> usize {
        let (chunks, rest) = (rows / self.chunk_rows, rows % self.chunk_rows);
        let bytes = self.bytes(rows) - chunks * self.chunk_bytes;
        let of_rest = match rest {
            0 => 0,
            _ if bytes == self.chunk_bytes => self.chunk_rows,
            _ => (bytes - self.before_rows()) / self.row_bytes,
        };
        chunks * self.chunk_rows + of_rest
    }

    /// The rows there are room for after one more step.
    pub(super) fn after(&self, rows: usize) -> usize {
        self.holding(rows + 1)
    }

    /// The most rows, up to so many, that end with a step.
    pub(super) fn whole(&self, rows: usize) -> usize {
        let mut whole = rows / self.chunk_rows * self.chunk_rows;
        while self.after(whole) <= rows {
            whole = self.after(whole);
        }
        whole
    }

    /// Bytes of a chunk before its first row: all metas, and what it leaves free to begin later in its pages.
    fn before_rows(&self) -> usize {
        self.chunk_rows * META_BYTES + SPREAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Backing, Slab};
    use super::*;

    #[test]
    fn steps_are_pages_in_order_and_end_with_the_chunk() {
        for lanes in [1, 16, 128, 1000, 4096] {
            for chunk_bytes in [1 << 16, HUGE_PAGE_BYTES, 4 * HUGE_PAGE_BYTES] {
                let slab = Slab::new(lanes, chunk_bytes, Backing::Anonymous);
                let (steps, chunk_rows) = (slab.steps, slab.chunk_rows());
                let (mut rows, mut bytes, mut ends) = (0, 0, 0);
                while rows < 3 * chunk_rows {
                    let (next, more) = (steps.after(rows), steps.bytes(steps.after(rows)));
                    assert!(next > rows && more > bytes, "{lanes} lanes, {chunk_bytes} bytes: {rows} rows, then {next}");
                    assert!(steps.whole(next) == next && steps.whole(next - 1) == rows);
                    assert!(steps.holding(next) == next && steps.bytes(rows + 1) == more && steps.holding(rows + 1) == next);
                    ends += usize::from(next.is_multiple_of(chunk_rows));
                    (rows, bytes) = (next, more);
                }
                assert_eq!((ends, rows, bytes), (3, 3 * chunk_rows, 3 * steps.chunk_bytes), "{lanes} lanes, {chunk_bytes} bytes");
            }
        }
    }
}
