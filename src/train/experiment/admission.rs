//! What a threshold of occurrences and a time to live cost and save: Monolith tunes both for each model (2.1) and shows no figures.
//!
//! One pass over a stream, each sample predicted before it is learned; a key that was not admitted, or has expired, is predicted by its
//! initial row.
#![forbid(unsafe_code)]

use std::path::Path;

use super::learner::{fresh, learn, slice, to_bytes};
use super::outcome::{Cell, Curve, Figure, Grid, Observation, Outcome, Point, values};
use super::setup::{Input, Setup};
use super::statistics::Spread;
use crate::train::DeepFmOptions;
use crate::train::data::synthetic::Clicks;
use crate::train::metrics::Metrics;
use crate::{Admission, Expiry, Result};

const ALL: &str = "every key, for ever";

/// A way of keeping rows.
struct Arm {
    name: String,
    admission: Admission,
    /// Seconds of event time.
    ttl: Option<u32>,
}

/// Thresholds alone, times to live alone, as parts of the stream's time, and both.
fn arms(span: u32) -> Vec<Arm> {
    let arm = |name: String, admission, ttl| Arm { name, admission, ttl };
    let part = |of: u32| Some((span / of).max(1));
    let mut arms = vec![arm(ALL.into(), Admission::always(), None)];
    arms.extend([2, 3, 5, 10].map(|n| arm(format!("from occurrence {n} on"), Admission::count(n), None)));
    arms.push(arm("drawn, 3 occurrences on average".into(), Admission::probabilistic(3), None));
    arms.extend([4, 8, 16, 32].map(|of| arm(format!("for 1/{of} of the time"), Admission::always(), part(of))));
    arms.push(arm("from occurrence 2 on, for 1/8 of the time".into(), Admission::count(2), part(8)));
    arms
}

/// What it is run with: a stream with many ids that come and go.
pub fn admission_setup(real: bool) -> Setup {
    let clicks =
        Clicks { samples: 600_000, users: 200_000, items: 20_000, drift: 2.0, new_ids: 0.1, rate: 100, ..Clicks::default() };
    let batch_size = if real { 64 } else { 128 };
    let model =
        DeepFmOptions { factors: 8, hidden: vec![32], batch_size, dense_learning_rate: 0.001, ..DeepFmOptions::default() };
    Setup { clicks, model, ..Setup::default() }
}

struct Ran {
    arm: String,
    auc: f64,
    second_half: f64,
    rows: u64,
    memory: u64,
}

/// Runs the experiment; `done` is told how many seeds are done, and of how many.
///
/// # Errors
/// Options that cannot be; data that cannot be read, or none; the store's.
pub fn admission(setup: &Setup, done: &(dyn Fn(u64, u64) + Sync)) -> Result<Outcome> {
    let input = Input::of(setup, 1)?;
    let runs = setup.each_seed(done, |seed, dir| run(setup, &input, seed, dir))?;
    Ok(outcome(setup, &input, &runs))
}

fn run(setup: &Setup, input: &Input, seed: u64, dir: &Path) -> Result<Vec<Ran>> {
    let (all, shape, options) = (input.samples(seed)?, input.shape(), setup.model(seed));
    let span = all.times.iter().max().zip(all.times.iter().min()).map_or(0, |(last, first)| last - first);
    let mut ran = Vec::new();
    for (number, Arm { name, admission, ttl }) in arms(span).into_iter().enumerate() {
        let store = setup.open(&dir.join(number.to_string()), seed)?;
        let expiry = ttl.map_or(Expiry::never(), Expiry::after_secs);
        let table = store.create_table(options.schema(shape).admission(admission).expiry(expiry))?;
        let (mut model, mut metrics) = (fresh(&options, shape)?, Metrics::default());
        for from in (0..all.len()).step_by(options.batch_size) {
            let batch = slice(&all, shape, from, options.batch_size);
            for (logit, label) in learn(&mut model, &table, &batch)?.iter().zip(&batch.labels) {
                metrics.add(*logit, *label > 0.5);
            }
        }
        store.commit(&to_bytes(&model))?;
        let mut rows = 0;
        table.for_each_row(|_, _, _, _| {
            rows += 1;
            Ok(())
        })?;
        ran.push(Ran {
            arm: name,
            auc: metrics.auc().unwrap_or(0.5),
            second_half: metrics.second_half().map_or(0.5, |(auc, _)| auc),
            rows,
            memory: store.stats().tables.iter().map(|table| table.memory_bytes as u64).sum(),
        });
        drop(table);
        store.close()?;
    }
    Ok(ran)
}

