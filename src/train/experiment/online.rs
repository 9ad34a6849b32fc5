//! Online against batch training, by the interval of syncs: Monolith's Algorithm 1, its table 2 and figures 9 and 10.
//!
//! The first five sevenths of a stream are learned in one pass. The rest is cut into intervals: a serving copy is synced, predicts an
//! interval's samples, then the interval is learned. Batch training is the same copy, synced once.
//!
//! Online training has seen more rows than batch training has, and newer ones. To tell the two apart, a control begins with three sevenths:
//! two sevenths, drawn from the first five, are kept back. From there on one job learns each interval's own rows (fresh), another as many
//! of those that were kept back (old, never learned before), and a third nothing.
#![forbid(unsafe_code)]

use std::path::Path;

use super::learner::{fresh, gather, learn, read, score, shuffle, slice, to_bytes};
use super::outcome::{Cell, Curve, Figure, Grid, Observation, Outcome, Point, values};
use super::setup::{Input, Setup};
use super::statistics::Spread;
use crate::train::data::Samples;
use crate::train::data::synthetic::{Clicks, Counter};
use crate::train::metrics::Metrics;
use crate::train::{DeepFmOptions, FEATURE_TABLE};
use crate::types::mix;
use crate::{Replica, Restore, Result};

/// Syncs in the part that is learned online.
const SYNCS: [usize; 3] = [10, 50, 100];
/// Parts of that part, for the figure.
const PARTS: usize = 10;
const BATCH: &str = "batch";
const ONLINE: &str = "online";
const STILL: &str = "control: nothing more";
const OLD: &str = "control: more old rows";
const FRESH: &str = "control: fresh rows";

/// What it is run with: small batches for short streams; a stream whose items turn and whose ids come and go.
pub fn online_setup(real: bool) -> Setup {
    let clicks = Clicks { samples: 350_000, users: 20_000, items: 2_000, drift: 6.0, new_ids: 0.02, ..Clicks::default() };
    let batch_size = if real { 32 } else { 64 };
    let model =
        DeepFmOptions { factors: 8, hidden: vec![32], batch_size, dense_learning_rate: 0.001, ..DeepFmOptions::default() };
    Setup { clicks, model, ..Setup::default() }
}

/// How an arm's copy did.
struct Served {
    arm: &'static str,
    syncs: usize,
    all: f64,
    parts: Vec<f64>,
    /// Bytes of the log that a sync reads.
    bytes: f64,
}

/// Runs the experiment; `done` is told how many seeds are done, and of how many.
///
/// # Errors
/// Options that cannot be; data that cannot be read, or too little of it; the store's.
pub fn online(setup: &Setup, done: &(dyn Fn(u64, u64) + Sync)) -> Result<Outcome> {
    let input = Input::of(setup, 700)?;
    let runs = setup.each_seed(done, |seed, dir| Job { setup, input: &input, seed, dir }.run())?;
    Ok(outcome(setup, &input, &runs))
}

struct Job<'a> {
    setup: &'a Setup,
    input: &'a Input,
    seed: u64,
    dir: &'a Path,
}

