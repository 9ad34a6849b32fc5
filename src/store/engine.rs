//! What works on behalf of a store, in the foreground and in background threads: commits, checkpoints, the list of commits.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use super::commit::{Pending, Ticket};
use crate::catalog::Catalog;
use crate::checkpoint::{BasePlan, write_base};
use crate::context::lock;
use crate::delta::{Cut, DeltaLog};
use crate::error::Result;
use crate::fs::{Fs, names};
use crate::log::CommitRecord;
use crate::manifest::FileSum;
use crate::options::Retention;
use crate::pins::Pins;
use crate::recovery::{Identity, choose, glance};
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::types::{At, CommitId};
use crate::verify::{VerifyReport, verify_files};

/// A base below this is taken for one of this size: otherwise small stores would write bases all the time.
const MIN_BASE_BYTES: u64 = 16 << 20;

/// How the log grows beside the newest base.
#[derive(Debug, Default)]
pub(super) struct Growth {
    pub(super) base_bytes: u64,
    /// Log after the base from before this process.
    pub(super) replayed: u64,
    /// What this process had written when the base began.
    pub(super) written: u64,
}

/// See the module.
pub(super) struct Engine {
    pub(super) dir: PathBuf,
    pub(super) fs: Arc<dyn Fs>,
    pub(super) identity: Identity,
    /// The cold tier is the in-memory twin.
    #[cfg(feature = "remote")]
    pub(super) twin: bool,
    pub(super) catalog: Catalog,
    pub(super) log: Arc<DeltaLog>,
    /// The commit that was cut and is not yet in the log. Whoever holds the lock may write it.
    pub(super) pending: Mutex<Option<Pending>>,
    /// Of the commits that are in the log and were not durable when they came there, oldest first.
    pub(super) tickets: Mutex<VecDeque<Ticket>>,
    pub(super) retention: Retention,
    /// The base that a commit made valid when old ones were last removed.
    pub(super) pruned: Mutex<u64>,
    pub(super) growth: Mutex<Growth>,
    /// Bases that could not serve when the store was opened: they are none that retention keeps.
    pub(super) damaged_bases: Vec<u64>,
    /// Bytes of hot rows in the bases of this process.
    pub(super) checkpoint_bytes: AtomicU64,
    /// Held while the budget is changed.
    pub(super) budget_change: Mutex<()>,
    /// A thread was begun to write a base and has not ended.
    pub(super) base_under_way: AtomicBool,
    /// Held while a base is written.
    pub(super) next_base: Mutex<NextBase>,
}

/// What the next base is called, and sums of files that it may have in common with the last one.
#[derive(Debug)]
pub(super) struct NextBase {
    pub(super) number: u64,
    pub(super) known: Vec<FileSum>,
}

