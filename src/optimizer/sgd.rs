//! Stochastic gradient descent: `w -= lr * (g + wd * w)`. No state.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Rule};
use super::step::Step;

pub(super) struct Sgd;

impl Optimizer {
    /// Stochastic gradient descent. No state.
    pub fn sgd(learning_rate: f32) -> Optimizer {
        Optimizer::new::<Sgd>(learning_rate)
    }
}

impl Rule for Sgd {
    const KIND: u8 = 0;
    const NAME: &'static str = "sgd";
    const PARAMETERS: &'static [Parameter] = &[];

    #[inline(always)]
    fn state_len(_dim: usize) -> usize {
        0
    }

    fn init_state(_own: &Own, _dim: usize, _state: &mut [f32]) {}

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], _state: &mut [f32], grad: &[f32]) {
        for (w, &g) in weights.iter_mut().zip(grad) {
            *w -= step.learning_rate * step.decayed(g, *w);
        }
    }
}
