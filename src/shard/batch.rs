//! A batch's part in one shard: prepare, which may fail and then changed nothing, and apply, which cannot fail.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use super::ahead::Arrivals;
use super::image::{misfit, read_lanes, split_cold};
use super::plan::{Kind, Plan, Unique};
use super::policy;
use super::{Env, Flight, Shard, Values};
use crate::admission::{Admission, Draw, Seen};
use crate::context::Context;
use crate::error::Result;
use crate::index::TOMBSTONE_BIT;
use crate::plant::{Bug, planted};
use crate::precision::{Dither, Pack, Precision, Unpack};
use crate::segments::{self, Steps};
use crate::simd::Add;
use crate::slab::{AHEAD, NEWER_THAN_COLD, PINNED, TOMBSTONE};
use crate::types::{Key, UnixSeconds, mix};

/// What a batch does to its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// Sums the gradients of a key in input order, then runs the optimizer.
    Gradients,
    /// The last row of a key in input order becomes its embedding; the optimizer state stays.
    Assign,
    /// Sums the rows of a key in input order and adds the sum to its embedding.
    AssignAdd,
    /// The last row of a key in input order becomes its embedding, and the state behind it its state where there is one; admitted or not.
    #[cfg_attr(not(feature = "exchange"), allow(dead_code, reason = "imports alone put rows"))]
    Put,
    /// Removes rows.
    Remove,
}

/// Settings of a batch that all its shards share.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) op: Op,
    /// Values that are brought for a key: an embedding's, or a row's.
    pub(crate) width: usize,
    /// The event time; also the clock that decides expiry (the store's, advanced to this batch).
    pub(crate) time: UnixSeconds,
    pub(crate) clock: UnixSeconds,
    pub(crate) number: u64,
    pub(crate) steps: Steps,
    /// What gradients are multiplied by.
    pub(crate) scale: f32,
}

impl Batch {
    /// What the batch makes of a row, given what it brings for its key.
    #[inline(always)]
    fn change(&self, weights: &mut [f32], state: &mut [f32], value: &[f32]) {
        match self.op {
            Op::Gradients => return self.steps.apply(weights, state, value),
            Op::Assign => weights.copy_from_slice(value),
            Op::Put => {
                let (embedding, whole) = value.split_at(weights.len());
                weights.copy_from_slice(embedding);
                if whole.len() == state.len() && !whole.is_empty() {
                    return state.copy_from_slice(whole);
                }
            }
            Op::AssignAdd => self.steps.cpu().run(Add { to: weights, values: value }),
            Op::Remove => {}
        }
        self.steps.follow(weights, state);
    }
}

/// Distinct keys between the request for an index line and its use, and again between that for a meta and its use.
const KEYS_AHEAD: usize = 16;
/// Rows brought near ahead of the one being changed.
const ROWS_AHEAD: usize = 16;

impl Shard {
    /// Finds the batch's rows. Where all are in memory it reserves the new ones too; else [`Plan::flight`] is to be read, and
    /// [`Shard::promote`] goes on. On an error the shard is as before, placement aside.
    pub(crate) fn prepare(&mut self, env: &Env<'_>, batch: &Batch, keys: &[Key], plan: &mut Plan) -> Result<()> {
        plan.deduplicate(keys);
        plan.buckets = self.index.buckets();
        let Plan { uniques, missing, .. } = plan;
        missing.clear();
        self.pin_hot(env, batch, uniques, missing);
        env.counters.updated.fetch_add(uniques.len() as u64, Relaxed);
        env.counters.updated_hot.fetch_add((uniques.len() - missing.len()) as u64, Relaxed);
        if !missing.is_empty() && env.may_be_cold() {
            missing.sort_unstable();
            let mixed: Vec<u64> = missing.iter().map(|&(mixed, _)| mixed).filter(|&mixed| !self.is_absent(mixed)).collect();
            if !mixed.is_empty() {
                plan.flight = Some(self.take_off(env, &mixed, None));
                return Ok(());
            }
        }
        let result = self.place_new(env, batch, plan);
        result.inspect_err(|_| self.cancel(env.context, plan))
    }

    /// Goes on where rows had to be read: brings them in, and reserves the new ones.
    pub(crate) fn promote(&mut self, env: &Env<'_>, batch: &Batch, plan: &mut Plan) -> Result<()> {
        let Some(flight) = plan.flight.take() else { return Ok(()) };
        let result = self.bring_in(env, batch, plan, &flight).and_then(|()| self.place_new(env, batch, plan));
        result.inspect_err(|_| self.cancel(env.context, plan))
    }

