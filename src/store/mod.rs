//! The store: opened from what is on disk, committed, checkpointed, closed.
#![forbid(unsafe_code)]

#[cfg(feature = "exchange")]
mod changes;
mod commit;
mod demoter;
mod digest;
mod engine;
mod metrics;
mod open;
mod prune;
mod stats;
mod sweep;
#[cfg(feature = "remote")]
mod upload;

use std::path::Path;
use std::sync::Arc;

pub use commit::Ticket;
pub use digest::Digest;
pub use metrics::{Metric, MetricKind, Status};
pub use open::RecoveryReport;
pub use stats::{StoreStats, TableStats};

use commit::Due;
use engine::Engine;

use crate::context::lock;
use crate::delta::Commit;
use crate::error::{Error, Result};
use crate::fs::{LockGuard, names};
use crate::log::FrameBuf;
use crate::options::StoreOptions;
use crate::schema::TableSchema;
use crate::sync::Mutex;
use crate::sync::thread::JoinHandle;
use crate::table::{GradientRequest, LookupRequest, Table, Update, apply_gradients_many, lookup_many};
use crate::types::CommitId;
use crate::verify::VerifyReport;

/// An open store: tables of embeddings in a directory, that one process holds.
///
/// ```
/// use embedrock::{Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-store-{}", std::process::id()));
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let users = store.create_table(TableSchema::new("user", 4))?;
/// users.assign(&[1, 2], &[0.5; 8], &Update::at(1_700_000_000))?;
/// let id = store.commit(b"epoch 1")?; // rows and trainer state together, durable when it returns
/// drop((users, store));
///
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let last = store.last_commit().expect("there is one");
/// assert_eq!((last.id, &last.state[..]), (id, &b"epoch 1"[..]));
/// assert_eq!(store.table("user")?.len(), 2);
/// # drop(store); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
pub struct Store {
    engine: Arc<Engine>,
    report: RecoveryReport,
    due: Mutex<Due>,
    checkpoint_ratio: Option<f64>,
    /// Commits and checkpoints in the background.
    workers: Mutex<Vec<JoinHandle<()>>>,
    /// Frees expired rows, once a table has any.
    sweeper: Mutex<Option<JoinHandle<()>>>,
    // Last, so that the lock outlives everything that touches the directory.
    _lock: Option<Arc<dyn LockGuard>>,
}

impl Store {
    /// Opens the store in `dir`, or creates it there.
    ///
    /// Opening always rebuilds from the newest valid base and the deltas after it, after a crash as after a close.
    ///
    /// # Errors
    /// The directory is in use, holds something else, cannot be written, or is damaged; see [`Error`].
    pub fn open(dir: impl AsRef<Path>, options: StoreOptions) -> Result<Store> {
        open::open(dir.as_ref(), &options)
    }

    /// Opens the table of this name, or creates it; then learning rate, decay, admission and expiry become those given. (In a store that
    /// is only read they stay, and nothing is created.)
    ///
    /// # Errors
    /// [`Error::SchemaMismatch`] where rows of the existing table could not be those of `schema`.
    pub fn create_table(&self, schema: TableSchema) -> Result<Table> {
        let Engine { catalog, log, .. } = &*self.engine;
        if catalog.context.is_read_only()
            && let Some(inner) = catalog.find(schema.name())
        {
            inner.schema().check_same_identity(&schema)?;
            return Ok(Table { inner });
        }
        catalog.context.check_writable()?;
        schema.validate()?;
        let _no_commit = self.engine.between_commits()?;
        if let Some(inner) = catalog.find(schema.name()) {
            inner.schema().check_same_identity(&schema)?;
            if let Some(schema) = inner.schema().changed_to(&schema, catalog.context.now()) {
                let reserved = inner.reserve_for(&schema)?;
                log.append_now(&FrameBuf::settings(inner.id, &schema.encode()))
                    .inspect_err(|_| catalog.context.budget.release(reserved))?;
                catalog.context.count_batch();
                inner.set_schema(schema);
            }
            self.sweep_in_background()?;
            return Ok(Table { inner });
        }
        let schema = schema.begun();
        let encoded = schema.encode();
        let inner = catalog.create(schema, |id| log.append_now(&FrameBuf::create_table(id, &encoded)))?;
        catalog.context.count_batch();
        self.sweep_in_background()?;
        Ok(Table { inner })
    }

