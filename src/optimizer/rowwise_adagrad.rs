//! Row-wise Adagrad (DLRM, FBGEMM): `g' = g + wd * w; n += mean(g'^2); w -= lr * g' / (sqrt(n) + eps)`. State: n, one f32 a row.
//!
//! The factor `lr / (sqrt(n) + eps)` is computed once.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::Step;
use super::sums::sum_of_squares;

pub(super) struct RowwiseAdagrad;

impl Optimizer {
    /// Row-wise Adagrad (as in DLRM and FBGEMM): one sum of mean squares for the whole row.
    pub fn rowwise_adagrad(learning_rate: f32) -> Optimizer {
        Optimizer::new::<RowwiseAdagrad>(learning_rate)
    }
}

impl Rule for RowwiseAdagrad {
    const KIND: u8 = 2;
    const NAME: &'static str = "rowwise_adagrad";
    const PARAMETERS: &'static [Parameter] =
        &[Parameter::new("initial_accumulator", 0.1, Range::NotNegative), Parameter::new("epsilon", 1e-8, Range::Positive)];

    #[inline(always)]
    fn state_len(_dim: usize) -> usize {
        1
    }

    fn init_state(&[initial_accumulator, ..]: &Own, _dim: usize, state: &mut [f32]) {
        state.fill(initial_accumulator);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [_, epsilon, ..] = step.own;
        let [n] = state else { return debug_assert!(weights.is_empty(), "the state is one value") };
        let sum = *n + sum_of_squares(weights, grad, |w, g| step.decayed(g, w)) / weights.len() as f32;
        *n = sum;
        let factor = step.learning_rate / (sum.sqrt() + epsilon);
        for (w, &g) in weights.iter_mut().zip(grad) {
            *w -= factor * step.decayed(g, *w);
        }
    }
}