    /// Reserves rows for those keys that have none and are admitted.
    fn place_new(&mut self, env: &Env<'_>, batch: &Batch, plan: &mut Plan) -> Result<()> {
        let Plan { uniques, missing, fresh, .. } = plan;
        if batch.op == Op::Remove {
            return Ok(());
        }
        fresh.clear();
        for &(_, at) in &*missing {
            if self.admits(env, batch, &uniques[at as usize]) {
                fresh.push(at);
            }
        }
        if env.may_be_cold() {
            let admitted = &mut fresh.iter().peekable();
            let refused = missing.iter().filter(|(_, at)| admitted.next_if_eq(&at).is_none());
            self.note_absent(env, refused.map(|&(mixed, _)| mixed));
        }
        self.reserve(env, fresh.len())?;
        for &at in &*fresh {
            let row = self.slab.allocate().ok_or_else(|| env.context.budget.too_small(env.schema.row_bytes()))?;
            let unique = &mut uniques[at as usize];
            (unique.row, unique.kind) = (row, Kind::New);
        }
        Ok(())
    }

    /// Finds and pins the hot rows and adds the keys that are not hot to `missing`. A pipeline: one key's index line is asked for
    /// while an earlier one's is read and a still earlier one's meta is.
    fn pin_hot(&mut self, env: &Env<'_>, batch: &Batch, uniques: &mut [Unique], missing: &mut Vec<(u64, u32)>) {
        let mut raws = [None; KEYS_AHEAD];
        for step in 0..uniques.len() + 2 * KEYS_AHEAD {
            if let Some(unique) = uniques.get(step) {
                self.prefetch_key(mix(unique.key));
            }
            if let Some(at) = step.checked_sub(2 * KEYS_AHEAD)
                && !self.pin(env, batch, raws[at % KEYS_AHEAD], &mut uniques[at])
            {
                missing.push((mix(uniques[at].key), at as u32));
            }
            if let Some(unique) = step.checked_sub(KEYS_AHEAD).and_then(|at| uniques.get(at)) {
                let raw = self.index.lines().candidate(mix(unique.key));
                raw.iter().for_each(|raw| self.slab.prefetch(raw & !TOMBSTONE_BIT, 0));
                raws[step % KEYS_AHEAD] = raw;
            }
        }
    }

    /// Whether the key's row is hot.
    #[inline(always)]
    fn pin(&mut self, env: &Env<'_>, batch: &Batch, raw: Option<u32>, unique: &mut Unique) -> bool {
        let Some(raw) = self.confirm(raw, unique.key, mix(unique.key)) else { return false };
        unique.row = raw & !TOMBSTONE_BIT;
        let meta = self.slab.meta_mut(unique.row);
        meta.flags |= PINNED;
        let gone = raw & TOMBSTONE_BIT != 0 || env.schema.lifetimes().expired(unique.key, meta.time, batch.clock);
        unique.kind = if gone { Kind::Anew } else { Kind::Live };
        if meta.has(AHEAD) {
            self.claim(env, unique.row);
        }
        true
    }

    fn admits(&self, env: &Env<'_>, batch: &Batch, unique: &Unique) -> bool {
        if batch.op == Op::Put {
            return true;
        }
        let admission = env.schema.admission_of(unique.key);
        let draw = Draw { seed: env.context.seed, table: env.table.0, batch: batch.number };
        let counted = match admission {
            Admission::Sliding { .. } => env.filter.count(unique.key, batch.clock),
            _ => self.counts.get(unique.key),
        };
        admission.admits(&draw, unique.key, unique.occurrences, counted)
    }

