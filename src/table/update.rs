//! Batched changes: prepare in every shard, which may fail and then changed nothing, then apply, which cannot fail.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lend::with_loans;
use super::lookup::check_length;
use super::pool::{Jobs, run_free_first};
use super::prefetch::Airborne;
use super::{Table, TableInner, Update};
use crate::context::{Context, lock, read, write};
use crate::error::{Error, Result};
use crate::plant::{Bug, planted};
use crate::schema::TableSchema;
use crate::segments::Steps;
use crate::shard::{Batch, Flight, Op, Plan, Shard, Values, shard_of};
use crate::simd::{AllFinite, Cpu};
use crate::sync::{MutexGuard, RwLock};
use crate::types::{Key, mix};

/// A batch of at least this many keys is worth several threads.
const MIN_KEYS_FOR_THREADS: usize = 2048;
/// Bytes of cold rows that are read before they are put in place.
const LOT_BYTES: usize = 8 << 20;
/// Values compared without an exit between them.
const FINITE_AT_ONCE: usize = 4096;

impl Table {
    /// Trains: sums the gradients of equal keys (in f32, in input order), then runs the table's optimizer on each row.
    ///
    /// `grads` holds `keys.len() * dim` f32s. Keys without a row get one if they are admitted. All or nothing.
    ///
    /// # Errors
    /// A wrong length, a gradient or learning rate that is not finite, a time far ahead ([`Error::ClockJump`]), a batch that the
    /// memory budget cannot hold, a failing cold tier or log. Nothing was applied then. Only what is given is checked: finite
    /// gradients can still overflow a row.
    pub fn apply_gradients(&self, keys: &[Key], grads: &[f32], update: &Update) -> Result<()> {
        self.inner.update(Op::Gradients, keys, grads, update).map(|_| ())
    }

    /// As [`Table::apply_gradients`], for gradients that were worked out from rows read some time ago, as asynchronous workers do: makes
    /// up for what other batches changed since (Zheng et al. 2017), `g' = g + strength * g^2 * (w - read)`, after equal keys were
    /// summed.
    ///
    /// `read` holds what [`Table::lookup`] gave for `keys` (of equal keys, the last counts), `strength` is finite and at least 0. Keys
    /// that have no row by now begin without compensation.
    ///
    /// # Errors
    /// As [`Table::apply_gradients`]; a strength out of range; rows read that are not finite.
    pub fn apply_delayed_gradients(
        &self,
        keys: &[Key],
        grads: &[f32],
        read: &[f32],
        strength: f32,
        update: &Update,
    ) -> Result<()> {
        check_length("read", keys.len().saturating_mul(self.dim()), read.len(), keys.len())?;
        if !(strength.is_finite() && strength >= 0.0) {
            let what = format!("{strength} is not a finite number of at least 0");
            return Err(Error::InvalidOption { option: "strength", what });
        }
        self.inner.check_finite(Op::Assign, keys, Values::of_each(read), self.dim())?;
        let given = Given { keys, values: Values::compensated(grads, read, strength) };
        self.inner.update_after(|| Ok(()), Op::Gradients, given, update).map(|_| ())
    }

    /// Sets the embeddings of `keys`; of equal keys the last wins. The optimizer state of existing rows stays.
    ///
    /// Returns how many distinct keys were written: those that admission refuses are not.
    ///
    /// # Errors
    /// As [`Table::apply_gradients`].
    pub fn assign(&self, keys: &[Key], rows: &[f32], update: &Update) -> Result<usize> {
        self.inner.update(Op::Assign, keys, rows, update)
    }

    /// As [`Table::assign`], and `old` (as long as `rows`) receives what [`Table::lookup`] gave until now, with no other update
    /// in between. Equal keys all receive the same.
    ///
    /// # Errors
    /// As [`Table::assign`]; nothing was assigned then, and the content of `old` is unspecified.
    pub fn replace(&self, keys: &[Key], rows: &[f32], update: &Update, old: &mut [f32]) -> Result<usize> {
        let given = Given { keys, values: Values::of_each(rows) };
        self.inner.update_after(|| self.lookup(keys, old).map(drop), Op::Assign, given, update)
    }

    /// Adds to the embeddings of `keys`; equal keys are summed first, in input order.
    ///
    /// Returns how many distinct keys were written: those that admission refuses are not.
    ///
    /// # Errors
    /// As [`Table::apply_gradients`].
    pub fn assign_add(&self, keys: &[Key], rows: &[f32], update: &Update) -> Result<usize> {
        self.inner.update(Op::AssignAdd, keys, rows, update)
    }

