//! How calls reach the engine: without the interpreter's lock, on a store that is open, and long ones so that Ctrl-C ends the wait.
#![forbid(unsafe_code)]

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::Duration;

use embedrock::{Error, Store, Table};
use pyo3::prelude::*;

use crate::errors::{Failure, Outcome};

/// How long a signal may wait for a long call to look.
const LOOK_FOR_SIGNALS: Duration = Duration::from_millis(50);

/// A table, until its store is closed: it would hold the cold tier open.
pub(crate) type Slot = Arc<RwLock<Option<Table>>>;

/// An open store, as all handles to it share it. Closing waits for the calls that run.
pub(crate) struct Handle {
    store: RwLock<Option<Store>>,
    /// Of all tables that were handed out and are still held.
    slots: Mutex<Vec<Weak<RwLock<Option<Table>>>>>,
    process: u32,
}

impl Handle {
    pub(crate) fn new(store: Store) -> Arc<Handle> {
        Arc::new(Handle { store: RwLock::new(Some(store)), slots: Mutex::default(), process: std::process::id() })
    }

    /// Runs `work` on the store while nobody closes it.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&Store) -> embedrock::Result<R>) -> Outcome<R> {
        self.check_process()?;
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        Ok(work(store.as_ref().ok_or(Failure::Closed)?)?)
    }

    /// Keeps a table for a handle to it.
    pub(crate) fn keep(&self, table: Table) -> Slot {
        let slot = Arc::new(RwLock::new(Some(table)));
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() == slots.capacity() {
            slots.retain(|slot| slot.strong_count() > 0);
        }
        slots.push(Arc::downgrade(&slot));
        slot
    }

    /// Runs `work` on a table while nobody closes its store.
    pub(crate) fn with_table<R>(&self, slot: &Slot, work: impl FnOnce(&Table) -> embedrock::Result<R>) -> Outcome<R> {
        self.check_process()?;
        // The store's lock first, as closing does.
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        store.as_ref().ok_or(Failure::Closed)?;
        let table = slot.read().unwrap_or_else(PoisonError::into_inner);
        Ok(work(table.as_ref().ok_or(Failure::Closed)?)?)
    }

    /// Closes it; returns the rows whose updates are gone, or nothing if it was closed before.
    pub(crate) fn close(&self) -> Outcome<Option<u64>> {
        self.check_process()?;
        let mut store = self.store.write().unwrap_or_else(PoisonError::into_inner);
        for slot in self.slots.lock().unwrap_or_else(PoisonError::into_inner).drain(..).filter_map(|slot| slot.upgrade()) {
            *slot.write().unwrap_or_else(PoisonError::into_inner) = None;
        }
        Ok(store.take().map(Store::close).transpose()?)
    }

    /// A lock that another thread held at the fork would never be free in the child.
    fn check_process(&self) -> Outcome<()> {
        if std::process::id() == self.process { Ok(()) } else { Err(Failure::Engine(Error::ForkedChild)) }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let store = self.store.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Waits for what works in the background, which may take as long as a checkpoint.
        Python::try_attach(move |py| py.detach(move || drop(store)));
    }
}

/// Runs `work` in a thread of its own and waits for it; a signal whose handler raises ends the wait, and not the work.
pub(crate) fn interruptible<R: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Outcome<R> + Send + 'static,
) -> PyResult<R> {
    let (sender, mut receiver) = sync_channel(1);
    std::thread::Builder::new().name("embedrock-call".into()).spawn(move || {
        // Nobody takes it once the wait has ended.
        let _ = sender.send(work());
    })?;
    loop {
        let waiting = &mut receiver;
        match py.detach(move || waiting.recv_timeout(LOOK_FOR_SIGNALS)) {
            Ok(result) => return Ok(result?),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => return Err(Failure::Panicked.into()),
        }
    }
}