    /// Copies the rows that were read into reserved ones and leaves in `missing` the keys that are nowhere.
    fn bring_in(&mut self, env: &Env<'_>, batch: &Batch, plan: &mut Plan, flight: &Flight) -> Result<()> {
        let Plan { uniques, missing, .. } = plan;
        let Arrivals { mut brought, mut elsewhere } = self.arrive(flight, missing);
        // In memory by now, or to be read once more: another's read is not waited for.
        elsewhere.retain(|&(mixed, at)| {
            let unique = &mut uniques[at as usize];
            !self.pin(env, batch, self.find(unique.key, mixed), unique)
        });
        let mut again = Flight::of(elsewhere.iter().map(|&(mixed, _)| mixed));
        Flight::read_all(&mut [(*env, vec![&mut again])])?;
        for &(mixed, at) in &elsewhere {
            match again.value(mixed) {
                Some(value) => brought.push((at, value)),
                None => missing.push((mixed, at)),
            }
        }
        env.counters.promoted.fetch_add(brought.len() as u64, Relaxed);
        self.reserve(env, brought.len())?;
        for (at, value) in brought {
            let unique = &mut uniques[at as usize];
            let (time, lanes) =
                split_cold(value, env.schema.lanes()).ok_or_else(|| misfit(unique.key, value.len(), env.schema.lanes()))?;
            let row = self.slab.allocate().ok_or_else(|| env.context.budget.too_small(env.schema.row_bytes()))?;
            read_lanes(lanes, self.slab.row_mut(row));
            let meta = self.slab.meta_mut(row);
            (meta.time, meta.flags) = (time, PINNED);
            self.insert(unique.key, row);
            unique.row = row;
            unique.kind = if env.schema.lifetimes().expired(unique.key, time, batch.clock) { Kind::Anew } else { Kind::Live };
        }
        Ok(())
    }

    /// Undoes a prepare: rows are unpinned, reserved rows given back, and the memory taken for them too: else the part of a batch
    /// that fitted would keep what the others lacked.
    pub(crate) fn cancel(&mut self, context: &Context, plan: &mut Plan) {
        plan.flight.take().iter().for_each(|flight| self.end_flight(flight));
        for unique in plan.uniques.drain(..).rev() {
            match unique.kind {
                Kind::Live | Kind::Anew => self.slab.meta_mut(unique.row).flags &= !PINNED,
                Kind::New => self.slab.release(unique.row),
                Kind::Skip => {}
            }
        }
        self.give_back(context, plan.buckets);
    }

    /// Applies what was prepared; returns the change in the number of rows and the rows touched.
    pub(crate) fn apply(&mut self, env: &Env<'_>, batch: &Batch, values: Values<'_>, plan: &mut Plan) -> (i64, usize) {
        let dim = env.schema.dim();
        self.catch_up(env.context);
        self.make_ready(env, batch, values, plan);
        let Plan { uniques, sums, all_summed, unpacked, .. } = plan;
        unpacked.resize(dim, 0.0);
        let (mut added, mut touched) = (0, 0);
        uniques.iter().take(ROWS_AHEAD).for_each(|unique| self.prefetch_row(env, unique));
        for (at, unique) in uniques.iter().enumerate() {
            uniques.get(at + ROWS_AHEAD).iter().for_each(|unique| self.prefetch_row(env, unique));
            let value = match batch.op {
                Op::Remove => &[],
                _ if *all_summed => &sums[at * dim..(at + 1) * dim],
                _ if unique.occurrences > 1 && !matches!(batch.op, Op::Assign | Op::Put) && !planted(Bug::DuplicatesLost) => {
                    &sums[at * dim..(at + 1) * dim]
                }
                _ => values.row(unique.last, batch.width),
            };
            let change = match batch.op {
                Op::Remove => self.apply_remove(env, unique),
                _ => self.apply_value(env, batch, unique, value, unpacked),
            };
            added += change.0;
            touched += usize::from(change.1);
        }
        if batch.op != Op::Remove {
            env.counters.refused.fetch_add((uniques.len() - touched) as u64, Relaxed);
        }
        uniques.clear();
        self.charge_counts(env.context);
        (added, touched)
    }

    #[inline(always)]
    fn prefetch_row(&self, env: &Env<'_>, unique: &Unique) {
        if unique.kind != Kind::Skip {
            self.slab.prefetch(unique.row, env.schema.row_bytes());
        }
    }

    fn unpin(&mut self, unique: &Unique) {
        if unique.kind != Kind::Skip {
            self.slab.meta_mut(unique.row).flags &= !PINNED;
        }
    }

    fn apply_remove(&mut self, env: &Env<'_>, unique: &Unique) -> (i64, bool) {
        if unique.kind == Kind::Skip {
            return (0, false);
        }
        let removed = unique.kind == Kind::Live;
        self.unpin(unique);
        let was_tombstone = self.slab.meta(unique.row).has(TOMBSTONE);
        if was_tombstone {
            return (0, false);
        }
        self.keep_for_delta(unique.key, unique.row, env.context);
        self.slab.meta_mut(unique.row).flags |= TOMBSTONE;
        self.replace(unique.key, unique.row | TOMBSTONE_BIT);
        self.tombstones += 1;
        self.mark_uncommitted(unique.row);
        (-1, removed)
    }

