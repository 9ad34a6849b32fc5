//! Adagrad with decoupled weight decay (as in Monolith's kernel): `n += g^2; w -= lr * g / (sqrt(n) + eps) + lr * wd * w`.
//! State: n, one f32 a value. Monolith's own factory refuses this rule.
//!
//! A row decays when it is updated, not at steps that do not have its key.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::Step;

pub(super) struct AdagradW;

impl Optimizer {
    /// Adagrad whose weight decay (0.01 unless set) shrinks the weights and not the gradients.
    pub fn adagrad_w(learning_rate: f32) -> Optimizer {
        Optimizer::new::<AdagradW>(learning_rate)
    }
}

impl Rule for AdagradW {
    const KIND: u8 = 10;
    const NAME: &'static str = "adagrad_w";
    const PARAMETERS: &'static [Parameter] =
        &[Parameter::new("initial_accumulator", 0.1, Range::NotNegative), Parameter::new("epsilon", 1e-10, Range::Positive)];
    const WEIGHT_DECAY: Option<f32> = Some(0.01);

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
        let decay = step.learning_rate * step.weight_decay;
        for ((w, n), &g) in weights.iter_mut().zip(state).zip(grad) {
            let sum = *n + g * g;
            *n = sum;
            *w -= step.learning_rate * g / (sum.sqrt() + epsilon) + decay * *w;
        }
    }
}
