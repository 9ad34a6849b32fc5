//! Look-ahead: keys go to a bounded queue, and threads of its own bring their cold rows into memory.
//!
//! Nothing waits for its end but lookups and updates of keys whose rows are being read at that moment. Rows that arrive are hints: they take no
//! more than their share of memory, leave first when there is need, and no row's content depends on them.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, PoisonError};

use super::{Table, TableInner};
use crate::cold::TIME_BYTES;
use crate::context::{lock, read, write};
use crate::error::{Error, Result};
use crate::shard::{Env, Flight, Together, shard_of};
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Condvar, Mutex};
use crate::types::{Key, mix, unmix};

/// Rows that a thread reads at once, so that many reads wait for the device and each reader has some; and their bytes.
const LOT_ROWS: usize = 512;
const LOT_BYTES: usize = 512 << 10;
/// A lot has the keys of so many shards, if there are as many.
const LOT_SHARDS: usize = 4;
/// Bytes of a key that is being read, beside its row.
const KEY_BYTES: usize = 64;

/// What of a table is on its way into memory: ahead of its use, or for a batch or a lookup that waits.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Calls of `prefetch` so far: each is a step.
    steps: AtomicU64,
    flying: AtomicUsize,
    /// The shard that the next lot begins with.
    turn: AtomicUsize,
    /// Counts flights that ended.
    landed: Mutex<u64>,
    changed: Condvar,
    /// Those that a test has in the air, by shard.
    #[cfg(feature = "testing")]
    held: Mutex<Vec<(usize, Flight)>>,
}

/// Keys of a table that are being read, until it is dropped: then those who waited look again.
pub(super) struct Airborne<'a> {
    of: &'a Ahead,
    keys: usize,
}

impl Ahead {
    /// So many keys took off.
    pub(super) fn begin(&self, keys: usize) -> Airborne<'_> {
        self.flying.fetch_add(keys, Release);
        Airborne { of: self, keys }
    }
}

impl Drop for Airborne<'_> {
    fn drop(&mut self) {
        self.of.flying.fetch_sub(self.keys, Release);
        *lock(&self.of.landed) += 1;
        self.of.changed.notify_all();
    }
}

impl Table {
    /// Look-ahead: has the cold rows among `keys` brought into memory in the background, and returns at once.
    ///
    /// Call it for the keys of a batch some batches before it: each call is a step, and rows are kept until a batch uses them, or half of
    /// those of a later step. They are hints: they take at most a quarter of the memory, and where there is none for them they are not
    /// brought. No row changes, and no result depends on it. Keys wait in a queue of 131,072; when it is full, the call waits, and
    /// those that a batch has begun to read itself wait no longer.
    /// [`StoreOptions::prefetch_threads`](crate::StoreOptions::prefetch_threads) says how many threads read.
    ///
    /// # Errors
    /// A dropped table; a thread that cannot be started. What fails to be read says the batch that needs it.
    pub fn prefetch(&self, keys: &[Key]) -> Result<()> {
        self.inner.check()?;
        if !self.inner.has_cold.load(Acquire) {
            return Ok(());
        }
        let (step, room) = (self.inner.next_step(), self.inner.keys_together());
        for (at, mixed) in self.inner.by_shard(keys).into_iter().enumerate() {
            for mixed in mixed.chunks(room) {
                let together = Together { step, mixed: mixed.into() };
                if !write(&self.inner.shards[at]).wait_ahead(&self.inner.context, together) {
                    continue;
                }
                let table = Arc::clone(&self.inner);
                let pushed = self.inner.context.ahead.push(mixed.len(), move || table.bring_lot());
                pushed.map_err(|source| Error::io("start a thread that reads ahead for", "the store".as_ref(), source))?;
            }
        }
        Ok(())
    }
}

impl TableInner {
    fn next_step(&self) -> u16 {
        // Two steps are compared by their distance, which is small.
        self.ahead.steps.fetch_add(1, Relaxed) as u16
    }

    fn rows_a_lot(&self) -> usize {
        (LOT_BYTES / self.schema().row_bytes()).clamp(1, LOT_ROWS)
    }

    /// Keys of a shard that wait and are read together.
    fn keys_together(&self) -> usize {
        self.rows_a_lot().div_ceil(self.shards.len().min(LOT_SHARDS))
    }

    /// The mixed keys of each shard, ascending, each once.
    pub(super) fn by_shard(&self, keys: &[Key]) -> Vec<Vec<u64>> {
        let mut of_shards = vec![Vec::new(); self.shards.len()];
        keys.iter().map(|&key| mix(key)).for_each(|mixed| of_shards[shard_of(mixed, self.shards.len())].push(mixed));
        for mixed in &mut of_shards {
            mixed.sort_unstable();
            mixed.dedup();
        }
        of_shards
    }

