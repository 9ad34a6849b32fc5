//! Moving average (as in Monolith): `w = mu * w + (1 - mu) * g`; the "gradient" is a value. No state, no use for a learning rate.
//!
//! Equal keys of a batch are summed first, as for every rule: name each key once.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::Step;

pub(super) struct MovingAverage;

impl Optimizer {
    /// A moving average of the values given as gradients: [`decay`](Self::decay) (0.9 unless set) of it stays at each update. Name each
    /// key once in a batch: values of equal keys are summed.
    pub fn moving_average() -> Optimizer {
        Optimizer::new::<MovingAverage>(1.0)
    }
}

impl Rule for MovingAverage {
    const KIND: u8 = 13;
    const NAME: &'static str = "moving_average";
    const PARAMETERS: &'static [Parameter] = &[Parameter::new("decay", 0.9, Range::BelowOne)];
    const WEIGHT_DECAY: Option<f32> = None;

    #[inline(always)]
    fn state_len(_dim: usize) -> usize {
        0
    }

    fn init_state(_own: &Own, _dim: usize, _state: &mut [f32]) {}

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], _state: &mut [f32], grad: &[f32]) {
        let [decay, ..] = step.own;
        for (w, &g) in weights.iter_mut().zip(grad) {
            *w = decay * *w + (1.0 - decay) * g;
        }
    }
}