    /// The table of this name.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn table(&self, name: &str) -> Result<Table> {
        let inner = self.engine.catalog.find(name).ok_or_else(|| Error::UnknownTable { table: name.to_owned() })?;
        Ok(Table { inner })
    }

    /// All tables, in the order of their creation.
    pub fn tables(&self) -> Vec<Table> {
        self.engine.catalog.tables().into_iter().map(|inner| Table { inner }).collect()
    }

    /// Looks up keys in several tables at once, plain or pooled: the threads divide the work of all of them. Returns how many keys of
    /// each request have a row; a table may be named in several requests.
    ///
    /// ```
    /// use embedrock::{GradientRequest, LookupRequest, Optimizer, Pooling, Store, StoreOptions, TableSchema, Update};
    /// # let dir = std::env::temp_dir().join(format!("embedrock-doc-many-{}", std::process::id()));
    /// let store = Store::open(&dir, StoreOptions::default())?;
    /// let users = store.create_table(TableSchema::new("user", 4).optimizer(Optimizer::sgd(1.0)))?;
    /// let items = store.create_table(TableSchema::new("item", 2).optimizer(Optimizer::sgd(1.0)))?;
    /// // Two samples: users 7 and 8, of whom the first has seen the items 1, 2 and 3.
    /// let (user, seen, offsets) = ([7, 8], [1, 2, 3], [0, 3, 3]);
    /// store.apply_gradients_many(
    ///     [
    ///         GradientRequest::new(&users, &user, &[-1.0; 2 * 4]),
    ///         GradientRequest::pooled(&items, &seen, &offsets, Pooling::Sum, &[-0.5; 2 * 2]),
    ///     ],
    ///     &Update::at(1_700_000_000),
    /// )?;
    /// let (mut of_users, mut of_seen) = ([0.0; 2 * 4], [0.0; 2 * 2]);
    /// let found = store.lookup_many([
    ///     LookupRequest::new(&users, &user, &mut of_users),
    ///     LookupRequest::pooled(&items, &seen, &offsets, Pooling::Sum, &mut of_seen),
    /// ])?;
    /// assert_eq!((found, of_users, of_seen), (vec![2, 3], [1.0; 8], [1.5, 1.5, 0.0, 0.0]));
    /// # drop((users, items, store)); std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), embedrock::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InRequest`] with what [`Table::lookup`] or [`Table::lookup_pooled`] would say; a failing cold tier. Then the content of
    /// the outputs is unspecified.
    pub fn lookup_many<'a>(&self, requests: impl IntoIterator<Item = LookupRequest<'a>>) -> Result<Vec<usize>> {
        lookup_many(&self.engine.catalog.context, requests)
    }

    /// Trains several tables at once, all or none: a commit holds the gradients of all requests or of none. The rows are those that
    /// calls of [`Table::apply_gradients`] one by one lead to, but the gradients of requests for one table are summed first, in the order
    /// of the requests.
    ///
    /// # Errors
    /// [`Error::InRequest`] with what is wrong with a request; else as [`Table::apply_gradients`]. Nothing was applied in any table then.
    pub fn apply_gradients_many<'a>(
        &self,
        requests: impl IntoIterator<Item = GradientRequest<'a>>,
        update: &Update,
    ) -> Result<()> {
        apply_gradients_many(&self.engine.catalog.context, requests, update)
    }

    /// Drops a table; final with the next commit.
    ///
    /// # Errors
    /// [`Error::UnknownTable`]; a failing log: the table is there still then.
    pub fn drop_table(&self, name: &str) -> Result<()> {
        let Engine { catalog, log, .. } = &*self.engine;
        catalog.context.check_writable()?;
        let _no_commit = self.engine.between_commits()?;
        let table = self.table(name)?;
        log.append_now(&FrameBuf::drop_table(table.inner.id))?;
        catalog.context.count_batch();
        if let Err(error) = catalog.drop_table(table.inner.id) {
            // The table is gone, and so are the rows at the next open: only their space is not free yet.
            tracing::warn!(%error, "the cold rows of a dropped table could not be removed");
        }
        Ok(())
    }

    /// The last durable commit of this store's history: where to resume.
    pub fn last_commit(&self) -> Option<Commit> {
        let (record, state) = self.engine.log.tip();
        (record.id.sequence > 0).then_some(Commit { id: record.id, hash: record.hash, clock: record.clock, state })
    }

    /// The name of the last durable commit; as [`Store::last_commit`] without its state. Commits in the background may be on their
    /// way beyond it.
    pub fn durable_commit(&self) -> Option<CommitId> {
        Some(self.engine.log.tip().0.id).filter(|id| id.sequence > 0)
    }

    /// The commits of this history that can be opened or restored, oldest first.
    ///
    /// # Errors
    /// Damage to the log. Cost: reads the log.
    pub fn commits(&self) -> Result<Vec<CommitId>> {
        self.engine.commits()
    }

    /// Writes a new base, so that recovery begins there, and returns its number. Batches and commits may go on meanwhile.
    ///
    /// If anything changed meanwhile, or since the last commit, the base becomes valid with the next commit.
    ///
    /// # Errors
    /// A full disk or a failing write; nothing changed then.
    pub fn checkpoint(&self) -> Result<u64> {
        self.engine.checkpoint()
    }

    /// Sends a copy of the last durable commit, and of the history that it can be restored with: the newest valid base and the log after
    /// it. Only what the target lacks is sent; training goes on meanwhile. Cost: reads the base twice and the log once.
    ///
    /// # Errors
    /// Nothing was committed yet; a damaged file; [`Error::Remote`], and the copy does not exist then: call again, and what was sent
    /// is not sent again.
    #[cfg(feature = "remote")]
    pub fn upload(
        &self,
        remote: &crate::remote::Remote,
        progress: &mut dyn FnMut(crate::remote::Transfer),
    ) -> Result<crate::remote::Transfer> {
        self.upload_as(remote, &crate::remote::Upload::default(), progress)
    }

    /// As [`Store::upload`], compressed or quantised.
    ///
    /// # Errors
    /// As [`Store::upload`]; for a quantised copy also those of rebuilding the commit, and of the temporary directory.
    #[cfg(feature = "remote")]
    pub fn upload_as(
        &self,
        remote: &crate::remote::Remote,
        upload: &crate::remote::Upload,
        progress: &mut dyn FnMut(crate::remote::Transfer),
    ) -> Result<crate::remote::Transfer> {
        self.engine.upload(remote, upload, progress)
    }

    /// As [`verify`](crate::verify()), of this store while it is open. Training goes on, and a new base may be written; commits wait while
    /// the log is read.
    ///
    /// # Errors
    /// A poisoned store, a failing disk. Damage is no error: it is in the report.
    pub fn verify(&self) -> Result<VerifyReport> {
        self.engine.verify()
    }

    /// A hash over the live rows of all tables (keys, vectors, optimizer state, times), whatever their tier or shard.
    ///
    /// # Errors
    /// A failing cold tier. Cost: reads every row.
    pub fn digest(&self) -> Result<Digest> {
        self.engine.catalog.context.check_process()?;
        digest::digest(&self.engine.catalog)
    }

    /// Changes the memory budget. A smaller one is kept when this returns: rows leave for the cold tier, those that stay move together, and
    /// memory goes back to the system. The cold tier's share and the pool for images stay as they were at opening.
    ///
    /// ```
    /// use embedrock::{Store, StoreOptions};
    /// # let dir = std::env::temp_dir().join(format!("embedrock-doc-budget-{}", std::process::id()));
    /// let store = Store::open(&dir, StoreOptions::default().memory_budget(1 << 30))?;
    /// store.set_memory_budget(512 << 20)?; // the trainer needs the rest for now
    /// assert_eq!(store.stats().memory_budget, 512 << 20);
    /// # drop(store); std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), embedrock::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BudgetTooSmall`] where not even the tables without rows fit; a failing cold tier or log. The budget stays as it was then,
    /// though rows may have left. Cost: a pass over all rows in memory; batches wait for the table in hand.
    pub fn set_memory_budget(&self, bytes: usize) -> Result<()> {
        self.engine.set_memory_budget(bytes)
    }

    /// Memory, disk, and each table's rows by tier. Nothing of it, all zeros, in a forked child.
    pub fn stats(&self) -> StoreStats {
        if self.engine.catalog.context.check_process().is_err() {
            return StoreStats::default();
        }
        stats::stats(&self.engine)
    }

    /// Writes the figures of [`Store::stats`] to the file STATUS of the store's directory, which `embedrock inspect --watch` follows: in the
    /// text format of Prometheus, with a checksum, whole or not at all. To be called at an interval; not synced.
    ///
    /// # Errors
    /// A full disk or a failing write; a store that is only read.
    pub fn publish_status(&self) -> Result<()> {
        let Engine { catalog, fs, dir, .. } = &*self.engine;
        catalog.context.check_process()?;
        if let Some(path) = &catalog.context.read_only {
            return Err(Error::ReadOnly { path: path.clone() });
        }
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let text = metrics::status(&self.stats(), now.map_or(0, |since| since.as_millis() as u64));
        let temporary = names::temporary(dir, "status");
        let _ = fs.remove_file(&temporary);
        fs.create(&temporary)?.append(&text)?;
        fs.rename(&temporary, &names::status(dir))
    }

    /// What opening found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.engine.dir
    }

    /// Closes the store and returns how many rows had updates that no commit holds: they are gone.
    ///
    /// A [`Table`] that is still held keeps the cold tier open, and with it the directory: it can be opened again once all are dropped.
    ///
    /// # Errors
    /// [`Error::Poisoned`] where an earlier failure was not noticed.
    pub fn close(self) -> Result<u64> {
        self.engine.catalog.context.check_process()?;
        self.join_workers();
        let context = &self.engine.catalog.context;
        let dropped = stats::uncommitted(&self.engine.catalog);
        if !context.is_read_only() {
            context.check_writable()?;
        }
        Ok(dropped)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        if self.engine.catalog.context.check_process().is_err() {
            // A forked child has neither the threads that would be waited for nor a right to the files.
            std::mem::forget(Arc::clone(&self.engine));
            self.engine.catalog.context.ahead.abandon();
            std::mem::forget(std::mem::take(&mut *lock(&self.workers)));
            std::mem::forget(lock(&self.sweeper).take());
            return;
        }
        self.join_workers();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.engine.dir).field("at", &self.engine.log.tip().0.id).finish_non_exhaustive()
    }
}
