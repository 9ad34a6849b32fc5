//! Which keys deserve a row: frequency filtering (Monolith 2.1), asked only for keys that have none yet.
//!
//! Counts are exact and kept for keys not yet admitted. They are state: what changed since the last commit goes into its delta.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use crate::types::{Key, mix};

/// Which keys get a row when they are first updated.
///
/// | constructor | a key is admitted | memory |
/// |---|---|---|
/// | [`always`](Self::always) | at once | none |
/// | [`count`](Self::count) | by its n-th occurrence | about 20-40 B for each key not yet admitted |
/// | [`probabilistic`](Self::probabilistic) | by each occurrence with probability 1/n, so after n on average | none |
///
/// All occurrences of a key in one batch count. The default is `always`.
///
/// ```
/// use embedrock::{Admission, Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-admission-{}", std::process::id()));
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let items = store.create_table(TableSchema::new("item", 1).admission(Admission::count(3)))?;
/// items.apply_gradients(&[7, 7], &[0.5; 2], &Update::at(1_700_000_000))?;
/// assert!(!items.contains(7)?);
/// items.apply_gradients(&[7], &[0.5], &Update::at(1_700_000_001))?; // its third occurrence
/// assert!(items.contains(7)?);
/// # drop((items, store)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admission {
    /// Every key, at once.
    #[default]
    Always,
    /// A key with enough occurrences.
    Count {
        /// The occurrence that admits; 0 and 1 admit at once.
        threshold: u32,
    },
    /// A key that is drawn.
    Probabilistic {
        /// The mean number of occurrences until a key is admitted; 0 and 1 admit at once.
        threshold: u32,
    },
}

/// What a probabilistic draw depends on besides the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// The store's seed.
    pub(crate) seed: u64,
    /// The table's number.
    pub(crate) table: u32,
    /// The batch's number within the store.
    pub(crate) batch: u64,
}

impl Admission {
    /// Every key, at once.
    pub fn always() -> Admission {
        Admission::Always
    }

    /// A key is admitted by its `n`-th occurrence; 0 and 1 admit at once. Counts are exact.
    pub fn count(n: u32) -> Admission {
        Admission::Count { threshold: n }
    }

    /// A key is admitted by each of its occurrences with probability 1/n, by k of them with 1 - (1 - 1/n)^k. Keeps nothing;
    /// the draw is a hash of (store seed, table, key, batch number).
    pub fn probabilistic(n: u32) -> Admission {
        Admission::Probabilistic { threshold: n }
    }

    /// Whether the caller must keep [`Counts`].
    pub(crate) fn counts(&self) -> bool {
        matches!(self, Admission::Count { threshold: 2.. })
    }

    /// Whether `key`, which has no row, gets one by `occurrences` more in this batch, `counted` having been counted before.
    /// Pure; an occurrence count of 0 admits nothing except where keys are always admitted.
    pub(crate) fn admits(&self, draw: &Draw, key: Key, occurrences: u32, counted: u32) -> bool {
        match *self {
            Admission::Always => true,
            Admission::Count { threshold } => counted.saturating_add(occurrences) >= threshold,
            Admission::Probabilistic { threshold: 0 | 1 } => true,
            Admission::Probabilistic { threshold } => draw.unit(key) < 1.0 - power(1.0 - 1.0 / f64::from(threshold), occurrences),
        }
    }

    /// The kind and the threshold, for the disk.
    pub(crate) fn encode(&self) -> (u8, u32) {
        match *self {
            Admission::Always => (0, 0),
            Admission::Count { threshold } => (1, threshold),
            Admission::Probabilistic { threshold } => (2, threshold),
        }
    }

    /// The inverse of [`encode`](Self::encode); `None` for an unknown kind.
    pub(crate) fn decode(kind: u8, threshold: u32) -> Option<Admission> {
        match kind {
            0 => Some(Admission::Always),
            1 => Some(Admission::Count { threshold }),
            2 => Some(Admission::Probabilistic { threshold }),
            _ => None,
        }
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Admission::Always => write!(f, "always"),
            Admission::Count { threshold } => write!(f, "count({threshold})"),
            Admission::Probabilistic { threshold } => write!(f, "probabilistic({threshold})"),
        }
    }
}

