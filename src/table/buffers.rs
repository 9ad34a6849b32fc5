//! Memory that a thread's lookups use again, so that a batch of rows in memory allocates nothing.
#![forbid(unsafe_code)]

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

use super::lookup::KEYS_A_VISIT;

/// Places on the stack for what there is one of for each shard; more are taken from the heap.
pub(super) const SHARDS_ON_STACK: usize = 32;

/// For [`KEYS_A_VISIT`] keys each: 100 KiB a thread in all.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    /// The positions of keys without a live row in memory, and whether that is known for the cold tier too.
    pub(super) missing: Vec<(u32, bool)>,
    /// What the cold tier decides: mixed keys and positions.
    pub(super) cold: Vec<(u64, u32)>,
    /// For callers who do not ask which keys have a row.
    pub(super) found: Vec<bool>,
}

impl Buffers {
    /// Runs `work` with this thread's. A call from within another makes its own.
    pub(super) fn with<R>(work: impl FnOnce(&mut Buffers) -> R) -> R {
        thread_local!(static OF_THREAD: Cell<Option<Buffers>> = const { Cell::new(None) });
        let mut buffers = OF_THREAD.take().unwrap_or_default();
        buffers.found.resize(KEYS_A_VISIT, false);
        let result = work(&mut buffers);
        OF_THREAD.set(Some(buffers));
        result
    }
}

/// A number for each key of a call. Its memory goes back to the thread that drops it.
#[derive(Debug)]
pub(super) struct Places(Vec<u32>);

thread_local!(static PLACES: Cell<Vec<u32>> = const { Cell::new(Vec::new()) });

impl Places {
    pub(super) fn empty() -> Places {
        let mut places = PLACES.take();
        places.clear();
        Places(places)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        PLACES.set(std::mem::take(&mut self.0));
    }
}

impl Deref for Places {
    type Target = Vec<u32>;

    fn deref(&self) -> &Vec<u32> {
        &self.0
    }
}

impl DerefMut for Places {
    fn deref_mut(&mut self) -> &mut Vec<u32> {
        &mut self.0
    }
}

/// Runs `work` with `len` f32s of this thread's, which hold anything.
pub(super) fn with_lanes<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    thread_local!(static LANES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) });
    let mut lanes = LANES.take();
    if lanes.len() < len {
        lanes.resize(len, 0.0);
    }
    let result = work(&mut lanes[..len]);
    LANES.set(lanes);
    result
}
