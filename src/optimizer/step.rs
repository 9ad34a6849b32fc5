//! What the updates of a batch have in common, and the update of a row.
#![forbid(unsafe_code)]

use super::clip::Clip;
use super::rule::{Follow, Own};
use crate::simd::{Cpu, Picked};

/// See the module.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(super) learning_rate: f32,
    pub(super) weight_decay: f32,
    pub(super) own: Own,
    /// The number of the step, where the batch names it, and what the rule makes of it.
    pub(super) number: Option<u64>,
    pub(super) of_number: Option<[f32; 2]>,
    pub(super) clip: Clip,
    pub(super) kernel: Picked<Step>,
    pub(super) follow: Option<Follow>,
    pub(super) cpu: Cpu,
}

impl Step {
    pub(crate) fn cpu(&self) -> Cpu {
        self.cpu
    }

    /// Applies a gradient to a row: `weights` and `grad` have the dimension's length, `state` its own.
    #[inline(always)]
    pub(crate) fn apply(&self, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        debug_assert_eq!(weights.len(), grad.len());
        self.kernel.run(self, weights, state, grad);
    }

    /// Whether [`Step::adjust`] would change any gradient.
    pub(crate) fn adjusts(&self) -> bool {
        self.clip != Clip::NONE
    }

    /// Clips a gradient.
    pub(crate) fn adjust(&self, grad: &mut [f32]) {
        self.clip.apply(self.cpu, grad);
    }

    /// Brings the state in line with weights that were set: rules whose weights follow from their state would forget them.
    #[inline]
    pub(crate) fn follow(&self, weights: &[f32], state: &mut [f32]) {
        if let Some(follow) = self.follow {
            follow(self, weights, state);
        }
    }

    /// `g + wd * w`; without decay g itself, whatever w is.
    #[inline(always)]
    pub(super) fn decayed(&self, gradient: f32, weight: f32) -> f32 {
        if self.weight_decay == 0.0 { gradient } else { gradient + self.weight_decay * weight }
    }
}

/// 0 for a subnormal number; NaN stays. Moments that decay towards 0 would otherwise stay subnormal for ever, which makes the
/// updates of their row fifty times slower.
#[inline(always)]
pub(super) fn flush(value: f32) -> f32 {
    if value.abs() < f32::MIN_POSITIVE { 0.0 } else { value }
}