impl Draw {
    /// A number in [0, 1) with 53 random bits, apart from those the initializer draws.
    fn unit(&self, key: Key) -> f64 {
        let store = mix(self.seed.wrapping_add(0x2545_f491_4f6c_dd1d));
        let table = mix(store ^ u64::from(self.table));
        let batch = mix(table.wrapping_add(self.batch));
        (mix(batch ^ mix(key.wrapping_add(0x8cb9_2ba7_2f3d_8dd7))) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// `base ^ exponent` by squaring: multiplications only, so the same on every CPU.
fn power(base: f64, exponent: u32) -> f64 {
    let (mut square, mut rest, mut result) = (base, exponent, 1.0);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= square;
        }
        square *= square;
        rest >>= 1;
    }
    result
}

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

    const DRAW: Draw = Draw { seed: 7, table: 1, batch: 0 };

    #[test]
    fn the_nth_occurrence_admits_and_those_of_one_batch_all_count() {
        let three = Admission::count(3);
        assert!(three.counts() && !Admission::count(1).counts() && !Admission::probabilistic(9).counts());
        let mut counts = Counts::default();
        for key in [0, u64::MAX] {
            assert!(!three.admits(&DRAW, key, 2, counts.get(key)));
            assert_eq!(counts.add(key, 2), 2);
            assert!(three.admits(&DRAW, key, 1, counts.get(key)));
            assert_eq!(counts.take(key), 2);
            assert_eq!((counts.get(key), counts.take(key)), (0, 0));
            assert!(three.admits(&DRAW, key, 3, 0) && !three.admits(&DRAW, key, 0, 2));
        }
        assert!(Admission::count(0).admits(&DRAW, 5, 1, 0) && Admission::count(1).admits(&DRAW, 5, 1, 0));
        assert!(Admission::count(u32::MAX).admits(&DRAW, 5, u32::MAX, 7), "saturates");
        assert_eq!((counts.add(1, u32::MAX), counts.add(1, 1), counts.add(2, 0), counts.len()), (u32::MAX, u32::MAX, 0, 1));
    }

    #[test]
    fn probabilistic_admission_has_its_stated_probability() {
        for (n, occurrences) in [(2u32, 1u32), (10, 1), (10, 10), (1000, 500)] {
            let admitted = (0..100_000u64)
                .filter(|&i| {
                    let draw = Draw { batch: i >> 4, ..DRAW };
                    Admission::probabilistic(n).admits(&draw, i & 15, occurrences, 0)
                })
                .count() as f64;
            let expected = 1.0 - (1.0 - 1.0 / f64::from(n)).powi(occurrences as i32);
            let sigma = (expected * (1.0 - expected) / 100_000.0).sqrt();
            assert!((admitted / 100_000.0 - expected).abs() < 5.0 * sigma, "n {n} k {occurrences}: {admitted} for {expected}");
        }
        assert!(Admission::probabilistic(1).admits(&DRAW, 3, 1, 0) && Admission::probabilistic(0).admits(&DRAW, 3, 1, 0));
        assert!((0..1000).all(|key| !Admission::probabilistic(2).admits(&DRAW, key, 0, 0)));
        assert!((0..1000).all(|key| Admission::probabilistic(2).admits(&DRAW, key, 1000, 0)));
    }

    #[test]
    fn draws_depend_on_seed_table_key_and_batch_and_are_pinned() {
        let pattern = |draw: Draw| (0..64u64).fold(0u64, |bits, key| bits << 1 | u64::from(draw.unit(key) < 0.5));
        let draws = [DRAW, Draw { seed: 8, ..DRAW }, Draw { table: 2, ..DRAW }, Draw { batch: 1, ..DRAW }];
        let distinct: HashSet<u64> = draws.into_iter().map(pattern).collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(pattern(DRAW), 0x7f83_dbdc_4f79_0115);
    }

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

    #[test]
    fn disk_round_trip() {
        for admission in [Admission::always(), Admission::count(3), Admission::probabilistic(u32::MAX)] {
            let (kind, threshold) = admission.encode();
            assert_eq!(Admission::decode(kind, threshold), Some(admission));
        }
        assert_eq!(Admission::decode(3, 1), None);
    }
}
