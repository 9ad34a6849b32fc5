//! Momentum (Polyak 1964): `n' = mu * n - lr * (g + wd * w); w += n'`, and with Nesterov's (Sutskever et al. 2013)
//! `w += (1 + mu) * n' - mu * n`. State: n, one f32 a value.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::{Step, flush};

pub(super) struct Momentum;

impl Optimizer {
    /// Gradient descent with momentum (Polyak 1964), Nesterov's with [`nesterov`](Self::nesterov).
    pub fn momentum(learning_rate: f32) -> Optimizer {
        Optimizer::new::<Momentum>(learning_rate)
    }
}

impl Rule for Momentum {
    const KIND: u8 = 12;
    const NAME: &'static str = "momentum";
    const PARAMETERS: &'static [Parameter] =
        &[Parameter::new("decay", 0.9, Range::BelowOne), Parameter::new("nesterov", 0.0, Range::Switch)];

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim
    }

    fn init_state(_own: &Own, _dim: usize, state: &mut [f32]) {
        state.fill(0.0);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [decay, nesterov, ..] = step.own;
        for ((w, n), &g) in weights.iter_mut().zip(state).zip(grad) {
            let velocity = flush(decay * *n - step.learning_rate * step.decayed(g, *w));
            *w += if nesterov == 0.0 { velocity } else { (1.0 + decay) * velocity - decay * *n };
            *n = velocity;
        }
    }
}
