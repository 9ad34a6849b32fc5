//! Online training, Monolith's Algorithm 1: train on what the joiner gives, sync a serving copy at an interval, and predict each interval's
//! examples with that copy before they are learned.
//!
//! A commit stands at each sync and holds rows, dense weights, what waits in the joiner and the place in the input. So a job that is killed goes
//! on from its last sync and ends with the same bits.
#![forbid(unsafe_code)]

mod events;

use std::path::PathBuf;

pub use events::{Events, LoggedClicks};
use serde::Serialize;

use super::bytes::{Reader, Writer, damaged};
use super::data::Samples;
use super::data::synthetic::Counter;
use super::deepfm::{Architecture, DeepFm};
use super::metrics::Metrics;
use super::options::{DeepFmOptions, FEATURE_TABLE};
use super::report::Rows;
use super::state::State;
use crate::join::{JoinOptions, Joiner, training_offset};
use crate::{Error, Replica, Result, Store, StoreOptions, Table, Update};

/// Begins a commit's state.
const MAGIC: [u8; 8] = *b"EMBRKONL";
/// Events handed to the joiner at once.
const EVENTS: usize = 256;

/// How a job trains online.
#[derive(Clone, Debug)]
pub struct OnlineOptions {
    /// The model; `commit_every` and `read_ahead` mean nothing here.
    pub model: DeepFmOptions,
    /// How events become examples.
    pub join: JoinOptions,
    /// Examples between two syncs.
    pub sync_every: u64,
    /// Where the serving copy lives, and in which memory.
    pub replica: PathBuf,
    /// The copy's.
    pub replica_options: StoreOptions,
    /// Stop at the first sync from so many examples on.
    pub max_examples: Option<u64>,
}

/// What a job did, those before a resume included.
#[derive(Clone, Debug, Serialize)]
pub struct OnlineReport {
    /// Examples predicted by the serving copy, then learned.
    pub examples: u64,
    /// Positions of the input.
    pub events: u64,
    /// AUC of the serving copy over all examples.
    pub auc: Option<f64>,
    /// Its mean log loss, of sampled examples with the offset.
    pub logloss: Option<f64>,
    /// AUC of the serving copy in each interval.
    pub auc_by_interval: Vec<f64>,
    /// Features that met their action.
    pub joined: u64,
    /// Features that did not.
    pub timed_out: u64,
    /// Actions that came when time was out.
    pub late: u64,
    /// Bytes that the copy read since this run began.
    pub synced_bytes: u64,
    /// Commits that it applied.
    pub synced_commits: u64,
    /// Rows of the store.
    pub rows: Rows,
    /// The last commit.
    pub commit: Option<String>,
    /// Where this run went on from.
    pub resumed_from: Option<String>,
}

struct Online<'a> {
    store: &'a Store,
    table: Table,
    options: &'a OnlineOptions,
    joiner: Joiner,
    /// `position` is that of the events; the metrics are the serving copy's.
    state: State,
    examples: u64,
    interval: Metrics,
    by_interval: Vec<f64>,
    replica: Replica,
    serving: DeepFm,
    synced: (u64, u64),
}

/// Trains a DeepFM on `events` until they end. `observer` is called after each sync with the examples so far and the interval's AUC.
///
/// # Errors
/// Options that cannot be, or another job's store; the store's, the input's.
pub fn train_online(
    store: &Store,
    events: &mut dyn Events,
    options: &OnlineOptions,
    observer: &mut dyn FnMut(u64, Option<f64>),
) -> Result<OnlineReport> {
    options.model.validate()?;
    if options.sync_every == 0 {
        return Err(Error::InvalidOption { option: "sync-every", what: "must be at least 1".into() });
    }
    let (shape, (input, fingerprint)) = (events.shape(), events.description());
    if options.join.shape() != (shape.keys, shape.dense) {
        return Err(Error::InvalidOption {
            option: "join",
            what: format!("the events have {} keys and {} numbers", shape.keys, shape.dense),
        });
    }
    let mut random = Counter::new(options.model.seed);
    let fresh = |random: &mut Counter| {
        let architecture = Architecture { shape, factors: options.model.factors, hidden: options.model.hidden.clone() };
        DeepFm::new(architecture, options.model.dense_learning_rate, random)
    };
    let (model, serving) = (fresh(&mut random)?, fresh(&mut Counter::new(0))?);
    let JoinOptions { wait, remember, negatives, seed, table, .. } = &options.join;
    let lines = format!(
        "{}\nsync every {}\nwait {wait}\nremember {remember}\nnegatives {negatives:?}\njoin seed {seed}\njoin table {table}",
        options.model.lines(shape),
        options.sync_every
    );
    let metrics = Metrics::default();
    let mut state = State { options: lines, input, fingerprint, position: 0, batches: 0, random, metrics, model };
    let commit = store.last_commit().filter(|commit| !commit.state.is_empty());
    let resumed = commit.as_ref().map(|commit| resume(&mut state, &commit.state)).transpose()?;
    let Resumed { examples, by_interval, joiner } = resumed.unwrap_or_default();
    events.seek(state.position)?;
    let table = store.create_table(options.model.schema(shape))?;
    let joiner = Joiner::open(store, options.join.clone(), joiner.as_deref())?;
    if commit.is_none() {
        // So that there is something to be served.
        store.commit(b"")?;
    }
    let replica = Replica::open(store.dir(), &options.replica, options.replica_options.clone())?;
    let interval = Metrics::default();
    let synced = (0, 0);
    let mut online = Online { store, table, options, joiner, state, examples, interval, by_interval, replica, serving, synced };
    online.serve()?;
    online.run(events, observer)?;
    Ok(online.report(commit.map(|commit| commit.id.to_string())))
}

