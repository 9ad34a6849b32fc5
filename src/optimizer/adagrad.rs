//! Adagrad (Duchi, Hazan, Singer 2011): `g' = g + wd * w; n += g'^2; w -= lr * g' / (sqrt(n) + eps)`. State: n, one f32 a value.
//!
//! Monolith has no epsilon and divides 0 by 0 where an accumulator of 0 meets a gradient of 0.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::Step;

pub(super) struct Adagrad;

impl Optimizer {
    /// Adagrad (Duchi, Hazan, Singer 2011): a sum of squares for each value.
    pub fn adagrad(learning_rate: f32) -> Optimizer {
        Optimizer::new::<Adagrad>(learning_rate)
    }
}

impl Rule for Adagrad {
    const KIND: u8 = 1;
    const NAME: &'static str = "adagrad";
    const PARAMETERS: &'static [Parameter] =
        &[Parameter::new("initial_accumulator", 0.1, Range::NotNegative), Parameter::new("epsilon", 1e-10, Range::Positive)];

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim
    }

    fn init_state(&[initial_accumulator, ..]: &Own, _dim: usize, state: &mut [f32]) {
        state.fill(initial_accumulator);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [_, epsilon, ..] = step.own;
        for ((w, n), &g) in weights.iter_mut().zip(state).zip(grad) {
            let g = step.decayed(g, *w);
            let sum = *n + g * g;
            *n = sum;
            *w -= step.learning_rate * g / (sum.sqrt() + epsilon);
        }
    }
}
