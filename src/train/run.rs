//! One pass over a stream: predict each batch, then learn it; commit rows and trainer together; go on after a crash.
#![forbid(unsafe_code)]

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use super::commits::Commits;
use super::data::synthetic::Counter;
use super::data::{Description, Samples, Source};
use super::deepfm::{Architecture, DeepFm};
use super::metrics::Metrics;
use super::options::DeepFmOptions;
use super::report::{Progress, Report, Rows};
use super::state::State;
use crate::{CommitId, Result, Store, Table, Update};

/// The least time between two progress calls that do not follow a commit.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

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
    let table = store.create_table(options.schema(data.shape))?;
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
        commits: Commits::new(store, options.commit_every, options.checkpoint_every),
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
        options: options.lines(data.shape),
        input: format!("{} ({})", data.format, data.name),
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
            if options.read_ahead > 0 {
                table.prefetch(&samples.keys)?;
            }
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
    commits: Commits<'a>,
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
            let due = self.commits.count(1, || self.state.to_bytes())?;
            if due || self.shown.elapsed() >= PROGRESS_EVERY {
                self.shown = Instant::now();
                observer(&self.progress(due));
            }
        }
        if self.commits.finish(|| self.state.to_bytes())? {
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
            commit: self.commits.last(),
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
            commit: self.commits.last().map(|id| id.to_string()),
            resumed_from: resumed.map(|id| id.to_string()),
            resumed_at: resumed.map(|_| self.from),
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