impl Engine {
    /// Waits for the commit being written, or goes on with the one that failed; none begins while the result lives.
    pub(super) fn between_commits(&self) -> Result<MutexGuard<'_, Option<Pending>>> {
        // Before the lock: in a forked child nobody may be left to release it.
        self.catalog.context.check_process()?;
        let mut pending = lock(&self.pending);
        self.write(&mut pending)?;
        Ok(pending)
    }

    /// Cuts a new commit, once the one before is in the log.
    pub(super) fn cut(&self, trainer_state: impl FnOnce() -> Vec<u8>) -> Result<(MutexGuard<'_, Option<Pending>>, Ticket)> {
        let mut pending = self.between_commits()?;
        if self.log.is_behind() {
            self.sync_to(u64::MAX)?;
        }
        let cut = Cut::take(&self.log, &self.catalog, trainer_state)?;
        let ticket = Ticket::new(cut.record().id);
        *pending = Some(Pending { cut, ticket: ticket.clone() });
        self.catalog.context.captures.set_stuck(None);
        Ok((pending, ticket))
    }

    /// Writes the pending commit, if there is one. After an error it stays pending, and a later call goes on with it.
    pub(super) fn write(&self, pending: &mut Option<Pending>) -> Result<()> {
        let Some(Pending { cut, ticket }) = pending else { return Ok(()) };
        self.catalog.context.captures.set_stuck(None);
        if let Err(error) = self.catalog.context.meters.commits.time(|| self.log.finish(cut)) {
            ticket.resolve(Err(error.to_string()));
            self.catalog.context.captures.set_stuck(Some(error.to_string()));
            return Err(error);
        }
        if let Some(Pending { cut, ticket }) = pending.take() {
            lock(&self.tickets).push_back(ticket);
            if let Err(error) = cut.settle() {
                tracing::warn!(%error, "removed rows could not be freed; the next commit tries again");
            }
        }
        Ok(())
    }

    /// Makes the commit of this sequence number durable, once it is in the log, and those written by now with it.
    pub(super) fn sync_to(&self, sequence: u64) -> Result<()> {
        let result = self.log.sync_to(sequence);
        let durable = result.as_ref().map_or(u64::MAX, |record| record.id.sequence);
        let mut tickets = lock(&self.tickets);
        while tickets.front().is_some_and(|ticket| ticket.id().sequence <= durable) {
            let ended = result.as_ref().map(|_| ()).map_err(ToString::to_string);
            tickets.pop_front().inspect(|ticket| ticket.resolve(ended));
        }
        drop(tickets);
        self.prune(&result?);
        Ok(())
    }

    pub(super) fn commits(&self) -> Result<Vec<CommitId>> {
        self.catalog.context.check_process()?;
        let survey = glance(&*self.fs, &self.dir, self.identity.uuid)?;
        let tip = self.log.tip().0;
        let at = if tip.id.sequence == 0 { At::Latest } else { At::Commit(tip.id) };
        let chain = choose(&survey, &self.dir, at)?;
        Ok(chain.restorable(&survey))
    }

    pub(super) fn verify(&self) -> Result<VerifyReport> {
        self.catalog.context.check_process()?;
        let _pins = Pins::all(&*self.fs, &self.dir)?;
        verify_files(&*self.fs, &self.dir, || {
            let pending = self.between_commits()?;
            self.sync_to(u64::MAX)?;
            Ok(pending)
        })
    }

    pub(super) fn checkpoint(&self) -> Result<u64> {
        self.catalog.context.check_writable()?;
        let mut next = lock(&self.next_base);
        // The segment is read first: a commit in between may close it, and then the base keeps one more than it needs.
        let first_segment = self.log.segment();
        let written = self.log.written();
        let (begin, state) = self.log.tip();
        let plan = BasePlan {
            fs: &*self.fs,
            dir: &self.dir,
            uuid: self.identity.uuid,
            number: next.number,
            begin: &begin,
            state: &state,
            first_segment,
            known: &next.known,
            told: &|_| (),
        };
        let manifest = self.catalog.context.meters.checkpoints.time(|| write_base(&plan, &self.catalog))?;
        let hot = manifest.files.iter().filter(|file| file.name == names::HOT_ROWS).map(|file| file.bytes).sum();
        self.checkpoint_bytes.fetch_add(hot, Ordering::Relaxed);
        self.log.set_base(manifest.number);
        let base_bytes = manifest.files.iter().map(|file| file.bytes).sum();
        *lock(&self.growth) = Growth { base_bytes, replayed: 0, written };
        next.number += 1;
        if manifest.still {
            self.prune(&CommitRecord { base: manifest.number, ..begin });
        }
        let number = manifest.number;
        next.known = manifest.files;
        Ok(number)
    }

    /// Sets the memory budget, and has rows leave until it is kept.
    pub(super) fn set_memory_budget(&self, bytes: usize) -> Result<()> {
        let context = &self.catalog.context;
        context.check_process()?;
        let _one_at_a_time = lock(&self.budget_change);
        let before = context.budget.limit();
        // First, so that nobody takes what others give back.
        context.budget.set_limit(bytes);
        self.fit_budget().inspect_err(|_| context.budget.set_limit(before))
    }

    fn fit_budget(&self) -> Result<()> {
        let budget = &self.catalog.context.budget;
        loop {
            let tables = self.catalog.tables();
            let held: usize = tables.iter().map(|table| table.shard_bytes()).sum();
            let excess = budget.used().saturating_sub(budget.limit());
            if excess == 0 {
                return Ok(());
            }
            let rows: usize = tables.iter().map(|table| table.capacity()).sum();
            if excess <= held {
                let share = excess as f64 / held as f64;
                tables.iter().try_for_each(|table| table.shrink_by(share))?;
            }
            if rows == tables.iter().map(|table| table.capacity()).sum::<usize>() {
                return Err(budget.too_small(0));
            }
        }
    }

    /// Whether the log since the newest base is larger than `ratio` times that base.
    pub(super) fn has_outgrown(&self, ratio: f64) -> bool {
        let Growth { base_bytes, replayed, written } = *lock(&self.growth);
        let since = replayed + self.log.written().saturating_sub(written);
        since as f64 > ratio * base_bytes.max(MIN_BASE_BYTES) as f64
    }
}
