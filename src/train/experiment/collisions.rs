//! Do collisions cost quality? Monolith's figure 7 and the baseline of its figure 8: one model over collisionless rows, over rows that ids
//! hashed by MD5 share, and over sums of a quotient's and a remainder's row.
//!
//! A tenth of the samples, drawn by the seed, is never learned; after each pass over the others (in an order drawn anew) the model predicts
//! them. All ways have the same tenth, the same orders and the same first dense weights, so that their differences are paired. The seed
//! also draws which ids meet.
#![forbid(unsafe_code)]

use std::path::Path;

use super::ids::{Folded, Folding, Ids, ids_by_slot, rows_for};
use super::learner::{fresh, gather, learn, score, shuffle, to_bytes};
use super::outcome::{Cell, Curve, Figure, Grid, Observation, Outcome, Point, values};
use super::setup::{Input, Setup};
use super::statistics::Spread;
use crate::Result;
use crate::train::DeepFmOptions;
use crate::train::data::synthetic::{Clicks, Counter};
use crate::train::metrics::Metrics;
use crate::types::mix;

/// Ids a row of the two tables of the paper's experiment: 162,541 users and 59,047 movies, in a million rows each.
const PAPER_LOADS: [f64; 2] = [0.162_541, 0.059_047];
/// Shares of ids without a row of their own.
const LOST: [f64; 3] = [0.25, 0.5, 0.75];
/// One sample of so many is never learned.
const TEST: usize = 10;
const OWN: &str = "collisionless";

/// A way of finding rows, by the ids of each slot.
struct Arm {
    name: String,
    ids: fn(f64, &[Vec<u64>], String) -> Ids,
    lost: f64,
}

fn arms() -> Vec<Arm> {
    let own = Arm { name: OWN.into(), ids: |_, _, _| Ids::Own, lost: 0.0 };
    let paper = Arm { name: "MD5, the paper's load".into(), ids: at_the_papers_load, lost: 0.0 };
    let hashed = LOST.map(|lost| Arm { name: format!("MD5, {:.0} % lost", 100.0 * lost), ids: hashed, lost });
    let sums =
        LOST.map(|lost| Arm { name: format!("quotient-remainder, {:.0} % of the rows", 100.0 * (1.0 - lost)), ids: sum, lost });
    [own, paper].into_iter().chain(hashed).chain(sums).collect()
}

fn at_the_papers_load(_: f64, slots: &[Vec<u64>], draw: String) -> Ids {
    let load = |slot: usize| PAPER_LOADS.get(slot).unwrap_or(&PAPER_LOADS[0]);
    let rows = slots.iter().enumerate().map(|(slot, ids)| ((ids.len() as f64 / load(slot)).round() as u64).max(1));
    Ids::Hashed { draw, rows: rows.collect() }
}

fn hashed(lost: f64, slots: &[Vec<u64>], draw: String) -> Ids {
    Ids::Hashed { draw, rows: slots.iter().map(|ids| rows_for(ids.len() as u64, lost)).collect() }
}

/// As many rows as the hashed ids use, half for remainders and half for quotients.
fn sum(lost: f64, slots: &[Vec<u64>], draw: String) -> Ids {
    let half = |ids: &Vec<u64>| ((ids.len() as f64 * (1.0 - lost) / 2.0).round() as u64).max(1);
    Ids::QuotientRemainder { draw, rows: slots.iter().map(half).collect() }
}

/// What one run says of one way.
struct Ran {
    /// AUC and log loss after each pass.
    passes: Vec<(f64, f64)>,
    folded: Vec<Folded>,
    /// Rows of the store.
    rows: u64,
}

