//! What a batch of changes brings besides keys and values.
#![forbid(unsafe_code)]

use crate::error::{Error, Result};
use crate::segments::Rates;
use crate::shard::Values;

/// When a batch happened, and how it learns.
///
/// ```
/// use embedrock::Update;
/// let update = Update::at(1_700_000_000).learning_rate(0.01).step(17);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    pub(super) time: u64,
    pub(super) rates: Rates,
    pub(super) step: Option<u64>,
    scale: f32,
    global_norm: Option<f32>,
}

impl Update {
    /// A batch of events at this unix time, in seconds. The store's clock is the largest time seen; 0 means no time of its own.
    pub fn at(unix_secs: u64) -> Update {
        Update { time: unix_secs, rates: Rates::default(), step: None, scale: 1.0, global_norm: None }
    }

    /// Overrides the optimizer's learning rate for this batch, in all segments of the row: positive and finite, else the batch is
    /// refused with [`Error::InvalidOption`].
    #[must_use]
    pub fn learning_rate(mut self, rate: f32) -> Update {
        self.rates.all = Some(rate);
        self
    }

    /// As [`learning_rate`](Self::learning_rate), for one segment of the row. A segment that the row does not have is refused.
    #[must_use]
    pub fn segment_learning_rate(mut self, segment: usize, rate: f32) -> Update {
        self.rates.set(segment, rate);
        self
    }

    /// The number of this training step, from 1 on. Schedules of the learning rate ask for it. Adam corrects its bias by it in every
    /// row, as optimizers with one count for the whole model do; without it each row counts its own updates.
    #[must_use]
    pub fn step(mut self, number: u64) -> Update {
        self.step = Some(number);
        self
    }

    /// Multiplies all gradients of the call by a finite factor of at least 0, before the optimizer clips them. For trainers that clip
    /// the global norm over dense parameters as well: `factor = min(1, limit / norm)`.
    #[must_use]
    pub fn scale_gradients(mut self, factor: f32) -> Update {
        self.scale = factor;
        self
    }

    /// Scales all gradients of the call down so that their global norm is at most `limit`: the root of the sum of the squares of all
    /// values given, those of every table of the call and of equal keys each for itself (as TensorFlow does it). Summed in f64 in
    /// input order.
    #[must_use]
    pub fn clip_global_norm(mut self, limit: f32) -> Update {
        self.global_norm = Some(limit);
        self
    }

    /// What gradients are multiplied by, given those of all tables of a call with their keys' number and dimension.
    pub(super) fn scale_of<'a>(&self, gradients: impl Iterator<Item = (Values<'a>, usize, usize)>) -> Result<f32> {
        let invalid = |option, what| Err(Error::InvalidOption { option, what });
        if !(self.scale.is_finite() && self.scale >= 0.0) {
            return invalid("scale_gradients", format!("{} is not a finite factor of at least 0", self.scale));
        }
        let Some(limit) = self.global_norm else { return Ok(self.scale) };
        if !(limit.is_normal() && limit > 0.0) {
            return invalid("clip_global_norm", format!("{limit} is not a finite number above 0"));
        }
        let squares = gradients.map(|(values, keys, dim)| (0..keys as u32).map(|at| squares(values.row(at, dim))).sum::<f64>());
        let norm = squares.sum::<f64>().sqrt() * f64::from(self.scale);
        let factor = if norm > f64::from(limit) { f64::from(limit) / norm } else { 1.0 };
        Ok((f64::from(self.scale) * factor) as f32)
    }
}

fn squares(row: &[f32]) -> f64 {
    row.iter().fold(0.0, |sum, &value| sum + f64::from(value) * f64::from(value))
}
