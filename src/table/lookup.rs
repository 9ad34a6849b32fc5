//! Batched reads: fetch ahead, probe, copy rows into the caller's buffer. Reading never writes.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use smallvec::SmallVec;

use super::buffers::{Buffers, SHARDS_ON_STACK};
use super::gather::{Gather, Output};
use super::pool::run_all;
use super::promote::Flights;
use super::{Table, TableInner};
use crate::context::Context;
use crate::crew::Crew;
use crate::error::{Error, Result};
use crate::precision::Precision;
use crate::schema::{Missing, TableSchema};
use crate::segments::fill_initial;
use crate::shard::{Shard, View, misfit, read_lanes, shard_of, split_cold};
use crate::simd::Cpu;
use crate::sync::RwLockReadGuard;
use crate::types::{Key, mix};

/// Keys looked up under the locks of their shards, so that updates do not wait long.
pub(super) const KEYS_A_VISIT: usize = 4096;
/// A thread takes at least this many keys: less is not worth handing over.
const MIN_KEYS_A_THREAD: usize = 1024;
const LOTS_A_THREAD: usize = 2;
/// With this many keys a shard nearly every shard has some: it is not worth finding out which.
const KEYS_A_SHARD: usize = 4;

/// One for each shard.
type OfShards<T> = SmallVec<[T; SHARDS_ON_STACK]>;

impl Table {
    /// Copies the embeddings of `keys` to `rows` (`keys.len() * dim` f32s, row-major) and returns how many keys have a row.
    ///
    /// A key without a row, or whose row expired, yields what [`Missing`] of the schema says. No row begins or changes; cold ones are brought
    /// into memory as far as there is room.
    ///
    /// # Errors
    /// A wrong length; a failing cold tier. Then the content of `rows` is unspecified.
    pub fn lookup(&self, keys: &[Key], rows: &mut [f32]) -> Result<usize> {
        self.inner.lookup(keys, rows, None)
    }

    /// As [`Table::lookup`], and sets `found[i]` to whether `keys[i]` has a row.
    ///
    /// # Errors
    /// As [`Table::lookup`].
    pub fn lookup_found(&self, keys: &[Key], rows: &mut [f32], found: &mut [bool]) -> Result<usize> {
        self.inner.lookup(keys, rows, Some(found))
    }

    /// Whether `key` has a live row.
    ///
    /// # Errors
    /// A failing cold tier.
    pub fn contains(&self, key: Key) -> Result<bool> {
        let mut rows = vec![0.0; self.dim()];
        Ok(self.lookup(&[key], &mut rows)? == 1)
    }
}

pub(crate) fn check_length(what: &'static str, expected: usize, found: usize, keys: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::WrongLength { what, expected, found, keys }) }
}

/// The keys that a thread takes at a time: more than one lot each, so that those who are quick do more of them.
pub(super) fn share_of(context: &Context, keys: usize) -> usize {
    let workers = context.crew.as_ref().map_or(1, Crew::threads);
    let lots = if workers == 1 { 1 } else { workers * LOTS_A_THREAD };
    keys.div_ceil(lots).max(MIN_KEYS_A_THREAD)
}

/// One thread's share of a lookup.
pub(super) struct Part<'a> {
    pub(super) keys: &'a [Key],
    pub(super) rows: &'a mut [f32],
    /// Where the caller asks which keys have a row.
    pub(super) found: Option<&'a mut [bool]>,
}

impl<'a> Part<'a> {
    /// Divides it into parts of `share` keys; the last may have fewer.
    fn divide(self, share: usize, dim: usize) -> impl Iterator<Item = Part<'a>> {
        let mut found = self.found;
        self.keys.chunks(share).zip(self.rows.chunks_mut(share * dim)).map(move |(keys, rows)| {
            let own = found.take().map(|all| all.split_at_mut(keys.len()));
            let own = own.map(|(own, rest)| {
                found = Some(rest);
                own
            });
            Part { keys, rows, found: own }
        })
    }
}

/// A part that is looked up at once.
struct Visit<'a> {
    keys: &'a [Key],
    rows: &'a mut [f32],
    found: &'a mut [bool],
}