    /// Sets rows of `width` values: embeddings, or whole rows with the optimizer's state. Equal to [`Table::assign`] but for that, and that every
    /// key is admitted.
    #[cfg(feature = "exchange")]
    pub(crate) fn put_rows(&self, keys: &[Key], values: &[f32], width: usize, update: &Update) -> Result<usize> {
        let inner = &*self.inner;
        inner.check()?;
        inner.context.check_writable()?;
        let (given, schema) = (Given { keys, values: Values::of_each(values) }, inner.schema());
        check_length("rows", keys.len().saturating_mul(width), values.len(), keys.len())?;
        inner.check_finite(Op::Put, keys, given.values, width)?;
        inner.context.captures.wait_for(keys.len().saturating_mul(crate::shard::IMAGE_HEADER_BYTES + schema.row_bytes()))?;
        let plans = lock(&inner.updates);
        let batch = Batch { width, ..inner.begin(&schema, Op::Put, update)? };
        let mut part = [Part::new(inner, schema, batch, given, plans)];
        prepare(&mut part)?;
        Ok(apply(&inner.context, &mut part))
    }

    /// Removes the rows of `keys` and returns how many there were. Takes the time of the last batch.
    ///
    /// # Errors
    /// A batch that the memory budget cannot hold, a failing cold tier or log. Nothing was removed then.
    pub fn remove(&self, keys: &[Key]) -> Result<usize> {
        self.inner.update(Op::Remove, keys, &[], &Update::at(0))
    }
}

impl TableInner {
    fn update(&self, op: Op, keys: &[Key], values: &[f32], update: &Update) -> Result<usize> {
        self.update_after(|| Ok(()), op, Given { keys, values: Values::of_each(values) }, update)
    }

    /// `first` runs when the arguments are good, and no other update between it and this one.
    pub(super) fn update_after(
        &self,
        first: impl FnOnce() -> Result<()>,
        op: Op,
        given: Given<'_>,
        update: &Update,
    ) -> Result<usize> {
        let image_bytes = self.check_update(op, given)?;
        self.context.captures.wait_for(image_bytes)?;
        let plans = lock(&self.updates);
        self.update_alone(plans, first, op, given, update)
    }

    /// With the lock that keeps other updates out.
    pub(super) fn update_alone(
        &self,
        plans: MutexGuard<'_, Vec<Plan>>,
        first: impl FnOnce() -> Result<()>,
        op: Op,
        given: Given<'_>,
        update: &Update,
    ) -> Result<usize> {
        let schema = self.schema();
        let scale = match op {
            Op::Gradients => update.scale_of(std::iter::once((given.values, given.keys.len(), schema.dim())))?,
            _ => 1.0,
        };
        let batch = Batch { scale, ..self.begin(&schema, op, update)? };
        first()?;
        let mut part = [Part::new(self, schema, batch, given, plans)];
        prepare(&mut part)?;
        Ok(apply(&self.context, &mut part))
    }

    /// Checks the arguments of an update and returns the bytes of images that a commit under way may want of its rows.
    pub(super) fn check_update(&self, op: Op, Given { keys, values }: Given<'_>) -> Result<usize> {
        self.check()?;
        self.context.check_writable()?;
        let schema = self.schema();
        if op != Op::Remove {
            let what = if op == Op::Gradients { "grads" } else { "rows" };
            check_length(what, keys.len().saturating_mul(schema.dim()), values.len(schema.dim()), keys.len())?;
            self.check_finite(op, keys, values, schema.dim())?;
        }
        Ok(keys.len().saturating_mul(crate::shard::IMAGE_HEADER_BYTES + schema.row_bytes()))
    }

    fn check_finite(&self, op: Op, keys: &[Key], values: Values<'_>, dim: usize) -> Result<()> {
        let cpu = Cpu::detect();
        let finite = |values: &[f32]| cpu.run(AllFinite(values));
        if self.context.allow_non_finite || values.all().chunks(FINITE_AT_ONCE).all(finite) {
            return Ok(());
        }
        // Rows that no key takes may hold anything.
        match (0u32..).zip(keys).find(|&(position, _)| !finite(values.row(position, dim))) {
            None => Ok(()),
            Some((position, &key)) => {
                let what = if op == Op::Gradients { "gradient" } else { "row" };
                Err(Error::NotFinite { what, key, position: position as usize })
            }
        }
    }

