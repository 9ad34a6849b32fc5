//! Stochastic gradient descent: `w -= lr * (g + wd * w)`. No state.
#![forbid(unsafe_code)]

use super::Step;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sgd;

impl Sgd {
    #[inline(always)]
    pub(super) fn apply(self, step: Step, weights: &mut [f32], grad: &[f32]) {
        for (w, &g) in weights.iter_mut().zip(grad) {
            *w -= step.learning_rate * step.decayed(g, *w);
        }
    }
}
