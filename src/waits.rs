//! How long batches waited for what commits and checkpoints hold: noted where a lock is not free at once.
#![forbid(unsafe_code)]

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use crate::sync::atomic::{AtomicU64, Ordering::Relaxed};
use crate::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Waits of one kind, or work, since a store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// How many.
    pub times: u64,
    /// All together; those of several threads at once are added up.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

/// What batches waited for since a store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waits {
    /// The gate, which a commit's cut holds alone.
    pub gate: Wait,
    /// Room for the images that a delta being written still needs.
    pub images: Wait,
    /// A shard, held by the writer of a delta or of a base, or by another batch.
    pub shards: Wait,
    /// The log, where rows go that leave memory uncommitted.
    pub log: Wait,
}

/// Adds up waits of one kind.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    times: AtomicU64,
    nanos: AtomicU64,
    longest: AtomicU64,
}

impl Meter {
    /// Runs what waits.
    pub(crate) fn time<T>(&self, wait: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = wait();
        let nanos = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.times.fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos, Relaxed);
        self.longest.fetch_max(nanos, Relaxed);
        result
    }

    /// Locks; what is not free at once is waited for and counted.
    pub(crate) fn lock<'a, T: ?Sized>(&self, mutex: &'a Mutex<T>) -> MutexGuard<'a, T> {
        mutex.try_lock().unwrap_or_else(|_| self.time(|| mutex.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Locks to read, as [`Meter::lock`].
    pub(crate) fn read<'a, T: ?Sized>(&self, lock: &'a RwLock<T>) -> RwLockReadGuard<'a, T> {
        lock.try_read().unwrap_or_else(|_| self.time(|| lock.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Locks to write, as [`Meter::lock`].
    pub(crate) fn write<'a, T: ?Sized>(&self, lock: &'a RwLock<T>) -> RwLockWriteGuard<'a, T> {
        lock.try_write().unwrap_or_else(|_| self.time(|| lock.write().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn waited(&self) -> Wait {
        Wait {
            times: self.times.load(Relaxed),
            total: Duration::from_nanos(self.nanos.load(Relaxed)),
            longest: Duration::from_nanos(self.longest.load(Relaxed)),
        }
    }
}

/// The meters of all that share a context.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    pub(crate) gate: Meter,
    pub(crate) shards: Meter,
    /// Not waits: how long it took to write commits and bases.
    pub(crate) commits: Meter,
    pub(crate) checkpoints: Meter,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_free_is_counted() {
        let (meter, mutex, shared) = (Meter::default(), Mutex::new(()), RwLock::new(()));
        drop((meter.lock(&mutex), meter.read(&shared)));
        drop(meter.write(&shared));
        assert_eq!(meter.waited(), Wait::default());
        let (held, begun) = (shared.read().unwrap(), std::sync::Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                begun.wait();
                drop(meter.write(&shared));
            });
            begun.wait();
            // No reader gets in once the writer waits.
            while shared.try_read().is_ok() {
                std::thread::yield_now();
            }
            drop(held);
        });
        let Wait { times, total, longest } = meter.waited();
        assert!(times == 1 && longest > Duration::ZERO && total == longest);
    }
}
