//! How a store is opened.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::fs::{Fs, RealFs};
use crate::serving::Codecs;
use crate::slab::Backing;
use crate::types::At;

/// Bases that are always kept.
const MIN_BASES: usize = 2;
/// The memory budget where none is given.
pub(crate) const DEFAULT_MEMORY_BUDGET: usize = 1 << 30;
/// Reads of cold rows in flight where nothing is said: devices gain little beyond.
const DEFAULT_COLD_READERS: usize = 32;
/// The farthest that an event time may be ahead of the clock where nothing is said: a day.
pub(crate) const DEFAULT_MAX_CLOCK_STEP_SECS: u32 = 86_400;

/// When [`Store::commit_if_due`](crate::Store::commit_if_due) commits: as soon as any of its limits is reached. Without limits, never.
///
/// ```
/// use std::time::Duration;
/// use embedrock::CommitPolicy;
/// let policy = CommitPolicy::default().every(Duration::from_secs(60)).every_batches(10_000);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitPolicy {
    pub(crate) batches: Option<u64>,
    pub(crate) interval: Option<Duration>,
    pub(crate) bytes: Option<u64>,
}

impl CommitPolicy {
    /// After this many batches since the last commit.
    #[must_use]
    pub fn every_batches(self, batches: u64) -> Self {
        CommitPolicy { batches: Some(batches), ..self }
    }

    /// After this long since the last commit.
    #[must_use]
    pub fn every(self, interval: Duration) -> Self {
        CommitPolicy { interval: Some(interval), ..self }
    }

    /// Once the rows in memory that changed since the last commit hold this many bytes.
    #[must_use]
    pub fn every_bytes(self, bytes: u64) -> Self {
        CommitPolicy { bytes: Some(bytes), ..self }
    }
}

/// Which commits can still be had: those from the oldest base on that is kept. What a newer base makes needless is removed.
///
/// ```
/// use embedrock::Retention;
/// let a_week = Retention::default().bases(3).seconds(7 * 86_400);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    pub(crate) bases: usize,
    pub(crate) seconds: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Retention { bases: MIN_BASES, seconds: 0 }
    }
}

impl Retention {
    /// At least this many newest valid bases, not under 2: losing the newest one must be survived. Default 2.
    #[must_use]
    pub fn bases(self, bases: usize) -> Self {
        Retention { bases: bases.max(MIN_BASES), ..self }
    }

    /// And all that is needed to go back this many seconds by the store's clock, which is event time. Default 0.
    #[must_use]
    pub fn seconds(self, seconds: u32) -> Self {
        Retention { seconds, ..self }
    }
}

/// Options of [`Store::open`](crate::Store::open). What concerns speed and memory may differ at every open.
///
/// ```
/// use embedrock::StoreOptions;
/// let options = StoreOptions::default().memory_budget(4 << 30).threads(8);
/// ```
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub(crate) memory_budget: usize,
    pub(crate) cold_memory: Option<usize>,
    pub(crate) hot_rows: Option<usize>,
    pub(crate) threads: usize,
    pub(crate) prefetch_threads: Option<usize>,
    pub(crate) cold_readers: usize,
    pub(crate) cold_traffic: bool,
    pub(crate) shards: Option<usize>,
    pub(crate) seed: u64,
    pub(crate) at: At,
    pub(crate) max_clock_step: u32,
    pub(crate) allow_non_finite: bool,
    pub(crate) create: bool,
    pub(crate) read_only: bool,
    pub(crate) scratch: Option<PathBuf>,
    pub(crate) commit_policy: CommitPolicy,
    pub(crate) retention: Retention,
    pub(crate) checkpoint_ratio: Option<f64>,
    pub(crate) slabs: Backing,
    pub(crate) codecs: Codecs,
    pub(crate) fs: Arc<dyn Fs>,
    /// The cold tier's in-memory twin instead of RocksDB.
    pub(crate) twin: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            memory_budget: DEFAULT_MEMORY_BUDGET,
            cold_memory: None,
            hot_rows: None,
            threads: 0,
            prefetch_threads: None,
            cold_readers: DEFAULT_COLD_READERS,
            cold_traffic: false,
            shards: None,
            seed: 0,
            at: At::Latest,
            max_clock_step: DEFAULT_MAX_CLOCK_STEP_SECS,
            allow_non_finite: false,
            create: true,
            read_only: false,
            scratch: None,
            commit_policy: CommitPolicy::default(),
            retention: Retention::default(),
            checkpoint_ratio: None,
            slabs: Backing::Anonymous,
            codecs: Codecs::default(),
            fs: Arc::new(RealFs),
            twin: !cfg!(feature = "rocksdb"),
        }
    }
}