fn outcome(setup: &Setup, input: &Input, runs: &[Vec<Ran>]) -> Outcome {
    let mut observations = Vec::new();
    for (ran, seed) in runs.iter().zip(1..) {
        for Ran { arm, auc, second_half, rows, memory } in ran {
            let mut note = |measure: &'static str, value| {
                observations.push(Observation { arm: arm.clone(), measure: measure.into(), at: 0.0, seed, value });
            };
            note("auc", *auc);
            note("auc of the second half", *second_half);
            note("rows", *rows as f64);
            note("memory bytes", *memory as f64);
        }
    }
    let figure = Figure {
        title: format!("Rows kept and quality, {}", input.name()),
        x: "rows kept, of those of every key, in per cent".into(),
        y: "AUC of the second half".into(),
        curves: curves(&observations),
    };
    Outcome::new("admission", (setup, input), "", vec![costs(&observations)], figure, observations)
}

fn mean(observations: &[Observation], arm: &str, measure: &str) -> f64 {
    Spread::of(&values(observations, arm, measure, 0.0)).mean
}

fn costs(observations: &[Observation]) -> Grid {
    let mut grid = Grid::new(
        "What is kept, and the AUC of the second half, each sample predicted before it was learned",
        ["keys that have a row", "rows at the end", "of all", "MiB of rows, index and counts", "AUC", "lost by it"],
    );
    let half = "auc of the second half";
    for arm in arms(0).into_iter().map(|arm| arm.name) {
        let of = |arm: &str| values(observations, arm, half, 0.0);
        let rows = mean(observations, &arm, "rows");
        grid.rows.push(vec![
            Cell::Text(arm.clone()),
            Cell::Count(rows.round() as u64),
            Cell::Share(rows / mean(observations, ALL, "rows").max(1.0)),
            Cell::Text(format!("{:.1}", mean(observations, &arm, "memory bytes") / f64::from(1 << 20))),
            Cell::Mean(Spread::of(&of(&arm))),
            Cell::Difference(Spread::of_pairs(&of(ALL), &of(&arm))),
        ]);
    }
    grid
}

/// Thresholds and times to live, each from few rows to all.
fn curves(observations: &[Observation]) -> Vec<Curve> {
    let all = mean(observations, ALL, "rows").max(1.0);
    let curve = |name: &str, of: &dyn Fn(&str) -> bool| {
        let chosen = arms(0).into_iter().map(|arm| arm.name).filter(|arm| arm == ALL || of(arm));
        let mut points: Vec<Point> = chosen
            .map(|arm| {
                let spread = Spread::of(&values(observations, &arm, "auc of the second half", 0.0));
                Point::new(100.0 * mean(observations, &arm, "rows") / all, spread)
            })
            .collect();
        points.sort_unstable_by(|a, b| a.x.total_cmp(&b.x));
        Curve { name: name.into(), points }
    };
    let (both, threshold) = (|arm: &str| arm.contains(", for"), |arm: &str| arm.starts_with("from"));
    vec![
        curve("from an occurrence on", &|arm| threshold(arm) && !both(arm)),
        curve("drawn", &|arm| arm.starts_with("drawn")),
        curve("for a time", &|arm| arm.starts_with("for")),
        curve("both", &|arm| both(arm)),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::outcome::figures;
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn thresholds_and_times_to_live_keep_fewer_rows() {
        let clicks = Clicks { samples: 8_000, users: 600, items: 200, new_ids: 0.05, rate: 10, ..Clicks::default() };
        let store = StoreOptions::default().memory_budget(32 << 20);
        let model = DeepFmOptions { factors: 4, hidden: vec![8], batch_size: 32, ..DeepFmOptions::default() };
        let setup = Setup { clicks, seeds: 2, jobs: 2, model, store, ..Setup::default() };
        let found = admission(&setup, &|_, _| ()).unwrap();
        let tiers = Setup { store: setup.store.clone().hot_rows(90), ..setup.clone() };
        assert_eq!(figures(&admission(&tiers, &|_, _| ()).unwrap()), figures(&found));
        let rows = |arm: &str| mean(&found.observations, arm, "rows");
        let down =
            [ALL, "from occurrence 2 on", "from occurrence 3 on", "from occurrence 5 on", "from occurrence 10 on"].map(rows);
        assert!(down.is_sorted_by(|a, b| a > b) && down[4] > 0.0, "{down:?}");
        let short = ["for 1/4 of the time", "for 1/8 of the time", "for 1/16 of the time", "for 1/32 of the time"].map(rows);
        assert!(short.is_sorted_by(|a, b| a > b) && short[0] < down[0] && short[3] > 0.0, "{short:?}");
        assert!(rows("from occurrence 2 on, for 1/8 of the time") < rows("for 1/8 of the time"));
        let auc = |arm: &str| mean(&found.observations, arm, "auc");
        assert!(auc(ALL) > 0.55 && auc(ALL) > auc("from occurrence 10 on"), "{:?}", found.tables);
    }
}