impl Job<'_> {
    fn run(&self) -> Result<Vec<Served>> {
        let (all, shape) = (self.input.samples(self.seed)?, self.input.shape());
        let split = all.len() * 5 / 7;
        let stream = slice(&all, shape, split, usize::MAX);
        self.begin("whole", &slice(&all, shape, 0, split))?;
        let mut places: Vec<u32> = (0..u32::try_from(split).unwrap_or(u32::MAX)).collect();
        shuffle(&mut places, &mut Counter::new(mix(self.seed)));
        let (kept_back, learned) = places.split_at_mut(stream.len());
        kept_back.sort_unstable();
        learned.sort_unstable();
        let old = gather(&all, shape, kept_back);
        self.begin("part", &gather(&all, shape, learned))?;
        let mut served = Vec::new();
        for syncs in SYNCS {
            served.push(self.serve(BATCH, "whole", syncs, &stream, None)?);
            served.push(self.serve(ONLINE, "whole", syncs, &stream, Some(&stream))?);
            served.push(self.serve(STILL, "part", syncs, &stream, None)?);
            served.push(self.serve(OLD, "part", syncs, &stream, Some(&old))?);
            served.push(self.serve(FRESH, "part", syncs, &stream, Some(&stream))?);
        }
        Ok(served)
    }

    /// A store that has learned these samples, once and in their order.
    fn begin(&self, name: &str, samples: &Samples) -> Result<()> {
        let (options, shape) = (self.setup.model(self.seed), self.input.shape());
        let store = self.setup.open(&self.dir.join(name), self.seed)?;
        let table = store.create_table(options.schema(shape))?;
        let mut model = fresh(&options, shape)?;
        for from in (0..samples.len()).step_by(options.batch_size) {
            learn(&mut model, &table, &slice(samples, shape, from, options.batch_size))?;
        }
        store.commit(&to_bytes(&model))?;
        store.close()?;
        Ok(())
    }

    /// From a copy of a store on: a serving copy predicts each interval of `stream`, then as much of `fed` is learned.
    fn serve(&self, arm: &'static str, from: &str, syncs: usize, stream: &Samples, fed: Option<&Samples>) -> Result<Served> {
        let (options, shape) = (self.setup.model(self.seed), self.input.shape());
        let dir = self.dir.join(format!("{arm}-{syncs}").replace([':', ' '], "-"));
        Restore::of(self.dir.join(from)).options(self.setup.options(self.seed)).to(&dir)?;
        let store = self.setup.open(&dir, self.seed)?;
        let table = store.table(FEATURE_TABLE)?;
        let (mut model, mut serving) = (fresh(&options, shape)?, fresh(&options, shape)?);
        if let Some(commit) = store.last_commit() {
            read(&mut model, &commit.state)?;
        }
        let replica = Replica::open(&dir, dir.with_extension("replica"), self.setup.options(self.seed))?;
        let (mut all, mut parts, mut bytes) = (Metrics::default(), vec![Metrics::default(); PARTS], 0);
        let bound = |interval: usize| stream.len() * interval / syncs;
        for interval in 0..syncs {
            if interval > 0 && fed.is_some() {
                store.commit(&to_bytes(&model))?;
                bytes += replica.catch_up()?.bytes;
            }
            read(&mut serving, &to_bytes(&model))?;
            let (at, to) = (bound(interval), bound(interval + 1));
            let part = &mut parts[interval * PARTS / syncs];
            score(&serving, &replica, &slice(stream, shape, at, to - at), shape, &mut [&mut all, part])?;
            if let Some(fed) = fed {
                for from in (at..to).step_by(options.batch_size) {
                    learn(&mut model, &table, &slice(fed, shape, from, options.batch_size.min(to - from)))?;
                }
            }
        }
        store.close()?;
        let auc = |metrics: &Metrics| metrics.auc().unwrap_or(0.5);
        let bytes = bytes as f64 / (syncs - 1) as f64;
        Ok(Served { arm, syncs, all: auc(&all), parts: parts.iter().map(auc).collect(), bytes })
    }
}

fn outcome(setup: &Setup, input: &Input, runs: &[Vec<Served>]) -> Outcome {
    let mut observations = Vec::new();
    for (served, seed) in runs.iter().zip(1..) {
        for Served { arm, syncs, all, parts, bytes } in served {
            let mut note = |arm: String, measure: &'static str, at, value| {
                observations.push(Observation { arm, measure: measure.into(), at, seed, value });
            };
            note((*arm).to_owned(), "auc", *syncs as f64, *all);
            note((*arm).to_owned(), "bytes a sync", *syncs as f64, *bytes);
            // A copy that is synced once does not depend on the intervals.
            let name = if *arm == BATCH { BATCH.to_owned() } else { format!("{arm}, {syncs} syncs") };
            for (part, auc) in parts.iter().enumerate().filter(|_| *arm != BATCH || *syncs == SYNCS[0]) {
                note(name.clone(), "auc of a tenth", (part + 1) as f64, *auc);
            }
        }
    }
    let stream = input.len() as usize - input.len() as usize * 5 / 7;
    let tables = vec![algorithm(&observations, stream), control(&observations)];
    let figure = Figure {
        title: format!("Online against batch training, {}", input.name()),
        x: "tenths of the online part".into(),
        y: "AUC of the serving copy".into(),
        curves: curves(&observations),
    };
    let how = format!("the last {stream} samples are predicted; ");
    Outcome::new("online", (setup, input), &how, tables, figure, observations)
}

/// AUC of an arm with so many syncs, by seed.
fn aucs(observations: &[Observation], arm: &str, syncs: usize) -> Vec<f64> {
    values(observations, arm, "auc", syncs as f64)
}

