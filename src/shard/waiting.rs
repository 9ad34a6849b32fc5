//! Keys of a shard that wait to be read ahead of their use, until a thread takes them, or a batch has begun to read them itself.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::Shard;
use crate::context::Context;

/// So many of the keys that wait together tell whether a batch has begun to read them.
const SAMPLE: usize = 16;
/// Bytes of the lists for some keys that wait together, beside the keys.
const LIST_BYTES: usize = 96;

/// Ascending mixed keys, and the step of look-ahead that they were named for.
pub(crate) struct Together {
    pub(crate) step: u16,
    pub(crate) mixed: Box<[u64]>,
}

/// See the module.
#[derive(Default)]
pub(super) struct Waiting {
    /// Oldest first.
    keys: VecDeque<Together>,
    bytes: usize,
}

impl Waiting {
    fn bytes_for(keys: usize) -> usize {
        keys * size_of::<u64>() + LIST_BYTES
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    fn push(&mut self, together: Together) {
        self.bytes += Waiting::bytes_for(together.mixed.len());
        self.keys.push_back(together);
    }

    fn pop(&mut self) -> Option<Together> {
        let together = self.keys.pop_front()?;
        self.bytes -= Waiting::bytes_for(together.mixed.len());
        Some(together)
    }
}

impl Shard {
    /// Has some keys wait for [`Shard::next_ahead`], if the budget has the bytes; returns whether it had.
    pub(crate) fn wait_ahead(&mut self, context: &Context, together: Together) -> bool {
        let room = context.budget.try_reserve(Waiting::bytes_for(together.mixed.len()));
        if room {
            self.waiting.push(together);
        }
        room
    }

    /// The keys that wait longest.
    pub(crate) fn next_ahead(&mut self, context: &Context) -> Option<Together> {
        let next = self.waiting.pop()?;
        context.budget.release(Waiting::bytes_for(next.mixed.len()));
        Some(next)
    }

    /// A batch is about to read these ascending mixed keys. If some of them still wait, look-ahead is late, and what waits for this
    /// batch or one before would be read for nothing: it waits no longer.
    pub(super) fn overtake(&mut self, context: &Context, missed: &[u64]) {
        let overtaken = |together: &Together| self.wants(missed, &together.mixed);
        let Some(last) = self.waiting.keys.iter().rposition(overtaken) else { return };
        self.hints.begin_step(self.waiting.keys[last].step);
        for _ in 0..=last {
            self.next_ahead(context);
        }
    }

    /// Whether a batch that misses these keys is the one that others wait for. It may ask for its keys in parts, and single ones may
    /// be keys of several batches: so two of those that are not hot tell, or the only one.
    fn wants(&self, missed: &[u64], waiting: &[u64]) -> bool {
        let (mut wanted, mut cold) = (0, 0);
        for mixed in waiting.iter().step_by(waiting.len().div_ceil(SAMPLE).max(1)) {
            let missed = missed.binary_search(mixed).is_ok();
            wanted += usize::from(missed);
            cold += usize::from(missed || self.may_be_cold(*mixed));
        }
        wanted > 0 && wanted >= cold.min(2)
    }
}
