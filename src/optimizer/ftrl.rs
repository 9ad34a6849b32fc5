//! FTRL-Proximal (McMahan et al. 2013): `n' = n + g^2; z += g - (sqrt(n') - sqrt(n)) / lr * w;`
//! `w = 0 if |z| <= l1, else lr * (sign(z) * l1 - z) / (sqrt(n') + beta + l2 * lr)`. State: n, then z: 2 dim f32.
//!
//! A denominator of 0 (nothing but gradients too small to square, and neither beta nor l2) makes w 0.
#![forbid(unsafe_code)]

use super::{Step, not_negative};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ftrl {
    pub(super) initial_accumulator: f32,
    pub(super) beta: f32,
    pub(super) l1: f32,
    pub(super) l2: f32,
}

impl Ftrl {
    pub(super) const DEFAULT: Ftrl = Ftrl { initial_accumulator: 0.1, beta: 0.0, l1: 0.0, l2: 0.0 };

    pub(super) fn validate(&self) -> Result<(), String> {
        not_negative("initial accumulator", self.initial_accumulator)?;
        not_negative("beta", self.beta)?;
        not_negative("l1", self.l1)?;
        not_negative("l2", self.l2)
    }

    pub(super) fn init_state(&self, dim: usize, state: &mut [f32]) {
        let (squares, linear) = state.split_at_mut(dim);
        squares.fill(self.initial_accumulator);
        linear.fill(0.0);
    }

    #[inline(always)]
    pub(super) fn apply(&self, step: Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let lr = step.learning_rate;
        let l2 = self.l2 * lr;
        let (squares, linear) = state.split_at_mut(weights.len());
        for (((w, n), z), &g) in weights.iter_mut().zip(squares).zip(linear).zip(grad) {
            let sum = *n + g * g;
            let root = sum.sqrt();
            let dual = *z + (g - (root - n.sqrt()) / lr * *w);
            (*n, *z) = (sum, dual);
            let denominator = root + self.beta + l2;
            let value = lr * (self.l1.copysign(dual) - dual) / denominator;
            *w = if dual.abs() <= self.l1 || denominator == 0.0 { 0.0 } else { value };
        }
    }
}
