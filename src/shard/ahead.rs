//! Rows read from the cold tier ahead of their use, while the shard is open to others, and kept for it as hints.
//!
//! A key in flight is one whose cold copy is being read. A row that comes into memory in any other way grounds it: only hot rows
//! change, and only they are written to the cold tier, so what lands was the newest when it was read and is so still.
#![forbid(unsafe_code)]

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;

use super::image::{read_lanes, split_cold};
use super::{Env, Shard};
use crate::error::Result;
use crate::plant::{Bug, planted};
use crate::slab::{AHEAD, PINNED};
use crate::types::{Key, mix, unmix};

/// Hints take at most one row of so many.
const SHARE: usize = 4;
/// Bytes of the list of hints for each.
const HINT_BYTES: usize = size_of::<(u32, u16)>();

/// Keys whose cold copies are being read, and by which flight.
#[derive(Debug, Default)]
pub(super) struct Flights {
    keys: HashMap<Key, u64>,
    flights: u64,
}

impl Flights {
    /// A key came into memory: what a flight brings of it is not wanted any more.
    #[inline(always)]
    pub(super) fn ground(&mut self, key: Key) {
        if !self.keys.is_empty() && !planted(Bug::StaleRowLands) {
            self.keys.remove(&key);
        }
    }

    /// Ends a key's part in a flight; returns whether it was still in it.
    fn land(&mut self, key: Key, flight: u64) -> bool {
        let flying = self.keys.get(&key) == Some(&flight);
        if flying {
            self.keys.remove(&key);
        }
        flying
    }
}

/// Rows that were brought in ahead and not used yet, in the order of their steps.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// Row numbers and steps; may name rows that were used or left since.
    order: VecDeque<(u32, u16)>,
    rows: usize,
    /// The step of the hint used last: those of earlier steps are late.
    step: u16,
    /// Rows that found no place since a hint was last used.
    turned_away: usize,
}

impl Hints {
    pub(super) fn memory_bytes(&self) -> usize {
        self.order.capacity() * HINT_BYTES
    }

    pub(super) fn forget(&mut self) {
        self.rows -= 1;
    }

    fn is_late(&self, step: u16) -> bool {
        (self.step.wrapping_sub(step) as i16) > 0
    }
}

/// Some keys of a shard on their way up.
#[derive(Debug)]
pub(crate) struct Flight {
    number: u64,
    step: u16,
    /// Mixed keys, ascending.
    mixed: Vec<u64>,
    places: Vec<(usize, usize, usize)>,
    values: Vec<u8>,
}

impl Flight {
    /// Reads the rows. Without the shard's lock.
    pub(crate) fn read(&mut self, env: &Env<'_>) -> Result<()> {
        let Flight { mixed, places, values, .. } = self;
        env.counters.cold_reads.fetch_add(mixed.len() as u64, Relaxed);
        env.cold().get_many(env.table, mixed, &mut |at, value| {
            places.push((at, values.len(), value.len()));
            values.extend_from_slice(value);
        })
    }

    pub(crate) fn keys(&self) -> usize {
        self.mixed.len()
    }
}

impl Shard {
    /// Begins to bring up those of the ascending mixed keys that are not hot and not on their way. To be followed by [`Flight::read`] and
    /// [`Shard::land`], whether or not that succeeds.
    pub(crate) fn take_off(&mut self, mixed: &[u64], step: u16) -> Option<Flight> {
        mixed.iter().for_each(|&mixed| self.prefetch_key(mixed));
        let flying = |&mixed: &u64| {
            let key = unmix(mixed);
            self.find(key, mixed).is_none() && !self.flights.keys.contains_key(&key)
        };
        let mixed: Vec<u64> = mixed.iter().copied().filter(flying).collect();
        if mixed.is_empty() {
            return None;
        }
        self.flights.flights += 1;
        let number = self.flights.flights;
        self.flights.keys.extend(mixed.iter().map(|&mixed| (unmix(mixed), number)));
        Some(Flight { number, step, mixed, places: Vec::new(), values: Vec::new() })
    }

