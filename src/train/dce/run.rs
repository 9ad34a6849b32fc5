//! The job: its stages one after another, each batch by batch; commits of rows and trainer together; going on after a crash.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use super::autoencoder::{Autoencoder, Events, Said};
use super::customer::{CustomerEncoder, Step};
use super::data::{Session, Sessions};
use super::heads::{Examples, Heads, Norms, rows};
use super::moment::{Counted, Layout, time};
use super::options::{DceOptions, Tables};
use super::plan::{Windows, order, train_sessions};
use super::report::{DceProgress, DceReport};
use super::roll::{Frozen, Roll, normalise};
use super::state::{Stage, State};
use super::{conclude, decay};
use crate::train::Rows;
use crate::train::commits::Commits;
use crate::train::data::synthetic::Counter;
use crate::{Key, Result, Store, UnixSeconds, Update};

/// The least time between two progress calls that do not follow a commit.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);
/// Sessions, or moments, read at once where nothing is learned.
pub(crate) const CHUNK: usize = 256;
/// Train sessions from which the decay of the decayed mean is learned, and the weight of everybody in the likelihood.
const DECAY_SESSIONS: usize = 20_000;

/// Trains session vectors, customer vectors and heads on `data`, with all rows in `store`; goes on after the store's last commit.
///
/// Event times come from the data: open the store with a `max_clock_step` that its gaps allow. For equal data and options the
/// result has the same bits whether or not the job was interrupted, and whatever the store's memory. Takes minutes for
/// 50,000 sessions on one core. `observer` is called after each commit and about five times a second.
pub fn train_dce(
    store: &Store,
    data: &Sessions,
    options: &DceOptions,
    observer: &mut dyn FnMut(&DceProgress),
) -> Result<DceReport> {
    options.validate()?;
    let begun = Instant::now();
    let layout = Layout::new(data, options);
    let mut state = fresh(data, options, &layout)?;
    let resumed = store.last_commit().filter(|commit| !commit.state.is_empty());
    if let Some(commit) = &resumed {
        state.resume(&commit.state)?;
    }
    let mut job = Job {
        tables: Tables::create(store, data, options, &layout)?,
        store,
        data,
        options,
        split: data.split_at(options.train_share),
        layout,
        state,
        observer,
        begun,
        shown: Instant::now(),
        commits: Commits::new(store, options.commit_every, options.checkpoint_every),
    };
    job.stages()?;
    job.commits.finish(|| job.state.to_bytes())?;
    conclude::report(&job, begun, resumed.map(|commit| commit.id))
}

fn fresh(data: &Sessions, options: &DceOptions, layout: &Layout) -> Result<State> {
    let mut random = Counter::new(options.seed);
    Ok(State {
        options: options.lines(),
        input: data.name.clone(),
        fingerprint: data.fingerprint,
        stage: Stage::Sessions,
        step: 0,
        batches: 0,
        norms: vec![0.0; 2 * options.session],
        decay: 0.0,
        weight: 0.0,
        rolled: 0,
        said: Said::default(),
        foretold: (0.0, 0),
        autoencoder: Autoencoder::new(options.event, options.session, options.rate, &mut random)?,
        customers: CustomerEncoder::new(layout, options.rate, &mut random)?,
        heads: Heads::new(&data.tasks, layout, options, &mut random)?,
    })
}

pub(crate) struct Job<'a> {
    pub(crate) store: &'a Store,
    pub(crate) data: &'a Sessions,
    pub(crate) options: &'a DceOptions,
    pub(crate) layout: Layout,
    pub(crate) tables: Tables,
    pub(crate) split: UnixSeconds,
    pub(crate) state: State,
    observer: &'a mut dyn FnMut(&DceProgress),
    begun: Instant,
    shown: Instant,
    pub(crate) commits: Commits<'a>,
}