    pub(super) fn begin(&self, schema: &TableSchema, op: Op, update: &Update) -> Result<Batch> {
        let segments = schema.segments_ref();
        let invalid = |option| move |what| Error::InvalidOption { option, what };
        update.rates.validate(segments.len()).map_err(invalid("learning_rate"))?;
        if op == Op::Gradients {
            Steps::check(segments, &update.rates, update.step).map_err(invalid("step"))?;
        }
        let clock = lock(&self.context.clock);
        let time = match op {
            Op::Remove => clock.now(),
            // No event time: the batch happens when the last one did.
            _ if update.time == 0 => clock.now(),
            _ => clock.check(update.time, self.context.max_clock_step)?,
        };
        Ok(Batch {
            op,
            width: schema.dim(),
            time,
            clock: clock.now().max(time),
            number: self.context.batches.load(Ordering::Relaxed),
            steps: Steps::new(segments, &update.rates, update.step),
            scale: 1.0,
        })
    }

    /// The cap on hot rows is soft: a batch's own rows pass it until the batch is done. A failure here shows at the next call.
    pub(super) fn demote_to_cap(&self, schema: &TableSchema) {
        let Some(cap) = self.context.hot_rows else { return };
        for (at, shard) in self.shards.iter().enumerate() {
            let share = cap.saturating_add(at) / self.shards.len();
            if read(shard).hot_rows() > share
                && let Err(error) = write(shard).demote_to(&self.env(schema), share)
            {
                tracing::warn!(%error, "could not demote rows; they stay in memory");
                return;
            }
        }
    }
}

/// What a call brings.
#[derive(Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) keys: &'a [Key],
    pub(super) values: Values<'a>,
}

/// What of a batch falls to one table, whose other updates wait meanwhile.
pub(super) struct Part<'a> {
    table: &'a TableInner,
    schema: Arc<TableSchema>,
    batch: Batch,
    given: Given<'a>,
    plans: MutexGuard<'a, Vec<Plan>>,
}

impl<'a> Part<'a> {
    /// Divides the keys over the shards.
    pub(super) fn new(
        table: &'a TableInner,
        schema: Arc<TableSchema>,
        batch: Batch,
        given: Given<'a>,
        mut plans: MutexGuard<'a, Vec<Plan>>,
    ) -> Part<'a> {
        let shards = table.shards.len();
        plans.resize_with(shards, Plan::default);
        plans.iter_mut().for_each(|plan| plan.positions.clear());
        for (position, &key) in given.keys.iter().enumerate() {
            plans[shard_of(mix(key), shards)].positions.push(position as u32);
        }
        Part { table, schema, batch, given, plans }
    }

    /// Waits for the rows that were on their way when this batch was to read them.
    fn wait_for_others(&self, own: &Airborne<'_>) {
        let others = self.plans.iter().filter(|plan| plan.is_read()).flat_map(Plan::on_other_flights);
        self.table.wait_for_landing(others, Some(own));
    }
}

