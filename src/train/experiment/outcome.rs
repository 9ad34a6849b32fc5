//! What an experiment found: tables for people, every run's figures for scripts, and a figure.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt::{self, Write};

use serde::{Deserialize, Serialize};

use super::setup::{Input, Setup};
use super::statistics::{Spread, number};

/// One cell of a table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cell {
    /// Words.
    Text(String),
    /// A whole number.
    Count(u64),
    /// A share, shown in per cent.
    Share(f64),
    /// A mean and its standard deviation.
    Mean(Spread),
    /// A mean difference and its confidence interval.
    Difference(Spread),
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cell::Text(text) => f.write_str(text),
            Cell::Count(count) => write!(f, "{count}"),
            Cell::Share(share) => write!(f, "{:.2} %", 100.0 * share),
            Cell::Mean(Spread { mean, deviation, .. }) => write!(f, "{mean:.4} +- {deviation:.4}"),
            Cell::Difference(Spread { mean, half_width: None, .. }) => write!(f, "{mean:+.4}"),
            Cell::Difference(Spread { mean, half_width: Some(half), .. }) => {
                write!(f, "{mean:+.4} ({:+.4} to {:+.4})", mean - half, mean + half)
            }
        }
    }
}

/// A table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    /// What it shows.
    pub title: String,
    /// The columns' heads.
    pub columns: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<Cell>>,
}

impl Grid {
    pub(super) fn new(title: impl Into<String>, columns: impl IntoIterator<Item = impl Into<String>>) -> Grid {
        Grid { title: title.into(), columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }
}

/// As Markdown, so that it can go into a document as it is.
impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n| {} |", self.title, self.columns.join(" | "))?;
        writeln!(f, "|{}", "---|".repeat(self.columns.len()))?;
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(Cell::to_string).collect();
            writeln!(f, "| {} |", cells.join(" | "))?;
        }
        Ok(())
    }
}

/// One figure of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Which way of doing it.
    pub arm: String,
    /// What was measured.
    pub measure: Cow<'static, str>,
    /// Where: an epoch, an interval, a number of intervals.
    #[serde(deserialize_with = "number")]
    pub at: f64,
    /// The run.
    pub seed: u64,
    /// What came out.
    #[serde(deserialize_with = "number")]
    pub value: f64,
}

/// A point of a curve, the mean of all runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Where.
    #[serde(deserialize_with = "number")]
    pub x: f64,
    /// The mean.
    #[serde(deserialize_with = "number")]
    pub y: f64,
    /// Half the width of its 95 % confidence interval.
    pub half_width: Option<f64>,
}

impl Point {
    pub(super) fn new(x: f64, spread: Spread) -> Point {
        Point { x, y: spread.mean, half_width: spread.half_width }
    }
}

/// A curve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// Its name in the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<Point>,
}

/// Curves in one pair of axes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// Above it.
    pub title: String,
    /// Below it.
    pub x: String,
    /// Beside it.
    pub y: String,
    /// What is drawn.
    pub curves: Vec<Curve>,
}

/// What an experiment found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub experiment: Cow<'static, str>,
    /// The data's name: a directory or file without what leads to it, or "synthetic".
    pub data: String,
    /// Whether a generator made the data up.
    pub synthetic: bool,
    /// Samples a run.
    pub samples: u64,
    /// Runs.
    pub seeds: u64,
    /// What it was run with.
    pub settings: Vec<String>,
    /// The tables.
    pub tables: Vec<Grid>,
    /// The figure.
    pub figure: Figure,
    /// All figures of all runs.
    pub observations: Vec<Observation>,
}

impl Outcome {
    /// With what all experiments say of themselves; `how` it was done comes before the model's options.
    pub(super) fn new(
        experiment: &'static str,
        (setup, input): (&Setup, &Input),
        how: &str,
        tables: Vec<Grid>,
        figure: Figure,
        observations: Vec<Observation>,
    ) -> Outcome {
        let options = setup.model(1).lines(input.shape()).replace('\n', ", ");
        Outcome {
            experiment: experiment.into(),
            data: input.name(),
            synthetic: input.is_synthetic(),
            samples: input.len(),
            seeds: setup.seeds,
            settings: vec![input.about(), format!("{how}{options}")],
            tables,
            figure,
            observations,
        }
    }

    /// The observations, comma-separated, with a head.
    pub fn csv(&self) -> String {
        let mut text = "arm,measure,at,seed,value\n".to_owned();
        for Observation { arm, measure, at, seed, value } in &self.observations {
            // Writing to a string does not fail.
            let _ = writeln!(text, "\"{arm}\",{measure},{at},{seed},{value}");
        }
        text
    }

    /// The values of an arm and a measure at a place, by seed.
    pub fn values(&self, arm: &str, measure: &str, at: f64) -> Vec<f64> {
        values(&self.observations, arm, measure, at)
    }
}

/// What must not depend on where rows are: all but what is measured of the store itself.
#[cfg(test)]
pub(super) fn figures(of: &Outcome) -> Vec<&Observation> {
    of.observations.iter().filter(|o| !o.measure.contains("bytes")).collect()
}

/// The values of an arm and a measure at a place, by seed.
pub(super) fn values(observations: &[Observation], arm: &str, measure: &str, at: f64) -> Vec<f64> {
    let of = |o: &&Observation| o.arm == arm && o.measure == measure && o.at == at;
    let mut found: Vec<(u64, f64)> = observations.iter().filter(of).map(|o| (o.seed, o.value)).collect();
    found.sort_unstable_by_key(|(seed, _)| *seed);
    found.into_iter().map(|(_, value)| value).collect()
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made_up = if self.synthetic { "SYNTHETIC data" } else { "data" };
        writeln!(f, "{}: {made_up} {}, {} samples, {} seeds", self.experiment, self.data, self.samples, self.seeds)?;
        self.settings.iter().try_for_each(|line| writeln!(f, "{line}"))?;
        self.tables.iter().try_for_each(|table| write!(f, "\n{table}"))
    }
}
