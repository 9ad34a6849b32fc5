//! Adagrad (Duchi, Hazan, Singer 2011): `g' = g + wd * w; n += g'^2; w -= lr * g' / (sqrt(n) + eps)`. State: n, one f32 a value.
//!
//! Monolith has no epsilon and divides 0 by 0 where an accumulator of 0 meets a gradient of 0.
#![forbid(unsafe_code)]

use super::{Step, not_negative, positive};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Adagrad {
    pub(super) initial_accumulator: f32,
    pub(super) epsilon: f32,
}

impl Adagrad {
    pub(super) const DEFAULT: Adagrad = Adagrad { initial_accumulator: 0.1, epsilon: 1e-10 };

    pub(super) fn validate(&self) -> Result<(), String> {
        not_negative("initial accumulator", self.initial_accumulator)?;
        positive("epsilon", self.epsilon)
    }

    #[inline(always)]
    pub(super) fn apply(&self, step: Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        for ((w, n), &g) in weights.iter_mut().zip(state).zip(grad) {
            let g = step.decayed(g, *w);
            let sum = *n + g * g;
            *n = sum;
            *w -= step.learning_rate * g / (sum.sqrt() + self.epsilon);
        }
    }
}
