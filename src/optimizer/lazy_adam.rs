//! LazyAdam (as in TensorFlow Addons): Adam with one count of steps for the whole model, the one that batches name, and moments that
//! change with their rows only. State: m, v: 2 dim f32, Adam's without the powers.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::adam::{PARAMETERS, powers, update};
use super::rule::{Own, Parameter, Rule};
use super::step::Step;

pub(super) struct LazyAdam;

impl Optimizer {
    /// LazyAdam (as in TensorFlow Addons): [`adam`](Self::adam) with one count for the whole model, so every batch must name its
    /// step ([`Update::step`](crate::Update::step)).
    pub fn lazy_adam(learning_rate: f32) -> Optimizer {
        Optimizer::new::<LazyAdam>(learning_rate)
    }
}

impl Rule for LazyAdam {
    const KIND: u8 = 6;
    const NAME: &'static str = "lazy_adam";
    const PARAMETERS: &'static [Parameter] = PARAMETERS;
    const NEEDS_NUMBER: bool = true;

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim.saturating_mul(2)
    }

    fn init_state(_own: &Own, _dim: usize, state: &mut [f32]) {
        state.fill(0.0);
    }

    fn of_number(own: &Own, number: u64) -> [f32; 2] {
        powers(own, number)
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let Some(powers) = step.of_number else { return debug_assert!(false, "a batch without a number is refused") };
        update::<false>(step, powers, weights, state, grad);
    }
}
