//! One pass over a stream: predict each batch, then learn it; commit rows and trainer together; go on after a crash.
#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::data::synthetic::Counter;
use super::data::{Description, Samples, Source};
use super::deepfm::{Architecture, DeepFm};
use super::metrics::Metrics;
use super::report::{Progress, Report, Rows};
use super::state::State;
use crate::{CommitId, Error, Initializer, Optimizer, Result, Store, Table, TableSchema, Update};

/// The name of the table that holds the features' rows: first-order weight and factors.
pub const FEATURE_TABLE: &str = "feature";

/// The least time between two progress calls that do not follow a commit.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How a DeepFM is trained. All but the last four decide what is learned, and must be equal when a job goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct DeepFmOptions {
    /// Factors of a feature; its row has one float more.
    pub factors: usize,
    /// Widths of the perceptron's hidden layers.
    pub hidden: Vec<usize>,
    /// Samples a batch: each is predicted before any of its batch is learned.
    pub batch_size: usize,
    /// Adagrad's rate for the rows in the store.
    pub learning_rate: f32,
    /// Adam's rate for the dense weights.
    pub dense_learning_rate: f32,
    /// New rows are uniform in plus and minus this.
    pub initial_range: f32,
    /// Seed of the dense weights.
    pub seed: u64,
    /// Batches between commits; 0 commits only at the end.
    pub commit_every: u64,
    /// Commits between checkpoints, which bound the log and the time to open; 0 makes none.
    pub checkpoint_every: u64,
    /// Batches read ahead of training, their rows prefetched.
    pub read_ahead: usize,
    /// Stop (and commit) when the whole stream's first so many samples are learned, at the end of a batch.
    pub max_samples: Option<u64>,
}

impl Default for DeepFmOptions {
    fn default() -> DeepFmOptions {
        DeepFmOptions {
            factors: 16,
            hidden: vec![64, 32],
            batch_size: 64,
            learning_rate: 0.1,
            dense_learning_rate: 0.001,
            initial_range: 0.05,
            seed: 1,
            commit_every: 1_000,
            checkpoint_every: 0,
            read_ahead: 8,
            max_samples: None,
        }
    }
}

impl DeepFmOptions {
    /// Refuses what no model can be trained with.
    pub fn validate(&self) -> Result<()> {
        let refuse = |option, what: &str| Err(Error::InvalidOption { option, what: what.to_string() });
        let rate = |rate: f32| rate.is_finite() && rate > 0.0;
        match self {
            o if o.factors == 0 || o.factors > 4_096 => refuse("factors", "must be 1 to 4096"),
            o if o.hidden.len() > 16 || o.hidden.iter().any(|width| *width == 0 || *width > 65_536) => {
                refuse("hidden", "at most 16 layers of 1 to 65536")
            }
            o if o.batch_size == 0 || o.batch_size > 1 << 20 => refuse("batch-size", "must be 1 to 1048576"),
            o if !rate(o.learning_rate) || !rate(o.dense_learning_rate) => refuse("learning-rate", "must be above 0"),
            o if !(0.0..=100.0).contains(&o.initial_range) => refuse("initial-range", "must be 0 to 100"),
            o if o.read_ahead == 0 || o.read_ahead > 65_536 => refuse("read-ahead", "must be 1 to 65536"),
            _ => Ok(()),
        }
    }

    /// The schema of the features' table.
    pub fn schema(&self) -> TableSchema {
        TableSchema::new(FEATURE_TABLE, 1 + self.factors)
            .optimizer(Optimizer::adagrad(self.learning_rate))
            .initializer(Initializer::uniform(self.initial_range))
    }

    /// Covers the options that decide what is learned, and the shape of the samples.
    fn hash(&self, data: &Description) -> [u8; 32] {
        let DeepFmOptions { factors, hidden, batch_size, learning_rate, dense_learning_rate, initial_range, seed, .. } = self;
        let rates = [learning_rate, dense_learning_rate, initial_range].map(|rate| rate.to_bits());
        let text = format!("deepfm 1 {:?} {factors} {hidden:?} {batch_size} {rates:?} {seed}", data.shape);
        *blake3::hash(text.as_bytes()).as_bytes()
    }
}

