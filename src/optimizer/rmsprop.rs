//! RMSprop (Tieleman, Hinton 2012), as in Monolith: `g' = g + wd * w; n = mu * n + (1 - mu) * g'^2; w -= lr * g' / (sqrt(n) + eps)`.
//! State: n, one f32 a value. The epsilon is 1 unless set, which bounds the step by `lr * |g'|`.
//!
//! Monolith's takes the rate of its configuration whatever the caller says.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::{Step, flush};

pub(super) struct Rmsprop;

impl Optimizer {
    /// RMSprop (Tieleman, Hinton 2012): a moving average of squares.
    pub fn rmsprop(learning_rate: f32) -> Optimizer {
        Optimizer::new::<Rmsprop>(learning_rate)
    }
}

/// Also those of version 2.
pub(super) const PARAMETERS: &[Parameter] =
    &[Parameter::new("decay", 0.9, Range::BelowOne), Parameter::new("epsilon", 1.0, Range::Positive)];

impl Rule for Rmsprop {
    const KIND: u8 = 14;
    const NAME: &'static str = "rmsprop";
    const PARAMETERS: &'static [Parameter] = PARAMETERS;

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim
    }

    fn init_state(_own: &Own, _dim: usize, state: &mut [f32]) {
        state.fill(0.0);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        update(step, 1.0 - step.own[0], weights, state, grad);
    }
}

/// `fresh` is what a new square counts.
#[inline(always)]
pub(super) fn update(step: &Step, fresh: f32, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
    let [decay, epsilon, ..] = step.own;
    for ((w, n), &g) in weights.iter_mut().zip(state).zip(grad) {
        let g = step.decayed(g, *w);
        let square = flush(decay * *n + fresh * (g * g));
        *n = square;
        *w -= step.learning_rate * g / (square.sqrt() + epsilon);
    }
}
