//! What is measured: anything that keeps rows under keys.
#![forbid(unsafe_code)]

use std::error::Error;

use super::workload::Batch;

/// Why a candidate could not go on.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;
/// A candidate, and the seconds that putting its rows in took.
pub(crate) type Built = Result<Option<(Box<dyn Candidate>, f64)>, Failure>;

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
