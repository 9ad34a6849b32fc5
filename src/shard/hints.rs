//! Rows of a shard that were brought in ahead and not used yet: how many may be kept, and for how long.
//!
//! A step of look-ahead is at work once half of the rows that came for it were used; single ones are also rows of other batches.
//! What came for earlier steps is late and kept no longer.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;

use super::{Env, Shard};
use crate::slab::{AHEAD, PINNED};
use crate::types::{Key, mix};

/// Hints take at most one row of so many.
const SHARE: usize = 4;
/// Hints are stuck when so many times as many as there may be were turned away since one was last used.
const STUCK: usize = 4;
/// So many steps are watched at once; the rows of those after them stay as long.
const STEPS: usize = 64;
/// Bytes of the lists: of hints for each, and of steps.
const HINT_BYTES: usize = size_of::<(u32, u16)>();
const STEPS_BYTES: usize = STEPS * size_of::<Step>();

/// The rows that came for a step of look-ahead, and those of them that were used.
#[derive(Debug)]
struct Step {
    step: u16,
    came: u32,
    used: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Hints {
    /// Row numbers and steps as they came; may name rows that were used or left since.
    order: VecDeque<(u32, u16)>,
    rows: usize,
    /// Rows that are being read to become hints.
    pub(super) flying: usize,
    steps: VecDeque<Step>,
    /// The step at work: those before it are late.
    at_work: u16,
    /// Rows that were not read for want of a place since a hint was last used.
    turned_away: usize,
}

impl Hints {
    pub(super) fn memory_bytes(&self) -> usize {
        self.order.capacity() * HINT_BYTES + self.steps.capacity() * size_of::<Step>()
    }

    pub(super) fn forget(&mut self) {
        self.rows -= 1;
    }

    fn is_late(&self, step: u16) -> bool {
        self.at_work.wrapping_sub(step) as i16 > 0
    }

    /// A batch of this step is at work.
    pub(super) fn begin_step(&mut self, step: u16) {
        if !self.is_late(step) {
            self.at_work = step;
        }
        while self.steps.front().is_some_and(|first| self.is_late(first.step)) {
            self.steps.pop_front();
        }
    }

    fn note_came(&mut self, step: u16) {
        if let Some(watched) = self.steps.iter_mut().rev().find(|watched| watched.step == step) {
            watched.came += 1;
        } else if self.steps.len() < STEPS {
            self.steps.push_back(Step { step, came: 1, used: 0 });
        }
    }

    fn note_used(&mut self, step: u16) {
        self.turned_away = 0;
        let Some(watched) = self.steps.iter_mut().find(|watched| watched.step == step) else { return };
        watched.used += 1;
        if 2 * watched.used >= watched.came {
            self.begin_step(step);
        }
    }
}

impl Shard {
    /// Keeps a row for a step. To be called where [`Shard::lists_hint`] said so.
    pub(super) fn keep_ahead(&mut self, key: Key, row: u32, step: u16) {
        let meta = self.slab.meta_mut(row);
        (meta.touches, meta.flags) = (step, AHEAD);
        self.index.insert(mix(key), row);
        self.hints.order.push_back((row, step));
        self.hints.rows += 1;
        self.hints.note_came(step);
    }

    /// A batch uses a row that was brought in ahead: from now on it is one as all others.
    pub(super) fn claim(&mut self, env: &Env<'_>, row: u32) {
        env.counters.claimed.fetch_add(1, Relaxed);
        self.hints.note_used(self.slab.meta(row).touches);
        self.release_hint(row);
    }

    pub(super) fn release_hint(&mut self, row: u32) {
        self.hints.rows -= 1;
        let meta = self.slab.meta_mut(row);
        (meta.touches, meta.flags) = (self.hand.begin(mix(meta.key), row), meta.flags & !AHEAD);
    }

    /// For how many of `wanted` rows there will be places ahead of their use: what has none would be read twice.
    pub(super) fn places_ahead(&mut self, env: &Env<'_>, wanted: usize) -> usize {
        self.retire(self.most_hints(env), wanted);
        let places = wanted.min(self.hints_left(env));
        self.hints.turned_away += wanted - places;
        if env.context.budget.left_for_rows() >= self.growth().bytes {
            places
        } else {
            places.min(self.slab.available().saturating_sub(self.hints.flying))
        }
    }

    fn most_hints(&self, env: &Env<'_>) -> usize {
        let cap = env.context.hot_rows.map_or(usize::MAX, |cap| cap / env.shards);
        (cap.min(self.slab.capacity().max(self.slab.chunk_rows())) / SHARE).max(1)
    }

    /// How many more rows may come ahead of their use.
    pub(super) fn hints_left(&self, env: &Env<'_>) -> usize {
        self.most_hints(env).saturating_sub(self.hints.rows + self.hints.flying)
    }

    /// Whether one more row has a place on the list.
    pub(super) fn lists_hint(&mut self, env: &Env<'_>) -> bool {
        if self.hints.order.len() < self.hints.order.capacity() {
            return true;
        }
        let more = (self.hints.order.len() / 2).max(64);
        let most_bytes = more * HINT_BYTES + STEPS_BYTES;
        if !env.context.budget.try_reserve(most_bytes) {
            return false;
        }
        let before = self.hints.memory_bytes();
        self.hints.order.reserve_exact(more);
        self.hints.steps.reserve_exact(STEPS - self.hints.steps.len());
        env.context.budget.charge(self.hints.memory_bytes() - before);
        env.context.budget.release(most_bytes);
        true
    }

    /// Hints whose step has passed leave when rows are wanted, as all that is not used; and, where hints are never used although new
    /// ones have no place, as many of the oldest as are wanted.
    fn retire(&mut self, most: usize, wanted: usize) {
        let mut sent = 0;
        while let Some(&(row, step)) = self.hints.order.front() {
            let meta = self.slab.is_known(row).then(|| self.slab.meta(row));
            let waits = meta.is_some_and(|meta| meta.has(AHEAD) && meta.touches == step);
            let stuck = self.hints.turned_away > STUCK * most || self.hints.order.len() > 2 * most;
            if waits && !self.hints.is_late(step) && (!stuck || sent >= wanted) {
                return;
            }
            self.hints.order.pop_front();
            if waits && meta.is_some_and(|meta| !meta.has(PINNED)) {
                self.release_hint(row);
                self.hints.begin_step(step);
                sent += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_at_work_once_half_of_its_rows_were_used() {
        let mut hints = Hints::default();
        (0..40).for_each(|row| hints.note_came(7 + row / 10));
        hints.note_used(9);
        (0..4).for_each(|_| hints.note_used(7));
        assert!(!hints.is_late(7) && hints.steps.len() == 4, "{hints:?}");
        (0..4).for_each(|_| hints.note_used(8));
        assert!(!hints.is_late(7), "{hints:?}");
        hints.note_used(8);
        assert!(hints.is_late(7) && !hints.is_late(8) && hints.steps.len() == 3, "{hints:?}");
        (0..5).for_each(|_| hints.note_used(7));
        assert!(!hints.is_late(8), "a late step does not set it back: {hints:?}");
    }

    #[test]
    fn steps_go_round() {
        let mut hints = Hints::default();
        for step in (0..200_000u32).map(|step| step as u16) {
            hints.note_came(step);
            hints.note_used(step);
            assert!(!hints.is_late(step) && hints.is_late(step.wrapping_sub(1)) && hints.steps.len() == 1);
        }
        (0..2 * STEPS as u16).for_each(|step| hints.note_came(step));
        assert!(hints.steps.len() <= STEPS);
    }
}