/// Trains a DeepFM in one pass over `source`, with its rows in `store`; goes on after the store's last commit.
///
/// Event times come from the data: open the store with a `max_clock_step` that its gaps allow (ratings may pause for weeks).
/// For one input and equal options the result has the same bits whether or not the job was interrupted. `observer` is called
/// after each commit and about five times a second.
pub fn train_deepfm(
    store: &Store,
    mut source: Box<dyn Source>,
    options: &DeepFmOptions,
    observer: &mut dyn FnMut(&Progress),
) -> Result<Report> {
    options.validate()?;
    let data = source.description().clone();
    let mut state = fresh_state(source.as_ref(), options)?;
    let resumed = store.last_commit().filter(|commit| !commit.state.is_empty());
    if let Some(commit) = &resumed {
        state.resume(&commit.state)?;
    }
    source.seek(state.position)?;
    let table = store.create_table(options.schema())?;
    let from = state.position;
    let mut run = Run {
        store,
        table: table.clone(),
        options,
        total: data.samples,
        state,
        from,
        begun: Instant::now(),
        shown: Instant::now(),
        commit: store.last_commit().map(|commit| commit.id),
        uncommitted: 0,
        commits: 0,
        rows: Vec::new(),
        gradients: Vec::new(),
    };
    let (sender, receiver) = sync_channel(options.read_ahead);
    std::thread::scope(|scope| {
        scope.spawn(move || read(source, &table, options, &sender));
        run.batches(receiver, observer)
    })?;
    let resumed = resumed.map(|commit| commit.id);
    Ok(run.report(data, resumed))
}

fn fresh_state(source: &dyn Source, options: &DeepFmOptions) -> Result<State> {
    let data = source.description();
    let mut random = Counter::new(options.seed);
    let architecture = Architecture { shape: data.shape, factors: options.factors, hidden: options.hidden.clone() };
    let model = DeepFm::new(architecture, options.dense_learning_rate, &mut random)?;
    Ok(State {
        options: options.hash(data),
        fingerprint: source.fingerprint(),
        position: source.position(),
        batches: 0,
        random,
        metrics: Metrics::default(),
        model,
    })
}

/// The reader's thread: reads batches ahead, at most as many as the channel holds, and has their rows brought up.
fn read(mut source: Box<dyn Source>, table: &Table, options: &DeepFmOptions, sender: &SyncSender<Result<Samples>>) {
    loop {
        let batch = read_batch(source.as_mut(), options.batch_size).and_then(|samples| {
            table.prefetch(&samples.keys)?;
            Ok(samples)
        });
        let last = batch.as_ref().map_or(true, Samples::is_empty);
        // A closed channel means that training has ended.
        if sender.send(batch).is_err() || last {
            return;
        }
    }
}

fn read_batch(source: &mut dyn Source, size: usize) -> Result<Samples> {
    let mut samples = Samples::default();
    loop {
        let room = size - samples.len();
        if room == 0 || source.next(&mut samples, room)? == 0 {
            return Ok(samples);
        }
    }
}

struct Run<'a> {
    store: &'a Store,
    table: Table,
    options: &'a DeepFmOptions,
    total: Option<u64>,
    state: State,
    from: u64,
    begun: Instant,
    shown: Instant,
    commit: Option<CommitId>,
    /// Batches learned since the last commit.
    uncommitted: u64,
    commits: u64,
    rows: Vec<f32>,
    gradients: Vec<f32>,
}