/// What it is run with: real ratings in passes, or a stream over as many ids as the paper's ratings have, nothing drifting.
pub fn collisions_setup(real: bool) -> Setup {
    let (users, items) = (162_541, 59_047);
    let clicks = Clicks { samples: 2_000_000, users, items, zipf: 0.6, drift: 0.0, new_ids: 0.0, ..Clicks::default() };
    let model = DeepFmOptions {
        factors: 8,
        hidden: vec![32],
        batch_size: 1_024,
        learning_rate: Some(0.05),
        dense_learning_rate: 0.001,
        ..DeepFmOptions::default()
    };
    Setup { clicks, epochs: if real { 4 } else { 2 }, model, ..Setup::default() }
}

/// Runs the experiment; `done` is told how many seeds are done, and of how many.
///
/// # Errors
/// Options that cannot be; data that cannot be read; the store's.
pub fn collisions(setup: &Setup, done: &(dyn Fn(u64, u64) + Sync)) -> Result<Outcome> {
    let input = Input::of(setup, 2 * TEST as u64)?;
    let runs = setup.each_seed(done, |seed, dir| run(setup, &input, seed, dir))?;
    Ok(outcome(setup, &input, &runs))
}

fn run(setup: &Setup, input: &Input, seed: u64, dir: &Path) -> Result<Vec<Ran>> {
    let (all, shape) = (input.samples(seed)?, input.shape());
    let slots = ids_by_slot(&all.keys, shape.keys);
    let mut places: Vec<u32> = (0..u32::try_from(all.len()).unwrap_or(u32::MAX)).collect();
    shuffle(&mut places, &mut Counter::new(mix(seed)));
    let (test, train) = places.split_at(places.len() / TEST);
    let test = gather(&all, shape, test);
    let mut ran = Vec::new();
    for (number, arm) in arms().into_iter().enumerate() {
        let ids = (arm.ids)(arm.lost, &slots, format!("{seed}:"));
        let folded = slots.iter().zip(0u64..).map(|(of, slot)| {
            Folded::of(of.iter().copied(), |id| match &ids {
                Ids::Own => id,
                // Two ids are one where both their rows are.
                ids => ids.rows_of(slot << 48 | id).iter().fold(0, |all, row| mix(all ^ row)),
            })
        });
        let folded = folded.collect();
        let (options, dir) = (setup.model(seed), dir.join(number.to_string()));
        let store = setup.open(&dir, seed)?;
        let table = Folding { table: store.create_table(options.schema(shape))?, ids };
        let mut model = fresh(&options, shape)?;
        let (mut passes, mut order) = (Vec::new(), train.to_vec());
        for pass in 0..setup.epochs {
            shuffle(&mut order, &mut Counter::new(mix(seed ^ mix(pass as u64 + 1))));
            for places in order.chunks(options.batch_size) {
                learn(&mut model, &table, &gather(&all, shape, places))?;
            }
            store.commit(&to_bytes(&model))?;
            let mut metrics = Metrics::default();
            score(&model, &table, &test, shape, &mut [&mut metrics])?;
            passes.push((metrics.auc().unwrap_or(0.5), metrics.logloss().unwrap_or(0.0)));
        }
        ran.push(Ran { passes, folded, rows: table.table.len() });
        store.close()?;
    }
    Ok(ran)
}

fn outcome(setup: &Setup, input: &Input, runs: &[Vec<Ran>]) -> Outcome {
    let mut observations = Vec::new();
    let arms: Vec<String> = arms().into_iter().map(|arm| arm.name).collect();
    for (ran, seed) in runs.iter().zip(1..) {
        for (arm, ran) in arms.iter().zip(ran) {
            for ((auc, logloss), pass) in ran.passes.iter().zip(1u32..) {
                for (measure, value) in [("auc", *auc), ("logloss", *logloss)] {
                    let (arm, measure) = (arm.clone(), measure.into());
                    observations.push(Observation { arm, measure, at: f64::from(pass), seed, value });
                }
            }
        }
    }
    let (tables, curves) =
        (vec![sharing(&arms, runs), quality(setup, &arms, &observations)], curves(setup, &arms, &observations));
    let figure = Figure {
        title: format!("Collisions, {}", input.name()),
        x: "passes over the samples".into(),
        y: "AUC of samples held out".into(),
        curves,
    };
    Outcome::new("collisions", (setup, input), &format!("one sample of {TEST} held out; "), tables, figure, observations)
}

