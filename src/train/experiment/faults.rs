//! What it costs to lose one of several parameter servers and to restore it from a snapshot that is some intervals old: Monolith asserts
//! "nearly no loss of model quality" (3.2.2), for snapshots of a day, without a table.
//!
//! Rows are spread over servers by their keys, each a store that commits after each interval. After some, one server is lost: it is restored to
//! an older commit of its own, the others to their last one, and training goes on. Each sample is predicted before it is learned.
#![forbid(unsafe_code)]

use std::path::Path;

use super::learner::{Learns, Rows, fresh, learn, read, slice, to_bytes};
use super::outcome::{Cell, Curve, Figure, Grid, Observation, Outcome, Point, values};
use super::setup::{Input, Setup};
use super::statistics::Spread;
use crate::train::DeepFmOptions;
use crate::train::data::synthetic::Clicks;
use crate::train::data::{Samples, Shape};
use crate::train::deepfm::DeepFm;
use crate::train::metrics::Metrics;
use crate::types::mix;
use crate::{At, CommitId, Error, Key, Restore, Result, Store, Table, UnixSeconds};

/// Parameter servers, of which one is lost.
const SERVERS: usize = 10;
/// Intervals before that.
const BEFORE: usize = 40;
/// Intervals after it.
const AFTER: usize = 10;
/// Ages of the snapshot in intervals; the last one is that of an empty table.
const AGES: [usize; 7] = [0, 1, 2, 5, 10, 20, BEFORE];
/// Which server has a key, independent of where rows lie within a store.
const SERVER_DOMAIN: u64 = 0x7365_7276_6572_7331;
const WHOLE: &str = "nothing lost";

/// What it is run with: a stream whose items turn and whose ids come and go.
pub fn faults_setup(real: bool) -> Setup {
    let clicks = Clicks { samples: 500_000, users: 20_000, items: 2_000, drift: 4.0, new_ids: 0.02, ..Clicks::default() };
    let batch_size = if real { 32 } else { 128 };
    let model =
        DeepFmOptions { factors: 8, hidden: vec![32], batch_size, dense_learning_rate: 0.001, ..DeepFmOptions::default() };
    Setup { clicks, model, ..Setup::default() }
}

fn server_of(key: Key) -> usize {
    (mix(key ^ SERVER_DOMAIN) % SERVERS as u64) as usize
}

/// Rows that are spread over stores.
struct Servers {
    stores: Vec<Store>,
    tables: Vec<Table>,
}

impl Servers {
    fn open(setup: &Setup, seed: u64, dir: &Path, shape: Shape) -> Result<Servers> {
        let mut servers = Servers { stores: Vec::new(), tables: Vec::new() };
        for server in 0..SERVERS {
            let store = setup.open(&dir.join(server.to_string()), seed)?;
            servers.tables.push(store.create_table(setup.model(seed).schema(shape))?);
            servers.stores.push(store);
        }
        Ok(servers)
    }

    /// Places of the keys that a server has.
    fn places(keys: &[Key], server: usize) -> Vec<usize> {
        (0..keys.len()).filter(|place| server_of(keys[*place]) == server).collect()
    }

    fn commit(&self, state: &[u8]) -> Result<Vec<CommitId>> {
        self.stores.iter().map(|store| store.commit(state)).collect()
    }

    fn close(self) -> Result<()> {
        self.stores.into_iter().try_for_each(|store| store.close().map(|_| ()))
    }
}

impl Rows for Servers {
    fn lookup(&self, keys: &[Key], rows: &mut [f32]) -> Result<()> {
        let row = rows.len() / keys.len().max(1);
        for (server, table) in self.tables.iter().enumerate() {
            let places = Servers::places(keys, server);
            let own: Vec<Key> = places.iter().map(|place| keys[*place]).collect();
            let mut found = vec![0.0; own.len() * row];
            table.lookup(&own, &mut found)?;
            for (place, found) in places.iter().zip(found.chunks_exact(row.max(1))) {
                rows[place * row..(place + 1) * row].copy_from_slice(found);
            }
        }
        Ok(())
    }
}

impl Learns for Servers {
    fn update(&self, keys: &[Key], gradients: &[f32], time: UnixSeconds) -> Result<()> {
        let row = gradients.len() / keys.len().max(1);
        for (server, table) in self.tables.iter().enumerate() {
            let places = Servers::places(keys, server);
            let own: Vec<Key> = places.iter().map(|place| keys[*place]).collect();
            let gradients: Vec<f32> =
                places.iter().flat_map(|place| &gradients[place * row..(place + 1) * row]).copied().collect();
            Learns::update(table, &own, &gradients, time)?;
        }
        Ok(())
    }
}

