//! What a job says while it runs and at its end.
#![forbid(unsafe_code)]

use std::fmt;

use serde::Serialize;

use super::scores::Figures;
use super::state::Stage;
use crate::CommitId;
use crate::train::Rows;

/// How the job stands.
#[derive(Clone, Debug)]
pub struct DceProgress {
    /// What it is at.
    pub stage: Stage,
    /// Batches of the stage done.
    pub step: u64,
    /// Batches of the stage.
    pub steps: u64,
    /// Batches of all stages done, those before a resume included.
    pub batches: u64,
    /// Seconds since this run began.
    pub seconds: f64,
    /// Mean loss of the current pass, where the stage has one.
    pub loss: Option<f64>,
    /// Where the rows are.
    pub rows: Rows,
    /// The last commit; it may still be on its way to the disk.
    pub commit: Option<CommitId>,
    /// Whether this call comes right after a commit.
    pub committed: bool,
}

/// How well sessions are said back from their vectors.
#[derive(Clone, Debug, Serialize)]
pub struct Reconstruction {
    /// Sessions it was tried on.
    pub sessions: u64,
    /// Events of them.
    pub events: u64,
    /// The share of events that came first among those of their batch.
    pub accuracy: f64,
    /// Mean log loss an event.
    pub loss: f64,
    /// The share of the most frequent event of the training part, for comparison.
    pub most_frequent: f64,
    /// Mean log loss of the events' frequencies in the training part.
    pub frequency_loss: f64,
}

/// What came of a task.
#[derive(Clone, Debug, Serialize)]
pub struct TaskReport {
    /// Its name.
    pub name: String,
    /// Moments learned from.
    pub learned: u64,
    /// Moments tried on, all later.
    pub tried: u64,
    /// Of them, by class.
    pub classes: Vec<u64>,
    /// Figures by features; those without a head first.
    pub figures: Vec<Figures>,
}

/// The result of a job.
#[derive(Clone, Debug, Serialize)]
pub struct DceReport {
    /// The format of the data.
    pub format: String,
    /// The file, or the simulator's parameters.
    pub name: String,
    /// Whether the data is made up.
    pub synthetic: bool,
    /// The seed.
    pub seed: u64,
    /// Sessions and customers.
    pub sessions: u64,
    /// Customers.
    pub customers: u64,
    /// Sessions before the split.
    pub train_sessions: u64,
    /// The stage reached.
    pub stage: Stage,
    /// Batches of all stages, those before a resume included.
    pub batches: u64,
    /// Seconds this run took.
    pub seconds: f64,
    /// Sessions said back: of the training part, and later ones.
    pub said: Option<[Reconstruction; 2]>,
    /// How much of the session vectors' variance the customer encoder's last pass left unexplained.
    pub unexplained: Option<f64>,
    /// Half-life of the decayed mean, in days.
    pub half_life_days: Option<f64>,
    /// How many events of everybody the likelihood adds to a customer's own.
    pub everybody_weighs: Option<f32>,
    /// By task.
    pub tasks: Vec<TaskReport>,
    /// Rows, by tier.
    pub rows: Rows,
    /// Weights of encoders and heads.
    pub dense_weights: u64,
    /// The last commit, durable.
    pub commit: Option<String>,
    /// The commit from which this run went on.
    pub resumed_from: Option<String>,
}

impl fmt::Display for DceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |value: Option<f64>| value.map_or("-".to_string(), |value| format!("{value:.4}"));
        let made_up = if self.synthetic { "SYNTHETIC data: " } else { "data: " };
        writeln!(f, "{made_up}{} ({})", self.format, self.name)?;
        let DceReport { sessions, customers, train_sessions, batches, seconds, stage, .. } = self;
        writeln!(f, "{sessions} sessions of {customers} customers, {train_sessions} of them to learn from, the rest later")?;
        if let Some(commit) = &self.resumed_from {
            writeln!(f, "resumed from commit {commit}")?;
        }
        writeln!(f, "stage {stage:?}, {batches} batches, {seconds:.1} s in this run")?;
        for (said, which) in self.said.iter().flatten().zip(["learned from", "later"]) {
            writeln!(
                f,
                "sessions said back, {which}: {:.1} % of events right, loss {:.3} (most frequent event {:.1} %, frequencies {:.3})",
                100.0 * said.accuracy,
                said.loss,
                100.0 * said.most_frequent,
                said.frequency_loss
            )?;
        }
        if let Some(unexplained) = self.unexplained {
            writeln!(f, "next session foretold: {:.1} % of the variance left unexplained", 100.0 * unexplained)?;
        }
        if let Some(days) = self.half_life_days {
            writeln!(f, "decayed mean: half-life {days:.2} days, learned")?;
        }
        if let Some(events) = self.everybody_weighs {
            writeln!(f, "likelihood: everybody weighs as much as {events} events of the customer, learned")?;
        }
        for task in &self.tasks {
            writeln!(f, "{}: learned from {} moments, tried on {} later ones", task.name, task.learned, task.tried)?;
            writeln!(f, "  {:<28} {:>8} {:>9} {:>9}", "features", "AUC", "accuracy", "log loss")?;
            for figures in &task.figures {
                let (auc, loss) = (number(figures.auc), number(figures.logloss));
                let accuracy = if figures.logloss.is_some() { number(Some(figures.accuracy)) } else { "-".into() };
                writeln!(f, "  {:<28} {auc:>8} {accuracy:>9} {loss:>9}", figures.features)?;
            }
        }
        let Rows { total, hot, cold, .. } = self.rows;
        writeln!(f, "rows: {total}, of which {hot} hot and {cold} cold")?;
        write!(f, "last commit: {}", self.commit.as_deref().unwrap_or("none"))
    }
}
