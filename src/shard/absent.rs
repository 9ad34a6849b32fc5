//! Keys of a shard that have no row anywhere, as far as that was found out: a new id is looked up, read ahead and updated, and the cold
//! tier is asked for it once.
//!
//! Whole keys, so none is taken for another. What is remembered is true: a row comes into memory before it can be cold, and whatever
//! comes into memory is forgotten here.
#![forbid(unsafe_code)]

use super::{Env, Flight, Shard};
use crate::context::Context;
use crate::plant::{Bug, planted};
use crate::types::unmix;

/// Places for one key of so many rows that there is memory for: a byte a row.
const SHARE: usize = 8;
const WAYS: usize = 4;
/// A place without a key; the key that is mixed to it is never remembered.
const NONE: u64 = 0;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Absent {
    /// Mixed keys, the newest of a set first.
    sets: Box<[[u64; WAYS]]>,
}

impl Absent {
    fn bytes_for(rows: usize) -> usize {
        (rows / SHARE).div_ceil(WAYS).max(1) * size_of::<[u64; WAYS]>()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.sets)
    }

    fn set_of(&self, mixed: u64) -> usize {
        // The bits below those that chose the shard.
        ((u64::from((mixed >> 16) as u32) * self.sets.len() as u64) >> 32) as usize
    }

    #[inline(always)]
    fn has(&self, mixed: u64) -> bool {
        mixed != NONE && self.sets.get(self.set_of(mixed)).is_some_and(|set| set.contains(&mixed))
    }

    /// The oldest of its set is forgotten.
    fn push(&mut self, mixed: u64) {
        let at = self.set_of(mixed);
        if let Some(set) = self.sets.get_mut(at).filter(|set| !set.contains(&mixed)) {
            set.rotate_right(1);
            set[0] = mixed;
        }
    }

    /// The key has a row now.
    #[inline(always)]
    pub(super) fn forget(&mut self, mixed: u64) {
        let at = self.set_of(mixed);
        if let Some(set) = self.sets.get_mut(at)
            && let Some(way) = set.iter().position(|found| *found == mixed)
            && !planted(Bug::NewRowAbsent)
        {
            set[way..].rotate_left(1);
            set[WAYS - 1] = NONE;
        }
    }
}

impl Shard {
    /// Whether a mixed key is known to have no row, neither here nor in the cold tier.
    #[inline(always)]
    pub(crate) fn is_absent(&self, mixed: u64) -> bool {
        self.absent.has(mixed)
    }

    /// Remembers mixed keys that are not in memory and were not found in the cold tier, where the budget has room for that.
    pub(super) fn note_absent(&mut self, env: &Env<'_>, mixed: impl Iterator<Item = u64>) {
        if self.has_places_for_absent(env.context) {
            mixed.for_each(|mixed| self.absent.push(mixed));
        }
    }

    /// Remembers what a flight that is about to land did not find, where nothing brought it into memory meanwhile.
    pub(super) fn note_not_found(&mut self, env: &Env<'_>, flight: &Flight) {
        if self.has_places_for_absent(env.context) {
            for mixed in flight.not_found() {
                if self.flights.is_on(unmix(mixed), flight) {
                    self.absent.push(mixed);
                }
            }
        }
    }

    /// Makes places once they are wanted, and more once the shard has grown.
    fn has_places_for_absent(&mut self, context: &Context) -> bool {
        let (held, wanted) = (self.absent.memory_bytes(), Absent::bytes_for(self.slab.capacity()));
        if held * 2 <= wanted {
            self.forget_absent(context);
            if context.budget.try_reserve(wanted) {
                self.absent.sets = vec![[NONE; WAYS]; wanted / size_of::<[u64; WAYS]>()].into();
            }
        }
        self.absent.memory_bytes() > 0
    }

    pub(super) fn forget_absent(&mut self, context: &Context) {
        context.budget.release(self.absent.memory_bytes());
        self.absent = Absent::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::mix;

    #[test]
    fn keys_are_remembered_exactly_until_they_have_a_row() {
        let mut absent = Absent { sets: vec![[NONE; WAYS]; 256].into() };
        (0..500).for_each(|key| absent.push(mix(key)));
        (0..500).for_each(|key| absent.push(mix(key)));
        let kept = (0..500).filter(|&key| absent.has(mix(key))).count();
        assert!(kept > 450, "{kept} of 500");
        assert!((500..100_000).all(|key| !absent.has(mix(key))));
        (0..250).for_each(|key| absent.forget(mix(key)));
        assert!((0..250).all(|key| !absent.has(mix(key))));
        let left = (250..500).filter(|&key| absent.has(mix(key))).count();
        assert!(left > 220 && absent.sets.iter().flatten().filter(|mixed| **mixed != NONE).count() == left, "{left} of 250");
    }

    #[test]
    fn the_newest_of_a_set_stay() {
        let mut absent = Absent { sets: vec![[NONE; WAYS]; 1].into() };
        (1..=6).for_each(|mixed| absent.push(mixed));
        assert!(!absent.has(1) && !absent.has(2) && (3..=6).all(|mixed| absent.has(mixed)));
        absent.forget(5);
        absent.push(7);
        assert!((3..=7).all(|mixed| absent.has(mixed) == (mixed != 5)));
    }

    #[test]
    fn without_places_nothing_is_remembered_and_no_key_is_mixed_to_none() {
        let mut absent = Absent::default();
        absent.push(1);
        absent.forget(1);
        assert!(!absent.has(1) && absent.memory_bytes() == 0);
        let mut absent = Absent { sets: vec![[NONE; WAYS]; 1].into() };
        absent.push(NONE);
        assert!(!absent.has(NONE));
        absent.forget(NONE);
        assert_eq!(absent.memory_bytes(), Absent::bytes_for(0));
    }
}