/// What a commit holds beside [`State`].
#[derive(Default)]
struct Resumed {
    examples: u64,
    by_interval: Vec<f64>,
    /// The joiner's own state.
    joiner: Option<Vec<u8>>,
}

/// Layout, little-endian: magic, examples u64, the intervals' AUC (how many as a varint, f64 each), bytes of the trainer's state u64, that, the
/// joiner's.
fn resume(state: &mut State, bytes: &[u8]) -> Result<Resumed> {
    let mut reader = Reader::new(bytes);
    if reader.take()? != MAGIC {
        return Err(damaged("it was not written by online training"));
    }
    let (examples, mut by_interval) = (reader.u64()?, Vec::new());
    for _ in 0..reader.varint()? {
        by_interval.push(reader.f64()?);
    }
    let length = usize::try_from(reader.u64()?).unwrap_or(usize::MAX);
    let (trainer, joiner) = reader.rest().split_at_checked(length).ok_or_else(|| damaged("it ends too early"))?;
    state.resume(trainer)?;
    Ok(Resumed { examples, by_interval, joiner: Some(joiner.to_vec()) })
}

impl Online<'_> {
    fn run(&mut self, events: &mut dyn Events, observer: &mut dyn FnMut(u64, Option<f64>)) -> Result<()> {
        let (mut since, mut batch) = (0, Vec::new());
        loop {
            let mut ended = false;
            while self.joiner.ready() < self.options.model.batch_size && !ended {
                let grew = events.next(&mut batch, EVENTS)?;
                self.joiner.push(&batch)?;
                batch.clear();
                self.state.position += grew;
                ended = grew == 0;
            }
            let samples = self.samples();
            if !samples.is_empty() {
                since += samples.len() as u64;
                self.learn(&samples)?;
            }
            if since >= self.options.sync_every || ended && since > 0 {
                since = 0;
                observer(self.examples, self.interval.auc());
                self.sync()?;
                if self.options.max_examples.is_some_and(|most| self.examples >= most) {
                    return Ok(());
                }
            }
            if ended && self.joiner.ready() == 0 {
                return Ok(());
            }
        }
    }

    fn samples(&mut self) -> Samples {
        let mut samples = Samples::default();
        while samples.len() < self.options.model.batch_size
            && let Some(example) = self.joiner.next()
        {
            samples.labels.push(f32::from(u8::from(example.label > 0.5)));
            samples.times.push(example.time);
            samples.keys.extend(example.keys);
            samples.dense.extend(example.dense);
        }
        samples
    }

    /// The serving copy predicts a batch, then it is learned.
    fn learn(&mut self, samples: &Samples) -> Result<()> {
        let offset = training_offset(self.options.join.rate());
        let mut rows = vec![0.0; samples.keys.len() * self.state.model.row()];
        self.replica.lookup(FEATURE_TABLE, &samples.keys, &mut rows)?;
        for (logit, label) in self.serving.predict(&rows, samples)?.iter().zip(&samples.labels) {
            self.state.metrics.add(logit + offset, *label > 0.5);
            self.interval.add(logit + offset, *label > 0.5);
        }
        self.table.lookup(&samples.keys, &mut rows)?;
        let mut gradients = Vec::new();
        self.state.model.train_with(&rows, samples, offset, &mut gradients)?;
        let time = samples.times.iter().copied().max().unwrap_or(0);
        self.table.apply_gradients(&samples.keys, &gradients, &Update::at(u64::from(time)))?;
        self.examples += samples.len() as u64;
        self.state.batches += 1;
        Ok(())
    }

    /// Commits, and brings the serving copy there.
    fn sync(&mut self) -> Result<()> {
        self.by_interval.push(self.interval.auc().unwrap_or(f64::NAN));
        self.interval = Metrics::default();
        let mut out = Writer::default();
        out.bytes.extend_from_slice(&MAGIC);
        out.u64(self.examples);
        out.varint(self.by_interval.len() as u64);
        self.by_interval.iter().for_each(|auc| out.f64(*auc));
        let trainer = self.state.to_bytes();
        out.u64(trainer.len() as u64);
        out.bytes.extend_from_slice(&trainer);
        out.bytes.extend_from_slice(&self.joiner.state());
        self.store.commit(&out.bytes)?;
        let every = self.options.model.checkpoint_every;
        if every > 0 && (self.by_interval.len() as u64).is_multiple_of(every) {
            self.store.checkpoint()?;
        }
        self.serve()
    }

    /// The serving copy gets the rows of the last commit and the dense weights that belong to them.
    fn serve(&mut self) -> Result<()> {
        let report = self.replica.catch_up()?;
        self.synced = (self.synced.0 + report.commits, self.synced.1 + report.bytes);
        let mut weights = Writer::default();
        self.state.model.write(&mut weights);
        self.serving.read(&mut Reader::new(&weights.bytes))
    }

    fn report(self, resumed_from: Option<String>) -> OnlineReport {
        let (metrics, counts) = (&self.state.metrics, self.joiner.counts());
        OnlineReport {
            examples: self.examples,
            events: self.state.position,
            auc: metrics.auc(),
            logloss: metrics.logloss(),
            auc_by_interval: self.by_interval,
            joined: counts.joined,
            timed_out: counts.timed_out,
            late: counts.late,
            synced_bytes: self.synced.1,
            synced_commits: self.synced.0,
            rows: Rows::of(self.store),
            commit: self.store.last_commit().map(|commit| commit.id.to_string()),
            resumed_from,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::synthetic::Clicks;

    fn events(samples: u64) -> LoggedClicks {
        let clicks = Clicks { samples, users: 300, items: 100, rate: 100, ..Clicks::default() };
        LoggedClicks::new(clicks, 3).unwrap()
    }

    fn options(dir: &std::path::Path) -> OnlineOptions {
        let model = DeepFmOptions { factors: 4, hidden: vec![8], batch_size: 32, checkpoint_every: 3, ..Default::default() };
        let join = JoinOptions::new(2, 0).wait(6).remember(20).negatives(0.5);
        let replica_options = StoreOptions::default().memory_budget(32 << 20);
        let (replica, max_examples) = (dir.join("replica"), None);
        OnlineOptions { model, join, sync_every: 500, replica, replica_options, max_examples }
    }

    fn open(dir: &std::path::Path) -> Store {
        let options = StoreOptions::default().memory_budget(32 << 20).hot_rows(100).max_clock_step(u32::MAX);
        Store::open(dir.join("store"), options).unwrap()
    }

    #[test]
    fn a_job_that_goes_on_ends_with_the_bits_and_the_serving_copy_of_one_never_interrupted() {
        let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(whole.path());
        let report = train_online(&store, &mut events(12_000), &options(whole.path()), &mut |_, _| ()).unwrap();
        assert!(report.joined > 1000 && report.timed_out > 5000 && report.late == 0, "{report:?}");
        assert!(report.auc.unwrap() > 0.55 && report.auc_by_interval.len() > 10, "{report:?}");
        for most in [1200, 4000] {
            let store = open(parts.path());
            let stop = OnlineOptions { max_examples: Some(most), ..options(parts.path()) };
            train_online(&store, &mut events(12_000), &stop, &mut |_, _| ()).unwrap();
            // What comes after the last commit leaves no trace.
            store.table(FEATURE_TABLE).unwrap().assign(&[1], &[9.0; 5], &Update::at(2_000_000_000)).unwrap();
            store.table("join").unwrap().remove(&[most * 2, 1]).unwrap();
        }
        let resumed_store = open(parts.path());
        let resumed = train_online(&resumed_store, &mut events(12_000), &options(parts.path()), &mut |_, _| ()).unwrap();
        assert!(resumed.resumed_from.is_some());
        assert_eq!(resumed_store.digest().unwrap(), store.digest().unwrap());
        assert_eq!(resumed_store.last_commit().unwrap().state, store.last_commit().unwrap().state);
        assert_eq!((resumed.auc, resumed.auc_by_interval), (report.auc, report.auc_by_interval));
        let other = OnlineOptions { sync_every: 501, ..options(parts.path()) };
        assert!(matches!(train_online(&resumed_store, &mut events(12_000), &other, &mut |_, _| ()), Err(Error::OtherJob(_))));
        let bytes = store.last_commit().unwrap().state;
        for cut in [1, 8, 20, 60, bytes.len() / 2, bytes.len() - 1] {
            store.commit(&bytes[..cut]).unwrap();
            let torn = train_online(&store, &mut events(12_000), &options(whole.path()), &mut |_, _| ());
            assert!(matches!(torn, Err(Error::TrainerState(_))), "{cut}");
        }
    }
}
