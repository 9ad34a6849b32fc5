//! Jobs of a batch for the store's threads.
#![forbid(unsafe_code)]

use std::sync::{Arc, PoisonError};

use smallvec::SmallVec;

use super::buffers::SHARDS_ON_STACK;
use crate::context::lock;
use crate::crew::Crew;
use crate::error::Result;
use crate::sync::{Condvar, Mutex};

/// Jobs of a batch, or what they gave: without a visit to the heap where there is about one a shard.
pub(super) type Jobs<J> = SmallVec<[J; SHARDS_ON_STACK]>;

/// Does all jobs, with the crew's help where there is one, and returns what they gave, in their order.
///
/// The caller takes jobs too, one after the other as all do: a thread of the crew that wakes up late, or shares its core with
/// others, does less of them. It still must come by before the batch ends, so where that takes long the crew leaves it out.
pub(super) fn run_all<J: Send, R: Send>(crew: Option<&Crew>, jobs: Jobs<J>, work: impl Fn(J) -> R + Sync) -> Jobs<R> {
    let (Some(crew), true) = (crew, jobs.len() > 1) else { return jobs.into_iter().map(work).collect() };
    let helpers = (crew.threads() - 1).min(jobs.len() - 1);
    let mut results: Jobs<Option<R>> = SmallVec::new();
    results.resize_with(jobs.len(), || None);
    let left = Mutex::new(jobs.into_iter().zip(&mut results));
    crew.help(helpers, || {
        loop {
            // The lock is held while a job is taken, not while it is done.
            let Some((job, result)) = lock(&left).next() else { return };
            *result = Some(work(job));
        }
    });
    drop(left);
    results.into_iter().flatten().collect()
}

/// As [`run_all`], for jobs that may have to wait: `attempt` gives one back that would, unless it is told to do it all the same, which
/// it is once nothing else is left to begin.
pub(super) fn run_free_first<J: Send, R: Send>(
    crew: Option<&Crew>,
    jobs: Jobs<J>,
    attempt: impl Fn(J, bool) -> Result<R, J> + Sync,
) -> Jobs<R> {
    let helpers = crew.map_or(0, |crew| (crew.threads() - 1).min(jobs.len().saturating_sub(1)));
    let mut results: Jobs<Option<R>> = SmallVec::new();
    results.resize_with(jobs.len(), || None);
    let left = Mutex::new((jobs.into_iter().zip(&mut results), Vec::new()));
    let take_jobs = || {
        loop {
            let (taken, wait) = {
                let (first, later) = &mut *lock(&left);
                match first.next() {
                    Some(taken) => (Some(taken), false),
                    None => (later.pop(), true),
                }
            };
            let Some((job, result)) = taken else { return };
            match attempt(job, wait) {
                Ok(done) => *result = Some(done),
                Err(job) => lock(&left).1.push((job, result)),
            }
        }
    };
    match crew {
        None => take_jobs(),
        Some(crew) => crew.help(helpers, take_jobs),
    }
    drop(left);
    results.into_iter().flatten().collect()
}

/// Jobs that the crew does while the caller does something else. It helps once it waits for them.
pub(super) struct Beside<J> {
    shared: Arc<Shared<J>>,
}

struct Shared<J> {
    left: Mutex<Left<J>>,
    ended: Condvar,
    work: fn(J) -> Result<()>,
}

struct Left<J> {
    jobs: Vec<J>,
    running: usize,
    result: Result<()>,
}

impl<J: Send + 'static> Beside<J> {
    pub(super) fn begin(crew: &Crew, jobs: Vec<J>, work: fn(J) -> Result<()>) -> Beside<J> {
        let helpers = (crew.threads() - 1).min(jobs.len());
        let left = Mutex::new(Left { jobs, running: 0, result: Ok(()) });
        let shared = Arc::new(Shared { left, ended: Condvar::new(), work });
        for _ in 0..helpers {
            let shared = Arc::clone(&shared);
            crew.spawn(move || shared.take_jobs());
        }
        Beside { shared }
    }

    /// Waits for all, or for those that were begun when one failed; returns the first failure.
    pub(super) fn wait(self) -> Result<()> {
        self.shared.take_jobs();
        let mut left = lock(&self.shared.left);
        while left.running > 0 {
            left = self.shared.ended.wait(left).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::replace(&mut left.result, Ok(()))
    }
}

impl<J> Shared<J> {
    fn take_jobs(&self) {
        let mut left = lock(&self.left);
        while let Some(job) = left.jobs.pop() {
            left.running += 1;
            drop(left);
            let result = (self.work)(job);
            left = lock(&self.left);
            left.running -= 1;
            if left.result.is_ok() && result.is_err() {
                left.result = result;
                left.jobs.clear();
            }
        }
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::error::Error;

    #[test]
    fn jobs_that_would_wait_come_last_and_none_is_lost() {
        for threads in [1, 2, 5] {
            let crew = Crew::new(threads).unwrap();
            for crew in [None, Some(&crew)] {
                let order = Mutex::new(Vec::new());
                let done = run_free_first(crew, (0..50usize).collect(), |job, wait| {
                    if job % 7 == 0 && !wait {
                        return Err(job);
                    }
                    lock(&order).push(job);
                    Ok(job * 3)
                });
                assert_eq!(done[..], (0..50).map(|job| job * 3).collect::<Vec<_>>()[..], "{threads} threads");
                let order = lock(&order);
                assert!(order.len() == 50 && (crew.is_some() || order[42..].iter().all(|job| job % 7 == 0)), "{order:?}");
            }
        }
    }

    #[test]
    fn jobs_beside_the_caller_are_done_once_and_the_first_failure_ends_them() {
        static DONE: AtomicUsize = AtomicUsize::new(0);
        let work = |job: usize| {
            DONE.fetch_add(1, Relaxed);
            if job == 7 { Err(Error::corrupt(Path::new("seven"), 7, "")) } else { Ok(()) }
        };
        for threads in [1, 2, 5] {
            let crew = Crew::new(threads).unwrap();
            DONE.store(0, Relaxed);
            assert!(Beside::begin(&crew, (100..200).collect(), work).wait().is_ok());
            assert_eq!(DONE.load(Relaxed), 100, "{threads} threads");
            // The last is taken first.
            let failed = Beside::begin(&crew, vec![1, 2, 3, 7], work).wait();
            assert!(matches!(failed, Err(Error::Corrupt { offset: 7, .. })) && DONE.load(Relaxed) <= 104);
        }
    }

    #[test]
    fn every_job_is_done_once_and_results_keep_their_order() {
        for threads in [1, 2, 5] {
            let crew = Crew::new(threads).unwrap();
            for jobs in [0usize, 1, 2, 3, 100] {
                let done: Jobs<usize> = run_all(Some(&crew), (0..jobs).collect(), |job| job * 3);
                assert_eq!(done[..], (0..jobs).map(|job| job * 3).collect::<Vec<_>>(), "{threads} threads");
            }
        }
    }
}
