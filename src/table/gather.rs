//! The loop of a lookup: a pipeline over small groups of keys, compiled for the processor and for the usual dimensions.
//!
//! While one group's rows are copied, the index lines of a later group are read and its rows asked for, and the index lines of a
//! still later one are asked for. Groups are small so that requests and copies alternate: with large ones the memory has nothing
//! to do while rows are copied.
#![forbid(unsafe_code)]

use crate::expiry::Lifetimes;
use crate::index::Probe;
use crate::plant::{Bug, planted};
use crate::precision::{Precision, Unpack};
use crate::shard::{View, shard_of};
use crate::simd::Loop;
use crate::slab::{AHEAD, Entry, TOMBSTONE};
use crate::types::{Key, UnixSeconds, mix};

/// Keys of a group.
const GROUP: usize = 4;
/// Groups from one stage to the next: lines are asked for, read, searched on where keys lie beyond, rows copied.
const TO_ROWS: usize = 6;
const TO_BEYOND: usize = TO_ROWS + 3;
const TO_COPY: usize = 12;
/// Groups on their way.
const RING: usize = 16;

const _: () = assert!(TO_COPY < RING && RING.is_power_of_two());

/// What a lookup writes.
pub(super) struct Output<'a> {
    pub(super) rows: &'a mut [f32],
    pub(super) found: &'a mut [bool],
    /// The positions of keys that have no live row in memory, and whether that is known for the cold tier too.
    pub(super) missing: &'a mut Vec<(u32, bool)>,
    /// Set if a row was brought in ahead and not used yet.
    pub(super) hints: &'a mut bool,
}

/// Copies the rows of keys that are in memory; its output is how many there are.
pub(super) struct Gather<'a> {
    /// Those that the keys need, locked.
    pub(super) shards: &'a [Option<View<'a>>],
    pub(super) keys: &'a [Key],
    pub(super) dim: usize,
    pub(super) precision: Precision,
    /// Where rows expire at all.
    pub(super) lifetimes: Option<&'a Lifetimes>,
    pub(super) clock: UnixSeconds,
    pub(super) output: Output<'a>,
}

/// Keys on their way.
#[derive(Clone, Copy, Default)]
struct Group<'a> {
    mixed: [u64; GROUP],
    likely: [Option<Entry<'a>>; GROUP],
    /// Those whose home bucket was passed by keys of their class.
    beyond: [bool; GROUP],
}

impl Loop for Gather<'_> {
    type Output = usize;

    #[inline(always)]
    fn run(self) -> usize {
        match self.dim {
            16 => self.run_as::<16>(),
            32 => self.run_as::<32>(),
            64 => self.run_as::<64>(),
            128 => self.run_as::<128>(),
            _ => self.run_as::<0>(),
        }
    }
}

impl<'a> Gather<'a> {
    /// `D` is the dimension where it is known when this is compiled, else 0.
    #[inline(always)]
    fn run_as<const D: usize>(mut self) -> usize {
        let mut ring = [Group::default(); RING];
        let groups = self.keys.len().div_ceil(GROUP);
        let mut hits = 0;
        for step in 0..groups + TO_COPY {
            if step < groups {
                self.ask_for_lines(step, &mut ring[step % RING]);
            }
            if step >= TO_COPY {
                hits += self.copy_rows::<D>(step - TO_COPY, &ring[(step - TO_COPY) % RING]);
            }
            // Where no group is on its way this repeats what was done.
            self.search_beyond::<D>(&mut ring[step.wrapping_sub(TO_BEYOND) % RING]);
            self.ask_for_rows::<D>(&mut ring[step.wrapping_sub(TO_ROWS) % RING]);
        }
        hits
    }

