//! What a batch brings for a key, made ready before its row changes: summed, compensated, scaled, clipped.
#![forbid(unsafe_code)]

use super::batch::{Batch, Op};
use super::plan::{Kind, Plan};
use super::{Env, Shard, Values};
use crate::simd::{Add, Loop};

impl Shard {
    /// Fills the plan's sums: for keys that come more than once, or for all where gradients are changed before they are applied.
    /// f32 sums in input order, whatever the number of workers or shards.
    pub(super) fn make_ready(&self, env: &Env<'_>, batch: &Batch, values: Values<'_>, plan: &mut Plan) {
        let dim = env.schema.dim();
        let changes = batch.op == Op::Gradients && (batch.scale != 1.0 || batch.steps.adjusts() || values.is_compensated());
        plan.all_summed = changes;
        if !matches!(batch.op, Op::Gradients | Op::AssignAdd) || plan.uniques.len() == plan.positions.len() && !changes {
            return;
        }
        let cpu = batch.steps.cpu();
        plan.sums.clear();
        plan.sums.resize(plan.uniques.len() * dim, 0.0);
        for (&position, &owner) in plan.positions.iter().zip(&plan.owner) {
            let owner = owner as usize;
            if changes || plan.uniques[owner].occurrences > 1 {
                let value = values.row(position, dim);
                cpu.run(Add { to: &mut plan.sums[owner * dim..(owner + 1) * dim], values: value });
            }
        }
        if changes {
            self.adjust(env, batch, values, plan);
        }
    }

    fn adjust(&self, env: &Env<'_>, batch: &Batch, values: Values<'_>, plan: &mut Plan) {
        let dim = env.schema.dim();
        let cpu = batch.steps.cpu();
        for (unique, grad) in plan.uniques.iter().zip(plan.sums.chunks_exact_mut(dim)) {
            // A row that begins with this batch was nobody's before: it has no delay.
            if unique.kind == Kind::Live
                && let Some((read, strength)) = values.read(unique.last, dim)
            {
                let now = env.schema.embedding(self.slab.row(unique.row));
                cpu.run(Compensate { grad, now: &now, read, strength });
            }
            if batch.scale != 1.0 {
                grad.iter_mut().for_each(|g| *g *= batch.scale);
            }
            batch.steps.adjust(grad);
        }
    }
}

/// Delay compensation (Zheng et al. 2017): `g += strength * g^2 * (w now - w as read)`.
struct Compensate<'a> {
    grad: &'a mut [f32],
    now: &'a [f32],
    read: &'a [f32],
    strength: f32,
}

impl Loop for Compensate<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for ((g, &now), &read) in self.grad.iter_mut().zip(self.now).zip(self.read) {
            *g += self.strength * (*g * *g) * (now - read);
        }
    }
}
