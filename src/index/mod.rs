//! The collisionless index of a shard: key -> row number, one cache line a probe.
//!
//! A bucket is a cache line of twelve row numbers with eight bits of each key's hash, compared at once. The keys themselves stand
//! beside the rows: the caller compares them whole, so no key is ever taken for another. A key whose home bucket is full goes to
//! a second one far off, then to those after that; each full bucket passed counts it, so that a search ends at the first bucket
//! that no key of its class passed (the idea of Folly's F14): nearly always the first.

mod bucket;

use bucket::{Bucket, Mark, WIDTH};

use crate::memory::{HUGE_PAGE_BYTES, Zeroed};
use crate::plant::{Bug, planted};

/// Set in a row number when the key was removed and only its tombstone is there.
pub(crate) const TOMBSTONE_BIT: u32 = 1 << 31;

/// Keys per thousand places before the index grows.
const MAX_LOAD_PER_MILLE: usize = 870;
/// Growth by a quarter, not by two: the mean load stays above 0.75, and the pause is short as shards are small.
const GROWTH_NUMERATOR: usize = 5;
const GROWTH_DENOMINATOR: usize = 4;
const MIN_BUCKETS: usize = 4;
/// Rows whose keys are brought near together when the index is rebuilt.
const GROUP: usize = 64;

/// Asks the processor to bring the cache line at `address` near. Any address is allowed.
#[inline(always)]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = address;
}

/// Maps keys to row numbers below 2^31, each key to its own. `hash` is any well mixed function of the key, always the same.
pub(crate) struct Index {
    buckets: Zeroed<Bucket>,
    len: usize,
}

/// An index to be read.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a>(&'a [Bucket]);

/// What a home bucket says of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// This row is most likely the key's: the whole key is yet to be compared.
    Likely(u32),
    /// The key is not there.
    Absent,
    /// It may lie beyond.
    Beyond,
}

/// The buckets in which a key is looked for, one after the other.
struct Path {
    at: usize,
    buckets: usize,
    /// To the second bucket; from there on 1.
    step: usize,
}

impl Path {
    #[inline(always)]
    fn new(hash: u64, buckets: usize) -> Path {
        let far = ((hash >> 43 & 0x1ff) * (buckets as u64 - 1)) >> 9;
        Path { at: home(hash, buckets), buckets, step: 1 + far as usize }
    }

    #[inline(always)]
    fn advance(&mut self) {
        self.at += self.step;
        if self.at >= self.buckets {
            self.at -= self.buckets;
        }
        self.step = 1;
    }
}

#[inline(always)]
fn home(hash: u64, buckets: usize) -> usize {
    ((u64::from(hash as u32) * buckets as u64) >> 32) as usize
}

impl Lines<'_> {
    /// Brings the key's home bucket near.
    #[inline(always)]
    pub(crate) fn prefetch(self, hash: u64) {
        prefetch((&raw const self.0[home(hash, self.0.len())]).cast::<u8>());
    }

    /// What the key's home bucket says of it.
    #[inline(always)]
    pub(crate) fn probe(self, hash: u64) -> Probe {
        let mark = Mark::new(hash);
        let bucket = &self.0[home(hash, self.0.len())];
        match bucket.matches(mark).next() {
            Some(place) => Probe::Likely(bucket.rows[place]),
            None if bucket.was_passed(mark) => Probe::Beyond,
            None => Probe::Absent,
        }
    }

    /// Brings the key's second bucket near.
    #[inline(always)]
    pub(crate) fn prefetch_beyond(self, hash: u64) {
        let mut path = Path::new(hash, self.0.len());
        path.advance();
        prefetch((&raw const self.0[path.at]).cast::<u8>());
    }

    /// The row that is most likely the key's, or nothing if the key is not there: the whole key is yet to be compared.
    #[inline(always)]
    pub(crate) fn candidate(self, hash: u64) -> Option<u32> {
        self.find(hash, |_| true)
    }

    /// The row of a key; `is_its` compares the whole key with that of a row.
    #[inline(always)]
    pub(crate) fn find(self, hash: u64, is_its: impl Fn(u32) -> bool) -> Option<u32> {
        self.locate(hash, is_its).map(|(bucket, place)| self.0[bucket].rows[place])
    }

    /// Every bucket may have been passed at some time, so a search also ends when it has been round.
    #[inline(always)]
    fn locate(self, hash: u64, is_its: impl Fn(u32) -> bool) -> Option<(usize, usize)> {
        let mark = Mark::new(hash);
        let mut path = Path::new(hash, self.0.len());
        for _ in 0..=self.0.len() {
            let bucket = &self.0[path.at];
            if let Some(place) = bucket.matches(mark).find(|&place| is_its(bucket.rows[place] & !TOMBSTONE_BIT)) {
                return Some((path.at, place));
            }
            if !bucket.was_passed(mark) {
                return None;
            }
            path.advance();
        }
        None
    }
}