    #[inline(always)]
    fn apply_value(&mut self, env: &Env<'_>, batch: &Batch, unique: &Unique, value: &[f32], unpacked: &mut [f32]) -> (i64, bool) {
        let mut added = 0;
        match unique.kind {
            Kind::Skip => {
                self.count(env, unique);
                return (0, false);
            }
            Kind::Live => self.keep_for_delta(unique.key, unique.row, env.context),
            Kind::Anew if !self.admits(env, batch, unique) => {
                self.unpin(unique);
                self.count(env, unique);
                return (0, false);
            }
            Kind::Anew => {
                self.keep_for_delta(unique.key, unique.row, env.context);
                added = self.begin_anew(env, batch, unique, unpacked);
            }
            Kind::New => {
                self.initialize(env, batch, unique, unpacked);
                self.insert(unique.key, unique.row);
                added = 1;
            }
        }
        if !self.counts.is_empty() {
            self.counts.take(unique.key);
        }
        if unique.kind != Kind::Live && env.schema.admission_ref().is_sliding() {
            env.filter.note(unique.key, Seen::Admitted);
        }
        let uncommitted = self.uncommitted_bit();
        let (meta, lanes) = self.slab.entry_mut(unique.row);
        let precision = env.schema.precision_value();
        if precision == Precision::F32 {
            let (weights, state) = lanes.split_at_mut(env.schema.dim());
            batch.change(weights, state, value);
        } else {
            let (packed, state) = lanes.split_at_mut(env.schema.embedding_lanes());
            let cpu = batch.steps.cpu();
            cpu.run(Unpack { precision, lanes: packed, values: unpacked });
            batch.change(unpacked, state, value);
            let dither = Dither::new(env.context.seed, env.table.0, batch.number, unique.key);
            let dither = (!matches!(batch.op, Op::Assign | Op::Put)).then_some(dither);
            cpu.run(Pack { precision, values: unpacked, lanes: packed, dither });
        }
        meta.time = meta.time.max(batch.time);
        meta.touches = policy::used(meta.touches);
        let is_first = !meta.has(uncommitted);
        meta.flags = meta.flags & !PINNED | uncommitted | NEWER_THAN_COLD;
        if is_first {
            self.note_uncommitted(unique.row);
        }
        (added, true)
    }

    fn count(&mut self, env: &Env<'_>, unique: &Unique) {
        match env.schema.admission_of(unique.key) {
            Admission::Sliding { .. } => env.filter.note(unique.key, Seen::Refused(unique.occurrences)),
            admission if admission.counts() => drop(self.counts.add(unique.key, unique.occurrences)),
            _ => {}
        }
    }

    fn begin_anew(&mut self, env: &Env<'_>, batch: &Batch, unique: &Unique, embedding: &mut [f32]) -> i64 {
        let tombstone = self.slab.meta(unique.row).has(TOMBSTONE);
        let meta = self.slab.meta_mut(unique.row);
        meta.flags &= !TOMBSTONE;
        meta.time = 0;
        meta.touches = 0;
        if tombstone {
            self.replace(unique.key, unique.row);
            self.tombstones -= 1;
        }
        self.initialize(env, batch, unique, embedding);
        i64::from(tombstone)
    }

    /// `embedding` is memory for one, where rows are kept in fewer bits.
    fn initialize(&mut self, env: &Env<'_>, batch: &Batch, unique: &Unique, embedding: &mut [f32]) {
        let segments = env.schema.segments_ref();
        let fill = |embedding: &mut [f32]| {
            segments::fill_initial(segments, env.context.seed, env.table.0, unique.key, embedding);
        };
        let precision = env.schema.precision_value();
        let (lanes, state) = self.slab.row_mut(unique.row).split_at_mut(env.schema.embedding_lanes());
        segments::init_state(segments, state);
        if precision == Precision::F32 {
            fill(lanes);
            batch.steps.follow(lanes, state);
        } else {
            fill(embedding);
            precision.round(embedding);
            batch.steps.follow(embedding, state);
            batch.steps.cpu().run(Pack { precision, values: embedding, lanes, dither: None });
        }
    }
}
