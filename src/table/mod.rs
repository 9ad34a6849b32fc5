//! A table: batches of keys, split over shards, looked up, trained, assigned and removed.
#![forbid(unsafe_code)]

mod batch;
mod buffers;
mod gather;
mod lend;
mod load;
mod lookup;
mod many;
mod modify;
mod moves;
mod pool;
mod pooled;
mod prefetch;
mod promote;
mod served;
mod update;
mod walk;

use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use batch::Update;
pub(crate) use lend::with_loans;
pub(crate) use load::Loader;
pub(crate) use lookup::check_length;
pub use many::{GradientRequest, LookupRequest};
pub(crate) use many::{apply_gradients_many, lookup_many};
pub use pooled::Pooling;

use crate::admission::SlidingFilter;
use crate::context::{Context, read, write};
use crate::error::{Error, Result};
use crate::schema::TableSchema;
use crate::shard::{Counters, Env, Plan, Shard, shard_of};
use crate::sync::atomic::{AtomicBool, AtomicU32};
use crate::sync::{Mutex, RwLock};
use crate::types::{Key, TableId, mix};

/// Bytes of a slab's chunk: small tables in small budgets take small ones.
const MIN_CHUNK_BYTES: usize = 64 << 10;
const MAX_CHUNK_BYTES: usize = 8 << 20;
/// A shard of a table that fills the budget has at least this many chunks, so little of the last one is idle.
const CHUNKS_A_SHARD: usize = 16;

/// Expired rows are looked for so often in the shortest time to live.
const ROUNDS_A_LIFETIME: u32 = 16;

/// A handle to a table of an open store; clones share it.
///
/// ```
/// use embedrock::{Optimizer, Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-table-{}", std::process::id()));
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let users = store.create_table(TableSchema::new("user", 2).optimizer(Optimizer::sgd(0.5)))?;
/// users.apply_gradients(&[7, 7], &[1.0, 0.0, 1.0, 2.0], &Update::at(1_700_000_000))?; // duplicates are summed
/// let mut rows = [0.0; 4];
/// let found = users.lookup(&[7, 8], &mut rows)?;
/// assert_eq!((found, rows), (1, [-1.0, -1.0, 0.0, 0.0]));
/// # drop((users, store)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
#[derive(Clone)]
pub struct Table {
    pub(crate) inner: Arc<TableInner>,
}

/// See [`Table`].
pub(crate) struct TableInner {
    pub(crate) id: TableId,
    pub(crate) context: Arc<Context>,
    /// Its learning rate, admission and expiry may change; name and layout never.
    schema: RwLock<Arc<TableSchema>>,
    shards: Vec<RwLock<Shard>>,
    has_cold: AtomicBool,
    counters: Counters,
    filter: SlidingFilter,
    /// The clock at which expired rows are to be freed next.
    next_sweep: AtomicU32,
    dropped: AtomicBool,
    /// Held by the one batch that changes rows or their placement; also its working memory.
    updates: Mutex<Vec<Plan>>,
    /// Held shared while rows are on their way between the tiers in the background; alone by who needs that none is.
    moves: RwLock<()>,
    ahead: prefetch::Ahead,
    /// Rows that a test has on their way out, by shard.
    #[cfg(feature = "testing")]
    leaving: Mutex<Vec<(usize, crate::shard::Leaving)>>,
}

impl Drop for TableInner {
    fn drop(&mut self) {
        if self.context.check_process().is_err() {
            // In a forked child: the rows are not there, and the cold tier's files are the parent's.
            std::mem::forget(Arc::clone(&self.context));
            return;
        }
        for shard in &self.shards {
            write(shard).release_all(&self.context);
        }
        self.context.budget.release(self.filter_bytes());
    }
}

