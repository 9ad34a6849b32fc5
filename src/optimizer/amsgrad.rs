//! AMSGrad (Reddi, Kale, Kumar 2018): Adam that divides by the largest second moment so far:
//! `m, v` as Adam's; `x = max(x, v); w -= lr * sqrt(1 - p2) / (1 - p1) * m / (sqrt(x) + eps)`.
//!
//! State: m, v, x, then the powers p1, p2: 3 dim + 2 f32.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::adam::{PARAMETERS, count, init_with_powers, powers};
use super::rule::{Own, Parameter, Rule};
use super::step::{Step, flush};

pub(super) struct Amsgrad;

impl Optimizer {
    /// AMSGrad (Reddi, Kale, Kumar 2018): Adam that divides by the largest second moment so far.
    pub fn amsgrad(learning_rate: f32) -> Optimizer {
        Optimizer::new::<Amsgrad>(learning_rate)
    }
}

impl Rule for Amsgrad {
    const KIND: u8 = 7;
    const NAME: &'static str = "amsgrad";
    const PARAMETERS: &'static [Parameter] = PARAMETERS;

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim.saturating_mul(3).saturating_add(2)
    }

    fn init_state(own: &Own, _dim: usize, state: &mut [f32]) {
        init_with_powers(own, state);
    }

    fn of_number(own: &Own, number: u64) -> [f32; 2] {
        powers(own, number)
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [beta1, beta2, epsilon, nesterov, ..] = step.own;
        let dim = weights.len();
        let (moments, row_powers) = state.split_at_mut(3 * dim);
        let (first, rest) = moments.split_at_mut(dim);
        let (second, largest) = rest.split_at_mut(dim);
        let [p1, p2] = count(step, row_powers);
        let rate = step.learning_rate * (1.0 - p2).sqrt() / (1.0 - p1);
        let (fresh1, fresh2) = (1.0 - beta1, 1.0 - beta2);
        for ((((w, m), v), x), &g) in weights.iter_mut().zip(first).zip(second).zip(largest).zip(grad) {
            let g = step.decayed(g, *w);
            let mean = flush(beta1 * *m + fresh1 * g);
            let square = flush(beta2 * *v + fresh2 * (g * g));
            let most = if square > *x { square } else { *x };
            (*m, *v, *x) = (mean, square, most);
            let ahead = if nesterov == 0.0 { mean } else { beta1 * mean + fresh1 * g };
            *w -= rate * ahead / (most.sqrt() + epsilon);
        }
    }
}
