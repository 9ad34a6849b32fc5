//! Batched changes: prepare in every shard, which may fail and then changed nothing, then apply, which cannot fail.
#![forbid(unsafe_code)]

use std::sync::RwLock;
use std::sync::atomic::Ordering;

use super::lookup::check_length;
use super::{Table, TableInner};
use crate::context::{lock, read, write};
use crate::error::{Error, Result};
use crate::optimizer::Optimizer;
use crate::schema::TableSchema;
use crate::shard::{Batch, Op, Plan, Shard, shard_of};
use crate::types::{Key, mix};

/// A batch of at least this many keys is worth several threads.
const MIN_KEYS_FOR_THREADS: usize = 2048;

/// When a batch happened, and how it learns.
///
/// ```
/// use embedrock::Update;
/// let update = Update::at(1_700_000_000).learning_rate(0.01).step(17);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    time: u64,
    learning_rate: Option<f32>,
    step: Option<u64>,
}

impl Update {
    /// A batch of events at this unix time, in seconds. The store's clock is the largest time seen; 0 means no time of its own.
    pub fn at(unix_secs: u64) -> Update {
        Update { time: unix_secs, learning_rate: None, step: None }
    }

    /// Overrides the optimizer's learning rate for this batch: positive and finite, else the batch is refused with
    /// [`Error::InvalidOption`].
    #[must_use]
    pub fn learning_rate(mut self, rate: f32) -> Update {
        self.learning_rate = Some(rate);
        self
    }

    /// The number of this training step, from 1 on. Adam then corrects its bias by it in every row, as optimizers with one count
    /// for the whole model do; without it each row counts its own updates. Other optimizers do not ask.
    #[must_use]
    pub fn step(mut self, number: u64) -> Update {
        self.step = Some(number);
        self
    }
}

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
        self.inner.update_after(|| self.lookup(keys, old).map(drop), Op::Assign, keys, rows, update)
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

    /// Removes the rows of `keys` and returns how many there were. Takes the time of the last batch.
    ///
    /// # Errors
    /// A batch that the memory budget cannot hold, a failing cold tier or log. Nothing was removed then.
    pub fn remove(&self, keys: &[Key]) -> Result<usize> {
        self.inner.update(Op::Remove, keys, &[], &Update::at(0))
    }

    /// Brings the cold rows among `keys` into memory ahead of their use. A hint: rows may leave again before. No row changes.
    ///
    /// # Errors
    /// A batch that the memory budget cannot hold, a failing cold tier or log.
    pub fn prefetch(&self, keys: &[Key]) -> Result<()> {
        if !self.inner.has_cold.load(Ordering::Acquire) {
            return self.inner.check();
        }
        self.inner.update(Op::Prefetch, keys, &[], &Update::at(0)).map(|_| ())
    }
}

impl TableInner {
    fn update(&self, op: Op, keys: &[Key], values: &[f32], update: &Update) -> Result<usize> {
        self.update_after(|| Ok(()), op, keys, values, update)
    }

    /// `first` runs when the arguments are good, and no other update between it and this one.
    fn update_after(
        &self,
        first: impl FnOnce() -> Result<()>,
        op: Op,
        keys: &[Key],
        values: &[f32],
        update: &Update,
    ) -> Result<usize> {
        self.check()?;
        self.context.check_writable()?;
        let schema = self.schema();
        if !matches!(op, Op::Remove | Op::Prefetch) {
            let what = if op == Op::Gradients { "grads" } else { "rows" };
            check_length(what, keys.len() * schema.dim(), values.len(), keys.len())?;
            self.check_finite(op, keys, values, schema.dim())?;
        }
        if op != Op::Prefetch {
            let image_bytes = crate::shard::IMAGE_HEADER_BYTES + schema.row_bytes();
            self.context.captures.wait_for(keys.len().saturating_mul(image_bytes))?;
        }
        let mut plans = lock(&self.updates);
        let batch = self.begin(&schema, op, update)?;
        first()?;
        plans.resize_with(self.shards.len(), Plan::default);
        plans.iter_mut().for_each(|plan| plan.positions.clear());
        for (position, &key) in keys.iter().enumerate() {
            plans[shard_of(mix(key), self.shards.len())].positions.push(position as u32);
        }
        self.prepare(&schema, batch, keys, &mut plans)?;
        Ok(self.apply(&schema, batch, keys, values, &mut plans))
    }

