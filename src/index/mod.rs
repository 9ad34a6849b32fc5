//! The collisionless index of a shard: key -> row number, full keys compared, one cache line a probe.
//!
//! Buckets of five keys and five row numbers fill one cache line. A key whose home bucket is full goes to the next one with
//! room, and each full bucket passed counts it in `overflow`, so a search ends at the first bucket that nothing passed
//! (the idea of Folly's F14, with a bucket for a group).

mod bucket;

use bucket::{Bucket, WIDTH};

use crate::memory::Zeroed;
use crate::plant::{Bug, planted};
use crate::types::Key;

/// Set in a row number when the key was removed and only its tombstone is there.
pub(crate) const TOMBSTONE_BIT: u32 = 1 << 31;

/// Keys per thousand places before the index grows.
const MAX_LOAD_PER_MILLE: usize = 870;
/// Growth by a quarter, not by two: the mean load stays above 0.75, and the pause is short as shards are small.
const GROWTH_NUMERATOR: usize = 5;
const GROWTH_DENOMINATOR: usize = 4;
const MIN_BUCKETS: usize = 4;

/// Asks the processor to bring the cache line at `address` near. Any address is allowed.
#[inline]
pub(crate) fn prefetch(address: *const u8) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(any(not(target_arch = "x86_64"), miri))]
    let _ = address;
}

/// Maps keys to row numbers below 2^31, each key to its own.
pub(crate) struct Index {
    buckets: Zeroed<Bucket>,
    len: usize,
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

    fn home(&self, hash: u64) -> usize {
        (((hash >> 32) * self.buckets.len() as u64) >> 32) as usize
    }

    fn next(&self, bucket: usize) -> usize {
        if bucket + 1 == self.buckets.len() { 0 } else { bucket + 1 }
    }

    /// Brings the key's home bucket near, and the next one: a third of the searches go on there.
    #[inline(always)]
    pub(crate) fn prefetch(&self, hash: u64) {
        let home = (&raw const self.buckets[self.home(hash)]).cast::<u8>();
        prefetch(home);
        prefetch(home.wrapping_add(size_of::<Bucket>()));
    }

    /// The row of `key`; `hash` is any well mixed function of it, always the same.
    #[inline(always)]
    pub(crate) fn find(&self, key: Key, hash: u64) -> Option<u32> {
        self.locate(key, hash).map(|(bucket, place)| self.buckets[bucket].rows[place])
    }

    /// Every bucket may have been passed at some time, so a search also ends when it has been round.
    #[inline]
    fn locate(&self, key: Key, hash: u64) -> Option<(usize, usize)> {
        let mut at = self.home(hash);
        for _ in 0..self.buckets.len() {
            let bucket = &self.buckets[at];
            if let Some(place) = bucket.position(key) {
                return Some((at, place));
            }
            if bucket.overflow == 0 {
                return None;
            }
            at = self.next(at);
        }
        None
    }

    /// Replaces the row number of a key that is there. Returns whether it was.
    pub(crate) fn replace(&mut self, key: Key, hash: u64, row: u32) -> bool {
        let Some((bucket, place)) = self.locate(key, hash) else { return false };
        self.buckets[bucket].rows[place] = row;
        true
    }

    /// The number of buckets needed to hold `keys` keys, where that is more than now.
    pub(crate) fn growth_for(&self, keys: usize) -> Option<usize> {
        let fits = |buckets: usize| keys * 1000 <= buckets * WIDTH * MAX_LOAD_PER_MILLE;
        if fits(self.buckets.len()) {
            return None;
        }
        let mut buckets = self.buckets.len();
        while !fits(buckets) {
            buckets = (buckets * GROWTH_NUMERATOR).div_ceil(GROWTH_DENOMINATOR);
        }
        Some(buckets)
    }

    /// Bytes of an index of `buckets` buckets.
    pub(crate) fn bytes_for(buckets: usize) -> usize {
        buckets * size_of::<Bucket>()
    }

    /// Rebuilds with `buckets` buckets; `hash` gives each key's hash again.
    pub(crate) fn rebuild(&mut self, buckets: usize, hash: impl Fn(Key) -> u64) {
        let mut grown = Index { buckets: Zeroed::new(buckets.max(MIN_BUCKETS)), len: 0 };
        for (key, row) in self.iter().skip(usize::from(planted(Bug::KeyLostInGrowth))) {
            grown.insert(key, hash(key), row);
        }
        *self = grown;
    }