/// AUC of the intervals after the loss.
struct Ran {
    arm: String,
    /// Of all samples, and of those with a key on the lost server.
    auc: Vec<[f64; 2]>,
    /// Rows that the lost server had and the snapshot has not.
    missing: u64,
}

/// Runs the experiment; `done` is told how many seeds are done, and of how many.
///
/// # Errors
/// Options that cannot be; data that cannot be read, or too little of it; the store's.
pub fn faults(setup: &Setup, done: &(dyn Fn(u64, u64) + Sync)) -> Result<Outcome> {
    let input = Input::of(setup, 10 * (BEFORE + AFTER) as u64)?;
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
    fn run(&self) -> Result<Vec<Ran>> {
        let (all, shape, options) = (self.input.samples(self.seed)?, self.input.shape(), self.setup.model(self.seed));
        let make = |dir: &Path| std::fs::create_dir(dir).map_err(|error| Error::io("create", dir, error));
        let lost = (self.seed % SERVERS as u64) as usize;
        let base = self.dir.join("base");
        make(&base)?;
        let servers = Servers::open(self.setup, self.seed, &base, shape)?;
        let mut model = fresh(&options, shape)?;
        let mut commits = vec![servers.commit(b"")?];
        for interval in 0..BEFORE {
            self.interval(&mut model, &servers, &all, interval, lost)?;
            commits.push(servers.commit(&to_bytes(&model))?);
        }
        let (dense, had) = (to_bytes(&model), servers.tables[lost].len());
        servers.close()?;
        let mut ran = Vec::new();
        for age in AGES {
            let dir = self.dir.join(age.to_string());
            make(&dir)?;
            for (server, own) in commits[BEFORE - age].iter().enumerate() {
                let at = if server == lost { At::Commit(*own) } else { At::Latest };
                let name = server.to_string();
                Restore::of(base.join(&name)).at(at).options(self.setup.options(self.seed)).to(dir.join(&name))?;
            }
            ran.push(self.go_on(format!("{age} intervals old"), &dir, &dense, &all, (lost, had))?);
        }
        ran.push(self.go_on(WHOLE.into(), &base, &dense, &all, (lost, had))?);
        Ok(ran)
    }

    fn go_on(&self, arm: String, dir: &Path, dense: &[u8], all: &Samples, (lost, had): (usize, u64)) -> Result<Ran> {
        let (shape, options) = (self.input.shape(), self.setup.model(self.seed));
        let servers = Servers::open(self.setup, self.seed, dir, shape)?;
        let mut model = fresh(&options, shape)?;
        read(&mut model, dense)?;
        let missing = had.saturating_sub(servers.tables[lost].len());
        let after = BEFORE..BEFORE + AFTER;
        let auc = after.map(|interval| self.interval(&mut model, &servers, all, interval, lost)).collect::<Result<_>>()?;
        servers.close()?;
        Ok(Ran { arm, auc, missing })
    }

    /// Predicts and learns an interval; the AUC of all its samples, and of those with a key on the server `lost`.
    fn interval(&self, model: &mut DeepFm, servers: &Servers, all: &Samples, interval: usize, lost: usize) -> Result<[f64; 2]> {
        let (shape, batch) = (self.input.shape(), self.setup.model.batch_size);
        let bound = |interval: usize| all.len() * interval / (BEFORE + AFTER);
        let (mut metrics, mut touching, to) = (Metrics::default(), Metrics::default(), bound(interval + 1));
        for from in (bound(interval)..to).step_by(batch) {
            let samples = slice(all, shape, from, batch.min(to - from));
            let logits = learn(model, servers, &samples)?;
            for ((logit, label), keys) in logits.iter().zip(&samples.labels).zip(samples.keys.chunks_exact(shape.keys)) {
                metrics.add(*logit, *label > 0.5);
                if keys.iter().any(|key| server_of(*key) == lost) {
                    touching.add(*logit, *label > 0.5);
                }
            }
        }
        Ok([metrics, touching].map(|metrics| metrics.auc().unwrap_or(0.5)))
    }
}