impl Job<'_> {
    /// All stages that are left, until the end or as far as the job may go.
    fn stages(&mut self) -> Result<()> {
        loop {
            let finished = match self.state.stage {
                Stage::Sessions => self.learn_sessions()?,
                Stage::Encoding => self.encode_sessions()?,
                Stage::Customers => self.learn_customers()?,
                Stage::Rolling => self.roll()?,
                Stage::Heads => self.learn_heads()?,
                Stage::Done => return Ok(()),
            };
            if !finished {
                return Ok(());
            }
            let nothing_asked = self.data.tasks.is_empty() && self.state.stage == Stage::Encoding;
            self.state.stage = if nothing_asked { Stage::Done } else { self.state.stage.next() };
            self.state.step = 0;
        }
    }

    /// The last events of a session, as many as are read.
    pub(crate) fn events<'b>(&self, session: &'b Session) -> &'b [Key] {
        &session.events[session.events.len().saturating_sub(self.options.max_events)..]
    }

    /// Times of the training stages: before all others, so that nothing expires while many passes go over it.
    fn beginning(&self) -> Update {
        Update::at(u64::from(self.data.sessions.first().map_or(0, |session| session.start)))
    }

    pub(crate) fn event_rows(&self, events: &Events) -> Result<Vec<f32>> {
        let mut rows = vec![0.0; events.keys.len() * self.tables.events.dim()];
        self.tables.events.lookup(&events.keys, &mut rows)?;
        Ok(rows)
    }

    fn learn_sessions(&mut self) -> Result<bool> {
        let train = train_sessions(self.data, self.split);
        let lengths: Vec<usize> = train.iter().map(|at| self.events(&self.data.sessions[*at]).len()).collect();
        let batches = train.len().div_ceil(self.options.batch) as u64;
        let (mut epoch, mut batch_order) = (u64::MAX, Vec::new());
        while self.state.step < batches * self.options.session_epochs as u64 {
            if epoch != self.state.step / batches {
                epoch = self.state.step / batches;
                batch_order = order(&lengths, self.options.batch, self.options.seed, epoch);
            }
            let at = self.state.step % batches;
            if at == 0 {
                self.state.said = Said::default();
            }
            let sessions = batch_order[at as usize].iter().map(|at| self.events(&self.data.sessions[train[*at]]));
            let events = Events::new(sessions);
            let (rows, mut gradients) = (self.event_rows(&events)?, Vec::new());
            let said = self.state.autoencoder.train(&events, &rows, &mut gradients)?;
            self.tables.events.apply_gradients(&events.keys, &gradients, &self.beginning())?;
            self.state.said.add(said);
            if !self.done(batches * self.options.session_epochs as u64)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn encode_sessions(&mut self) -> Result<bool> {
        let all = &self.data.sessions;
        let batches = all.len().div_ceil(CHUNK) as u64;
        while self.state.step < batches {
            let from = self.state.step as usize * CHUNK;
            let until = (from + CHUNK).min(all.len());
            let events = Events::new(all[from..until].iter().map(|session| self.events(session)));
            let codes = self.state.autoencoder.encode(&events, &self.event_rows(&events)?)?;
            let keys: Vec<Key> = (from as Key..until as Key).collect();
            self.tables.sessions.assign(&keys, &codes, &self.beginning())?;
            if !self.done(batches)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The vectors of sessions by their numbers.
    fn codes(&self, sessions: &[usize]) -> Result<Vec<f32>> {
        let keys: Vec<Key> = sessions.iter().map(|at| *at as Key).collect();
        let mut rows = vec![0.0; keys.len() * self.options.session];
        self.tables.sessions.lookup(&keys, &mut rows)?;
        Ok(rows)
    }

    fn learn_customers(&mut self) -> Result<bool> {
        let train = train_sessions(self.data, self.split);
        if self.state.step == 0 {
            let mut chunks = train.chunks(CHUNK);
            let norms = Norms::new(self.options.session, |rows| match chunks.next() {
                Some(sessions) => self.codes(sessions).map(|codes| {
                    *rows = codes;
                    true
                }),
                None => Ok(false),
            })?;
            self.state.norms = norms.list();
        }
        let windows = Windows::new(self.data, &train, self.options.window);
        let per_batch = (self.options.batch / 2).max(1);
        let batches = windows.all.len().div_ceil(per_batch) as u64;
        let lengths: Vec<usize> = windows.all.iter().map(Vec::len).collect();
        let (mut epoch, mut batch_order) = (u64::MAX, Vec::new());
        while self.state.step < batches * self.options.customer_epochs as u64 {
            if epoch != self.state.step / batches {
                epoch = self.state.step / batches;
                batch_order = order(&lengths, per_batch, self.options.seed ^ 0xc057, epoch);
            }
            let at = self.state.step % batches;
            if at == 0 {
                self.state.foretold = (0.0, 0);
            }
            let batch: Vec<&[usize]> = batch_order[at as usize].iter().map(|at| windows.all[*at].as_slice()).collect();
            let steps = self.steps(&batch, &windows)?;
            let (loss, lanes) = self.state.customers.train(&steps)?;
            self.state.foretold.0 += loss;
            self.state.foretold.1 += lanes;
            if !self.done(batches * self.options.customer_epochs as u64)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The windows of a batch, step by step.
    fn steps(&self, batch: &[&[usize]], windows: &Windows) -> Result<Vec<Step>> {
        let longest = batch.iter().map(|window| window.len()).max().unwrap_or(0);
        let mut steps = Vec::with_capacity(longest);
        for t in 0..longest {
            // A window that has ended repeats its last session; no row of it is live.
            let sessions: Vec<usize> = batch.iter().map(|window| window[t.min(window.len() - 1)]).collect();
            let mut step = Step { sessions: self.codes(&sessions)?, ..Step::default() };
            normalise(&mut step.sessions, &self.state.norms);
            for (window, at) in batch.iter().zip(sessions) {
                let session = &self.data.sessions[at];
                step.live.push(t < window.len());
                step.times.extend(time(session.start, windows.before(self.data, at)));
                step.facts.extend_from_slice(&session.context);
            }
            steps.push(step);
        }
        Ok(steps)
    }

    fn learn_decay(&mut self) -> Result<()> {
        let train = train_sessions(self.data, self.split);
        let windows = Windows::new(self.data, &train[..train.len().min(DECAY_SESSIONS)], usize::MAX);
        let mut customers = Vec::new();
        for window in &windows.all {
            let mut codes = self.codes(window)?;
            normalise(&mut codes, &self.state.norms);
            let starts = window.iter().map(|at| self.data.sessions[*at].start);
            customers.push(starts.zip(codes.chunks_exact(self.options.session).map(<[f32]>::to_vec)).collect());
        }
        self.state.decay = decay::learn(&customers);
        Ok(())
    }

    fn learn_weight(&mut self) {
        let train = train_sessions(self.data, self.split);
        let sessions = || train.iter().map(|at| &self.data.sessions[*at]);
        self.state.weight = Counted::new(sessions(), self.layout.counted).weight(sessions().take(DECAY_SESSIONS));
    }

    fn roll(&mut self) -> Result<bool> {
        if self.state.step == 0 {
            self.learn_decay()?;
            self.learn_weight();
        }
        let sessions = self.data.sessions.len();
        while (self.state.step as usize) < sessions {
            // The roll borrows the encoder; it is made anew after each commit, from the data alone.
            let state = &self.state;
            let frozen = Frozen { encoder: &state.customers, norms: &state.norms, decay: state.decay, weight: state.weight };
            let mut roll = Roll::new(self.data, &self.tables, &self.layout, frozen, self.split);
            roll.resume(state.step as usize, self.options.batch, state.rolled);
            let (mut at, mut rolled, mut batches) = (state.step as usize, state.rolled, 0);
            let room = self.room();
            while at < sessions && batches < room {
                let batch = roll.batch(at, self.options.batch);
                at = batch.end;
                rolled = roll.run(batch)?;
                batches += 1;
            }
            (self.state.step, self.state.rolled) = (at as u64, rolled);
            if !self.count(batches, sessions as u64)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn learn_heads(&mut self) -> Result<bool> {
        let all = Examples::new(self.data, self.split, true);
        let norms = self.norms(&all)?;
        let batches = all.keys.len().div_ceil(CHUNK) as u64;
        let total = batches * self.options.head_epochs as u64;
        let (mut epoch, mut batch_order, mut moments) = (u64::MAX, Vec::new(), Vec::new());
        while self.state.step < total {
            if epoch != self.state.step / batches {
                epoch = self.state.step / batches;
                batch_order = order(&vec![0; all.keys.len()], CHUNK, self.options.seed ^ 0x4ead, epoch);
            }
            let batch: Vec<Key> = batch_order[(self.state.step % batches) as usize].iter().map(|at| all.keys[*at]).collect();
            rows(&self.tables.moments, &batch, &mut moments)?;
            let left = 1.0 - self.state.step as f32 / total as f32;
            self.state.heads.train(&all, &batch, &moments, &norms, left)?;
            if !self.done(total)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Of the moments that are learned from.
    pub(crate) fn norms(&self, all: &Examples<'_>) -> Result<Norms> {
        let mut chunks = all.keys.chunks(CHUNK);
        Norms::new(self.layout.moment(), |into| match chunks.next() {
            Some(chunk) => rows(&self.tables.moments, chunk, into).map(|()| true),
            None => Ok(false),
        })
    }

    /// Batches until the next commit or the last one allowed; at least 1.
    fn room(&self) -> u64 {
        let left = self.options.max_batches.map_or(u64::MAX, |most| most.saturating_sub(self.state.batches));
        // Progress is to be seen in between.
        left.min(self.commits.room()).clamp(1, 500)
    }

    /// One batch of a stage of so many is done; false if it was the last that is allowed.
    fn done(&mut self, steps: u64) -> Result<bool> {
        self.state.step += 1;
        self.count(1, steps)
    }

    fn count(&mut self, batches: u64, steps: u64) -> Result<bool> {
        self.state.batches += batches;
        let committed = self.commits.count(batches, || self.state.to_bytes())?;
        if committed || self.shown.elapsed() >= PROGRESS_EVERY {
            self.shown = Instant::now();
            let State { stage, step, said, foretold, .. } = &self.state;
            let mean = |sum: f64, count: u64| (count > 0).then(|| sum / count as f64);
            let loss = match stage {
                Stage::Sessions => mean(said.loss, said.events),
                Stage::Customers => mean(foretold.0, foretold.1),
                _ => None,
            };
            let (rows, commit) = (Rows::of(self.store), self.commits.last());
            let (batches, seconds) = (self.state.batches, self.begun.elapsed().as_secs_f64());
            let progress = DceProgress { stage: *stage, step: *step, steps, batches, seconds, loss, rows, commit, committed };
            (self.observer)(&progress);
        }
        Ok(self.options.max_batches.is_none_or(|most| self.state.batches < most))
    }
}
