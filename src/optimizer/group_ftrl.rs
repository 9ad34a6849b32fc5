//! FTRL with a group lasso (as in Monolith's kernel; Ni et al. 2019 describe the rule): whole rows become exactly 0.
//! `n' = n + g^2; z += g - (sqrt(n') - sqrt(n)) / lr * w; N = |z|;`
//! `w = 0 if N <= lasso, else lr * z * (lasso - N) / N / (sqrt(n') + beta + l2 * lr)`. State: n, then z: 2 dim f32.
//!
//! Monolith's own factory refuses this rule, and its vectorised kernel subtracts `l2 * lr`. When weights are set, z follows as
//! FTRL's does: with `y = -w * (sqrt(n) + beta + l2 * lr) / lr`, `z = y * (1 + lasso / |y|)`.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Follow, Own, Parameter, Range, Rule};
use super::step::Step;
use super::sums::sum_of_squares;

pub(super) struct GroupFtrl;

impl Optimizer {
    /// FTRL with a group lasso, which makes rows of rare features exactly 0, whole.
    pub fn group_ftrl(learning_rate: f32) -> Optimizer {
        Optimizer::new::<GroupFtrl>(learning_rate)
    }
}

impl Rule for GroupFtrl {
    const KIND: u8 = 8;
    const NAME: &'static str = "group_ftrl";
    const PARAMETERS: &'static [Parameter] = &[
        Parameter::new("initial_accumulator", 0.1, Range::NotNegative),
        Parameter::new("beta", 1.0, Range::NotNegative),
        Parameter::new("group_lasso", 0.0, Range::NotNegative),
        Parameter::new("l2", 0.0, Range::NotNegative),
    ];
    const WEIGHT_DECAY: Option<f32> = None;
    const FOLLOW: Option<Follow> = Some(follow);

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim.saturating_mul(2)
    }

    fn init_state(&[initial_accumulator, ..]: &Own, dim: usize, state: &mut [f32]) {
        let (squares, linear) = state.split_at_mut(dim);
        squares.fill(initial_accumulator);
        linear.fill(0.0);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [_, beta, lasso, l2, ..] = step.own;
        let lr = step.learning_rate;
        let added = beta + l2 * lr;
        let (squares, linear) = state.split_at_mut(weights.len());
        for (((w, n), z), &g) in weights.iter().zip(&mut *squares).zip(&mut *linear).zip(grad) {
            let sum = *n + g * g;
            *z += g - (sum.sqrt() - n.sqrt()) / lr * *w;
            *n = sum;
        }
        let norm = sum_of_squares(linear, linear, |z, _| z).sqrt();
        let factor = if norm <= lasso { 0.0 } else { lr * ((lasso - norm) / norm) };
        for ((w, n), z) in weights.iter_mut().zip(squares).zip(linear) {
            let denominator = n.sqrt() + added;
            *w = if factor == 0.0 || denominator == 0.0 { 0.0 } else { factor * *z / denominator };
        }
    }
}

fn follow(step: &Step, weights: &[f32], state: &mut [f32]) {
    let [_, beta, lasso, l2, ..] = step.own;
    let lr = step.learning_rate;
    let (squares, linear) = state.split_at_mut(weights.len());
    for ((&w, n), z) in weights.iter().zip(squares).zip(&mut *linear) {
        *z = -w * (n.sqrt() + beta + l2 * lr) / lr;
    }
    let norm = sum_of_squares(linear, linear, |z, _| z).sqrt();
    let factor = if norm == 0.0 { 1.0 } else { 1.0 + lasso / norm };
    linear.iter_mut().for_each(|z| *z *= factor);
}