impl StoreOptions {
    /// Bytes that slabs, indexes, and the cold tier's caches and buffers may take together. Default 1 GiB.
    #[must_use]
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Bytes of the memory budget that the cold tier takes, at least 8 MiB; they stay its own while the store is open. Default: an eighth
    /// of the budget, 8 to 256 MiB. What is left of the budget holds rows.
    ///
    /// Half of them, or more, hold filters and indexes of cold keys, the rest rows that wait to be written, and buffers. A cold key
    /// needs 1.25 bytes of filter and, of index, 16 bytes for each 4 KiB of rows: [`plan`](crate::plan) sums them up. Where they do not
    /// fit a lookup of a cold row reads pages of them first, and that of a key without a row is no longer free of reads. More of them
    /// than that only takes memory from rows. Rows that wait to be written hold up to a quarter: the more of them, the fewer files are merged.
    ///
    /// `Store::open` refuses less than 8 MiB with [`Error::InvalidOption`](crate::Error::InvalidOption), and more than the budget has
    /// beside what a commit keeps with [`Error::BudgetTooSmall`](crate::Error::BudgetTooSmall).
    ///
    /// ```
    /// use embedrock::{Optimizer, StoreOptions, plan};
    /// let plan = plan(100_000_000, 64, &Optimizer::adagrad(0.05));
    /// let options = StoreOptions::default().memory_budget(4 << 30).cold_memory(plan.cold_memory_bytes as usize);
    /// ```
    #[must_use]
    pub fn cold_memory(mut self, bytes: usize) -> Self {
        self.cold_memory = Some(bytes);
        self
    }

    /// Caps the hot rows of each table between batches, whatever the budget allows. Default: no cap.
    #[must_use]
    pub fn hot_rows(mut self, rows: usize) -> Self {
        self.hot_rows = Some(rows);
        self
    }

    /// Worker threads for large batches, at most 1,024; 0, the default, for one a core, 1 for none beside the caller.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// Threads that [`Table::prefetch`](crate::Table::prefetch) hands keys to, at most 1,024; they begin with its first call that finds
    /// cold rows. Each waits for one read at a time, so several keep a device busy. 0 for none: then the caller reads. Default: four a
    /// core, at most 32.
    #[must_use]
    pub fn prefetch_threads(mut self, threads: usize) -> Self {
        self.prefetch_threads = Some(threads);
        self
    }

    /// Threads that only wait for reads of cold rows, at most 1,024, beside the callers. Each has a read in flight at once, or eight where
    /// the kernel takes several by one call (the feature `io-uring`; Linux from 6.1 on, and containers that allow it). Default 32.
    #[must_use]
    pub fn cold_readers(mut self, readers: usize) -> Self {
        self.cold_readers = readers;
        self
    }

    /// Counts what the cold tier flushes, merges and reads: [`StoreStats::cold_traffic`](crate::StoreStats::cold_traffic). Default no.
    ///
    /// Cost: RocksDB's counters take 3.5 % of the instructions of reading a cold row, 4.3 % of those of asking for a key that has none,
    /// 0.2 % of those of writing and merging rows; some 60 KiB of memory a core beside the budget.
    #[must_use]
    pub fn cold_traffic(mut self, counted: bool) -> Self {
        self.cold_traffic = counted;
        self
    }

