//! AdamW (Loshchilov, Hutter 2019): Adam with decoupled weight decay, `w -= lr * wd * w` before the step, whose gradient it leaves
//! alone. State as Adam's.
//!
//! A row decays when it is updated, not at steps that do not have its key.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::adam::{PARAMETERS, count, init_with_powers, powers, update};
use super::rule::{Own, Parameter, Rule};
use super::step::Step;

pub(super) struct AdamW;

impl Optimizer {
    /// AdamW (Loshchilov, Hutter 2019): Adam whose weight decay (0.01 unless set) shrinks the weights and not the gradients.
    pub fn adam_w(learning_rate: f32) -> Optimizer {
        Optimizer::new::<AdamW>(learning_rate)
    }
}

impl Rule for AdamW {
    const KIND: u8 = 5;
    const NAME: &'static str = "adam_w";
    const PARAMETERS: &'static [Parameter] = PARAMETERS;
    const WEIGHT_DECAY: Option<f32> = Some(0.01);

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim.saturating_mul(2).saturating_add(2)
    }

    fn init_state(own: &Own, _dim: usize, state: &mut [f32]) {
        init_with_powers(own, state);
    }

    fn of_number(own: &Own, number: u64) -> [f32; 2] {
        powers(own, number)
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let (moments, row_powers) = state.split_at_mut(2 * weights.len());
        let powers = count(step, row_powers);
        update::<true>(step, powers, weights, moments, grad);
    }
}
