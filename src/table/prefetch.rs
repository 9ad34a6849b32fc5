//! Look-ahead: keys go to a bounded queue, and threads of its own bring their cold rows into memory.
//!
//! Nothing waits for its end but lookups of keys whose rows are being read at that moment. Rows that arrive are hints: they take no
//! more than their share of memory, leave first when there is need, and no row's content depends on them.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, PoisonError};

use super::{Table, TableInner};
use crate::cold::TIME_BYTES;
use crate::context::{lock, read, write};
use crate::error::{Error, Result};
use crate::shard::{Flight, shard_of};
use crate::sync::atomic::{AtomicU64, AtomicUsize};
use crate::sync::{Condvar, Mutex};
use crate::types::{Key, mix, unmix};

/// Keys of one shard that a thread reads at once, and the bytes that their rows may have.
const KEYS_A_FLIGHT: usize = 128;
const FLIGHT_BYTES: usize = 256 << 10;
/// Bytes of a key on its way beside its row: on the lists of what waits and of what is read.
const KEY_BYTES: usize = 64;

/// What of a table is on its way into memory: ahead of its use, or for a batch or a lookup that waits.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// Calls of `prefetch` so far: each is a step.
    steps: AtomicU64,
    flying: AtomicUsize,
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
    /// Call it for the keys of a batch some batches before it: each call is a step, and rows are kept until a batch uses them or one of a
    /// later step is used. They are hints: they take at most a quarter of the memory, and where there is none for them they are not
    /// brought. No row changes, and no result depends on it. Keys wait in a queue of 131,072; when it is full, the call waits.
    /// [`StoreOptions::prefetch_threads`](crate::StoreOptions::prefetch_threads) says how many threads read.
    ///
    /// # Errors
    /// A dropped table; a thread that cannot be started. What fails to be read says the batch that needs it.
    pub fn prefetch(&self, keys: &[Key]) -> Result<()> {
        self.inner.check()?;
        if !self.inner.has_cold.load(Acquire) {
            return Ok(());
        }
        let (step, room) = (self.inner.next_step(), self.inner.keys_a_flight());
        for (at, mixed) in self.inner.by_shard(keys).into_iter().enumerate() {
            for mixed in mixed.chunks(room) {
                let bytes = mixed.len() * (KEY_BYTES + self.inner.schema().row_bytes() + TIME_BYTES);
                if !self.inner.context.budget.try_reserve(bytes) {
                    continue;
                }
                let work = Bring { table: Arc::clone(&self.inner), at, mixed: mixed.to_vec(), step, bytes };
                let pushed = self.inner.context.ahead.push(mixed.len(), move || work.run());
                pushed.map_err(|source| Error::io("start a thread that reads ahead for", "the store".as_ref(), source))?;
            }
        }
        Ok(())
    }
}

/// Some keys of a shard to be brought in. Whether that is done or not, their bytes are given back.
struct Bring {
    table: Arc<TableInner>,
    at: usize,
    mixed: Vec<u64>,
    step: u16,
    bytes: usize,
}

impl Bring {
    fn run(&self) {
        let Bring { table, at, mixed, step, .. } = self;
        if !table.is_dropped()
            && let Err(error) = table.bring(*at, mixed, *step)
        {
            tracing::debug!(%error, "rows could not be brought in ahead");
        }
    }
}

impl Drop for Bring {
    fn drop(&mut self) {
        self.table.context.budget.release(self.bytes);
    }
}

impl TableInner {
    fn next_step(&self) -> u16 {
        // Two steps are compared by their distance, which is small.
        self.ahead.steps.fetch_add(1, Relaxed) as u16
    }

    fn keys_a_flight(&self) -> usize {
        (FLIGHT_BYTES / self.schema().row_bytes()).clamp(1, KEYS_A_FLIGHT)
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

    /// Brings the rows of some keys of a shard into memory.
    fn bring(&self, at: usize, mixed: &[u64], step: u16) -> Result<()> {
        let (schema, shard) = (self.schema(), &self.shards[at]);
        let env = self.env(&schema);
        self.let_leave(&env, shard)?;
        {
            let _moving = read(&self.moves);
            let mut flight = write(shard).take_off(mixed, Some(step));
            if flight.keys() == 0 {
                return Ok(());
            }
            let _airborne = self.ahead.begin(flight.keys());
            let result = Flight::read_all(&env, &mut [&mut flight]);
            write(shard).land(&env, &flight);
            result?;
        }
        self.demote_to_cap(&schema);
        Ok(())
    }

    /// Waits until none of these keys is being read ahead; returns whether any was.
    pub(super) fn wait_for_landing(&self, mixed: impl Iterator<Item = u64>) -> bool {
        if self.ahead.flying.load(Acquire) == 0 {
            return false;
        }
        let is_flying = |key: &Key| read(self.shard(*key)).is_flying(*key);
        let awaited: Vec<Key> = mixed.map(unmix).filter(is_flying).collect();
        let mut landed = lock(&self.ahead.landed);
        // Flights of tests land when these say so.
        while self.ahead.flying.load(Acquire) > 0 && awaited.iter().any(is_flying) {
            landed = self.ahead.changed.wait(landed).unwrap_or_else(PoisonError::into_inner);
        }
        !awaited.is_empty()
    }
}

#[cfg(feature = "testing")]
impl Table {
    /// As [`Table::prefetch`], up to the moment when the rows are read, for tests that change them before they arrive.
    #[doc(hidden)]
    pub fn begin_prefetch(&self, keys: &[Key]) -> Result<()> {
        let (schema, step) = (self.inner.schema(), self.inner.next_step());
        for (at, mixed) in self.inner.by_shard(keys).iter().enumerate() {
            let mut flight = write(&self.inner.shards[at]).take_off(mixed, Some(step));
            Flight::read_all(&self.inner.env(&schema), &mut [&mut flight])?;
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