/// What each way does to the ids: the first run's, as others differ by a few ids.
fn sharing(arms: &[String], runs: &[Vec<Ran>]) -> Grid {
    let mut grid = Grid::new(
        "Ids and rows (seed 1)",
        ["rows by", "slot", "ids", "told apart", "lost", "ids that share", "rows of the store"],
    );
    for (arm, ran) in arms.iter().zip(runs.first().map_or(&[][..], Vec::as_slice)) {
        for (slot, folded) in ran.folded.iter().enumerate() {
            let share = folded.sharing as f64 / folded.ids.max(1) as f64;
            grid.rows.push(vec![
                Cell::Text(arm.clone()),
                Cell::Count(slot as u64),
                Cell::Count(folded.ids),
                Cell::Count(folded.rows),
                Cell::Share(folded.lost()),
                Cell::Share(share),
                Cell::Count(ran.rows),
            ]);
        }
    }
    grid
}

fn quality(setup: &Setup, arms: &[String], observations: &[Observation]) -> Grid {
    let passes = 1..=setup.epochs;
    let heads = passes.clone().flat_map(|pass| [format!("AUC, pass {pass}"), format!("collisionless is better by, pass {pass}")]);
    let mut grid = Grid::new(
        "AUC of samples held out: mean and standard deviation; paired differences with 95 % confidence intervals",
        ["rows by".to_owned()].into_iter().chain(heads),
    );
    for arm in arms {
        let mut row = vec![Cell::Text(arm.clone())];
        for pass in passes.clone() {
            let of = |arm: &str| values(observations, arm, "auc", pass as f64);
            row.push(Cell::Mean(Spread::of(&of(arm))));
            row.push(match arm == OWN {
                true => Cell::Text("-".into()),
                false => Cell::Difference(Spread::of_pairs(&of(OWN), &of(arm))),
            });
        }
        grid.rows.push(row);
    }
    grid
}

fn curves(setup: &Setup, arms: &[String], observations: &[Observation]) -> Vec<Curve> {
    let curve = |arm: &String| {
        let point = |pass: usize| Point::new(pass as f64, Spread::of(&values(observations, arm, "auc", pass as f64)));
        Curve { name: arm.clone(), points: (1..=setup.epochs).map(point).collect() }
    };
    arms.iter().map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StoreOptions;

    fn setup() -> Setup {
        let clicks = Clicks { samples: 6_000, users: 200, items: 80, zipf: 0.3, drift: 0.0, new_ids: 0.0, ..Clicks::default() };
        let model =
            DeepFmOptions { factors: 4, hidden: vec![8], batch_size: 64, learning_rate: Some(0.1), ..DeepFmOptions::default() };
        let store = StoreOptions::default().memory_budget(32 << 20);
        Setup { clicks, seeds: 3, jobs: 2, epochs: 1, model, store, ..Setup::default() }
    }

    #[test]
    fn shared_rows_cost_quality_and_figures_do_not_depend_on_the_tier() {
        let found = collisions(&setup(), &|_, _| ()).unwrap();
        let auc = |arm: &str| found.values(arm, "auc", 1.0);
        assert_eq!(found.observations.len(), 8 * 3 * 2);
        let gap = Spread::of_pairs(&auc(OWN), &auc("MD5, 75 % lost"));
        assert!(gap.mean > 0.02 && gap.is_clear(), "{gap:?}");
        assert!(Spread::of(&auc(OWN)).mean > 0.62, "{:?}", auc(OWN));
        let tiers = Setup { store: setup().store.hot_rows(100), jobs: 3, ..setup() };
        assert_eq!(collisions(&tiers, &|_, _| ()).unwrap().observations, found.observations);
    }
}
