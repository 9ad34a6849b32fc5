//! What preparing a batch finds out for one shard: its distinct keys, and what is to be done for each.
#![forbid(unsafe_code)]

use super::Flight;
use crate::types::{Key, mix};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A live row, pinned.
    Live,
    /// A new row, reserved.
    New,
    /// A tombstone or expired row, pinned, that begins anew.
    Anew,
    /// Not admitted, or nothing to do.
    Skip,
}

#[derive(Debug)]
pub(super) struct Unique {
    pub(super) key: Key,
    pub(super) row: u32,
    pub(super) occurrences: u32,
    /// Position in the batch of its last occurrence.
    pub(super) last: u32,
    pub(super) kind: Kind,
}

/// What prepare found out for a shard's part of a batch; reused from batch to batch.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Positions in the batch whose keys are of this shard, in input order.
    pub(crate) positions: Vec<u32>,
    pub(super) uniques: Vec<Unique>,
    /// Of the distinct keys those that are not hot: mixed, and their numbers; then those of them that get a row.
    pub(super) missing: Vec<(u64, u32)>,
    /// Cold rows that are to be read before the batch goes on.
    pub(crate) flight: Option<Flight>,
    pub(super) fresh: Vec<u32>,
    pub(super) owner: Vec<u32>,
    seen: Vec<u32>,
    /// Buckets of the index before.
    pub(super) buckets: usize,
    pub(super) sums: Vec<f32>,
    /// A row's embedding, where rows are kept in fewer bits.
    pub(super) unpacked: Vec<f32>,
    /// Whether `sums` holds what each key brings, not only those that come more than once.
    pub(super) all_summed: bool,
}

const EMPTY: u32 = u32::MAX;
/// So few keys to a place that a second look, which the processor does not foresee, is rare.
const SEEN_PLACES_A_KEY: usize = 4;
/// The bits of a mixed key that choose its place are others than those that chose its shard.
const SEEN_SHIFT: u32 = 8;

impl Plan {
    /// Whether the batch has to do with the shard.
    pub(crate) fn is_wanted(&self) -> bool {
        !self.positions.is_empty()
    }

    /// Whether the batch's cold rows of the shard were read and are to be put in place.
    pub(crate) fn is_read(&self) -> bool {
        self.flight.as_ref().is_some_and(Flight::is_read)
    }

    /// Mixed keys that were not hot, and were on their way already when the plan's own flight began.
    pub(crate) fn on_other_flights(&self) -> impl Iterator<Item = u64> + '_ {
        let flight = self.flight.as_ref();
        let missing = self.missing.iter().map(|&(mixed, _)| mixed);
        missing.filter(move |&mixed| flight.is_some_and(|flight| !flight.brings(mixed)))
    }

    /// Finds the distinct keys, in order of first occurrence.
    pub(super) fn deduplicate(&mut self, keys: &[Key]) {
        let Plan { positions, uniques, owner, seen, .. } = self;
        let places = (positions.len() * SEEN_PLACES_A_KEY).next_power_of_two();
        seen.clear();
        seen.resize(places, EMPTY);
        uniques.clear();
        uniques.reserve(positions.len());
        owner.clear();
        owner.reserve(positions.len());
        for &position in &*positions {
            let key = keys[position as usize];
            let mut at = (mix(key) >> SEEN_SHIFT) as usize & (places - 1);
            let unique = loop {
                let found = seen[at];
                if found == EMPTY {
                    seen[at] = uniques.len() as u32;
                    uniques.push(Unique { key, row: 0, occurrences: 1, last: position, kind: Kind::Skip });
                    break seen[at];
                }
                let unique = &mut uniques[found as usize];
                if unique.key == key {
                    unique.occurrences += 1;
                    unique.last = position;
                    break found;
                }
                at = (at + 1) & (places - 1);
            };
            owner.push(unique);
        }
    }
}