/// Prepares a batch in all its tables, or in none.
pub(super) fn prepare(parts: &mut [Part<'_>]) -> Result<()> {
    match try_prepare(parts) {
        // Rows that are leaving in the background cannot make room for anybody before they have left.
        Err(Error::BudgetTooSmall { .. }) => {
            parts.iter().for_each(|part| part.table.settle_moves());
            let tables: Vec<&TableInner> = parts.iter().map(|part| part.table).collect();
            let Some(first) = tables.first() else { return Ok(()) };
            with_loans(&first.context, &tables, || try_prepare(parts))
        }
        result => result,
    }
}

fn try_prepare(parts: &mut [Part<'_>]) -> Result<()> {
    let result = each_shard(parts, Plan::is_wanted, |work, shard, plan| {
        shard.prepare(&work.table.env(work.schema), work.batch, work.given.keys, plan)
    });
    let result = result.into_iter().collect::<Result<()>>().and_then(|()| bring_cold(parts));
    if result.is_err() {
        for part in parts {
            for (shard, plan) in part.table.shards.iter().zip(&mut *part.plans) {
                write(shard).cancel(&part.table.context, plan);
            }
        }
    }
    result
}

/// Brings up the cold rows of all shards, which are open to others while they are read.
fn bring_cold(parts: &mut [Part<'_>]) -> Result<()> {
    let keys = |part: &Part<'_>| part.plans.iter().filter_map(|plan| plan.flight.as_ref()).map(Flight::keys).sum();
    let cold = parts.iter().enumerate().map(|(at, part)| (at, part.table, keys(part))).filter(|&(.., keys)| keys > 0);
    // Nothing of the heap where all rows are in memory.
    let airborne: Vec<_> = cold.map(|(at, table, keys)| (at, table.ahead.begin(keys))).collect();
    while read_lot(parts)? > 0 {
        airborne.iter().for_each(|(at, own)| parts[*at].wait_for_others(own));
        let results =
            each_shard(parts, Plan::is_read, |work, shard, plan| shard.promote(&work.table.env(work.schema), work.batch, plan));
        results.into_iter().collect::<Result<()>>()?;
    }
    Ok(())
}

/// Reads the cold rows of as many shards as make a lot; returns how many.
fn read_lot(parts: &mut [Part<'_>]) -> Result<usize> {
    let (mut left, mut shards) = (LOT_BYTES, 0);
    let mut lots = Vec::new();
    for Part { table, schema, plans, .. } in parts {
        let mut flights = Vec::new();
        for flight in plans.iter_mut().filter_map(|plan| plan.flight.as_mut()) {
            let bytes = flight.keys() * schema.row_bytes();
            if shards > 0 && bytes > left {
                left = 0;
                break;
            }
            left = left.saturating_sub(bytes);
            shards += 1;
            flights.push(flight);
        }
        // Nothing of the heap where all rows are in memory.
        if !flights.is_empty() {
            lots.push((table.env(schema), flights));
        }
    }
    Flight::read_all(&mut lots)?;
    Ok(shards)
}

/// Inside the gate, so a commit has all of the batch or nothing of it. Returns the rows touched.
pub(super) fn apply(context: &Context, parts: &mut [Part<'_>]) -> usize {
    let gate = (!planted(Bug::GateNotHeld)).then(|| context.meters.gate.read(&context.gate));
    for Part { batch, .. } in parts.iter() {
        context.count_batch();
        if batch.time > 0 {
            lock(&context.clock).advance(batch.time);
        }
    }
    let touched = each_shard(parts, Plan::is_wanted, |work, shard, plan| {
        let (added, touched) = shard.apply(&work.table.env(work.schema), work.batch, work.given.values, plan);
        work.table.counters.rows.fetch_add(added, Ordering::Relaxed);
        touched
    });
    for Part { table, batch, .. } in parts.iter().filter(|part| part.schema.admission_ref().is_sliding()) {
        context.captures.charge(table.filter.settle(batch.clock, context.epoch()));
    }
    drop(gate);
    for Part { table, schema, .. } in parts {
        table.publish_horizon();
        table.demote_to_cap(schema);
    }
    touched.into_iter().sum()
}

/// A part as its shards see it.
#[derive(Clone, Copy)]
struct Work<'a> {
    table: &'a TableInner,
    schema: &'a TableSchema,
    batch: &'a Batch,
    given: Given<'a>,
}

/// Runs `work` on each shard whose plan is `wanted`, with the crew when the batch is large.
fn each_shard<R: Send>(
    parts: &mut [Part<'_>],
    wanted: impl Fn(&Plan) -> bool,
    work: impl Fn(Work<'_>, &mut Shard, &mut Plan) -> R + Sync,
) -> Jobs<R> {
    let keys: usize = parts.iter().map(|part| part.given.keys.len()).sum();
    let crew = parts.first().and_then(|part| part.table.context.crew.as_ref()).filter(|_| keys >= MIN_KEYS_FOR_THREADS);
    let shards = parts.iter_mut().flat_map(|part| {
        let of = Work { table: part.table, schema: &part.schema, batch: &part.batch, given: part.given };
        let shards = part.table.shards.iter().zip(&mut *part.plans).filter(|(_, plan)| wanted(plan));
        shards.map(move |(shard, plan)| (of, shard, plan))
    });
    // A shard that a commit or a base is at comes last: its writer may have lost its core, and gets one once all else is done.
    run_free_first(crew, shards.collect(), |(of, shard, plan): (Work<'_>, &RwLock<Shard>, &mut Plan), wait| {
        let meter = &of.table.context.meters.shards;
        match if wait { Some(meter.write(shard)) } else { shard.try_write().ok() } {
            Some(mut shard) => Ok(work(of, &mut shard, plan)),
            None => Err((of, shard, plan)),
        }
    })
}
