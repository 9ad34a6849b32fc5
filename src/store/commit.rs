//! Commits as their users see them: now or in the background, when asked or when due.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::Store;
use super::engine::Engine;
use crate::context::lock;
use crate::delta::Cut;
use crate::error::{Error, Result};
use crate::options::CommitPolicy;
use crate::sync::{Condvar, Mutex, is_finished, thread};
use crate::types::CommitId;

/// A commit that was cut and is not yet in the log.
pub(super) struct Pending {
    pub(super) cut: Cut,
    pub(super) ticket: Ticket,
}

/// How a commit ended, once it did.
#[derive(Debug)]
struct Outcome {
    /// In a forked child nobody is left who would resolve it.
    process: u32,
    result: Mutex<Option<Result<(), String>>>,
    ended: Condvar,
}

/// Says when a commit in the background is durable.
///
/// ```
/// use embedrock::{Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-ticket-{}", std::process::id()));
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let users = store.create_table(TableSchema::new("user", 1))?;
/// users.assign(&[1], &[0.5], &Update::at(1_700_000_000))?;
/// let ticket = store.commit_in_background(|| b"step 1".to_vec())?;
/// users.assign(&[1], &[0.7], &Update::at(1_700_000_001))?; // training goes on: this is in the next commit
/// assert_eq!(ticket.wait()?, ticket.id());
/// assert!(ticket.is_durable());
/// # drop((users, store)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Ticket {
    id: CommitId,
    outcome: Arc<Outcome>,
}

impl Ticket {
    pub(super) fn new(id: CommitId) -> Ticket {
        Ticket { id, outcome: Arc::new(Outcome { process: std::process::id(), result: Mutex::default(), ended: Condvar::new() }) }
    }

    /// What the commit is called once it is durable.
    pub fn id(&self) -> CommitId {
        self.id
    }

    /// Whether it is durable.
    pub fn is_durable(&self) -> bool {
        self.check_process().is_ok() && matches!(&*lock(&self.outcome.result), Some(Ok(())))
    }

    /// Waits until it is durable.
    ///
    /// # Errors
    /// Why it is not. It stays cut: the store's next commit, or another call that needs it, tries again. [`Error::ForkedChild`].
    pub fn wait(&self) -> Result<CommitId> {
        self.check_process()?;
        let mut result = lock(&self.outcome.result);
        loop {
            match &*result {
                Some(Ok(())) => return Ok(self.id),
                Some(Err(reason)) => return Err(Error::CommitFailed { reason: reason.clone() }),
                None => result = self.outcome.ended.wait(result).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn check_process(&self) -> Result<()> {
        if std::process::id() == self.outcome.process { Ok(()) } else { Err(Error::ForkedChild) }
    }

    pub(super) fn resolve(&self, result: Result<(), String>) {
        *lock(&self.outcome.result) = Some(result);
        self.outcome.ended.notify_all();
    }
}

/// Says, when it ends, that no base is being written any more: however the thread ends that has it, or does not begin.
struct UnderWay(Arc<Engine>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.base_under_way.store(false, Ordering::Release);
    }
}

/// When the last commit was cut, as the policy counts.
pub(super) struct Due {
    policy: CommitPolicy,
    batches: u64,
    at: Instant,
    ticket: Option<Ticket>,
}

impl Due {
    pub(super) fn new(policy: CommitPolicy, batches: u64) -> Due {
        Due { policy, batches, at: Instant::now(), ticket: None }
    }
}

impl Store {
    /// Makes everything so far durable, atomically with `trainer_state` (bytes of any size), and returns its name.
    ///
    /// Other threads go on training meanwhile, but for the moment of the cut. Cost: the rows touched since the last commit are
    /// written once, sequentially, and synced; of threads that commit at the same time one syncs for all.
    ///
    /// # Errors
    /// A full disk or a failing write: the commit is not durable, nothing is lost, and the next commit first finishes this one.
    /// A failing sync poisons the store.
    pub fn commit(&self, trainer_state: &[u8]) -> Result<CommitId> {
        self.commit_with(|| trainer_state.to_vec())
    }

    /// As [`Store::commit`], with the state evaluated at the cut, while no batch is being applied.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn commit_with(&self, trainer_state: impl FnOnce() -> Vec<u8>) -> Result<CommitId> {
        let (mut pending, ticket) = self.engine.cut(trainer_state)?;
        self.engine.write(&mut pending)?;
        drop(pending);
        self.engine.sync_to(ticket.id().sequence)?;
        self.checkpoint_if_outgrown();
        Ok(ticket.id())
    }

    /// As [`Store::commit_with`], but returns after the cut; a thread writes and syncs. The ticket says when it is durable.
    ///
    /// Waits until the commit before it is written, but not until it is durable: one sync may serve several. Rows that change before they are written are kept aside, within the memory budget; when
    /// these are too many, training waits.
    ///
    /// # Errors
    /// What the commit before it failed with. What this one fails with its ticket says, and the call after it.
    pub fn commit_in_background(&self, trainer_state: impl FnOnce() -> Vec<u8>) -> Result<Ticket> {
        let (pending, ticket) = self.engine.cut(trainer_state)?;
        drop(pending);
        let (engine, sequence) = (Arc::clone(&self.engine), ticket.id().sequence);
        self.in_background("commit", move || {
            // Another thread may have written it by now.
            let written = engine.write(&mut lock(&engine.pending));
            if let Err(error) = written.and_then(|()| engine.sync_to(sequence)) {
                tracing::error!(%error, "a commit in the background failed");
            }
        })?;
        self.checkpoint_if_outgrown();
        Ok(ticket)
    }

    /// The commit stands whatever becomes of the base, so a failure here is only logged.
    fn checkpoint_if_outgrown(&self) {
        if self.checkpoint_ratio.is_some_and(|ratio| self.engine.has_outgrown(ratio))
            && let Err(error) = self.checkpoint_in_background()
        {
            tracing::warn!(%error, "the log has outgrown its base, but no checkpoint could be begun");
        }
    }

    /// Commits in the background if [`StoreOptions::commit_policy`](crate::StoreOptions::commit_policy) says that it is time and
    /// the commit before is durable. To be called after each batch.
    ///
    /// # Errors
    /// As [`Store::commit_in_background`].
    pub fn commit_if_due(&self, trainer_state: impl FnOnce() -> Vec<u8>) -> Result<Option<Ticket>> {
        let mut due = lock(&self.due);
        if !self.is_due(&due) || due.ticket.as_ref().is_some_and(|ticket| lock(&ticket.outcome.result).is_none()) {
            return Ok(None);
        }
        let batches = self.engine.catalog.context.batches.load(Ordering::Relaxed);
        let ticket = self.commit_in_background(trainer_state)?;
        *due = Due { batches, ticket: Some(ticket.clone()), ..Due::new(due.policy, batches) };
        Ok(Some(ticket))
    }

    fn is_due(&self, due: &Due) -> bool {
        let context = &self.engine.catalog.context;
        let batches = context.batches.load(Ordering::Relaxed).saturating_sub(due.batches);
        let bytes = || -> u64 {
            let of_table = |table: &Arc<crate::table::TableInner>| {
                let rows: usize = table.shards().iter().map(|shard| crate::context::read(shard).uncommitted()).sum();
                rows as u64 * table.schema().row_bytes() as u64
            };
            self.engine.catalog.tables().iter().map(of_table).sum()
        };
        due.policy.batches.is_some_and(|limit| batches >= limit.max(1))
            || due.policy.interval.is_some_and(|limit| batches > 0 && due.at.elapsed() >= limit)
            || due.policy.bytes.is_some_and(|limit| batches > 0 && bytes() >= limit)
    }

    /// As [`Store::checkpoint`], in a thread of its own; returns whether one was begun: not while another is under way.
    ///
    /// `close` and dropping the store wait for it.
    ///
    /// # Errors
    /// Those of starting a thread, a poisoned store or one that is only read; what the checkpoint fails with is logged, and the older
    /// base stays.
    pub fn checkpoint_in_background(&self) -> Result<bool> {
        let engine = Arc::clone(&self.engine);
        engine.catalog.context.check_writable()?;
        if engine.next_base.try_lock().is_err() || engine.base_under_way.swap(true, Ordering::AcqRel) {
            return Ok(false);
        }
        let under_way = UnderWay(engine);
        self.in_background("checkpoint", move || {
            if let Err(error) = under_way.0.checkpoint() {
                tracing::error!(%error, "a checkpoint in the background failed");
            }
        })?;
        Ok(true)
    }

    /// Cuts a commit and leaves it pending, for tests that change the store between the steps of its writing.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn begin_commit(&self, trainer_state: &[u8]) -> Result<Ticket> {
        Ok(self.engine.cut(|| trainer_state.to_vec())?.1)
    }

