//! Adam (Kingma, Ba 2015), each row with its own count of steps:
//! `g' = g + wd * w; m = b1 * m + (1 - b1) * g'; v = b2 * v + (1 - b2) * g'^2;`
//! `w -= lr * sqrt(1 - p2) / (1 - p1) * m / (sqrt(v) + eps); p1 *= b1; p2 *= b2`.
//!
//! With Nesterov's momentum (as in Monolith) `b1 * m + (1 - b1) * g'` stands for m in the last line.
//! State: m, v, then the powers p1, p2, which start at b1, b2: 2 dim + 2 f32. As in Monolith and TensorFlow, epsilon is added
//! to the uncorrected root. A batch that names its step `t` uses `b1^t, b2^t` for p1, p2 in every row: one count for the whole
//! model.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::{Step, flush};

pub(super) struct Adam;

impl Optimizer {
    /// Adam (Kingma, Ba 2015) for rows that are updated now and then: each row counts its own steps.
    pub fn adam(learning_rate: f32) -> Optimizer {
        Optimizer::new::<Adam>(learning_rate)
    }
}

/// The parameters of the rules that are like Adam.
pub(super) const PARAMETERS: &[Parameter] = &[
    Parameter::new("beta1", 0.9, Range::BelowOne),
    Parameter::new("beta2", 0.999, Range::BelowOne),
    Parameter::new("epsilon", 1e-8, Range::Positive),
    Parameter::new("nesterov", 0.0, Range::Switch),
];

impl Rule for Adam {
    const KIND: u8 = 3;
    const NAME: &'static str = "adam";
    const PARAMETERS: &'static [Parameter] = PARAMETERS;

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
        update::<false>(step, powers, weights, moments, grad);
    }
}

/// Zeros, then the first powers of the betas.
pub(super) fn init_with_powers(&[beta1, beta2, ..]: &Own, state: &mut [f32]) {
    state.fill(0.0);
    if let Some(powers) = state.last_chunk_mut() {
        *powers = [beta1, beta2];
    }
}

/// The powers of the betas at a step, the first being 1. Squared and multiplied in f64, so the same on every machine.
pub(super) fn powers(&[beta1, beta2, ..]: &Own, step: u64) -> [f32; 2] {
    [beta1, beta2].map(|beta| {
        let (mut power, mut square, mut left) = (1.0, f64::from(beta), step.max(1));
        while left > 0 {
            power = if left & 1 == 1 { power * square } else { power };
            square *= square;
            left >>= 1;
        }
        flush(power as f32)
    })
}

/// The powers of this update: the batch's, or the row's, which go on by one step.
#[inline(always)]
pub(super) fn count(step: &Step, row_powers: &mut [f32]) -> [f32; 2] {
    let [power1, power2] = row_powers else {
        debug_assert!(false, "the state ends in two powers");
        return [0.0; 2];
    };
    let [beta1, beta2, ..] = step.own;
    let now = step.of_number.unwrap_or([*power1, *power2]);
    *power1 = flush(*power1 * beta1);
    *power2 = flush(*power2 * beta2);
    now
}

/// Changes weights by their moments, `m` then `v`. Decoupled decay takes `lr * wd * w` from the weight instead of adding to the
/// gradient.
#[inline(always)]
pub(super) fn update<const DECOUPLED: bool>(
    step: &Step,
    powers: [f32; 2],
    weights: &mut [f32],
    moments: &mut [f32],
    grad: &[f32],
) {
    let [.., nesterov, _, _] = step.own;
    if nesterov == 0.0 {
        moments_and_weights::<DECOUPLED, false>(step, powers, weights, moments, grad);
    } else {
        moments_and_weights::<DECOUPLED, true>(step, powers, weights, moments, grad);
    }
}

#[inline(always)]
fn moments_and_weights<const DECOUPLED: bool, const NESTEROV: bool>(
    step: &Step,
    [p1, p2]: [f32; 2],
    weights: &mut [f32],
    moments: &mut [f32],
    grad: &[f32],
) {
    let [beta1, beta2, epsilon, ..] = step.own;
    let (first, second) = moments.split_at_mut(weights.len());
    let rate = step.learning_rate * (1.0 - p2).sqrt() / (1.0 - p1);
    let (fresh1, fresh2) = (1.0 - beta1, 1.0 - beta2);
    let decay = step.learning_rate * step.weight_decay;
    for (((w, m), v), &g) in weights.iter_mut().zip(first).zip(second).zip(grad) {
        let g = if DECOUPLED { g } else { step.decayed(g, *w) };
        let mean = flush(beta1 * *m + fresh1 * g);
        let square = flush(beta2 * *v + fresh2 * (g * g));
        (*m, *v) = (mean, square);
        let ahead = if NESTEROV { beta1 * mean + fresh1 * g } else { mean };
        let before = if DECOUPLED { *w - decay * *w } else { *w };
        *w = before - rate * ahead / (square.sqrt() + epsilon);
    }
}
