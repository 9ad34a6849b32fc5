//! How a DeepFM is trained.
#![forbid(unsafe_code)]

use super::data::Shape;
use crate::{Error, Initializer, Optimizer, Result, TableSchema};

/// The name of the table that holds the features' rows: first-order weight and factors.
pub const FEATURE_TABLE: &str = "feature";

/// How a DeepFM is trained. All but the last four decide what is learned, and must be equal when a job goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct DeepFmOptions {
    /// Factors of a feature; its row has one float more.
    pub factors: usize,
    /// Widths of the perceptron's hidden layers.
    pub hidden: Vec<usize>,
    /// Samples a batch: each is predicted before any of its batch is learned. Small where one user's samples come in bursts (as
    /// ratings do), so that the first of them help to predict the next; 64 to 1,024 where speed matters more.
    pub batch_size: usize,
    /// Adagrad's rate for the rows in the store. None chooses by the number of keys a sample, which all step at once: 0.8 divided
    /// by it, at most 0.2.
    pub learning_rate: Option<f32>,
    /// Adam's rate for the dense weights.
    pub dense_learning_rate: f32,
    /// New rows are uniform in plus and minus this.
    pub initial_range: f32,
    /// Seed of the dense weights.
    pub seed: u64,
    /// Batches between commits; 0 commits only at the end.
    pub commit_every: u64,
    /// Commits between checkpoints, which bound the log and the time to open; 0 makes none.
    pub checkpoint_every: u64,
    /// Batches read ahead of training, their rows prefetched; with 0 none is, and rows are read when they are needed.
    pub read_ahead: usize,
    /// Stop (and commit) when the whole stream's first so many samples are learned, at the end of a batch.
    pub max_samples: Option<u64>,
}

impl Default for DeepFmOptions {
    fn default() -> DeepFmOptions {
        DeepFmOptions {
            factors: 16,
            hidden: vec![64, 32],
            batch_size: 8,
            learning_rate: None,
            dense_learning_rate: 0.0003,
            initial_range: 0.02,
            seed: 1,
            commit_every: 2_000,
            checkpoint_every: 0,
            read_ahead: 16,
            max_samples: None,
        }
    }
}

impl DeepFmOptions {
    /// Refuses what no model can be trained with.
    pub fn validate(&self) -> Result<()> {
        let refuse = |option, what: &str| Err(Error::InvalidOption { option, what: what.to_string() });
        let rate = |rate: f32| rate.is_finite() && rate > 0.0;
        match self {
            o if o.factors == 0 || o.factors > 4_096 => refuse("factors", "must be 1 to 4096"),
            o if o.hidden.len() > 16 || o.hidden.iter().any(|width| *width == 0 || *width > 65_536) => {
                refuse("hidden", "at most 16 layers of 1 to 65536")
            }
            o if o.batch_size == 0 || o.batch_size > 1 << 20 => refuse("batch-size", "must be 1 to 1048576"),
            o if o.learning_rate.is_some_and(|r| !rate(r)) || !rate(o.dense_learning_rate) => {
                refuse("learning-rate", "must be above 0")
            }
            o if !(0.0..=100.0).contains(&o.initial_range) => refuse("initial-range", "must be 0 to 100"),
            o if o.read_ahead > 65_536 => refuse("read-ahead", "must be at most 65536"),
            _ => Ok(()),
        }
    }

    /// The rate for the rows of samples of this shape.
    pub fn rows_learning_rate(&self, shape: Shape) -> f32 {
        self.learning_rate.unwrap_or_else(|| (0.8 / shape.keys.max(1) as f32).min(0.2))
    }

    /// The schema of the features' table for samples of this shape.
    pub fn schema(&self, shape: Shape) -> TableSchema {
        TableSchema::new(FEATURE_TABLE, 1 + self.factors)
            .optimizer(Optimizer::adagrad(self.rows_learning_rate(shape)))
            .initializer(Initializer::uniform(self.initial_range))
    }

    /// What decides what is learned, a line each: the options, and the shape of the samples.
    pub(crate) fn lines(&self, shape: Shape) -> String {
        let DeepFmOptions { factors, hidden, batch_size, dense_learning_rate, initial_range, seed, .. } = self;
        let Shape { keys, dense } = shape;
        let rate = self.rows_learning_rate(shape);
        format!(
            "{keys} keys a sample\n{dense} dense numbers a sample\nfactors {factors}\nhidden layers {hidden:?}\n\
             batch size {batch_size}\nlearning rate {rate:?}\ndense learning rate {dense_learning_rate:?}\n\
             initial range {initial_range:?}\nseed {seed}"
        )
    }
}
