//! Beside a map, with keys that are hard on it.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::types::{Key, mix};

/// An index and the keys of its rows.
struct Keyed<H> {
    index: Index,
    keys: Vec<Key>,
    hash: H,
}

impl<H: Fn(Key) -> u64 + Copy> Keyed<H> {
    fn new(hash: H) -> Keyed<H> {
        Keyed { index: Index::new(), keys: Vec::new(), hash }
    }

    fn find(&self, key: Key) -> Option<u32> {
        self.index.find((self.hash)(key), |row| self.keys[row as usize] == key)
    }

    fn insert(&mut self, key: Key) -> u32 {
        let row = self.keys.len() as u32;
        self.keys.push(key);
        if let Some(buckets) = self.index.growth_for(self.index.len() + 1) {
            self.index.rebuild(buckets, |_| {}, |row| (self.hash)(self.keys[row as usize]));
        }
        self.index.insert((self.hash)(key), row);
        row
    }

    fn remove(&mut self, key: Key) -> Option<u32> {
        self.index.remove((self.hash)(key), |row| self.keys[row as usize] == key)
    }
}

fn check_against_model(ops: &[(u64, bool)], hash: impl Fn(Key) -> u64 + Copy) {
    let mut keyed = Keyed::new(hash);
    let mut model = HashMap::new();
    for &(key, insert) in ops {
        assert_eq!(keyed.find(key), model.get(&key).copied());
        if insert && !model.contains_key(&key) {
            model.insert(key, keyed.insert(key));
        } else if !insert {
            assert_eq!(keyed.remove(key), model.remove(&key));
        }
        assert_eq!(keyed.index.len(), model.len());
    }
    let mut all: Vec<_> = keyed.index.iter().map(|row| (keyed.keys[row as usize], row)).collect();
    all.sort_unstable();
    let mut expected: Vec<_> = model.into_iter().collect();
    expected.sort_unstable();
    assert_eq!(all, expected);
}

/// Sequential, multiples of a power of two, the same low or high bits.
const FAMILIES: [fn(u64) -> u64; 6] =
    [|i| i, |i| i << 40, |i| i << 16, |i| u64::MAX - i, |i| i | 0xffff_0000_0000_0000, |i| (i << 32) | 0x1234_5678];

proptest! {
    #[test]
    fn behaves_like_a_map(ops in proptest::collection::vec((0u64..200, any::<bool>()), 0..2000)) {
        check_against_model(&ops, mix);
    }

    #[test]
    fn behaves_like_a_map_with_hard_keys(family in 0..FAMILIES.len(), ops in proptest::collection::vec((0u64..900, 0..4u8), 0..3000)) {
        let ops: Vec<_> = ops.into_iter().map(|(key, op)| (FAMILIES[family](key), op > 0)).collect();
        check_against_model(&ops, mix);
    }

    #[test]
    fn stays_right_when_all_keys_share_a_bucket(ops in proptest::collection::vec((0u64..600, any::<bool>()), 0..1500)) {
        check_against_model(&ops, |_| 0);
    }

    /// The same home, tags that differ: counts of passed keys fill up, are used up, and lose track.
    #[test]
    fn stays_right_when_all_keys_share_a_home(ops in proptest::collection::vec((0u64..600, any::<bool>()), 0..1500)) {
        check_against_model(&ops, |key| mix(key) & !0xffff_ffff);
    }
}

#[test]
fn adversarial_keys_all_have_their_own_row_and_misses_end_at_once() {
    for family in FAMILIES {
        // Of one shard of 16, too: the highest bits of all hashes are the same.
        for hash in [mix, |key| mix(key) >> 4] {
            let mut keyed = Keyed::new(hash);
            (0..20_000).for_each(|i| _ = keyed.insert(family(i)));
            assert!((0..20_000).all(|i| keyed.find(family(i)) == Some(i as u32)));
            let load = keyed.index.len() as f64 / (keyed.index.buckets() * WIDTH) as f64;
            assert!(load > 0.43, "load {load}");
            let goes_on = |i: &u64| {
                let hash = hash(family(20_000 + i));
                keyed.index.buckets[home(hash, keyed.index.buckets())].was_passed(Mark::new(hash))
            };
            let longer = (0..20_000).filter(goes_on).count();
            assert!(longer < 20_000 / 6, "{longer} of 20,000 searches for absent keys go on");
        }
    }
}

/// Keys put where others left lie farther from home than those of a new index, but no farther with time: what is counted is
/// uncounted when it leaves.
#[test]
fn searches_stay_short_while_keys_come_and_go() {
    let mut keyed = Keyed::new(mix);
    (0..40_000).for_each(|i| _ = keyed.insert(i));
    let full = keyed.index.buckets() * WIDTH * MAX_LOAD_PER_MILLE / 1000;
    (40_000..full as u64).for_each(|i| _ = keyed.insert(i));
    let buckets = keyed.index.buckets();
    for i in 0..8 * full as u64 {
        assert!(keyed.remove(i).is_some());
        keyed.insert(i + full as u64);
    }
    assert_eq!((keyed.index.buckets(), keyed.index.len()), (buckets, full));
    let absent = (0..full as u64).filter(|&i| {
        let hash = mix(i);
        keyed.index.buckets[home(hash, buckets)].was_passed(Mark::new(hash))
    });
    let longer = absent.count();
    assert!(longer < full * 6 / 10, "{longer} of {full} searches for absent keys go on");
}