fn outcome(setup: &Setup, input: &Input, runs: &[Vec<Ran>]) -> Outcome {
    let mut observations = Vec::new();
    for (ran, seed) in runs.iter().zip(1..) {
        for Ran { arm, auc, missing } in ran {
            let mut note = |measure: &'static str, at, value| {
                observations.push(Observation { arm: arm.clone(), measure: measure.into(), at, seed, value });
            };
            for ([all, touching], interval) in auc.iter().zip(1u32..) {
                note("auc", f64::from(interval), *all);
                note("auc of samples with a key on that server", f64::from(interval), *touching);
            }
            let mean = auc.iter().map(|[all, _]| all).sum::<f64>() / auc.len() as f64;
            note("mean auc", 0.0, mean);
            note("rows missing", 0.0, *missing as f64);
        }
    }
    let figure = Figure {
        title: format!("One of {SERVERS} servers restored from an old snapshot, {}", input.name()),
        x: "intervals after the loss".into(),
        y: "AUC lost".into(),
        curves: curves(&observations),
    };
    let samples = input.len() as usize / (BEFORE + AFTER);
    let how = format!("1 of {SERVERS} servers lost after {BEFORE} intervals of {samples} samples; ");
    Outcome::new("faults", (setup, input), &how, vec![dips(&observations)], figure, observations)
}

fn arms() -> Vec<String> {
    AGES.iter().map(|age| format!("{age} intervals old")).collect()
}

/// By how much a measure is worse than with nothing lost.
fn dip(observations: &[Observation], arm: &str, measure: &str, at: f64) -> Spread {
    Spread::of_pairs(&values(observations, WHOLE, measure, at), &values(observations, arm, measure, at))
}

fn dips(observations: &[Observation]) -> Grid {
    let touching = "auc of samples with a key on that server";
    let heads = ["snapshot", "rows missing", "AUC lost in interval 1", "of samples with a key on that server", "in interval 3"];
    let last = format!("mean of {AFTER} intervals");
    let mut grid = Grid::new(
        "AUC lost against a job that lost nothing: paired, mean and 95 % confidence interval",
        heads.into_iter().map(str::to_owned).chain([last]),
    );
    for arm in arms() {
        let missing = Spread::of(&values(observations, &arm, "rows missing", 0.0)).mean;
        grid.rows.push(vec![
            Cell::Text(arm.clone()),
            Cell::Count(missing.round() as u64),
            Cell::Difference(dip(observations, &arm, "auc", 1.0)),
            Cell::Difference(dip(observations, &arm, touching, 1.0)),
            Cell::Difference(dip(observations, &arm, "auc", 3.0)),
            Cell::Difference(dip(observations, &arm, "mean auc", 0.0)),
        ]);
    }
    grid
}

fn curves(observations: &[Observation]) -> Vec<Curve> {
    let curve = |arm: String| {
        let point = |interval: usize| Point::new(interval as f64, dip(observations, &arm, "auc", interval as f64));
        Curve { points: (1..=AFTER).map(point).collect(), name: arm.clone() }
    };
    arms().into_iter().map(curve).collect()
}

#[cfg(test)]
mod tests {
    use super::super::outcome::figures;
    use super::*;
    use crate::StoreOptions;

    #[test]
    fn the_last_commit_loses_nothing_and_an_empty_table_loses_most() {
        let clicks = Clicks { samples: 5_000, users: 100, items: 40, new_ids: 0.0, drift: 0.0, zipf: 0.3, ..Clicks::default() };
        let store = StoreOptions::default().memory_budget(32 << 20);
        let model = DeepFmOptions { factors: 4, hidden: vec![8], batch_size: 32, ..DeepFmOptions::default() };
        let setup = Setup { clicks, seeds: 2, jobs: 2, model, store, ..Setup::default() };
        let found = faults(&setup, &|_, _| ()).unwrap();
        let tiers = Setup { store: setup.store.clone().hot_rows(10), ..setup.clone() };
        assert_eq!(figures(&faults(&tiers, &|_, _| ()).unwrap()), figures(&found));
        for interval in 1..=AFTER {
            let of = |arm: &str| found.values(arm, "auc", interval as f64);
            assert_eq!(of("0 intervals old"), of(WHOLE), "bit for bit");
        }
        let touching = |arm: &str| dip(&found.observations, arm, "auc of samples with a key on that server", 1.0).mean;
        let (one, all) = (touching("1 intervals old"), touching("40 intervals old"));
        assert!(all > 0.02 && all > one, "{one} {all}");
        let missing = |arm: &str| found.values(arm, "rows missing", 0.0);
        assert!(missing("40 intervals old").iter().all(|rows| *rows > 0.0) && missing("0 intervals old") == [0.0; 2]);
    }
}
