//! Adam (Kingma, Ba 2015), each row with its own count of steps:
//! `g' = g + wd * w; m = b1 * m + (1 - b1) * g'; v = b2 * v + (1 - b2) * g'^2;`
//! `w -= lr * sqrt(1 - p2) / (1 - p1) * m / (sqrt(v) + eps); p1 *= b1; p2 *= b2`.
//!
//! State: m, v, then the powers p1, p2, which start at b1, b2: 2 dim + 2 f32. As in Monolith and TensorFlow, epsilon is added
//! to the uncorrected root. Moments and powers that decay below the normal numbers become 0: a row whose gradients stay 0 would
//! otherwise keep subnormal moments for ever, which makes its updates fifty times slower. A batch that names its step `t` uses
//! `b1^t, b2^t` for p1, p2 in every row: one count for the whole model.
#![forbid(unsafe_code)]

use super::{Step, positive};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Adam {
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) epsilon: f32,
}

impl Adam {
    pub(super) const DEFAULT: Adam = Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

    pub(super) fn validate(&self) -> Result<(), String> {
        for beta in [self.beta1, self.beta2] {
            if !(0.0..1.0).contains(&beta) {
                return Err(format!("beta {beta} is not in [0, 1)"));
            }
        }
        positive("epsilon", self.epsilon)
    }

    pub(super) fn init_state(&self, dim: usize, state: &mut [f32]) {
        let (moments, powers) = state.split_at_mut(2 * dim);
        moments.fill(0.0);
        powers.copy_from_slice(&[self.beta1, self.beta2]);
    }

    /// The powers of the betas at a step, the first being 1. Squared and multiplied in f64, so the same on every machine.
    pub(super) fn powers(&self, step: u64) -> [f32; 2] {
        [self.beta1, self.beta2].map(|beta| {
            let (mut power, mut square, mut left) = (1.0, f64::from(beta), step.max(1));
            while left > 0 {
                power = if left & 1 == 1 { power * square } else { power };
                square *= square;
                left >>= 1;
            }
            flush(power as f32)
        })
    }

    #[inline(always)]
    pub(super) fn apply(&self, step: Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let (first, rest) = state.split_at_mut(weights.len());
        let (second, powers) = rest.split_at_mut(weights.len());
        let [power1, power2] = powers else { return debug_assert!(false, "the state ends in two powers") };
        let [p1, p2] = step.powers.unwrap_or([*power1, *power2]);
        let rate = step.learning_rate * (1.0 - p2).sqrt() / (1.0 - p1);
        let (fresh1, fresh2) = (1.0 - self.beta1, 1.0 - self.beta2);
        for (((w, m), v), &g) in weights.iter_mut().zip(first).zip(second).zip(grad) {
            let g = step.decayed(g, *w);
            let mean = flush(self.beta1 * *m + fresh1 * g);
            let square = flush(self.beta2 * *v + fresh2 * (g * g));
            (*m, *v) = (mean, square);
            *w -= rate * mean / (square.sqrt() + self.epsilon);
        }
        *power1 = flush(*power1 * self.beta1);
        *power2 = flush(*power2 * self.beta2);
    }
}

/// 0 for a subnormal number; NaN stays.
#[inline(always)]
fn flush(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0 } else { value }
}
