//! Clipping of gradients, by value and by norm.
#![forbid(unsafe_code)]

use super::rule::Range;
use super::sums::sum_of_squares;
use crate::simd::{Cpu, Loop};

/// Limits of a row's gradient, after equal keys were summed. 0: none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Clip {
    /// Of each value: to [-limit, limit].
    pub(super) value: f32,
    /// Of the Euclidean norm: `g *= limit / |g|` where `|g| > limit`.
    pub(super) norm: f32,
}

impl Clip {
    pub(super) const NONE: Clip = Clip { value: 0.0, norm: 0.0 };

    pub(super) fn validate(self) -> Result<(), String> {
        Range::NotNegative.check("clip_value", self.value)?;
        Range::NotNegative.check("clip_norm", self.norm)
    }

    /// By value first, then by norm.
    pub(super) fn apply(self, cpu: Cpu, grad: &mut [f32]) {
        cpu.run(Clipping { clip: self, grad });
    }
}

struct Clipping<'a> {
    clip: Clip,
    grad: &'a mut [f32],
}

impl Loop for Clipping<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Clipping { clip: Clip { value, norm: limit }, grad } = self;
        if value > 0.0 {
            grad.iter_mut().for_each(|g| *g = if *g > value { value } else { *g });
            grad.iter_mut().for_each(|g| *g = if *g < -value { -value } else { *g });
        }
        if limit > 0.0 {
            let norm = norm(grad);
            if norm > limit {
                let factor = limit / norm;
                grad.iter_mut().for_each(|g| *g *= factor);
            }
        }
    }
}

/// The Euclidean norm, also where squares would overflow or vanish.
#[inline(always)]
fn norm(values: &[f32]) -> f32 {
    let plain = sum_of_squares(values, values, |a, _| a);
    if plain.is_normal() {
        return plain.sqrt();
    }
    let largest = values.iter().fold(0.0f32, |largest, v| if v.abs() > largest { v.abs() } else { largest });
    if largest == 0.0 || !largest.is_finite() {
        return largest;
    }
    sum_of_squares(values, values, |a, _| a / largest).sqrt() * largest
}