    /// Brings a lot of the rows that wait longest into memory.
    fn bring_lot(&self) {
        if self.is_dropped() {
            return;
        }
        let schema = self.schema();
        if let Err(error) = self.try_bring_lot(&self.env(&schema)) {
            tracing::debug!(%error, "rows could not be brought in ahead");
        }
        self.demote_to_cap(&schema);
    }

    fn try_bring_lot(&self, env: &Env<'_>) -> Result<()> {
        let _moving = read(&self.moves);
        let (mut flights, bytes) = self.take_off(env);
        let _airborne = self.ahead.begin(flights.iter().map(|(_, flight)| flight.keys()).sum());
        let result = Flight::read_all(&mut [(*env, flights.iter_mut().map(|(_, flight)| flight).collect())]);
        for (at, flight) in &flights {
            write(&self.shards[*at]).land(env, flight);
        }
        env.context.budget.release(bytes);
        result
    }

    /// The flights of a lot, in the order of their shards, and the bytes of the budget that they have.
    fn take_off(&self, env: &Env<'_>) -> (Vec<(usize, Flight)>, usize) {
        let (most, shards) = (self.rows_a_lot(), self.shards.len());
        let (mut flights, mut rows) = (Vec::new(), 0);
        // What waits is many keys, what is read few: their rows are charged only now.
        let key_bytes = KEY_BYTES + env.schema.row_bytes() + TIME_BYTES;
        let bytes_at_most = self.keys_together() * key_bytes;
        let first = self.ahead.turn.fetch_add(1, Relaxed);
        for at in (first..first + shards).map(|at| at % shards) {
            if rows >= most || !env.context.budget.try_reserve(bytes_at_most) {
                break;
            }
            let together = write(&self.shards[at]).next_ahead(env.context);
            let flight = together.map(|together| self.take_off_together(env, at, &together)).unwrap_or_default();
            env.context.budget.release(bytes_at_most - flight.keys() * key_bytes);
            if flight.keys() > 0 {
                rows += flight.keys();
                flights.push((at, flight));
            }
        }
        flights.sort_unstable_by_key(|(at, _)| *at);
        (flights, rows * key_bytes)
    }

    /// Has rows of a shard leave for those that come, if it must, and lets these take off.
    fn take_off_together(&self, env: &Env<'_>, shard: usize, Together { step, mixed }: &Together) -> Flight {
        let shard = &self.shards[shard];
        if let Err(error) = self.let_leave(env, shard, mixed) {
            tracing::debug!(%error, "rows could not leave for those that are read ahead");
        }
        write(shard).take_off(env, mixed, Some(*step))
    }

    /// Waits until none of these mixed keys, none of which is among the caller's `own` ones, is on its way into memory.
    pub(super) fn wait_for_landing(&self, mixed: impl Iterator<Item = u64>, own: Option<&Airborne<'_>>) {
        let own = own.map_or(0, |own| own.keys);
        if self.ahead.flying.load(Acquire) <= own {
            return;
        }
        let is_flying = |key: &Key| read(self.shard(*key)).is_flying(*key);
        let awaited: Vec<Key> = mixed.map(unmix).filter(is_flying).collect();
        let mut landed = lock(&self.ahead.landed);
        // Flights of tests land when these say so.
        while self.ahead.flying.load(Acquire) > own && awaited.iter().any(is_flying) {
            landed = self.ahead.changed.wait(landed).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(feature = "testing")]
impl Table {
    /// As [`Table::prefetch`], up to the moment when the rows are read, for tests that change them before they arrive.
    #[doc(hidden)]
    pub fn begin_prefetch(&self, keys: &[Key]) -> Result<()> {
        let (schema, step) = (self.inner.schema(), self.inner.next_step());
        for (at, mixed) in self.inner.by_shard(keys).iter().enumerate() {
            let mut flight = write(&self.inner.shards[at]).take_off(&self.inner.env(&schema), mixed, Some(step));
            Flight::read_all(&mut [(self.inner.env(&schema), vec![&mut flight])])?;
            lock(&self.inner.ahead.held).push((at, flight));
        }
        Ok(())
    }

    /// They arrive.
    #[doc(hidden)]
    pub fn end_prefetch(&self) {
        let schema = self.inner.schema();
        for (at, flight) in std::mem::take(&mut *lock(&self.inner.ahead.held)) {
            write(&self.inner.shards[at]).land(&self.inner.env(&schema), &flight);
        }
        self.inner.demote_to_cap(&schema);
    }
}
