//! Rows read from the cold tier while the shard is open to others: ahead of their use, kept for it as hints; or for a batch or a
//! lookup, which waits for them.
//!
//! A key in flight is one whose cold copy is being read. A row that comes into memory in any other way grounds it: only hot rows
//! change, and only they are written to the cold tier, so what lands was the newest when it was read and is so still.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;

use super::image::{read_lanes, split_cold};
use super::{Env, Shard, policy};
use crate::error::Result;
use crate::index::TOMBSTONE_BIT;
use crate::plant::{Bug, planted};
use crate::slab::AHEAD;
use crate::types::{Key, unmix};

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

    pub(super) fn is_on(&self, key: Key, flight: &Flight) -> bool {
        self.keys.get(&key) == Some(&flight.number)
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

/// Some keys of a shard on their way up.
#[derive(Debug, Default)]
pub(crate) struct Flight {
    number: u64,
    /// The step of look-ahead that rows are brought for; none where they are used at once.
    step: Option<u16>,
    /// Mixed keys, ascending.
    mixed: Vec<u64>,
    places: Vec<(usize, usize, usize)>,
    values: Vec<u8>,
    read: bool,
    /// No read failed: what has no value has no row in the cold tier.
    whole: bool,
}

/// Flights of a table's shards that are read together.
pub(crate) type Lot<'a, 'b> = (Env<'a>, Vec<&'b mut Flight>);

impl Flight {
    /// Ascending mixed keys that are only to be read.
    pub(super) fn of(mixed: impl Iterator<Item = u64>) -> Flight {
        Flight { mixed: mixed.collect(), ..Flight::default() }
    }

    /// Reads the rows of flights of tables' shards, in the order of these, all at once: so the device has many reads to serve.
    /// Without the shards' locks.
    pub(crate) fn read_all(lots: &mut [Lot<'_, '_>]) -> Result<()> {
        Flight::each(lots).for_each(|flight| flight.read = true);
        let mixed = |(_, flights): &Lot<'_, '_>| flights.iter().flat_map(|flight| &flight.mixed).copied().collect();
        let mixed: Vec<Vec<u64>> = lots.iter().map(mixed).collect();
        let parts: Vec<_> = lots.iter().zip(&mixed).map(|((env, _), mixed)| (env.table, &**mixed)).collect();
        for ((env, _), (_, mixed)) in lots.iter().zip(&parts) {
            env.counters.cold_reads.fetch_add(mixed.len() as u64, Relaxed);
        }
        let asked = mixed.iter().any(|mixed| !mixed.is_empty());
        let Some(context) = lots.first().map(|(env, _)| env.context).filter(|_| asked) else { return Ok(()) };
        let (mut flying, mut first) = (Flight::each(lots), 0);
        let mut flight = flying.next();
        context.cold.get_parts(&parts, &mut |at, value| {
            // Values come in the order of their keys.
            while let Some(left) = flight.as_ref().filter(|flight| at >= first + flight.mixed.len()) {
                first += left.mixed.len();
                flight = flying.next();
            }
            flight.iter_mut().for_each(|flight| flight.take_on(at - first, value));
        })?;
        drop(flying);
        Flight::each(lots).for_each(|flight| flight.whole = true);
        Ok(())
    }

    fn each<'a>(lots: &'a mut [Lot<'_, '_>]) -> impl Iterator<Item = &'a mut Flight> {
        lots.iter_mut().flat_map(|(_, flights)| flights.iter_mut()).map(|flight| &mut **flight)
    }

    /// What the cold tier has of these ascending mixed keys was offered. A row that left memory only after a lookup had found it there is
    /// not among them.
    pub(crate) fn all_offered(&mut self, asked: &[u64]) {
        self.whole = self.mixed.iter().all(|mixed| asked.binary_search(mixed).is_ok());
    }

    /// Mixed keys, ascending, that the cold tier has no row of.
    pub(super) fn not_found(&self) -> impl Iterator<Item = u64> + '_ {
        let mut found = self.places.iter().map(|&(at, ..)| at).peekable();
        let mixed = self.mixed.iter().enumerate().filter(|_| self.whole);
        mixed.filter(move |(at, _)| found.next_if_eq(at).is_none()).map(|(_, &mixed)| mixed)
    }

    /// Takes the value of a key with this number on board.
    fn take_on(&mut self, at: usize, value: &[u8]) {
        self.places.push((at, self.values.len(), value.len()));
        self.values.extend_from_slice(value);
    }

    /// Takes a value on board if its key is one of the flight. To be called in the order of the keys.
    pub(crate) fn offer(&mut self, mixed: u64, value: &[u8]) {
        if let Ok(at) = self.mixed.binary_search(&mixed) {
            self.take_on(at, value);
        }
    }

    /// What was read of a mixed key.
    pub(super) fn value(&self, mixed: u64) -> Option<&[u8]> {
        let at = self.mixed.binary_search(&mixed).ok()?;
        let place = self.places.binary_search_by_key(&at, |&(at, ..)| at).ok()?;
        let (_, start, length) = self.places[place];
        Some(&self.values[start..start + length])
    }

    pub(crate) fn keys(&self) -> usize {
        self.mixed.len()
    }

    pub(crate) fn brings(&self, mixed: u64) -> bool {
        self.mixed.binary_search(&mixed).is_ok()
    }

    /// Whether its rows were read, or failed to be.
    pub(crate) fn is_read(&self) -> bool {
        self.read
    }
}

