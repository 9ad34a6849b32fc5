//! What a shard gives to the delta that is being written: the rows as they stood at its cut, while training goes on.
//!
//! A cut is no more than the next epoch. Whoever changes the shard first, a batch or the delta's writer, sets the marks of
//! uncommitted rows aside; a batch that is about to change one of them keeps its image first.
#![forbid(unsafe_code)]

use super::image::push_image;
use super::marks::Marks;
use super::{Env, IMAGE_HEADER_BYTES, Shard};
use crate::admission::Images;
use crate::cold::ColdBatch;
use crate::context::Context;
use crate::error::Result;
use crate::index::TOMBSTONE_BIT;
use crate::plant::{Bug, planted};
use crate::slab::{ANY_UNCOMMITTED, LEAVING, PINNED, RowMeta, TOMBSTONE, UNCOMMITTED};
use crate::types::{Key, mix};

/// Rows brought near together, as one after the other each would be waited for, with the shard locked.
const ROWS_TOGETHER: usize = 32;
/// Images that batches kept are handed over by themselves from here on, and not copied.
const MANY_KEPT_BYTES: usize = 64 << 10;
/// How many buckets ahead of a scan their lines, and their rows, are brought near.
const LINES_AHEAD: usize = 12;
const ROWS_AHEAD: usize = 4;
/// Tombstones freed under one lock.
const TOMBSTONES_A_VISIT: usize = 4096;

/// A part of a delta, on its way from a shard to the log.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Rows, as [`push_image`] writes them.
    pub(crate) images: Vec<u8>,
    pub(crate) removed: Vec<Key>,
    /// Admission counts, 0 for a key that is gone.
    pub(crate) counts: Vec<(Key, u32)>,
    /// Lines of the table's filter.
    pub(crate) filter: Images,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.images.is_empty() && self.removed.is_empty() && self.counts.is_empty()
    }
}

/// How far a scan over a shard's rows got.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    visited: usize,
    bucket: usize,
    buckets: usize,
    /// From one bucket to the next.
    stride: usize,
}

impl Scan {
    /// Buckets in their order would give the keys in the order of their places, and whoever loads such keys crowds the first
    /// places of an index that has yet to grow. A step prime to the number of buckets visits each once, far from the last.
    fn new(buckets: usize) -> Scan {
        let prime = |stride: &usize| {
            let (mut a, mut b) = (*stride, buckets);
            while b > 0 {
                (a, b) = (b, a % b);
            }
            a == 1
        };
        let golden = (buckets as f64 * 0.618) as usize;
        Scan { visited: 0, bucket: 0, buckets, stride: (golden.max(1)..).find(prime).unwrap_or(1) }
    }

    fn after(&self, bucket: usize, steps: usize) -> usize {
        (bucket + self.stride * steps) % self.buckets
    }
}

/// What a shard still owes to the delta being written.
#[derive(Debug, Default)]
pub(super) struct Cut {
    // Invariant: marks all rows whose `owed_bit` is set from number `next` on, and none that is not in use.
    pub(super) owed: Marks,
    pub(super) next: usize,
    kept: Part,
    /// Rows that were uncommitted at the cut.
    rows: usize,
}

impl Shard {
    /// Sets aside what belongs to the delta that was cut since the last call.
    pub(super) fn catch_up(&mut self, context: &Context) {
        let epoch = context.epoch();
        if self.epoch == epoch {
            return;
        }
        let mut counts = self.counts.drain_changes();
        if planted(Bug::CountsLost) {
            counts.clear();
        }
        // At most one behind: the writer of a delta visits every shard before the next cut.
        self.epoch = epoch;
        std::mem::swap(&mut self.dirty, &mut self.cut.owed);
        (self.cut.next, self.cut.rows) = (0, std::mem::take(&mut self.uncommitted));
        self.cut.kept = Part { counts, ..Part::default() };
    }

    pub(super) fn uncommitted_bit(&self) -> u16 {
        if planted(Bug::OneUncommittedBit) { UNCOMMITTED[0] } else { UNCOMMITTED[(self.epoch & 1) as usize] }
    }

    pub(super) fn owed_bit(&self) -> u16 {
        UNCOMMITTED[((self.epoch + 1) & 1) as usize]
    }

    pub(super) fn owed_rows(&self) -> usize {
        self.cut.rows
    }

    /// Before a batch changes a row: if the delta being written still needs it, its image is kept.
    #[inline(always)]
    pub(super) fn keep_for_delta(&mut self, key: Key, row: u32, context: &Context) {
        if self.slab.meta(row).has(self.owed_bit()) && !planted(Bug::NoCopyOnUpdate) {
            self.keep_image(key, row, context);
        }
    }

    #[inline(never)]
    fn keep_image(&mut self, key: Key, row: u32, context: &Context) {
        let before = self.cut.kept.images.len();
        let mut kept = std::mem::take(&mut self.cut.kept);
        self.move_out(key, row, &mut kept);
        self.cut.kept = kept;
        context.captures.charge(self.cut.kept.images.len() - before);
    }