    /// Shards a table is split into, 1 to 4,096. More shards mean shorter pauses and more memory for small tables.
    /// Default: 16, or 64 from a budget of 16 GiB on.
    #[must_use]
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = Some(shards);
        self
    }

    /// Seeds initial values and admission draws when the store is created; ignored later. Default 0.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Opens an older commit. Later commits stay on disk until the next commit begins a new timeline and bases move on.
    #[must_use]
    pub fn open_at(mut self, at: At) -> Self {
        self.at = at;
        self
    }

    /// Seconds that an event time may be ahead of the store's clock before it is refused. Default one day.
    #[must_use]
    pub fn max_clock_step(mut self, secs: u32) -> Self {
        self.max_clock_step = secs;
        self
    }

    /// Accepts gradients and rows that are NaN or infinite. Default no.
    #[must_use]
    pub fn allow_non_finite(mut self, allow: bool) -> Self {
        self.allow_non_finite = allow;
        self
    }

    /// Whether a store is made where none is. Default yes.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Opens the store to be read only: nothing in its directory is written, no lock is taken, and every change is refused with
    /// [`Error::ReadOnly`](crate::Error::ReadOnly). Another process may hold it and go on training, and the disk may be a read-only one.
    /// Default no.
    ///
    /// It is the store at its last commit that is published as durable, or at the one asked for, and stays so. The tables are rebuilt as
    /// at every open, within the memory budget; cold rows go to a temporary directory ([`StoreOptions::scratch`]) that ends with the
    /// last handle.
    #[must_use]
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = read_only;
        self
    }

    /// The directory, which must exist, for what need not last: cold rows of a store that is only read, and of dry runs. They take as
    /// much room as the cold rows of the newest base, or none of their own where it is on the store's disk. Default: the system's.
    #[must_use]
    pub fn scratch(mut self, dir: impl Into<PathBuf>) -> Self {
        self.scratch = Some(dir.into());
        self
    }

    /// When [`Store::commit_if_due`](crate::Store::commit_if_due) commits. Default: never.
    #[must_use]
    pub fn commit_policy(mut self, policy: CommitPolicy) -> Self {
        self.commit_policy = policy;
        self
    }

    /// How far back commits can be had. Default: from the second newest base on.
    #[must_use]
    pub fn retention(mut self, retention: Retention) -> Self {
        self.retention = retention;
        self
    }

    /// Begins a checkpoint in the background after a commit, once the log written since the last base is larger than this many
    /// times that base: recovery then never reads much more than so many bases. Default: only when asked.
    #[must_use]
    pub fn checkpoint_ratio(mut self, ratio: f64) -> Self {
        self.checkpoint_ratio = Some(ratio);
        self
    }

    /// Keeps slabs in unlinked files of this directory instead of anonymous memory, for read-mostly tables.
    ///
    /// Under training, writes to them collapse once the dirty pages pass the kernel's write-back limits.
    #[must_use]
    pub fn file_slabs(mut self, dir: impl Into<PathBuf>) -> Self {
        self.slabs = Backing::File(dir.into());
        self
    }

    /// In how many bytes a [`Replica`](crate::Replica) keeps embeddings. Nothing to a store. Default: as the store does.
    #[must_use]
    pub fn codecs(mut self, codecs: Codecs) -> Self {
        self.codecs = codecs;
        self
    }

    /// Keeps everything on a simulated disk, with the cold tier's twin, for tests.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn simulated(mut self, fs: Arc<dyn Fs>) -> Self {
        self.fs = fs;
        self.twin = true;
        self
    }

    /// Uses the cold tier's in-memory twin on real files, for tests.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn twin(mut self, twin: bool) -> Self {
        self.twin = twin;
        self
    }
}