    #[inline(always)]
    fn shard(&self, mixed: u64) -> Option<View<'a>> {
        self.shards[shard_of(mixed, self.shards.len())]
    }

    #[inline(always)]
    fn ask_for_lines(&self, at: usize, group: &mut Group<'a>) {
        for (mixed, &key) in group.mixed.iter_mut().zip(&self.keys[at * GROUP..]) {
            *mixed = mix(key);
            if let Some(shard) = self.shard(*mixed) {
                shard.prefetch_line(*mixed);
            }
        }
    }

    #[inline(always)]
    fn ask_for_rows<const D: usize>(&self, group: &mut Group<'a>) {
        for ((&mixed, likely), beyond) in group.mixed.iter().zip(&mut group.likely).zip(&mut group.beyond) {
            let Some(shard) = self.shard(mixed) else { continue };
            let probe = shard.probe(mixed);
            *beyond = probe == Probe::Beyond;
            *likely = match probe {
                Probe::Likely(raw) => Some(self.ask_for::<D>(shard.entry(raw))),
                Probe::Absent | Probe::Beyond => None,
            };
        }
    }

    #[inline(always)]
    fn ask_for<const D: usize>(&self, entry: Entry<'a>) -> Entry<'a> {
        let dim = if D == 0 { self.dim } else { D };
        entry.prefetch(if self.precision == Precision::F32 { dim } else { self.precision.lanes(dim) } * 4);
        entry
    }

    #[inline(always)]
    fn search_beyond<const D: usize>(&self, group: &mut Group<'a>) {
        if group.beyond == [false; GROUP] {
            return;
        }
        for ((&mixed, likely), beyond) in group.mixed.iter().zip(&mut group.likely).zip(group.beyond) {
            if beyond && let Some(shard) = self.shard(mixed) {
                *likely = shard.search(mixed).map(|entry| self.ask_for::<D>(entry));
            }
        }
    }

    #[inline(always)]
    fn copy_rows<const D: usize>(&mut self, at: usize, group: &Group<'a>) -> usize {
        let dim = if D == 0 { self.dim } else { D };
        let first = at * GROUP;
        let keys = &self.keys[first..];
        let keys = &keys[..keys.len().min(GROUP)];
        let rows = &mut self.output.rows[first * dim..][..keys.len() * dim];
        let found = &mut self.output.found[first..][..keys.len()];
        let mut hits = 0;
        // By number: iterators zipped together kept so many places of theirs that they did not fit into registers.
        for place in 0..keys.len() {
            let (key, mixed) = (keys[place], group.mixed[place]);
            let entry = match group.likely[place] {
                Some(likely) if likely.meta.key == key => Some(likely),
                Some(_) => find(self.shards, key, mixed),
                None => None,
            };
            let live = entry.filter(|entry| {
                !entry.meta.has(TOMBSTONE) && self.lifetimes.is_none_or(|lifetimes| is_live(entry, lifetimes, self.clock))
            });
            found[place] = live.is_some();
            let Some(live) = live else {
                self.output.missing.push(((first + place) as u32, entry.is_some()));
                continue;
            };
            *self.output.hints |= live.meta.has(AHEAD);
            let row = &mut rows[place * dim..][..dim];
            match self.precision {
                Precision::F32 => copy(row, &live.lanes[..dim]),
                precision => Unpack { precision, lanes: &live.lanes[..precision.lanes(dim)], values: row }.run(),
            }
            hits += 1;
        }
        hits
    }
}

/// The key's row, where what its tag led to is another's.
#[cold]
#[inline(never)]
fn find<'a>(shards: &[Option<View<'a>>], key: Key, mixed: u64) -> Option<Entry<'a>> {
    shards[shard_of(mixed, shards.len())]?.find(key, mixed)
}

#[inline(always)]
fn is_live(entry: &Entry<'_>, lifetimes: &Lifetimes, clock: UnixSeconds) -> bool {
    planted(Bug::ExpiredRowRead) || !lifetimes.expired(entry.meta.key, entry.meta.time, clock)
}

/// In pieces of a cache line, which the compiler moves in registers; a call of `memcpy` costs as much as the row.
#[inline(always)]
fn copy(to: &mut [f32], from: &[f32]) {
    let (to_lines, to_rest) = to.as_chunks_mut::<16>();
    let (from_lines, from_rest) = from.as_chunks::<16>();
    to_lines.iter_mut().zip(from_lines).for_each(|(to, from)| *to = *from);
    to_rest.copy_from_slice(from_rest);
}
