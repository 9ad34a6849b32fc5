//! Row-wise Adagrad (DLRM, FBGEMM): `g' = g + wd * w; n += mean(g'^2); w -= lr * g' / (sqrt(n) + eps)`. State: n, one f32 a row.
//!
//! The sum of squares runs in eight lanes, folded pairwise: lane j adds up the squares j, j + 8, j + 16, ... in this order, then
//! `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`. The factor `lr / (sqrt(n) + eps)` is computed once.
#![forbid(unsafe_code)]

use super::{Step, not_negative, positive};

const LANES: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RowwiseAdagrad {
    pub(super) initial_accumulator: f32,
    pub(super) epsilon: f32,
}

impl RowwiseAdagrad {
    pub(super) const DEFAULT: RowwiseAdagrad = RowwiseAdagrad { initial_accumulator: 0.1, epsilon: 1e-8 };

    pub(super) fn validate(&self) -> Result<(), String> {
        not_negative("initial accumulator", self.initial_accumulator)?;
        positive("epsilon", self.epsilon)
    }

    #[inline(always)]
    pub(super) fn apply(&self, step: Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [n] = state else { return debug_assert!(weights.is_empty(), "the state is one value") };
        let sum = *n + sum_of_squares(step, weights, grad) / weights.len() as f32;
        *n = sum;
        let factor = step.learning_rate / (sum.sqrt() + self.epsilon);
        for (w, &g) in weights.iter_mut().zip(grad) {
            *w -= factor * step.decayed(g, *w);
        }
    }
}

#[inline(always)]
fn sum_of_squares(step: Step, weights: &[f32], grad: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole_weights, whole_grad) = (weights.chunks_exact(LANES), grad.chunks_exact(LANES));
    let (last_weights, last_grad) = (whole_weights.remainder(), whole_grad.remainder());
    for (weights, grad) in whole_weights.zip(whole_grad) {
        add_squares(step, &mut lanes, weights, grad);
    }
    add_squares(step, &mut lanes, last_weights, last_grad);
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[inline(always)]
fn add_squares(step: Step, lanes: &mut [f32; LANES], weights: &[f32], grad: &[f32]) {
    for ((lane, &w), &g) in lanes.iter_mut().zip(weights).zip(grad) {
        let g = step.decayed(g, w);
        *lane += g * g;
    }
}