impl TableInner {
    fn lookup(&self, keys: &[Key], rows: &mut [f32], found: Option<&mut [bool]>) -> Result<usize> {
        self.check()?;
        let schema = self.schema();
        check_length("rows", keys.len().saturating_mul(schema.dim()), rows.len(), keys.len())?;
        if let Some(found) = &found {
            check_length("found", keys.len(), found.len(), keys.len())?;
        }
        let share = share_of(&self.context, keys.len());
        let part = Part { keys, rows, found };
        if keys.len() <= share {
            return self.lookup_part(&schema, part);
        }
        let jobs = part.divide(share, schema.dim()).collect();
        run_all(self.context.crew.as_ref(), jobs, |part| self.lookup_part(&schema, part)).into_iter().sum()
    }

    pub(super) fn lookup_part(&self, schema: &TableSchema, part: Part<'_>) -> Result<usize> {
        let looked_up = part.keys.len() as u64;
        let hits = Buffers::with(|buffers| {
            part.divide(KEYS_A_VISIT, schema.dim()).map(|part| self.visit(schema, part, buffers)).sum::<Result<usize>>()
        })?;
        self.counters.looked_up.fetch_add(looked_up, Ordering::Relaxed);
        Ok(hits)
    }

    fn visit(&self, schema: &TableSchema, Part { keys, rows, found }: Part<'_>, buffers: &mut Buffers) -> Result<usize> {
        let Buffers { missing, cold: wanted, found: unasked } = buffers;
        let mut visit = Visit { keys, rows, found: found.unwrap_or(&mut unasked[..keys.len()]) };
        let (hits, awaited) = self.look_up(schema, &mut visit, missing, wanted)?;
        if awaited.is_empty() { Ok(hits) } else { Ok(hits + self.lookup_landed(schema, &mut visit, missing, awaited)?) }
    }

    /// Returns the hits, and what is on the way into memory for others: mixed keys and positions.
    fn look_up(
        &self,
        schema: &TableSchema,
        visit: &mut Visit<'_>,
        missing: &mut Vec<(u32, bool)>,
        wanted: &mut Vec<(u64, u32)>,
    ) -> Result<(usize, Vec<(u64, u32)>)> {
        let (hot, hints) = self.lookup_hot(schema, visit, missing, wanted);
        // Where a row must be waited for, or came ahead of this use, it is also noted what was used: there is time.
        let flights = if hints || !wanted.is_empty() { self.note_uses(schema, visit.keys) } else { None };
        let awaited = flights.as_ref().map_or_else(Vec::new, |flights| flights.leave_out(wanted));
        let cold = self.lookup_cold(schema, visit, wanted, flights)?;
        self.counters.hot_hits.fetch_add(hot as u64, Ordering::Relaxed);
        Ok((hot + cold, awaited))
    }

    /// Returns the hits, and whether any was brought ahead; `cold` receives what the cold tier decides.
    fn lookup_hot(
        &self,
        schema: &TableSchema,
        part: &mut Visit<'_>,
        missing: &mut Vec<(u32, bool)>,
        cold: &mut Vec<(u64, u32)>,
    ) -> (usize, bool) {
        let dim = schema.dim();
        let locked = self.lock_shards(part.keys);
        // Asked under the locks: a row demoted before them is found, one demoted later was hot.
        let may_be_cold = self.has_cold.load(Ordering::Acquire);
        let shards: OfShards<Option<View<'_>>> = locked.iter().map(|shard| shard.as_deref().map(Shard::view)).collect();
        missing.clear();
        let mut hints = false;
        let output = Output { rows: part.rows, found: part.found, missing, hints: &mut hints };
        let hits = Cpu::detect().run(Gather {
            shards: &shards,
            keys: part.keys,
            dim,
            precision: schema.precision_value(),
            lifetimes: Some(schema.lifetimes()).filter(|lifetimes| lifetimes.any()),
            clock: self.context.now(),
            output,
        });
        drop(shards);
        if may_be_cold {
            for (at, absent) in missing.iter_mut() {
                let mixed = mix(part.keys[*at as usize]);
                let shard = locked[shard_of(mixed, locked.len())].as_deref();
                *absent |= shard.is_some_and(|shard| shard.is_absent(mixed));
            }
        }
        drop(locked);
        cold.clear();
        for &(at, absent) in &*missing {
            let key = part.keys[at as usize];
            if may_be_cold && !absent {
                cold.push((mix(key), at));
            } else {
                self.fill_missing(schema, key, &mut part.rows[at as usize * dim..][..dim]);
            }
        }
        (hits, hints)
    }