impl Index {
    pub(crate) fn new() -> Index {
        Index { buckets: Zeroed::new(MIN_BUCKETS), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }

    /// The index to be read: what is asked of it does not pass by the index itself each time.
    #[inline(always)]
    pub(crate) fn lines(&self) -> Lines<'_> {
        Lines(&self.buckets)
    }

    /// The row of a key; `is_its` compares the whole key with that of a row.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, is_its: impl Fn(u32) -> bool) -> Option<u32> {
        self.lines().find(hash, is_its)
    }

    #[inline(always)]
    fn locate(&self, hash: u64, is_its: impl Fn(u32) -> bool) -> Option<(usize, usize)> {
        self.lines().locate(hash, is_its)
    }

    /// Replaces the row number of a key that is there. Returns whether it was.
    pub(crate) fn replace(&mut self, hash: u64, is_its: impl Fn(u32) -> bool, row: u32) -> bool {
        let Some((bucket, place)) = self.locate(hash, is_its) else { return false };
        self.buckets[bucket].rows[place] = row;
        true
    }

    /// The number of buckets needed to hold `keys` keys, where that is more than now.
    pub(crate) fn growth_for(&self, keys: usize) -> Option<usize> {
        (!Index::holds(self.buckets.len(), keys)).then(|| Index::grown(self.buckets.len(), keys))
    }

    /// The number of buckets of an index that was made for `keys` keys.
    pub(crate) fn buckets_for(keys: usize) -> usize {
        Index::grown(MIN_BUCKETS, keys)
    }

    fn grown(mut buckets: usize, keys: usize) -> usize {
        while !Index::holds(buckets, keys) {
            buckets = (buckets * GROWTH_NUMERATOR).div_ceil(GROWTH_DENOMINATOR);
        }
        // Whole huge pages, once half of one is needed: an end in small pages costs more time than the memory is worth.
        const A_PAGE: usize = HUGE_PAGE_BYTES / size_of::<Bucket>();
        if buckets >= A_PAGE / 2 { buckets.next_multiple_of(A_PAGE) } else { buckets }
    }

    /// Whether `buckets` buckets are enough for `keys` keys.
    pub(crate) fn holds(buckets: usize, keys: usize) -> bool {
        keys * 1000 <= buckets * WIDTH * MAX_LOAD_PER_MILLE
    }

    /// Bytes of an index of `buckets` buckets.
    pub(crate) fn bytes_for(buckets: usize) -> usize {
        buckets * size_of::<Bucket>()
    }

    /// Rebuilds with `buckets` buckets; `hash` gives the hash of each row's key again, `near` brings that key near.
    pub(crate) fn rebuild(&mut self, buckets: usize, near: impl Fn(u32), hash: impl Fn(u32) -> u64) {
        let mut grown = Index { buckets: Zeroed::new(buckets.max(MIN_BUCKETS)), len: 0 };
        let mut rows = self.iter().skip(usize::from(planted(Bug::KeyLostInGrowth)));
        let mut group: Vec<u32> = Vec::with_capacity(GROUP);
        loop {
            group.extend(rows.by_ref().take(GROUP).inspect(|row| near(row & !TOMBSTONE_BIT)));
            if group.is_empty() {
                break;
            }
            group.drain(..).for_each(|row| grown.insert(hash(row & !TOMBSTONE_BIT), row));
        }
        drop(rows);
        *self = grown;
    }

    /// Adds a key that is not there. The caller has grown the index for it.
    pub(crate) fn insert(&mut self, hash: u64, row: u32) {
        debug_assert!(self.len < self.buckets.len() * WIDTH);
        let mark = Mark::new(hash);
        let mut path = Path::new(hash, self.buckets.len());
        while !self.buckets[path.at].push(mark, row) {
            if !planted(Bug::OverflowNotCounted) {
                self.buckets[path.at].pass(mark);
            }
            path.advance();
        }
        self.len += 1;
    }

    /// Removes a key and returns its row.
    pub(crate) fn remove(&mut self, hash: u64, is_its: impl Fn(u32) -> bool) -> Option<u32> {
        let (at, place) = self.locate(hash, is_its)?;
        let row = self.buckets[at].rows[place];
        self.buckets[at].clear(place);
        let mark = Mark::new(hash);
        let mut path = Path::new(hash, self.buckets.len());
        while path.at != at {
            self.buckets[path.at].unpass(mark);
            path.advance();
        }
        self.len -= 1;
        Some(row)
    }

    /// All rows, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.buckets.iter().flat_map(Bucket::iter)
    }

    /// The number of buckets, for a cursor over [`Index::bucket`].
    pub(crate) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// Brings one bucket near.
    pub(crate) fn prefetch_bucket(&self, at: usize) {
        prefetch((&raw const self.buckets[at]).cast());
    }

    /// The rows of one bucket.
    pub(crate) fn bucket(&self, at: usize) -> impl Iterator<Item = u32> + '_ {
        self.buckets[at].iter()
    }
}

#[cfg(test)]
mod tests;
