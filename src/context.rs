//! What all tables of a store share: the gate between batches and commits, the clock, the cold tier, the log, the budget.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, Weak};

use crate::clock::Clock;
use crate::cold::ColdTier;
use crate::crew::Crew;
use crate::error::{Error, Result};
use crate::fs::{LockGuard, Scratch};
use crate::queue::Queue;
use crate::slab::Backing;
use crate::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use crate::sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use crate::types::{Key, TableId};
use crate::waits::{Meter, Meters};

/// Where after-images of uncommitted rows go before their rows leave memory.
pub(crate) trait Journal: Send + Sync {
    /// Appends images (key, time, lanes) to the delta of an epoch: the one being written, or the next.
    fn append_images(&self, table: TableId, epoch: u64, lanes: usize, images: &[u8]) -> Result<()>;

    /// Appends removed keys to the delta of an epoch.
    fn append_removed(&self, table: TableId, epoch: u64, keys: &[Key]) -> Result<()>;
}

/// Images that batches keep for the delta being written, until its writer comes by; and the wait when there are too many.
#[derive(Debug)]
pub(crate) struct Captures {
    limit: usize,
    used: AtomicUsize,
    /// Why nobody empties the pool at the moment.
    stuck: Mutex<Option<String>>,
    changed: Condvar,
    /// How long batches waited for room.
    pub(crate) waits: Meter,
}

