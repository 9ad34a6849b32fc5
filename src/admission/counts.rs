//! Exact counts of keys not yet admitted.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use crate::types::{Key, mix};

/// Hashes a key by [`mix`]. The map takes its 7-bit tags from the top bits, which keys of one shard or partition share: bits from
/// the middle are folded in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, key: u64) {
        let mixed = mix(self.0 ^ key);
        self.0 = mixed ^ (mixed << 32);
    }
}

type BuildKeyHasher = BuildHasherDefault<KeyHasher>;

/// The occurrences of keys not yet admitted, one value for each partition of a table's keys.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    counts: HashMap<Key, u32, BuildKeyHasher>,
    /// Keys whose count changed, or went, since the changes were last drained.
    changed: HashSet<Key, BuildKeyHasher>,
}

impl Counts {
    /// The occurrences counted, 0 for an unknown key.
    pub(crate) fn get(&self, key: Key) -> u32 {
        self.counts.get(&key).copied().unwrap_or(0)
    }

    /// Counts more occurrences and returns the new total, which stops at `u32::MAX`.
    pub(crate) fn add(&mut self, key: Key, occurrences: u32) -> u32 {
        if occurrences == 0 {
            return self.get(key);
        }
        let count = self.counts.entry(key).or_insert(0);
        *count = count.saturating_add(occurrences);
        self.changed.insert(key);
        *count
    }

    /// Forgets a key, because it is admitted, and returns what was counted.
    pub(crate) fn take(&mut self, key: Key) -> u32 {
        let count = self.counts.remove(&key);
        if count.is_some() {
            self.changed.insert(key);
        }
        count.unwrap_or(0)
    }

    /// The keys changed since the last call with their counts, 0 for a key that is gone, in the order of keys.
    pub(crate) fn drain_changes(&mut self) -> Vec<(Key, u32)> {
        let mut changes: Vec<_> = self.changed.drain().map(|key| (key, self.counts.get(&key).copied().unwrap_or(0))).collect();
        changes.sort_unstable();
        changes
    }

    /// Sets a count read from disk, 0 for a key that is gone. It is not a change.
    pub(crate) fn load(&mut self, key: Key, count: u32) {
        if count == 0 {
            self.counts.remove(&key);
        } else {
            self.counts.insert(key, count);
        }
    }

    /// All counts, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, u32)> + '_ {
        self.counts.iter().map(|(&key, &count)| (key, count))
    }

    /// The number of keys counted.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether nothing is counted or to be committed.
    pub(crate) fn is_empty(&self) -> bool {
        self.counts.capacity() == 0 && self.changed.capacity() == 0
    }

    /// The bytes allocated: for each bucket the entry and a tag, at most 7 of 8 buckets used.
    pub(crate) fn memory_bytes(&self) -> usize {
        let buckets = |capacity: usize| if capacity == 0 { 0 } else { (capacity + capacity.div_ceil(7)).next_power_of_two() };
        let counts = buckets(self.counts.capacity()) * (size_of::<(Key, u32)>() + 1);
        let changed = buckets(self.changed.capacity()) * (size_of::<Key>() + 1);
        size_of::<Counts>() + counts + changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_drained_in_order_and_loaded() {
        let mut counts = Counts::default();
        counts.load(9, 4);
        assert_eq!((counts.get(9), counts.drain_changes()), (4, vec![]));
        for key in [30, 10, 20] {
            counts.add(key, 1);
        }
        counts.take(9);
        counts.take(20);
        counts.add(10, 5);
        let changes = counts.drain_changes();
        assert_eq!(changes, [(9, 0), (10, 6), (20, 0), (30, 1)]);
        assert!(counts.drain_changes().is_empty());
        let mut copy = Counts::default();
        changes.into_iter().for_each(|(key, count)| copy.load(key, count));
        let sorted = |c: &Counts| c.iter().collect::<std::collections::BTreeMap<_, _>>();
        assert_eq!(sorted(&copy), sorted(&counts));
        copy.load(10, 0);
        assert_eq!((copy.get(10), copy.len()), (0, 1));
    }

    #[test]
    fn memory_is_counted_by_capacity() {
        let mut counts = Counts::default();
        assert_eq!(counts.memory_bytes(), size_of::<Counts>());
        (0..10_000).for_each(|key| {
            counts.add(key, 1);
        });
        assert_eq!(counts.memory_bytes(), size_of::<Counts>() + 16_384 * (17 + 9));
    }

    #[test]
    fn keys_that_share_their_top_mixed_bits_still_spread() {
        let hash = |key: Key| {
            let mut hasher = KeyHasher::default();
            hasher.write_u64(key);
            hasher.finish()
        };
        let shard = (0..).filter(|&key| mix(key) >> 54 == 3).take(1000);
        let tags: HashSet<u64> = shard.map(|key| hash(key) >> 57).collect();
        assert!(tags.len() > 120, "{} of 128 tags", tags.len());
    }
}
