//! Threads that read: a device serves many reads at once in little more time than one, and each thread waits for one, or for a few.
//!
//! A read of many keys is divided into groups. The caller and as many threads as there are groups take one after another, so that
//! all are busy until the last is done; a read that is small, or a pool that is busy, leaves more of the groups to the caller.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use crate::error::{Error, Result};

/// Bytes of a reader's stack: its work goes a few calls deep.
const STACK_BYTES: usize = 256 << 10;
/// A group has at most this many keys, so that the last one is not waited for long.
pub(super) const MAX_GROUP: usize = 8;

/// A pool of reader threads: they start with the first read that they can help with, and end when it is dropped.
pub(super) struct Readers {
    queue: Arc<Queue>,
    wanted: usize,
    /// Keys that a thread reads at once; a group is not of fewer.
    at_once: usize,
    threads: OnceLock<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    work: VecDeque<Arc<dyn Work>>,
    closed: bool,
}

/// What several threads can do parts of.
trait Work: Send + Sync {
    /// Does parts until none is left to begin.
    fn help(&self);
}

impl Readers {
    /// A pool of so many threads, each of which reads so many keys of a group at once; none leaves all to the callers.
    pub(super) fn new(threads: usize, at_once: usize) -> Readers {
        Readers { queue: Arc::default(), wanted: threads, at_once, threads: OnceLock::new() }
    }

    /// Keys that one group of `keys` has, so that every thread has some.
    pub(super) fn group_of(&self, keys: usize) -> usize {
        (keys / (self.wanted + 1)).clamp(self.at_once, MAX_GROUP)
    }

    /// How many threads there are; a system that has no more gives fewer, and leaves more to the callers.
    fn start(&self) -> usize {
        let threads = self.threads.get_or_init(|| (0..self.wanted).map_while(|number| self.spawn(number)).collect());
        threads.len()
    }

    fn spawn(&self, number: usize) -> Option<JoinHandle<()>> {
        let queue = Arc::clone(&self.queue);
        let builder = std::thread::Builder::new().name(format!("embedrock-cold-{number}")).stack_size(STACK_BYTES);
        builder
            .spawn(move || queue.serve())
            .inspect_err(|error| tracing::warn!(%error, "fewer reader threads than asked for"))
            .ok()
    }

    /// Runs `read` for all of `0..groups`, at once as far as there are threads, and returns what it returned, in order.
    pub(super) fn run<R: Send + 'static>(
        &self,
        groups: usize,
        read: impl Fn(usize) -> R + Send + Sync + 'static,
    ) -> Result<Vec<R>> {
        let helpers = if groups > 1 { self.start().min(groups - 1) } else { 0 };
        if helpers == 0 {
            return Ok((0..groups).map(read).collect());
        }
        let batch = Arc::new(Batch { groups, read, next: AtomicUsize::new(0), done: Mutex::default(), changed: Condvar::new() });
        {
            let mut waiting = lock(&self.queue.waiting);
            waiting.work.extend((0..helpers).map(|_| Arc::clone(&batch) as Arc<dyn Work>));
        }
        (0..helpers).for_each(|_| self.queue.changed.notify_one());
        batch.help();
        let mut results = batch.wait();
        if results.len() < groups {
            return Err(Error::Cold { action: "read", message: "a reader thread panicked".into() });
        }
        results.sort_unstable_by_key(|(group, _)| *group);
        Ok(results.into_iter().map(|(_, result)| result).collect())
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        lock(&self.queue.waiting).closed = true;
        self.queue.changed.notify_all();
        for thread in self.threads.take().into_iter().flatten() {
            // A reader that panicked has said so already.
            drop(thread.join());
        }
    }
}

impl Queue {
    fn serve(&self) {
        loop {
            let mut waiting = lock(&self.waiting);
            let work = loop {
                if let Some(work) = waiting.work.pop_front() {
                    break work;
                }
                if waiting.closed {
                    return;
                }
                waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            };
            drop(waiting);
            work.help();
        }
    }
}

struct Batch<R, F> {
    groups: usize,
    read: F,
    /// The next group that nobody has begun.
    next: AtomicUsize,
    done: Mutex<Done<R>>,
    changed: Condvar,
}

struct Done<R> {
    results: Vec<(usize, R)>,
    /// Groups that ended, those whose reader panicked too.
    ended: usize,
}

impl<R> Default for Done<R> {
    fn default() -> Done<R> {
        Done { results: Vec::new(), ended: 0 }
    }
}

impl<R: Send, F: Fn(usize) -> R + Send + Sync> Work for Batch<R, F> {
    fn help(&self) {
        loop {
            let group = self.next.fetch_add(1, Ordering::Relaxed);
            if group >= self.groups {
                return;
            }
            let ended = Ended { batch: self };
            let result = (self.read)(group);
            lock(&self.done).results.push((group, result));
            drop(ended);
        }
    }
}

/// Counts a group as ended, also when its reader panics: its caller would wait for ever.
struct Ended<'a, R: Send, F: Fn(usize) -> R + Send + Sync> {
    batch: &'a Batch<R, F>,
}

impl<R: Send, F: Fn(usize) -> R + Send + Sync> Drop for Ended<'_, R, F> {
    fn drop(&mut self) {
        let mut done = lock(&self.batch.done);
        done.ended += 1;
        if done.ended == self.batch.groups {
            self.batch.changed.notify_all();
        }
    }
}

impl<R, F> Batch<R, F> {
    fn wait(&self) -> Vec<(usize, R)> {
        let mut done = lock(&self.done);
        while done.ended < self.groups {
            done = self.changed.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut done.results)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn all_groups_are_read_once_and_come_in_order() {
        for threads in [0, 1, 7] {
            let readers = Readers::new(threads, 1);
            for groups in [0, 1, 2, 100] {
                let calls = Arc::new(AtomicUsize::new(0));
                let counted = Arc::clone(&calls);
                let results = readers.run(groups, move |group| {
                    counted.fetch_add(1, Ordering::Relaxed);
                    group * 3
                });
                let results = results.unwrap();
                assert_eq!(results, (0..groups).map(|group| group * 3).collect::<Vec<_>>());
                assert_eq!(calls.load(Ordering::Relaxed), groups);
            }
        }
    }

    /// Would wait for ever if one group were read after the other.
    #[test]
    fn groups_are_read_at_once() {
        let readers = Readers::new(3, 1);
        let barrier = Barrier::new(4);
        assert_eq!(readers.run(4, move |_| barrier.wait().is_leader()).unwrap().iter().filter(|leader| **leader).count(), 1);
    }

    #[test]
    fn callers_share_the_threads() {
        let readers = Readers::new(2, 1);
        std::thread::scope(|scope| {
            for caller in 0..4 {
                let readers = &readers;
                scope.spawn(move || {
                    for round in 0..200 {
                        let results = readers.run(9, move |group| caller * 1000 + round + group).unwrap();
                        assert_eq!(results, (0..9).map(|group| caller * 1000 + round + group).collect::<Vec<_>>());
                    }
                });
            }
        });
    }

    #[test]
    fn a_panic_leaves_nobody_waiting() {
        let readers = Readers::new(3, 1);
        let results =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| readers.run(4, |group| assert!(group != 2, "planted"))));
        // The caller's own panic goes on; that of another thread is an error.
        assert!(results.map_or(true, |result| result.is_err()));
        assert_eq!(readers.run(4, |group| group).unwrap(), [0, 1, 2, 3]);
    }
}
