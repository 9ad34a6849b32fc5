//! What a job says while it runs and at its end.
#![forbid(unsafe_code)]

use std::fmt;

use serde::{Deserialize, Serialize};

use super::data::Description;
use super::metrics::CurvePoint;
use crate::{CommitId, Store};

/// How the job stands.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Samples of the stream learned, those before a resume included.
    pub samples: u64,
    /// The stream's length, where known.
    pub total: Option<u64>,
    /// Batches learned, those before a resume included.
    pub batches: u64,
    /// Seconds since this run began.
    pub seconds: f64,
    /// Samples a second of this run.
    pub rate: f64,
    /// Progressive AUC so far.
    pub auc: Option<f64>,
    /// Mean progressive log loss so far.
    pub logloss: Option<f64>,
    /// Where the rows are, and what they take.
    pub rows: Rows,
    /// The last commit; it may still be on its way to the disk.
    pub commit: Option<CommitId>,
    /// Whether this call comes right after a commit.
    pub committed: bool,
}

/// Rows of all tables, by tier, and the store's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// All rows.
    pub total: u64,
    /// Rows in memory.
    pub hot: u64,
    /// Rows on disk only.
    pub cold: u64,
    /// Bytes of memory that the store accounts for.
    pub memory_bytes: u64,
    /// The budget it keeps to.
    pub memory_budget: u64,
    /// Bytes of cold rows on disk.
    pub cold_disk_bytes: u64,
    /// Bytes of the log.
    pub log_bytes: u64,
}

impl Rows {
    /// Those of a store as it is now.
    pub fn of(store: &Store) -> Rows {
        let stats = store.stats();
        let total = stats.tables.iter().map(|table| table.rows).sum();
        let hot = stats.tables.iter().map(|table| table.hot_rows).sum();
        Rows {
            total,
            hot,
            cold: u64::saturating_sub(total, hot),
            memory_bytes: stats.memory_bytes as u64,
            memory_budget: stats.memory_budget as u64,
            cold_disk_bytes: stats.cold_disk_bytes,
            log_bytes: stats.log_bytes,
        }
    }
}

/// The result of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// What was learned from.
    pub data: Description,
    /// Samples of the stream learned, those before a resume included.
    pub samples: u64,
    /// Share of positive labels.
    pub positive: f64,
    /// Batches learned, those before a resume included.
    pub batches: u64,
    /// Samples learned by this run.
    pub samples_of_this_run: u64,
    /// Seconds this run took.
    pub seconds: f64,
    /// Samples a second of this run.
    pub rate: f64,
    /// Progressive AUC over the whole stream.
    pub auc: Option<f64>,
    /// The most by which that differs from the exact pairwise value.
    pub auc_error: Option<f64>,
    /// Progressive AUC over the second half.
    pub auc_second_half: Option<f64>,
    /// The sample at which the second half begins (the nearest end of a window of the curve).
    pub second_half_from: Option<u64>,
    /// Mean progressive log loss.
    pub logloss: Option<f64>,
    /// AUC and log loss by window.
    pub curve: Vec<CurvePoint>,
    /// Where the rows are, and what they take.
    pub rows: Rows,
    /// Weights of the dense part.
    pub dense_weights: u64,
    /// The last commit, `timeline.sequence`; durable.
    pub commit: Option<String>,
    /// The commit from which this run went on.
    pub resumed_from: Option<String>,
    /// The sample at which it went on.
    pub resumed_at: Option<u64>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.4}"));
        let made_up = if self.data.synthetic { "SYNTHETIC data: " } else { "data: " };
        writeln!(f, "{made_up}{} ({})", self.data.format, self.data.name)?;
        if let (Some(commit), Some(at)) = (&self.resumed_from, self.resumed_at) {
            writeln!(f, "resumed from commit {commit}, at sample {at}")?;
        }
        let Report { samples, batches, seconds, rate, .. } = self;
        writeln!(f, "learned {samples} samples ({:.1} % positive) in {batches} batches", 100.0 * self.positive)?;
        writeln!(f, "this run: {} samples in {seconds:.1} s, {rate:.0} a second", self.samples_of_this_run)?;
        let (auc, half) = (number(self.auc), number(self.auc_second_half));
        writeln!(
            f,
            "each sample predicted before it was learned: AUC {auc} (second half {half}), log loss {}",
            number(self.logloss)
        )?;
        if let Some(best) = self.data.best_auc {
            writeln!(f, "the generator's own probabilities reach AUC {best:.4}")?;
        }
        let mib = |bytes: u64| bytes as f64 / (1u64 << 20) as f64;
        let Rows { total, hot, cold, memory_bytes, memory_budget, cold_disk_bytes, log_bytes } = self.rows;
        writeln!(f, "rows: {total}, of which {hot} hot and {cold} cold")?;
        let (memory, budget, disk, log) = (mib(memory_bytes), mib(memory_budget), mib(cold_disk_bytes), mib(log_bytes));
        writeln!(f, "memory: {memory:.1} of {budget:.1} MiB; on disk: {disk:.1} MiB cold rows, {log:.1} MiB log")?;
        write!(f, "last commit: {}", self.commit.as_deref().unwrap_or("none"))
    }
}
