//! FTRL-Proximal (McMahan et al. 2013): `n' = n + g^2; z += g - (sqrt(n') - sqrt(n)) / lr * w;`
//! `w = 0 if |z| <= l1, else lr * (sign(z) * l1 - z) / (sqrt(n') + beta + l2 * lr)`. State: n, then z: 2 dim f32.
//!
//! A denominator of 0 (nothing but gradients too small to square, and neither beta nor l2) makes w 0.
//!
//! The weight is a function of n and z: when a weight is set, by the initializer or by a caller, z becomes the one that leads to it,
//! `z = -(w * (sqrt(n) + beta + l2 * lr) / lr + sign(w) * l1)`, and 0 for 0. Otherwise the next update would forget it, as Monolith's
//! does.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Follow, Own, Parameter, Range, Rule};
use super::step::Step;

pub(super) struct Ftrl;

impl Optimizer {
    /// FTRL-Proximal (McMahan et al. 2013), which makes weights of rare features exactly 0.
    pub fn ftrl(learning_rate: f32) -> Optimizer {
        Optimizer::new::<Ftrl>(learning_rate)
    }
}

impl Rule for Ftrl {
    const KIND: u8 = 4;
    const NAME: &'static str = "ftrl";
    const PARAMETERS: &'static [Parameter] = &[
        Parameter::new("initial_accumulator", 0.1, Range::NotNegative),
        Parameter::new("beta", 0.0, Range::NotNegative),
        Parameter::new("l1", 0.0, Range::NotNegative),
        Parameter::new("l2", 0.0, Range::NotNegative),
    ];
    const WEIGHT_DECAY: Option<f32> = None;
    const FOLLOW: Option<Follow> = Some(follow);

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim.saturating_mul(2)
    }

    fn init_state(&[initial_accumulator, ..]: &Own, dim: usize, state: &mut [f32]) {
        let (squares, linear) = state.split_at_mut(dim);
        squares.fill(initial_accumulator);
        linear.fill(0.0);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [_, beta, l1, l2, ..] = step.own;
        let lr = step.learning_rate;
        let l2 = l2 * lr;
        let (squares, linear) = state.split_at_mut(weights.len());
        for (((w, n), z), &g) in weights.iter_mut().zip(squares).zip(linear).zip(grad) {
            let sum = *n + g * g;
            let root = sum.sqrt();
            let dual = *z + (g - (root - n.sqrt()) / lr * *w);
            (*n, *z) = (sum, dual);
            let denominator = root + beta + l2;
            let value = lr * (l1.copysign(dual) - dual) / denominator;
            *w = if dual.abs() <= l1 || denominator == 0.0 { 0.0 } else { value };
        }
    }
}

fn follow(step: &Step, weights: &[f32], state: &mut [f32]) {
    let [_, beta, l1, l2, ..] = step.own;
    let lr = step.learning_rate;
    let (squares, linear) = state.split_at_mut(weights.len());
    for ((&w, n), z) in weights.iter().zip(squares).zip(linear) {
        *z = if w == 0.0 { 0.0 } else { -(w * (n.sqrt() + beta + l2 * lr) / lr + l1.copysign(w)) };
    }
}