    /// Adds a key that is not there. The caller has grown the index for it.
    pub(crate) fn insert(&mut self, key: Key, hash: u64, row: u32) {
        debug_assert!(self.len < self.buckets.len() * WIDTH);
        let mut at = self.home(hash);
        while !self.buckets[at].push(key, row) {
            if !planted(Bug::OverflowNotCounted) {
                self.buckets[at].overflow = self.buckets[at].overflow.saturating_add(1);
            }
            at = self.next(at);
        }
        self.len += 1;
    }

    /// Removes a key and returns its row.
    pub(crate) fn remove(&mut self, key: Key, hash: u64) -> Option<u32> {
        let (at, place) = self.locate(key, hash)?;
        let row = self.buckets[at].rows[place];
        self.buckets[at].clear(place);
        let mut passed = self.home(hash);
        while passed != at {
            let bucket = &mut self.buckets[passed];
            // A saturated count has lost track and stays until the next rebuild: longer searches, never wrong ones.
            if bucket.overflow != u8::MAX {
                bucket.overflow -= 1;
            }
            passed = self.next(passed);
        }
        self.len -= 1;
        Some(row)
    }

    /// All keys and rows, in no order that means anything.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, u32)> + '_ {
        self.buckets.iter().flat_map(Bucket::iter)
    }

    /// The number of buckets, for a cursor over [`Index::bucket`].
    pub(crate) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    /// The keys and rows of one bucket.
    pub(crate) fn bucket(&self, at: usize) -> impl Iterator<Item = (Key, u32)> + '_ {
        self.buckets[at].iter()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::types::mix;

    /// Miri takes a thousand times as long.
    const SHARE: usize = if cfg!(miri) { 20 } else { 1 };

    fn grow_and_insert(index: &mut Index, key: Key, hash: impl Fn(Key) -> u64, row: u32) {
        if let Some(buckets) = index.growth_for(index.len() + 1) {
            index.rebuild(buckets, &hash);
        }
        index.insert(key, hash(key), row);
    }

    fn check_against_model(keys: &[(u64, bool)], hash: impl Fn(Key) -> u64 + Copy) {
        let mut index = Index::new();
        let mut model = HashMap::new();
        for (row, &(key, insert)) in keys.iter().enumerate() {
            assert_eq!(index.find(key, hash(key)), model.get(&key).copied());
            if insert && !model.contains_key(&key) {
                grow_and_insert(&mut index, key, hash, row as u32);
                model.insert(key, row as u32);
            } else if !insert {
                assert_eq!(index.remove(key, hash(key)), model.remove(&key));
            }
            assert_eq!(index.len(), model.len());
        }
        let mut all: Vec<_> = index.iter().collect();
        all.sort_unstable();
        let mut expected: Vec<_> = model.into_iter().collect();
        expected.sort_unstable();
        assert_eq!(all, expected);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases((256 / SHARE / SHARE).max(2) as u32))]

        #[test]
        fn behaves_like_a_map(ops in proptest::collection::vec((0u64..200, any::<bool>()), 0..2000 / SHARE)) {
            check_against_model(&ops, mix);
        }

        #[test]
        fn stays_right_when_all_keys_share_a_bucket(ops in proptest::collection::vec((0u64..600, any::<bool>()), 0..1500 / SHARE)) {
            check_against_model(&ops, |_| 0);
        }
    }

    #[test]
    fn adversarial_keys_all_have_their_own_row() {
        let families: [fn(u64) -> u64; 5] = [|i| i, |i| i << 40, |i| i << 16, |i| u64::MAX - i, |i| i | 0xffff_0000_0000_0000];
        for family in families {
            let mut index = Index::new();
            for i in 0..20_000 / SHARE as u64 {
                grow_and_insert(&mut index, family(i), mix, i as u32);
            }
            for i in 0..20_000 / SHARE as u64 {
                assert_eq!(index.find(family(i), mix(family(i))), Some(i as u32));
            }
            let load = index.len() as f64 / (index.buckets() * WIDTH) as f64;
            assert!(load > 0.65, "load {load}");
        }
    }
}
