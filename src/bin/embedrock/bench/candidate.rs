//! What is measured: anything that keeps rows under keys.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;

use super::workload::Batch;

/// Why a candidate could not go on.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;
/// A candidate, and the seconds that putting its rows in took.
pub(crate) type Built = Result<Option<(Box<dyn Candidate>, f64)>, Failure>;

/// What the candidates of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) rows: u64,
    pub(crate) dim: usize,
    /// Whether rows carry the state of Adagrad: as many f32s again.
    pub(crate) trains: bool,
    pub(crate) threads: usize,
}

impl Site {
    /// f32s of a row.
    pub(crate) fn lanes(&self) -> usize {
        if self.trains { 2 * self.dim } else { self.dim }
    }

    /// Rows whose number leaves this remainder when divided by the threads: each thread has rows of its own.
    pub(crate) fn rows_of(&self, thread: usize) -> usize {
        (self.rows as usize + self.threads - 1 - thread) / self.threads
    }
}

/// Keeps rows under keys. A batch belongs to the thread that its rows do.
pub(crate) trait Candidate: Sync {
    fn name(&self) -> &'static str;

    /// How many callers make use of `threads` threads: one, if it has threads of its own.
    fn callers(&self, threads: usize) -> usize {
        threads
    }

    /// Whether it looks for absent keys at all.
    fn can_miss(&self) -> bool {
        true
    }

    /// Whether equal keys of a batch make one step of the optimizer with the sum of their gradients, or one each.
    fn sums_duplicates(&self) -> bool;

    /// Copies the embeddings of a batch to `out`, zeros for absent keys.
    fn lookup(&self, thread: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure>;

    /// One step of Adagrad a key.
    fn update(&self, thread: usize, batch: &Batch, gradients: &[f32]) -> Result<(), Failure>;
}