    /// Frees the expired rows now, beside the thread that does.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn sweep_expired(&self) {
        super::sweep::rounds(&self.engine);
    }

    /// Writes the rows of up to `keys` keys of the pending commit, and finishes it after the last.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    pub fn step_commit(&self, keys: usize) -> Result<()> {
        let mut pending = lock(&self.engine.pending);
        let Some(Pending { cut, .. }) = &mut *pending else { return Ok(()) };
        if self.engine.log.write_some(cut, keys)? {
            return Ok(());
        }
        self.engine.write(&mut pending)?;
        drop(pending);
        self.engine.sync_to(u64::MAX)
    }

    pub(super) fn in_background(&self, what: &'static str, work: impl FnOnce() + Send + 'static) -> Result<()> {
        let mut workers = lock(&self.workers);
        workers.retain(|worker| !is_finished(worker));
        let spawned = thread::Builder::new().name(format!("embedrock-{what}")).spawn(work);
        workers.push(spawned.map_err(|source| Error::io("start a thread for", self.dir(), source))?);
        Ok(())
    }

    /// Begins the thread that frees expired rows, if there is a table where rows expire and it does not run yet.
    pub(super) fn sweep_in_background(&self) -> Result<()> {
        let mut sweeper = lock(&self.sweeper);
        let catalog = &self.engine.catalog;
        if sweeper.is_none() && catalog.tables().iter().any(|table| table.schema().lifetimes().any()) {
            let engine = Arc::clone(&self.engine);
            let spawned = thread::Builder::new().name("embedrock-expiry".into()).spawn(move || super::sweep::run(&engine));
            *sweeper = Some(spawned.map_err(|source| Error::io("start a thread for", self.dir(), source))?);
        }
        Ok(())
    }

    /// Ends what works in the background, once commits and checkpoints that were begun are done.
    pub(super) fn join_workers(&self) {
        self.engine.catalog.context.room.stop();
        self.engine.catalog.context.ahead.close();
        self.engine.catalog.context.sweeps.close();
        if let Some(sweeper) = lock(&self.sweeper).take() {
            let _ = sweeper.join();
        }
        for worker in std::mem::take(&mut *lock(&self.workers)) {
            let _ = worker.join();
        }
    }
}