/// What became of the keys of a batch that had to be read; each with its number in the batch.
#[derive(Default)]
pub(super) struct Arrivals<'a> {
    pub(super) brought: Vec<(u32, &'a [u8])>,
    /// Mixed keys.
    pub(super) elsewhere: Vec<(u64, u32)>,
}

impl Shard {
    /// Begins to bring up those of the ascending mixed keys that may be cold and are not on their way, for use at once or for a step of
    /// look-ahead: then only as many as there will be places for. To be followed by [`Flight::read_all`], and by [`Shard::land`] or
    /// [`Shard::promote`] whether or not that succeeds.
    pub(crate) fn take_off(&mut self, env: &Env<'_>, mixed: &[u64], step: Option<u16>) -> Flight {
        mixed.iter().for_each(|&mixed| self.prefetch_key(mixed));
        let mut mixed: Vec<u64> = mixed.iter().copied().filter(|&mixed| self.takes_off(mixed)).collect();
        if step.is_some() {
            mixed.truncate(self.places_ahead(env, mixed.len()));
            self.hints.flying += mixed.len();
        } else {
            self.overtake(env.context, &mixed);
        }
        if mixed.is_empty() {
            return Flight::default();
        }
        self.flights.flights += 1;
        let number = self.flights.flights;
        self.flights.keys.extend(mixed.iter().map(|&mixed| (unmix(mixed), number)));
        Flight { number, step, ..Flight::of(mixed.into_iter()) }
    }

    /// Whether a mixed key may have a row that is in the cold tier alone.
    pub(super) fn may_be_cold(&self, mixed: u64) -> bool {
        self.find(unmix(mixed), mixed).is_none() && !self.is_absent(mixed)
    }

    fn takes_off(&self, mixed: u64) -> bool {
        self.may_be_cold(mixed) && !self.is_flying(unmix(mixed))
    }

    /// Places that those of some mixed keys will take that look-ahead brings, beside those that are on their way already.
    pub(super) fn places_wanted(&self, env: &Env<'_>, mixed: &[u64]) -> usize {
        let wanted = mixed.iter().filter(|&&mixed| self.takes_off(mixed)).count();
        self.hints.flying + wanted.min(self.hints_left(env))
    }

    /// Notes that a lookup uses those of the ascending mixed keys that are hot, and begins to bring up the others.
    pub(crate) fn look_up(&mut self, env: &Env<'_>, mixed: &[u64]) -> Flight {
        mixed.iter().for_each(|&mixed| self.prefetch_key(mixed));
        let mut missing = Vec::new();
        for &mixed in mixed {
            let Some(row) = self.find(unmix(mixed), mixed) else {
                missing.push(mixed);
                continue;
            };
            if row & TOMBSTONE_BIT != 0 {
                continue;
            }
            if self.slab.meta(row).has(AHEAD) {
                self.claim(env, row);
            }
            let meta = self.slab.meta_mut(row);
            meta.touches = policy::used(meta.touches);
        }
        self.take_off(env, &missing, None)
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
            if !wanted || env.schema.lifetimes().expired(key, time, clock) || !self.has_place(env, flight.step.is_some()) {
                continue;
            }
            let Some(row) = self.slab.allocate() else { continue };
            read_lanes(lanes, self.slab.row_mut(row));
            let meta = self.slab.meta_mut(row);
            (meta.key, meta.flags) = (key, 0);
            meta.time = if planted(Bug::PromotedTimeLost) { 0 } else { time };
            match flight.step {
                Some(step) => self.keep_ahead(key, row, step),
                None => self.insert(key, row),
            }
            kept += 1;
        }
        self.note_not_found(env, flight);
        self.end_flight(flight);
        let counter = if flight.step.is_some() { &env.counters.ahead } else { &env.counters.promoted };
        counter.fetch_add(kept as u64, Relaxed);
        if flight.step.is_none() && self.shortage(env, 0) > 0 {
            env.context.room.ask();
        }
        kept
    }

    /// What is still in the air is not wanted any more.
    pub(super) fn end_flight(&mut self, flight: &Flight) {
        for &mixed in &flight.mixed {
            self.flights.land(unmix(mixed), flight.number);
        }
        if flight.step.is_some() {
            self.hints.flying -= flight.mixed.len();
        }
    }

    /// Ends a flight whose rows a batch wants, and divides the batch's ascending `missing` keys: those with a value that is current go
    /// to `brought`, those that came up in another way or are on it to `elsewhere`, those without a row stay.
    pub(super) fn arrive<'a>(&mut self, flight: &'a Flight, missing: &mut Vec<(u64, u32)>) -> Arrivals<'a> {
        let mut arrivals = Arrivals::default();
        missing.retain(|&(mixed, at)| {
            let key = unmix(mixed);
            let landed = self.flights.land(key, flight.number);
            if !self.is_absent(mixed) && (!landed || self.find(key, mixed).is_some()) {
                arrivals.elsewhere.push((mixed, at));
                return false;
            }
            let value = flight.value(mixed);
            arrivals.brought.extend(value.map(|value| (at, value)));
            value.is_none()
        });
        arrivals
    }

    pub(crate) fn is_flying(&self, key: Key) -> bool {
        self.flights.keys.contains_key(&key)
    }

    /// Whether one more row may be kept, in a place that nobody else has; those for later must be listed too.
    fn has_place(&mut self, env: &Env<'_>, ahead: bool) -> bool {
        (!ahead || self.lists_hint(env)) && (self.slab.available() > 0 || self.grow(env).unwrap_or(false))
    }
}