impl TableInner {
    pub(crate) fn new(id: TableId, schema: TableSchema, context: Arc<Context>, shards: usize) -> Result<TableInner> {
        context.cold.create_table(id, schema.row_bytes() + crate::cold::TIME_BYTES)?;
        let mut inner = TableInner {
            id,
            schema: RwLock::new(Arc::new(schema)),
            shards: Vec::with_capacity(shards),
            has_cold: AtomicBool::new(false),
            counters: Counters::default(),
            filter: SlidingFilter::new(),
            next_sweep: AtomicU32::new(0),
            dropped: AtomicBool::new(false),
            updates: Mutex::new(Vec::new()),
            moves: RwLock::default(),
            ahead: prefetch::Ahead::default(),
            #[cfg(feature = "testing")]
            leaving: Mutex::default(),
            context,
        };
        let shape = inner.schema().admission_ref().filter_shape();
        inner.context.budget.reserve(shape.bytes())?;
        inner.filter.reshape(shape, inner.context.epoch());
        let chunk = (inner.context.budget.limit() / shards / CHUNKS_A_SHARD).clamp(MIN_CHUNK_BYTES, MAX_CHUNK_BYTES);
        for _ in 0..shards {
            let schema = inner.schema();
            let shard = Shard::new(&inner.env(&schema), chunk, inner.context.slabs.clone())?;
            inner.shards.push(RwLock::new(shard));
        }
        Ok(inner)
    }

    pub(crate) fn schema(&self) -> Arc<TableSchema> {
        Arc::clone(&read(&self.schema))
    }

    /// Bytes of the admission filter.
    pub(crate) fn filter_bytes(&self) -> usize {
        self.filter.shape().bytes()
    }

    pub(crate) fn filter(&self) -> &SlidingFilter {
        &self.filter
    }

    /// Takes the memory that settings ask for, before they are final; returns the bytes.
    pub(crate) fn reserve_for(&self, schema: &TableSchema) -> Result<usize> {
        let shape = schema.admission_ref().filter_shape();
        let bytes = if shape == self.filter.shape() { 0 } else { shape.bytes() };
        self.context.budget.reserve(bytes).map(|()| bytes)
    }

    /// The settings in force from now on, for which [`TableInner::reserve_for`] was called.
    pub(crate) fn set_schema(&self, schema: TableSchema) {
        let (before, shape) = (self.filter.shape(), schema.admission_ref().filter_shape());
        if shape != before {
            self.filter.reshape(shape, self.context.epoch());
            self.context.budget.release(before.bytes());
        }
        *write(&self.schema) = Arc::new(schema);
        self.publish_horizon();
    }

    /// Says that the cold tier may hold rows, as after opening from a base.
    pub(crate) fn assume_cold(&self) {
        self.has_cold.store(true, Ordering::Release);
    }

    pub(crate) fn env<'a>(&'a self, schema: &'a TableSchema) -> Env<'a> {
        let TableInner { context, has_cold, counters, filter, .. } = self;
        Env { table: self.id, schema, context, has_cold, counters, filter, shards: self.shards.len() }
    }

    pub(crate) fn shards(&self) -> &[RwLock<Shard>] {
        &self.shards
    }

    pub(crate) fn shard(&self, key: Key) -> &RwLock<Shard> {
        &self.shards[shard_of(mix(key), self.shards.len())]
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(crate) fn mark_dropped(&self) {
        self.dropped.store(true, Ordering::Release);
    }

    pub(crate) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }

    fn check(&self) -> Result<()> {
        self.context.check_process()?;
        if self.is_dropped() { Err(Error::TableDropped { table: self.schema().name().to_owned() }) } else { Ok(()) }
    }

    /// Tells the cold tier which rows its compactions may drop, and wakes the thread that frees hot ones when it is time.
    pub(crate) fn publish_horizon(&self) {
        let (schema, clock) = (self.schema(), self.context.now());
        self.context.cold.expire(self.id, schema.lifetimes().horizons(clock));
        if let Some(ttl) = schema.lifetimes().shortest()
            && clock >= self.next_sweep.load(Ordering::Relaxed)
        {
            self.next_sweep.store(clock.saturating_add((ttl / ROUNDS_A_LIFETIME).max(1)), Ordering::Relaxed);
            self.context.sweeps.wake();
        }
    }
}

impl Table {
    /// The table's name.
    pub fn name(&self) -> String {
        self.inner.schema().name().to_owned()
    }

    /// f32s of an embedding.
    pub fn dim(&self) -> usize {
        self.inner.schema().dim()
    }

    /// The schema, with the settings in force.
    pub fn schema(&self) -> TableSchema {
        (*self.inner.schema()).clone()
    }

    /// The number of rows, hot and cold. O(1); where rows expire, those that expired but were not reclaimed count too.
    pub fn len(&self) -> u64 {
        u64::try_from(self.inner.counters.rows.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("name", &self.name()).field("rows", &self.len()).finish_non_exhaustive()
    }
}