    fn move_out(&mut self, key: Key, row: u32, part: &mut Part) {
        let owed = self.owed_bit();
        let meta = self.slab.meta_mut(row);
        meta.flags &= !owed;
        let meta = *meta;
        if meta.has(TOMBSTONE) {
            part.removed.push(key);
            self.removed.push(key);
        } else {
            push_image(&mut part.images, key, meta.time, self.slab.row(row));
        }
    }

    /// Moves up to about `rows` rows of the delta being written to `part`, and those kept by batches; returns whether these were the
    /// last.
    pub(crate) fn capture(&mut self, context: &Context, rows: usize, part: &mut Part) -> bool {
        self.catch_up(context);
        if self.hand_over_kept(context, part) {
            return false;
        }
        part.images.reserve(rows.min(self.cut.rows) * (IMAGE_HEADER_BYTES + self.slab.row_bytes()));
        let mut together = [0; ROWS_TOGETHER];
        for _ in 0..rows.div_ceil(ROWS_TOGETHER) {
            let found = self.cut.owed.take(&mut self.cut.next, &mut together);
            self.capture_rows(&together[..found], part);
            if found < ROWS_TOGETHER {
                return true;
            }
        }
        false
    }

    fn capture_rows(&mut self, rows: &[u32], part: &mut Part) {
        rows.iter().for_each(|&row| self.slab.prefetch(row, self.slab.row_bytes()));
        for &row in rows {
            // A batch may have kept its image.
            let meta = self.slab.meta(row);
            if meta.has(self.owed_bit()) {
                self.move_out(meta.key, row, part);
            }
        }
    }

    /// Moves what batches kept to `part`; returns whether that was so much that it should be written first.
    pub(crate) fn hand_over_kept(&mut self, context: &Context, part: &mut Part) -> bool {
        if self.cut.kept.is_empty() {
            return false;
        }
        let kept = std::mem::take(&mut self.cut.kept);
        let bytes = kept.images.len();
        context.captures.release(bytes);
        if part.is_empty() && bytes >= MANY_KEPT_BYTES {
            *part = kept;
            return true;
        }
        part.images.extend_from_slice(&kept.images);
        part.removed.extend_from_slice(&kept.removed);
        part.counts.extend_from_slice(&kept.counts);
        false
    }

    /// Copies the hot rows of the next `buckets` buckets to `part`, for a base; returns whether these were the last.
    ///
    /// Rows may change, come and go between two calls. One that stays is copied at least once: if the index grows, the scan
    /// begins again.
    pub(crate) fn scan(&self, scan: &mut Scan, buckets: usize, part: &mut Part) -> bool {
        if scan.buckets != self.index.buckets() {
            *scan = Scan::new(self.index.buckets());
        }
        let end = (scan.visited + buckets).min(scan.buckets);
        for _ in scan.visited..end {
            let bucket = scan.bucket;
            scan.bucket = scan.after(bucket, 1);
            self.index.prefetch_bucket(scan.after(bucket, LINES_AHEAD));
            for raw in self.index.bucket(scan.after(bucket, ROWS_AHEAD)) {
                let row = raw & !TOMBSTONE_BIT;
                self.slab.prefetch(row, self.slab.row_bytes());
            }
            for raw in self.index.bucket(bucket) {
                let row = raw & !TOMBSTONE_BIT;
                let RowMeta { key, time, .. } = self.slab.meta(row);
                if raw & TOMBSTONE_BIT != 0 {
                    part.removed.push(key);
                } else {
                    push_image(&mut part.images, key, time, self.slab.row(row));
                }
            }
        }
        scan.visited = end;
        if end == scan.buckets {
            part.counts.extend(self.counts.iter());
        }
        end == scan.buckets
    }

    /// Once the delta is durable.
    pub(crate) fn committed(&mut self) {
        self.cut.rows = 0;
    }

    /// Writes the cold deletes of committed tombstones and frees their rows; returns whether these were all that could be freed.
    pub(crate) fn sweep_tombstones(&mut self, env: &Env<'_>) -> Result<bool> {
        let visit = self.removed.len().min(TOMBSTONES_A_VISIT);
        let mut candidates: Vec<Key> = self.removed[self.removed.len() - visit..].to_vec();
        candidates.sort_unstable();
        candidates.dedup();
        let mut swept = Vec::new();
        for key in candidates {
            if let Some(raw) = self.raw(key).filter(|raw| raw & TOMBSTONE_BIT != 0) {
                let meta = self.slab.meta(raw & !TOMBSTONE_BIT);
                // One that a batch holds or changed again comes back with a later delta.
                if !meta.has(ANY_UNCOMMITTED | PINNED | LEAVING) {
                    swept.push((key, raw));
                }
            }
        }
        if env.may_be_cold() && !swept.is_empty() {
            let mut batch = ColdBatch::new();
            swept.iter().for_each(|&(key, _)| batch.delete(mix(key)));
            if !planted(Bug::SweptRowUncovered) {
                env.cold().write(env.table, &batch)?;
            }
        }
        for (key, raw) in swept {
            self.forget(key, raw);
        }
        self.removed.truncate(self.removed.len() - visit);
        Ok(self.removed.is_empty())
    }
}