    /// The shards of some keys, to be read. Always in ascending order: readers that each hold what another waits for, behind a
    /// writer, would wait for ever.
    fn lock_shards(&self, keys: &[Key]) -> OfShards<Option<RwLockReadGuard<'_, Shard>>> {
        let lock = |shard| self.context.meters.shards.read(shard);
        if keys.len() >= self.shards.len() * KEYS_A_SHARD {
            return self.shards.iter().map(|shard| Some(lock(shard))).collect();
        }
        let mut wanted: OfShards<bool> = SmallVec::from_elem(false, self.shards.len());
        keys.iter().for_each(|&key| wanted[shard_of(mix(key), self.shards.len())] = true);
        self.shards.iter().zip(wanted).map(|(shard, wanted)| wanted.then(|| lock(shard))).collect()
    }

    /// Waits for what is on its way into memory for others, and looks it up; what has not come then is read without. After what the
    /// caller itself brings has landed: else two could wait for each other.
    fn lookup_landed(
        &self,
        schema: &TableSchema,
        visit: &mut Visit<'_>,
        missing: &mut Vec<(u32, bool)>,
        awaited: Vec<(u64, u32)>,
    ) -> Result<usize> {
        self.wait_for_landing(awaited.iter().map(|&(mixed, _)| mixed), None);
        let dim = schema.dim();
        let keys: Vec<Key> = awaited.iter().map(|&(_, at)| visit.keys[at as usize]).collect();
        let (mut rows, mut found) = (vec![0.0; keys.len() * dim], vec![false; keys.len()]);
        let mut landed = Visit { keys: &keys, rows: &mut rows, found: &mut found };
        let mut wanted = Vec::new();
        let (hits, mut late) = self.look_up(schema, &mut landed, missing, &mut wanted)?;
        let hits = hits + self.lookup_cold(schema, &mut landed, &mut late, None)?;
        for ((&(_, at), row), found) in awaited.iter().zip(rows.chunks_exact(dim)).zip(found) {
            visit.rows[at as usize * dim..][..dim].copy_from_slice(row);
            visit.found[at as usize] = found;
        }
        Ok(hits)
    }

    /// A row that is promoted, changed or removed between the probe and this read yields its older state: as if read before.
    fn lookup_cold(
        &self,
        schema: &TableSchema,
        part: &mut Visit<'_>,
        wanted: &mut [(u64, u32)],
        mut flights: Option<Flights<'_>>,
    ) -> Result<usize> {
        let (dim, clock) = (schema.dim(), self.context.now());
        let mut hits = 0;
        if !wanted.is_empty() {
            wanted.sort_unstable();
            // Equal keys are read once.
            let runs: Vec<&[(u64, u32)]> = wanted.chunk_by(|a, b| a.0 == b.0).collect();
            let mixed: Vec<u64> = runs.iter().map(|run| run[0].0).collect();
            self.counters.cold_reads.fetch_add(mixed.len() as u64, Ordering::Relaxed);
            let mut odd = None;
            let mut packed = vec![0.0; schema.embedding_lanes()];
            self.context.cold.get_many(self.id, &mixed, &mut |at, value| {
                flights.iter_mut().for_each(|flights| flights.offer(mixed[at], value));
                let first = runs[at][0].1 as usize;
                let Some((time, bytes)) = split_cold(value, schema.lanes()) else {
                    odd = Some((part.keys[first], value.len()));
                    return;
                };
                if schema.lifetimes().expired(part.keys[first], time, clock) {
                    return;
                }
                for position in runs[at].iter().map(|&(_, position)| position as usize) {
                    let row = &mut part.rows[position * dim..(position + 1) * dim];
                    match schema.precision_value() {
                        Precision::F32 => read_lanes(bytes, row),
                        _ => {
                            read_lanes(bytes, &mut packed);
                            row.copy_from_slice(&schema.embedding(&packed));
                        }
                    }
                    part.found[position] = true;
                    hits += 1;
                }
            })?;
            flights.iter_mut().for_each(|flights| flights.all_offered(&mixed));
            if let Some((key, length)) = odd {
                return Err(misfit(key, length, schema.lanes()));
            }
        }
        for &mut (_, position) in wanted {
            let position = position as usize;
            if !part.found[position] {
                self.fill_missing(schema, part.keys[position], &mut part.rows[position * dim..(position + 1) * dim]);
            }
        }
        self.counters.cold_hits.fetch_add(hits as u64, Ordering::Relaxed);
        Ok(hits)
    }

    fn fill_missing(&self, schema: &TableSchema, key: Key, row: &mut [f32]) {
        match schema.missing_value() {
            Missing::Initial => {
                fill_initial(schema.segments_ref(), self.context.seed, self.id.0, key, row);
                schema.round(row);
            }
            Missing::Zeros => row.fill(0.0),
        }
    }
}
