//! Adadelta (Zeiler 2012): `g' = g + wd * w; a = r * a + (1 - r) * g'^2; u = sqrt(b + eps) / sqrt(a + eps) * g'; w -= lr * u;`
//! `b = r * b + (1 - r) * u^2`. State: a, then b: 2 dim f32.
#![forbid(unsafe_code)]

use super::Optimizer;
use super::rule::{Own, Parameter, Range, Rule};
use super::step::{Step, flush};

pub(super) struct Adadelta;

impl Optimizer {
    /// Adadelta (Zeiler 2012): steps as large as the steps before, whose rate is usually 1.
    pub fn adadelta(learning_rate: f32) -> Optimizer {
        Optimizer::new::<Adadelta>(learning_rate)
    }
}

impl Rule for Adadelta {
    const KIND: u8 = 11;
    const NAME: &'static str = "adadelta";
    const PARAMETERS: &'static [Parameter] =
        &[Parameter::new("decay", 0.9, Range::BelowOne), Parameter::new("epsilon", 1e-6, Range::Positive)];

    #[inline(always)]
    fn state_len(dim: usize) -> usize {
        dim.saturating_mul(2)
    }

    fn init_state(_own: &Own, _dim: usize, state: &mut [f32]) {
        state.fill(0.0);
    }

    #[inline(always)]
    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        let [decay, epsilon, ..] = step.own;
        let fresh = 1.0 - decay;
        let (squares, steps) = state.split_at_mut(weights.len());
        for (((w, a), b), &g) in weights.iter_mut().zip(squares).zip(steps).zip(grad) {
            let g = step.decayed(g, *w);
            let square = flush(decay * *a + fresh * (g * g));
            let update = (*b + epsilon).sqrt() / (square + epsilon).sqrt() * g;
            *a = square;
            *b = flush(decay * *b + fresh * (update * update));
            *w -= step.learning_rate * update;
        }
    }
}