    /// Keeps what was read of keys that did not come into memory in another way; rows without a place are dropped. Returns how many
    /// were kept.
    pub(crate) fn land(&mut self, env: &Env<'_>, flight: &Flight) -> usize {
        let clock = env.context.now();
        let mut kept = 0;
        for &(at, start, length) in &flight.places {
            let key = unmix(flight.mixed[at]);
            // What is wrong with a value says the batch that reads it.
            let Some((time, lanes)) = split_cold(&flight.values[start..start + length], env.schema.lanes()) else { continue };
            let wanted = self.flights.land(key, flight.number) && self.raw(key).is_none();
            if !wanted || env.schema.lifetimes().expired(key, time, clock) || !self.has_place_ahead(env) {
                continue;
            }
            let Some(row) = self.slab.allocate() else { continue };
            read_lanes(lanes, self.slab.row_mut(row));
            let meta = self.slab.meta_mut(row);
            let time = if planted(Bug::PromotedTimeLost) { 0 } else { time };
            (meta.key, meta.time, meta.touches, meta.flags) = (key, time, flight.step, AHEAD);
            self.index.insert(mix(key), row);
            self.hints.order.push_back((row, flight.step));
            self.hints.rows += 1;
            kept += 1;
        }
        for &mixed in &flight.mixed {
            self.flights.land(unmix(mixed), flight.number);
        }
        env.counters.ahead.fetch_add(kept as u64, Relaxed);
        kept
    }

    pub(crate) fn is_flying(&self, key: Key) -> bool {
        self.flights.keys.contains_key(&key)
    }

    /// A batch uses a row that was brought in ahead: from now on it is one as all others.
    pub(super) fn claim(&mut self, env: &Env<'_>, row: u32) {
        env.counters.claimed.fetch_add(1, Relaxed);
        let meta = self.slab.meta(row);
        self.hints.step = if self.hints.is_late(meta.touches) { self.hints.step } else { meta.touches };
        self.hints.turned_away = 0;
        self.release_hint(row);
    }

    fn release_hint(&mut self, row: u32) {
        self.hints.rows -= 1;
        let meta = self.slab.meta_mut(row);
        (meta.touches, meta.flags) = (self.hand.begin(mix(meta.key), row), meta.flags & !AHEAD);
    }

    /// Whether one more row may be kept for later: within their share, in a row that nobody else has.
    fn has_place_ahead(&mut self, env: &Env<'_>) -> bool {
        let rows =
            env.context.hot_rows.map_or(usize::MAX, |cap| cap / env.shards).min(self.slab.capacity().max(self.slab.chunk_rows()));
        let most = (rows / SHARE).max(1);
        self.retire(most);
        if self.hints.rows >= most {
            self.hints.turned_away += 1;
            return false;
        }
        if self.hints.order.len() == self.hints.order.capacity() && !self.extend_hints(env) {
            return false;
        }
        self.slab.available() > 0 || self.grow(env).unwrap_or(false)
    }

    fn extend_hints(&mut self, env: &Env<'_>) -> bool {
        let more = (self.hints.order.len() / 2).max(64);
        if !env.context.budget.try_reserve(more * HINT_BYTES) {
            return false;
        }
        let before = self.hints.memory_bytes();
        self.hints.order.reserve_exact(more);
        env.context.budget.charge(self.hints.memory_bytes() - before);
        env.context.budget.release(more * HINT_BYTES);
        true
    }

    /// Hints whose step has passed leave when rows are wanted, as all that is not used; and, where hints are never used although new
    /// ones have no place, the oldest.
    fn retire(&mut self, most: usize) {
        while let Some(&(row, step)) = self.hints.order.front() {
            let meta = self.slab.is_known(row).then(|| self.slab.meta(row));
            let waits = meta.is_some_and(|meta| meta.has(AHEAD) && meta.touches == step);
            let stuck = self.hints.turned_away * 8 > most || self.hints.order.len() > 2 * most;
            if waits && !stuck && !self.hints.is_late(step) {
                return;
            }
            self.hints.order.pop_front();
            if waits && meta.is_some_and(|meta| !meta.has(PINNED)) {
                self.release_hint(row);
                if stuck {
                    return;
                }
            }
        }
    }
}