impl Captures {
    pub(crate) fn new(limit: usize) -> Captures {
        Captures { limit, used: AtomicUsize::new(0), stuck: Mutex::default(), changed: Condvar::new(), waits: Meter::default() }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether batches will soon wait for room.
    pub(crate) fn is_crowded(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit / 4
    }

    /// Counts bytes that are kept; a batch in hand cannot be stopped, so the pool may be overdrawn by one batch a thread.
    pub(crate) fn charge(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn release(&self, bytes: usize) {
        if bytes > 0 {
            self.used.fetch_sub(bytes, Ordering::Relaxed);
            let _stuck = lock(&self.stuck);
            self.changed.notify_all();
        }
    }

    /// Says that a commit failed and waits to be tried again, or that one is under way.
    pub(crate) fn set_stuck(&self, reason: Option<String>) {
        *lock(&self.stuck) = reason;
        self.changed.notify_all();
    }

    /// Waits until a batch that may keep `bytes` has room, or alone would not have it.
    pub(crate) fn wait_for(&self, bytes: usize) -> Result<()> {
        let fits = || {
            let used = self.used.load(Ordering::Relaxed);
            used == 0 || used.saturating_add(bytes) <= self.limit
        };
        if fits() {
            return Ok(());
        }
        self.waits.time(|| self.wait_until(fits))
    }

    fn wait_until(&self, fits: impl Fn() -> bool) -> Result<()> {
        let mut stuck = lock(&self.stuck);
        while !fits() {
            if let Some(reason) = &*stuck {
                return Err(Error::CommitFailed { reason: reason.clone() });
            }
            stuck = self.changed.wait(stuck).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

/// Wakes the thread that frees expired rows.
#[derive(Debug, Default)]
pub(crate) struct Sweeps {
    pub(crate) state: Mutex<SweepState>,
    pub(crate) changed: Condvar,
}

/// What the sweeping thread is to do.
#[derive(Debug, Default)]
pub(crate) struct SweepState {
    pub(crate) due: bool,
    pub(crate) closed: bool,
}

impl Sweeps {
    pub(crate) fn wake(&self) {
        lock(&self.state).due = true;
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }
}
/// This part of the budget rows never take: what is remembered of rows that left, and of those brought in ahead, has it.
const HEADROOM_SHARE: usize = 32;

/// Bytes that may be held, and are.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: AtomicUsize,
    used: AtomicUsize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Budget {
        Budget { limit: AtomicUsize::new(limit), used: AtomicUsize::new(0) }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// From now on no more than so much is taken; what is held beyond it stays so until it is given back.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// What rows leave to others is not theirs.
    pub(crate) fn limit_for_rows(&self) -> usize {
        self.limit() - self.limit() / HEADROOM_SHARE
    }

    /// Bytes that rows may still take.
    pub(crate) fn left_for_rows(&self) -> usize {
        self.limit_for_rows().saturating_sub(self.used())
    }

    fn try_reserve_within(&self, bytes: usize, limit: usize) -> bool {
        let take = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Takes `bytes` if they are left.
    pub(crate) fn try_reserve(&self, bytes: usize) -> bool {
        self.try_reserve_within(bytes, self.limit())
    }

    /// Takes `bytes` for rows, which leave a little for what else grows.
    pub(crate) fn try_reserve_for_rows(&self, bytes: usize) -> bool {
        self.try_reserve_within(bytes, self.limit_for_rows())
    }

    /// Takes `bytes` or says how much would be needed.
    pub(crate) fn reserve(&self, bytes: usize) -> Result<()> {
        if self.try_reserve(bytes) { Ok(()) } else { Err(self.too_small(bytes)) }
    }

    /// Takes `bytes` whether they are left or not.
    pub(crate) fn charge(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn too_small(&self, bytes: usize) -> Error {
        Error::BudgetTooSmall { needed: self.used().saturating_add(bytes), budget: self.limit() }
    }

    pub(crate) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A table, as another one sees it that lacks memory.
pub(crate) trait Lender: Send + Sync {
    fn id(&self) -> TableId;

    /// Bytes of its rows.
    fn held(&self) -> usize;

    /// Gives about so many of them back, as far as rows can leave; not while a batch is at work on it.
    fn lend(&self, bytes: usize) -> Option<Result<()>>;
}

/// Where batches ask for rows to leave in the background, before they themselves must wait for that.
#[derive(Debug, Default)]
pub(crate) struct Room {
    asked: AtomicBool,
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Room {
    pub(crate) fn ask(&self) {
        if !self.asked.swap(true, Ordering::AcqRel) {
            let _stopped = lock(&self.stopped);
            self.changed.notify_all();
        }
    }

    /// Waits until somebody asks; `false` once nobody will.
    pub(crate) fn wait(&self) -> bool {
        let mut stopped = lock(&self.stopped);
        while !*stopped && !self.asked.swap(false, Ordering::AcqRel) {
            stopped = self.changed.wait(stopped).unwrap_or_else(PoisonError::into_inner);
        }
        !*stopped
    }

    pub(crate) fn stop(&self) {
        *lock(&self.stopped) = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *lock(&self.stopped)
    }
}

/// See the module.
pub(crate) struct Context {
    pub(crate) seed: u64,
    pub(crate) allow_non_finite: bool,
    pub(crate) max_clock_step: u32,
    pub(crate) hot_rows: Option<usize>,
    pub(crate) slabs: Backing,
    /// Batches are applied holding it shared; a commit's cut holds it alone.
    pub(crate) gate: RwLock<()>,
    pub(crate) clock: Mutex<Clock>,
    /// Counts the cuts: changes go into the delta of this epoch.
    pub(crate) epoch: AtomicU64,
    pub(crate) captures: Captures,
    pub(crate) sweeps: Sweeps,
    /// How long batches waited.
    pub(crate) meters: Meters,
    /// Batches applied since the store was made; part of each commit.
    pub(crate) batches: AtomicU64,
    pub(crate) cold: Arc<dyn ColdTier>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) budget: Budget,
    /// The tables, for each other.
    pub(crate) lenders: Mutex<Vec<Weak<dyn Lender>>>,
    pub(crate) room: Room,
    /// Rows to be brought in ahead.
    pub(crate) ahead: Queue,
    pub(crate) crew: Option<Crew>,
    pub(crate) process: u32,
    pub(crate) poison: Arc<OnceLock<String>>,
    /// The store's directory, where it was opened to be read only.
    pub(crate) read_only: Option<PathBuf>,
    /// Where the cold tier is then. One of the last fields: it outlives the cold tier.
    pub(crate) _scratch: Option<Arc<Scratch>>,
    /// The lock of the directory that the cold tier is in else: as long as a table is held, its store is not let go of.
    pub(crate) _lock: Option<Arc<dyn LockGuard>>,
}

impl Context {
    /// Refuses calls from a forked child, whose copy of the store is nobody's.
    pub(crate) fn check_process(&self) -> Result<()> {
        if std::process::id() == self.process { Ok(()) } else { Err(Error::ForkedChild) }
    }

    /// Whether the store was opened to be read only.
    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only.is_some()
    }

    /// Refuses changes of a store that is only read, and once it is unknown what the disk holds.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_process()?;
        if let Some(path) = &self.read_only {
            return Err(Error::ReadOnly { path: path.clone() });
        }
        match self.poison.get() {
            None => Ok(()),
            Some(reason) => Err(Error::Poisoned { reason: reason.clone() }),
        }
    }

    /// The epoch of the delta that changes go into. Fixed while the gate is held.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Counts a change that is no batch, so that a base written meanwhile knows.
    pub(crate) fn count_batch(&self) {
        self.batches.fetch_add(1, Ordering::SeqCst);
    }

    /// The clock as it stands; 0 before the first batch.
    pub(crate) fn now(&self) -> u32 {
        lock(&self.clock).now()
    }
}

/// Locks; a panic of another holder is no reason to panic here too.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Locks to read, as [`lock`].
pub(crate) fn read<T: ?Sized>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

/// Locks to write, as [`lock`].
pub(crate) fn write<T: ?Sized>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