fn algorithm(observations: &[Observation], stream: usize) -> Grid {
    let mut grid = Grid::new(
        "Algorithm 1: AUC of the serving copy over the online part",
        ["syncs", "samples between them", "batch", "online", "online is better by", "KiB a sync"],
    );
    for syncs in SYNCS {
        let of = |arm: &str| aucs(observations, arm, syncs);
        let bytes = Spread::of(&values(observations, ONLINE, "bytes a sync", syncs as f64)).mean;
        grid.rows.push(vec![
            Cell::Count(syncs as u64),
            Cell::Count((stream / syncs) as u64),
            Cell::Mean(Spread::of(&of(BATCH))),
            Cell::Mean(Spread::of(&of(ONLINE))),
            Cell::Difference(Spread::of_pairs(&of(ONLINE), &of(BATCH))),
            Cell::Count((bytes / 1024.0).round() as u64),
        ]);
    }
    grid
}

fn control(observations: &[Observation]) -> Grid {
    let mut grid = Grid::new(
        "The control: from three sevenths on, as many rows more, old or fresh",
        [
            "syncs",
            "nothing more",
            "more old rows",
            "fresh rows",
            "gain of more rows (old - nothing)",
            "gain of freshness (fresh - old)",
        ],
    );
    for syncs in SYNCS {
        let of = |arm: &str| aucs(observations, arm, syncs);
        let mut row = vec![Cell::Count(syncs as u64)];
        row.extend([STILL, OLD, FRESH].map(|arm| Cell::Mean(Spread::of(&of(arm)))));
        row.push(Cell::Difference(Spread::of_pairs(&of(OLD), &of(STILL))));
        row.push(Cell::Difference(Spread::of_pairs(&of(FRESH), &of(OLD))));
        grid.rows.push(row);
    }
    grid
}

fn curves(observations: &[Observation]) -> Vec<Curve> {
    let most = SYNCS[SYNCS.len() - 1];
    let online = SYNCS.map(|syncs| format!("{ONLINE}, {syncs} syncs"));
    let names = [BATCH.to_owned()].into_iter().chain(online).chain([format!("{OLD}, {most} syncs")]);
    let curve = |name: String| {
        let point =
            |part: usize| Point::new(part as f64, Spread::of(&values(observations, &name, "auc of a tenth", part as f64)));
        Curve { points: (1..=PARTS).map(point).collect(), name: name.clone() }
    };
    names.map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::super::outcome::figures;
    use super::*;
    use crate::{Error, StoreOptions};

    #[test]
    fn where_ids_come_and_go_fresh_rows_help_more_than_as_many_old_ones() {
        let clicks = Clicks { samples: 7_000, users: 150, items: 60, new_ids: 0.1, drift: 40.0, zipf: 0.5, ..Clicks::default() };
        let store = StoreOptions::default().memory_budget(32 << 20);
        let model = DeepFmOptions { factors: 4, hidden: vec![8], batch_size: 16, ..DeepFmOptions::default() };
        let setup = Setup { clicks, seeds: 2, jobs: 2, model, store, ..Setup::default() };
        let found = online(&setup, &|_, _| ()).unwrap();
        let tiers = Setup { store: setup.store.clone().hot_rows(90), ..setup.clone() };
        assert_eq!(figures(&online(&tiers, &|_, _| ()).unwrap()), figures(&found));
        let of = |arm: &str, syncs: usize| aucs(&found.observations, arm, syncs);
        // A copy that is synced once is the same whatever the intervals; more rows, and fresher ones, help.
        assert_eq!((of(BATCH, 10), of(STILL, 10)), (of(BATCH, 100), of(STILL, 100)));
        let fresher = Spread::of_pairs(&of(FRESH, 100), &of(OLD, 100));
        let gain = Spread::of_pairs(&of(ONLINE, 100), &of(BATCH, 100));
        assert!(fresher.mean > 0.02 && gain.mean > 0.02, "{fresher:?} {gain:?}");
        assert!(Spread::of(&of(ONLINE, 100)).mean > Spread::of(&of(ONLINE, 10)).mean, "{:?}", found.tables);
        assert!(values(&found.observations, ONLINE, "bytes a sync", 50.0).iter().all(|bytes| *bytes > 100.0));
        let few = Setup { clicks: Clicks { samples: 600, ..setup.clicks.clone() }, ..setup };
        assert!(matches!(online(&few, &|_, _| ()), Err(Error::InvalidOption { option: "data", .. })));
    }
}