    fn check_finite(&self, op: Op, keys: &[Key], values: &[f32], dim: usize) -> Result<()> {
        // Whole rows without an exit between their values, so that many are compared at once.
        let finite = |row: &[f32]| row.iter().fold(true, |all, v| all & v.is_finite());
        if self.context.allow_non_finite || values.chunks(dim).all(finite) {
            return Ok(());
        }
        let position = values.iter().position(|v| !v.is_finite()).unwrap_or(0) / dim;
        let what = if op == Op::Gradients { "gradient" } else { "row" };
        Err(Error::NotFinite { what, key: keys[position], position })
    }

    fn begin(&self, schema: &TableSchema, op: Op, update: &Update) -> Result<Batch> {
        if let Some(rate) = update.learning_rate {
            let option = "learning_rate";
            Optimizer::validate_learning_rate(rate).map_err(|what| Error::InvalidOption { option, what })?;
        }
        let clock = lock(&self.context.clock);
        let time = match op {
            Op::Remove | Op::Prefetch => clock.now(),
            // No event time: the batch happens when the last one did.
            _ if update.time == 0 => clock.now(),
            _ => clock.check(update.time, self.context.max_clock_step)?,
        };
        Ok(Batch {
            op,
            time,
            clock: clock.now().max(time),
            number: self.context.batches.load(Ordering::Relaxed),
            step: schema.optimizer_ref().step(update.learning_rate, update.step),
        })
    }

    fn prepare(&self, schema: &TableSchema, batch: Batch, keys: &[Key], plans: &mut [Plan]) -> Result<()> {
        let mut results: Vec<Result<()>> = Vec::new();
        results.resize_with(plans.len(), || Ok(()));
        self.each_shard(keys.len(), plans, &mut results, |shard, plan, result| {
            *result = shard.prepare(&self.env(schema), batch, keys, plan);
        });
        let result: Result<()> = results.into_iter().collect();
        if result.is_err() {
            for (shard, plan) in self.shards.iter().zip(plans) {
                write(shard).cancel(&self.context, plan);
            }
        }
        result
    }

    /// Inside the gate, so a commit has all of the batch or nothing of it.
    fn apply(&self, schema: &TableSchema, batch: Batch, keys: &[Key], values: &[f32], plans: &mut [Plan]) -> usize {
        let gate = read(&self.context.gate);
        if batch.op != Op::Prefetch {
            self.context.count_batch();
            if batch.time > 0 {
                lock(&self.context.clock).advance(batch.time);
            }
        }
        let mut results = vec![(0i64, 0usize); plans.len()];
        self.each_shard(keys.len(), plans, &mut results, |shard, plan, result| {
            *result = shard.apply(&self.env(schema), batch, values, plan);
        });
        self.counters.rows.fetch_add(results.iter().map(|r| r.0).sum(), Ordering::Relaxed);
        drop(gate);
        self.publish_horizon();
        self.demote_to_cap(schema);
        results.iter().map(|r| r.1).sum()
    }

    /// The cap on hot rows is soft: a batch's own rows pass it until the batch is done. A failure here shows at the next call.
    fn demote_to_cap(&self, schema: &TableSchema) {
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

    /// Runs `work` on each shard that has a part in the batch, on the pool when the batch is large.
    fn each_shard<R: Send>(
        &self,
        keys: usize,
        plans: &mut [Plan],
        results: &mut [R],
        work: impl Fn(&mut Shard, &mut Plan, &mut R) + Sync,
    ) {
        let parts = self.shards.iter().zip(plans).zip(results).filter(|((_, plan), _)| !plan.positions.is_empty());
        let run = |shard: &RwLock<Shard>, plan: &mut Plan, result: &mut R| work(&mut write(shard), plan, result);
        match &self.context.pool {
            Some(pool) if keys >= MIN_KEYS_FOR_THREADS => pool.scope(|scope| {
                let run = &run;
                for ((shard, plan), result) in parts {
                    scope.spawn(move |_| run(shard, plan, result));
                }
            }),
            _ => parts.for_each(|((shard, plan), result)| run(shard, plan, result)),
        }
    }
}