impl Run<'_> {
    fn batches(&mut self, receiver: Receiver<Result<Samples>>, observer: &mut dyn FnMut(&Progress)) -> Result<()> {
        while self.options.max_samples.is_none_or(|most| self.state.position < most) {
            let Ok(batch) = receiver.recv() else { break };
            let batch = batch?;
            if batch.is_empty() {
                break;
            }
            self.learn(&batch)?;
            let due = self.options.commit_every > 0 && self.uncommitted >= self.options.commit_every;
            if due {
                self.commit()?;
            }
            if due || self.shown.elapsed() >= PROGRESS_EVERY {
                self.shown = Instant::now();
                observer(&self.progress(due));
            }
        }
        if self.uncommitted > 0 || self.commit.is_none() {
            self.commit()?;
            observer(&self.progress(true));
        }
        Ok(())
    }

    /// Predicts a batch, counts that in the metrics, then learns the batch.
    fn learn(&mut self, batch: &Samples) -> Result<()> {
        let state = &mut self.state;
        self.rows.resize(batch.keys.len() * state.model.row(), 0.0);
        self.table.lookup(&batch.keys, &mut self.rows)?;
        let logits = state.model.train(&self.rows, batch, &mut self.gradients)?;
        for (logit, label) in logits.iter().zip(&batch.labels) {
            state.metrics.add(*logit, *label > 0.5);
        }
        let time = batch.times.iter().copied().max().unwrap_or(0);
        self.table.apply_gradients(&batch.keys, &self.gradients, &Update::at(u64::from(time)))?;
        state.position += batch.len() as u64;
        state.batches += 1;
        self.uncommitted += 1;
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.commit = Some(self.store.commit(&self.state.to_bytes())?);
        self.uncommitted = 0;
        self.commits += 1;
        if self.options.checkpoint_every > 0 && self.commits.is_multiple_of(self.options.checkpoint_every) {
            self.store.checkpoint()?;
        }
        Ok(())
    }

    fn rate(&self) -> (f64, f64) {
        let seconds = self.begun.elapsed().as_secs_f64();
        (seconds, (self.state.position - self.from) as f64 / seconds.max(1e-9))
    }

    fn progress(&self, committed: bool) -> Progress {
        let (seconds, rate) = self.rate();
        Progress {
            samples: self.state.position,
            total: self.total,
            batches: self.state.batches,
            seconds,
            rate,
            auc: self.state.metrics.auc(),
            logloss: self.state.metrics.logloss(),
            rows: Rows::of(self.store),
            commit: self.commit,
            committed,
        }
    }

    fn report(&self, data: Description, resumed: Option<CommitId>) -> Report {
        let (seconds, rate) = self.rate();
        let metrics = &self.state.metrics;
        let half = metrics.second_half();
        Report {
            data,
            samples: self.state.position,
            positive: metrics.positives() as f64 / metrics.samples().max(1) as f64,
            batches: self.state.batches,
            samples_of_this_run: self.state.position - self.from,
            seconds,
            rate,
            auc: metrics.auc(),
            auc_error: metrics.auc_error(),
            auc_second_half: half.map(|(auc, _)| auc),
            second_half_from: half.map(|(_, from)| from),
            logloss: metrics.logloss(),
            curve: metrics.curve(),
            rows: Rows::of(self.store),
            dense_weights: self.state.model.weights() as u64,
            commit: self.commit.map(|id| id.to_string()),
            resumed_from: resumed.map(|id| id.to_string()),
            resumed_at: resumed.map(|_| self.from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::synthetic::{Clicks, Synthetic};

    fn source(samples: u64) -> Box<dyn Source> {
        Box::new(Synthetic::new(Clicks { samples, users: 300, items: 100, ..Clicks::default() }).unwrap())
    }

    fn options() -> DeepFmOptions {
        DeepFmOptions { factors: 4, hidden: vec![8], batch_size: 32, commit_every: 7, read_ahead: 3, ..DeepFmOptions::default() }
    }

    fn rows(store: &Store) -> impl PartialEq + std::fmt::Debug + use<> {
        store.create_table(options().schema()).unwrap().dump()
    }

    fn last(store: &Store) -> Vec<u8> {
        store.last_commit().unwrap().state.to_vec()
    }

    #[test]
    fn a_resumed_job_ends_with_the_bits_of_one_never_interrupted() {
        let whole = Store::new();
        let report = train_deepfm(&whole, source(3_000), &options(), &mut |_| ()).unwrap();
        assert_eq!((report.samples, report.batches, report.resumed_at), (3_000, 94, None));
        let parts = Store::new();
        for most in [700, 701, 1_999] {
            let stop = DeepFmOptions { max_samples: Some(most), commit_every: 5, ..options() };
            train_deepfm(&parts, source(3_000), &stop, &mut |_| ()).unwrap();
            // What is learned after the last commit and then lost in a crash leaves no trace.
            let table = parts.create_table(options().schema()).unwrap();
            table.apply_gradients(&[1, 2], &[1.0; 10], &Update::at(2_000_000_000)).unwrap();
            table.crash();
        }
        let resumed = train_deepfm(&parts, source(3_000), &options(), &mut |_| ()).unwrap();
        assert!(resumed.resumed_from.is_some() && resumed.samples == 3_000 && resumed.samples_of_this_run < 1_001);
        assert_eq!(rows(&parts), rows(&whole));
        assert_eq!(last(&parts), last(&whole));
        assert_eq!((resumed.auc, resumed.logloss), (report.auc, report.logloss));
    }

    #[test]
    fn a_crash_between_commits_goes_back_to_the_last_one() {
        struct Broken(Box<dyn Source>, u64);
        impl Source for Broken {
            fn description(&self) -> &Description {
                self.0.description()
            }
            fn fingerprint(&self) -> [u8; 32] {
                self.0.fingerprint()
            }
            fn position(&self) -> u64 {
                self.0.position()
            }
            fn seek(&mut self, position: u64) -> Result<()> {
                self.0.seek(position)
            }
            fn next(&mut self, into: &mut Samples, most: usize) -> Result<usize> {
                if self.position() >= self.1 {
                    return Err(Error::Input { path: "x".into(), line: self.1, what: "broken".into() });
                }
                self.0.next(into, most)
            }
        }
        let (whole, broken) = (Store::new(), Store::new());
        train_deepfm(&whole, source(2_000), &options(), &mut |_| ()).unwrap();
        for at in [1_000, 1_500] {
            let result = train_deepfm(&broken, Box::new(Broken(source(2_000), at)), &options(), &mut |_| ());
            assert!(matches!(result, Err(Error::Input { .. })));
            broken.create_table(options().schema()).unwrap().crash();
        }
        let mut shown = Vec::new();
        let report = train_deepfm(&broken, source(2_000), &options(), &mut |p| shown.push((p.samples, p.committed))).unwrap();
        assert_eq!(report.resumed_at, Some(1_344));
        assert!(shown.contains(&(1_344 + 7 * 32, true)) && shown.last() == Some(&(2_000, true)));
        assert_eq!((rows(&broken), last(&broken)), (rows(&whole), last(&whole)));
    }

    #[test]
    fn another_input_or_other_options_are_refused() {
        let store = Store::new();
        train_deepfm(&store, source(100), &options(), &mut |_| ()).unwrap();
        let other = DeepFmOptions { batch_size: 33, ..options() };
        let options_error = train_deepfm(&store, source(100), &other, &mut |_| ());
        assert!(matches!(options_error, Err(Error::InvalidOption { option: "options", .. })));
        let data_error = train_deepfm(&store, source(101), &options(), &mut |_| ());
        assert!(matches!(data_error, Err(Error::InvalidOption { option: "data", .. })));
        let faster = DeepFmOptions { commit_every: 1, read_ahead: 1, ..options() };
        assert_eq!(train_deepfm(&store, source(100), &faster, &mut |_| ()).unwrap().samples_of_this_run, 0);
        let senseless = DeepFmOptions { learning_rate: f32::NAN, ..options() };
        assert!(senseless.validate().is_err());
    }

    #[test]
    fn it_learns_real_ratings_better_than_biases_do() {
        let data = std::path::Path::new("../shared/data/movielens-latest-small");
        if !data.is_dir() {
            println!("SKIPPED: {} is not there, so nothing was learned from real ratings", data.display());
            return;
        }
        let source = crate::train::data::open(data).unwrap();
        let report = train_deepfm(&Store::new(), source, &DeepFmOptions::default(), &mut |_| ()).unwrap();
        println!("{report}");
        assert!(report.auc.unwrap() > 0.788 && report.auc_second_half.unwrap() > 0.812 && report.logloss.unwrap() < 0.534);
    }
}
