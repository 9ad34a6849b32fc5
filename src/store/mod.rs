//! The store: opened from what is on disk, committed, checkpointed, closed.
#![forbid(unsafe_code)]

mod digest;
mod open;
mod prune;
mod stats;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub use digest::Digest;
pub use open::RecoveryReport;

pub use stats::{StoreStats, TableStats};

use crate::catalog::Catalog;
use crate::checkpoint::{BasePlan, write_base};
use crate::context::lock;
use crate::delta::{Commit, DeltaLog};
use crate::error::{Error, Result};
use crate::fs::{Fs, LockGuard};
use crate::log::{CommitRecord, FrameBuf};
use crate::options::StoreOptions;
use crate::recovery::{Identity, choose, survey};
use crate::schema::TableSchema;
use crate::table::Table;
use crate::types::{At, CommitId};

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
    dir: PathBuf,
    fs: Arc<dyn Fs>,
    identity: Identity,
    catalog: Catalog,
    log: Arc<DeltaLog>,
    report: RecoveryReport,
    /// Held while a base is written; the number of the next one.
    next_base: Mutex<u64>,
    // Last, so that the lock outlives everything that touches the directory.
    _lock: Box<dyn LockGuard>,
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

    /// Opens the table of this name, or creates it; then learning rate, decay, admission and expiry become those given.
    ///
    /// # Errors
    /// [`Error::SchemaMismatch`] where rows of the existing table could not be those of `schema`.
    pub fn create_table(&self, schema: TableSchema) -> Result<Table> {
        self.catalog.context.check_writable()?;
        schema.validate()?;
        if let Some(inner) = self.catalog.find(schema.name()) {
            inner.schema().check_same_identity(&schema)?;
            if *inner.schema() != schema {
                self.log.append_frame(&FrameBuf::settings(inner.id, &schema.encode()))?;
                self.catalog.context.count_batch();
                inner.set_schema(schema);
            }
            return Ok(Table { inner });
        }
        let encoded = schema.encode();
        let inner = self.catalog.create(schema, |id| self.log.append_frame(&FrameBuf::create_table(id, &encoded)))?;
        self.catalog.context.count_batch();
        Ok(Table { inner })
    }

    /// The table of this name.
    ///
    /// # Errors
    /// [`Error::UnknownTable`].
    pub fn table(&self, name: &str) -> Result<Table> {
        let inner = self.catalog.find(name).ok_or_else(|| Error::UnknownTable { table: name.to_owned() })?;
        Ok(Table { inner })
    }

    /// All tables, in the order of their creation.
    pub fn tables(&self) -> Vec<Table> {
        self.catalog.tables().into_iter().map(|inner| Table { inner }).collect()
    }

    /// Drops a table; final with the next commit.
    ///
    /// # Errors
    /// [`Error::UnknownTable`]; a failing log or cold tier.
    pub fn drop_table(&self, name: &str) -> Result<()> {
        self.catalog.context.check_writable()?;
        let table = self.table(name)?;
        self.log.append_frame(&FrameBuf::drop_table(table.inner.id))?;
        self.catalog.context.count_batch();
        self.catalog.drop_table(table.inner.id)
    }

    /// Makes everything so far durable, atomically with `trainer_state` (bytes of any size), and returns its name.
    ///
    /// Cost: the rows touched since the last commit are written once, sequentially, and one sync.
    ///
    /// # Errors
    /// A full disk or a failing write: nothing changed, call again when it is mended. A failing sync poisons the store.
    pub fn commit(&self, trainer_state: &[u8]) -> Result<CommitId> {
        self.commit_with(|| trainer_state.to_vec())
    }

    /// As [`Store::commit`], with the state evaluated at the cut, while no batch is being applied.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit_with(&self, trainer_state: impl FnOnce() -> Vec<u8>) -> Result<CommitId> {
        let record = self.log.commit(&self.catalog, trainer_state)?;
        for table in self.catalog.tables() {
            let schema = table.schema();
            for shard in table.shards() {
                crate::context::write(shard).sweep_tombstones(&table.env(&schema))?;
            }
        }
        self.prune(&record);
        Ok(record.id)
    }

    /// The last durable commit of this store's history: where to resume.
    pub fn last_commit(&self) -> Option<Commit> {
        let (record, state) = self.log.tip();
        (record.id.sequence > 0).then_some(Commit { id: record.id, hash: record.hash, clock: record.clock, state })
    }

    /// The commits of this history that can be opened or restored, oldest first.
    ///
    /// # Errors
    /// Damage to the log. Cost: reads the log.
    pub fn commits(&self) -> Result<Vec<CommitId>> {
        let survey = survey(&*self.fs, &self.dir, self.identity.uuid)?;
        let tip = self.log.tip().0;
        let at = if tip.id.sequence == 0 { At::Latest } else { At::Commit(tip.id) };
        let chain = choose(&survey, &self.dir, at)?;
        let mut restorable = Vec::new();
        for sequence in chain.root.0.sequence..=tip.id.sequence {
            let upto = chain.up_to(sequence);
            if upto.root.0.sequence == 0 || !upto.bases(&survey).is_empty() {
                restorable.push(upto.target().0);
            }
        }
        restorable.retain(|id| id.sequence > 0);
        Ok(restorable)
    }

    /// Writes a new base, so that recovery begins there, and returns its number. Batches and commits may go on meanwhile.
    ///
    /// If anything changed meanwhile, or since the last commit, the base becomes valid with the next commit.
    ///
    /// # Errors
    /// A full disk or a failing write; nothing changed then.
    pub fn checkpoint(&self) -> Result<u64> {
        self.catalog.context.check_writable()?;
        let mut next = lock(&self.next_base);
        let (begin, state) = self.log.tip();
        let plan = BasePlan {
            fs: &*self.fs,
            dir: &self.dir,
            uuid: self.identity.uuid,
            number: *next,
            begin: &begin,
            state: &state,
            first_segment: self.log.segment(),
        };
        let manifest = write_base(&plan, &self.catalog)?;
        self.log.set_base(manifest.number);
        *next += 1;
        if manifest.still {
            self.prune(&CommitRecord { base: manifest.number, ..begin });
        }
        Ok(manifest.number)
    }

    /// A hash over the live rows of all tables (keys, vectors, optimizer state, times), whatever their tier or shard.
    ///
    /// # Errors
    /// A failing cold tier. Cost: reads every row.
    pub fn digest(&self) -> Result<Digest> {
        digest::digest(&self.catalog)
    }

    /// Memory, disk, and each table's rows by tier.
    pub fn stats(&self) -> StoreStats {
        stats::stats(&self.catalog, &*self.fs, &self.dir)
    }

    /// What opening found.
    pub fn recovery(&self) -> &RecoveryReport {
        &self.report
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Closes the store and returns how many rows had updates that no commit holds: they are gone.
    ///
    /// # Errors
    /// [`Error::Poisoned`] where an earlier failure was not noticed.
    pub fn close(self) -> Result<u64> {
        let dropped = stats::uncommitted(&self.catalog);
        self.catalog.context.check_writable()?;
        Ok(dropped)
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("dir", &self.dir).field("at", &self.log.tip().0.id).finish_non_exhaustive()
    }
}
