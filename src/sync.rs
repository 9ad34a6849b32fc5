//! Locks, atomics and threads as the engine uses them: those of the standard library, or, under the feature `shuttle`, of a
//! scheduler that tries their orders (`tests/shuttle.rs`).
#![forbid(unsafe_code)]

#[cfg(not(feature = "shuttle"))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread,
};

#[cfg(feature = "shuttle")]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic},
    thread,
};

/// Whether a thread has ended; `false` where that is not known.
pub(crate) fn is_finished<T>(thread: &thread::JoinHandle<T>) -> bool {
    #[cfg(not(feature = "shuttle"))]
    return thread.is_finished();
    #[cfg(feature = "shuttle")]
    {
        let _ = thread;
        false
    }
}
