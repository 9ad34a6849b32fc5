//! Batched reads: partition by shard, probe ahead, copy rows into the caller's buffer. Reading never writes.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;

use super::{Table, TableInner};
use crate::context::read;
use crate::error::{Error, Result};
use crate::expiry::Expiry;
use crate::schema::{Missing, TableSchema};
use crate::shard::{Found, read_lanes, shard_of, split_cold};
use crate::types::{Key, mix};

/// Keys probed together, so that their cache misses overlap.
const GROUP: usize = 32;
/// A thread takes at least this many keys: less is not worth handing over.
const MIN_KEYS_A_THREAD: usize = 1024;

impl Table {
    /// Copies the embeddings of `keys` to `rows` (`keys.len() * dim` f32s, row-major) and returns how many keys have a row.
    ///
    /// A key without a row, or whose row expired, yields what [`Missing`] of the schema says. Nothing is inserted or moved.
    ///
    /// # Errors
    /// A wrong length; a failing cold tier. Then the content of `rows` is unspecified.
    pub fn lookup(&self, keys: &[Key], rows: &mut [f32]) -> Result<usize> {
        let mut found = vec![false; keys.len()];
        self.lookup_found(keys, rows, &mut found)
    }

    /// As [`Table::lookup`], and sets `found[i]` to whether `keys[i]` has a row.
    ///
    /// # Errors
    /// As [`Table::lookup`].
    pub fn lookup_found(&self, keys: &[Key], rows: &mut [f32], found: &mut [bool]) -> Result<usize> {
        self.inner.check()?;
        let schema = self.inner.schema();
        check_length("rows", keys.len() * schema.dim(), rows.len(), keys.len())?;
        check_length("found", keys.len(), found.len(), keys.len())?;
        self.inner.lookup(&schema, keys, rows, found)
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

pub(super) fn check_length(what: &'static str, expected: usize, found: usize, keys: usize) -> Result<()> {
    if expected == found { Ok(()) } else { Err(Error::WrongLength { what, expected, found, keys }) }
}

/// One thread's share of a lookup.
struct Part<'a> {
    keys: &'a [Key],
    rows: &'a mut [f32],
    found: &'a mut [bool],
}

impl TableInner {
    fn lookup(&self, schema: &TableSchema, keys: &[Key], rows: &mut [f32], found: &mut [bool]) -> Result<usize> {
        let workers = self.context.pool.as_ref().map_or(1, rayon::ThreadPool::current_num_threads);
        let share = keys.len().div_ceil(workers).max(MIN_KEYS_A_THREAD);
        let (Some(pool), true) = (&self.context.pool, keys.len() > share) else {
            return self.lookup_part(schema, Part { keys, rows, found }, 0);
        };
        let parts = keys.chunks(share).zip(rows.chunks_mut(share * schema.dim())).zip(found.chunks_mut(share));
        let mut results: Vec<Result<usize>> = Vec::new();
        results.resize_with(keys.len().div_ceil(share), || Ok(0));
        pool.scope(|scope| {
            for ((((keys, rows), found), result), first) in parts.zip(&mut results).zip(0..) {
                let first = first * self.shards.len() / workers;
                scope.spawn(move |_| *result = self.lookup_part(schema, Part { keys, rows, found }, first));
            }
        });
        results.into_iter().sum()
    }

    /// `first` is the shard to begin with, so that threads don't queue at the same locks.
    fn lookup_part(&self, schema: &TableSchema, part: Part<'_>, first: usize) -> Result<usize> {
        let shards = self.shards.len();
        let (order, starts) = partition(part.keys, shards);
        let (dim, clock) = (schema.dim(), self.context.now());
        let mut cold: Vec<(u64, u32)> = Vec::new();
        let mut hits = 0;
        for at in 0..shards {
            let at = (first + at) % shards;
            let positions = &order[starts[at] as usize..starts[at + 1] as usize];
            if positions.is_empty() {
                continue;
            }
            let shard = read(&self.shards[at]);
            let expires = *schema.expiry_ref() != Expiry::never();
            let mut raws = [None; GROUP];
            for group in positions.chunks(GROUP) {
                group.iter().for_each(|&(mixed, _)| shard.prefetch_key(mixed));
                for (raw, &(mixed, position)) in raws.iter_mut().zip(group) {
                    *raw = shard.probe(part.keys[position as usize], mixed, dim * 4, expires);
                }
                for (&raw, &(mixed, position)) in raws.iter().zip(group) {
                    let position = position as usize;
                    let row = &mut part.rows[position * dim..(position + 1) * dim];
                    part.found[position] = false;
                    match shard.read(raw, schema, clock) {
                        Found::Row(lanes) => {
                            row.copy_from_slice(&lanes[..dim]);
                            part.found[position] = true;
                            hits += 1;
                        }
                        Found::Absent => self.fill_missing(schema, part.keys[position], row),
                        Found::NotHot => cold.push((mixed, position as u32)),
                    }
                }
            }
        }
        Ok(hits + self.lookup_cold(schema, part, cold)?)
    }

    /// A row that is promoted, changed or removed between the probe and this read yields its older state: as if read before.
    fn lookup_cold(&self, schema: &TableSchema, part: Part<'_>, mut wanted: Vec<(u64, u32)>) -> Result<usize> {
        let (dim, clock) = (schema.dim(), self.context.now());
        let mut hits = 0;
        if !wanted.is_empty() && self.has_cold.load(Ordering::Acquire) {
            wanted.sort_unstable();
            let mixed: Vec<u64> = wanted.iter().map(|&(mixed, _)| mixed).collect();
            self.counters.cold_reads.fetch_add(mixed.len() as u64, Ordering::Relaxed);
            self.context.cold.get_many(self.id, &mixed, &mut |at, value| {
                let position = wanted[at].1 as usize;
                if let Some((time, bytes)) = split_cold(value, schema.lanes())
                    && !schema.expiry_ref().expired(time, clock)
                {
                    read_lanes(bytes, &mut part.rows[position * dim..(position + 1) * dim]);
                    part.found[position] = true;
                    hits += 1;
                }
            })?;
        }
        for (_, position) in wanted {
            let position = position as usize;
            if !part.found[position] {
                self.fill_missing(schema, part.keys[position], &mut part.rows[position * dim..(position + 1) * dim]);
            }
        }
        Ok(hits)
    }

    fn fill_missing(&self, schema: &TableSchema, key: Key, row: &mut [f32]) {
        match schema.missing_value() {
            Missing::Initial => schema.initializer_ref().fill(self.context.seed, self.id.0, key, row),
            Missing::Zeros => row.fill(0.0),
        }
    }
}

/// Mixed keys and positions ordered by shard, stably, and where each shard's begin.
fn partition(keys: &[Key], shards: usize) -> (Vec<(u64, u32)>, Vec<u32>) {
    let mut starts = vec![0u32; shards + 1];
    let mixed: Vec<u64> = keys.iter().map(|&key| mix(key)).collect();
    mixed.iter().for_each(|&m| starts[shard_of(m, shards) + 1] += 1);
    for shard in 0..shards {
        starts[shard + 1] += starts[shard];
    }
    let mut next = starts.clone();
    let mut order = vec![(0u64, 0u32); keys.len()];
    for (position, &m) in mixed.iter().enumerate() {
        let shard = shard_of(m, shards);
        order[next[shard] as usize] = (m, position as u32);
        next[shard] += 1;
    }
    (order, starts)
}
