//! Batch softmax's estimate of how often an item comes (Yi et al. 2019): the average gap between the steps that have it.
//! `b = (1 - lr) * b + lr * (step - a); a = step`. The one weight is b; the gradient is not looked at. State: a, as two f32 of 24
//! bits each, so exact up to step 2^48.
//!
//! `1 / b` is the item's probability to be in a batch, `ln(1 / b)` what its logit is corrected by.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Rule};
use super::step::Step;

/// What the first f32 of the state counts.
const HIGH: u64 = 1 << 24;

pub(super) struct BatchSoftmax;

impl Optimizer {
    /// The average gap between the steps that have an item (Yi et al. 2019), for tables of dimension 1 that begin with a constant of at
    /// least 1. Gradients are not looked at; every batch must name its step ([`Update::step`](crate::Update::step)).
    pub fn batch_softmax(learning_rate: f32) -> Optimizer {
        Optimizer::new::<BatchSoftmax>(learning_rate)
    }
}

impl Rule for BatchSoftmax {
    const KIND: u8 = 16;
    const NAME: &'static str = "batch_softmax";
    const PARAMETERS: &'static [Parameter] = &[];
    const WEIGHT_DECAY: Option<f32> = None;
    const NEEDS_NUMBER: bool = true;
    const ONLY_DIM: Option<usize> = Some(1);

    #[inline(always)]
    fn state_len(_dim: usize) -> usize {
        2
    }

    fn init_state(_own: &Own, _dim: usize, state: &mut [f32]) {
        state.fill(0.0);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], _grad: &[f32]) {
        let ([gap], [high, low]) = (weights, state) else { return debug_assert!(false, "one weight, two values of state") };
        let now = step.number.unwrap_or(0).min(HIGH * HIGH - 1);
        let last = (*high as u64).saturating_mul(HIGH).saturating_add(*low as u64);
        let since = now.saturating_sub(last) as f32;
        *gap = (1.0 - step.learning_rate) * *gap + step.learning_rate * since;
        (*high, *low) = ((now / HIGH) as f32, (now % HIGH) as f32);
    }
}
