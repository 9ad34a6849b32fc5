//! Adagrad with a group lasso (as in Monolith): whole rows become exactly 0.
//! `g' = g + wd * w; s += max(g'^2); a = lr / (beta + sqrt(s)); z = g' - w / a;`
//! `w = 0 if |z| <= lasso, else -a * (|z| - lasso) / |z| * z`. State: s, one f32 a row.
//!
//! While all gradients were 0 and beta is 0, a row stays as it is: a would be infinite.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::Step;
use super::sums::sum_of_squares;

pub(super) struct GroupAdagrad;

impl Optimizer {
    /// Adagrad with a group lasso and one sum of squares for the whole row.
    pub fn group_adagrad(learning_rate: f32) -> Optimizer {
        Optimizer::new::<GroupAdagrad>(learning_rate)
    }
}

impl Rule for GroupAdagrad {
    const KIND: u8 = 9;
    const NAME: &'static str = "group_adagrad";
    const PARAMETERS: &'static [Parameter] = &[
        Parameter::new("initial_accumulator", 0.1, Range::NotNegative),
        Parameter::new("beta", 0.0, Range::NotNegative),
        Parameter::new("group_lasso", 0.0, Range::NotNegative),
    ];

    #[inline(always)]
    fn state_len(_dim: usize) -> usize {
        1
    }

    fn init_state(&[initial_accumulator, ..]: &Own, _dim: usize, state: &mut [f32]) {
        state.fill(initial_accumulator);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [_, beta, lasso, ..] = step.own;
        let [s] = state else { return debug_assert!(weights.is_empty(), "the state is one value") };
        let mut most = 0.0f32;
        for (&w, &g) in weights.iter().zip(grad) {
            let g = step.decayed(g, w);
            most = if g * g > most { g * g } else { most };
        }
        *s += most;
        let denominator = beta + s.sqrt();
        if denominator == 0.0 {
            return;
        }
        let inverse = denominator / step.learning_rate;
        let pulled = |w: f32, g: f32| step.decayed(g, w) - w * inverse;
        let norm = sum_of_squares(weights, grad, pulled).sqrt();
        let factor = if norm <= lasso { 0.0 } else { -(step.learning_rate / denominator) * ((norm - lasso) / norm) };
        for (w, &g) in weights.iter_mut().zip(grad) {
            *w = if factor == 0.0 { 0.0 } else { factor * pulled(*w, g) };
        }
    }
}
