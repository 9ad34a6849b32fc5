//! RMSprop, version 2 (Monolith): a decaying sum of squares instead of their average, `n = mu * n + g'^2`; else as RMSprop.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rmsprop::{PARAMETERS, update};
use super::rule::{Own, Parameter, Rule};
use super::step::Step;

pub(super) struct RmspropV2;

impl Optimizer {
    /// RMSprop, version 2 (Monolith): a decaying sum of squares instead of their average.
    pub fn rmsprop_v2(learning_rate: f32) -> Optimizer {
        Optimizer::new::<RmspropV2>(learning_rate)
    }
}

impl Rule for RmspropV2 {
    const KIND: u8 = 15;
    const NAME: &'static str = "rmsprop_v2";
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
        update(step, 1.0, weights, state, grad);
    }
}
