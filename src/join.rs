//! The online joiner: features and the actions that answer them, which come by two ways and in any order, become training examples.
//!
//! Monolith (Liu et al. 2022, 2.2.1) joins by a request key, from a cache in memory and then a store on disk for what waits long. Here the rows
//! that wait are those of a table: hot ones are in memory, the rest in the cold tier, and all are part of each commit. So a job that commits
//! [`Joiner::state`] with its own state and its input's position loses no example in a crash and has none twice.
//!
//! | comes | finds nothing | features that wait | an action that waits | what is done |
//! |---|---|---|---|---|
//! | features | wait | dropped, a duplicate | an example, done | dropped, a duplicate |
//! | an action | waits | an example, done | dropped, a duplicate | dropped, a duplicate or late |
//! | time-out | | a negative example, if drawn; done | dropped, without features | forgotten |
//!
//! Time is the largest event time seen. Features and actions wait [`JoinOptions::wait`] seconds from their own time on.
#![forbid(unsafe_code)]

mod row;
mod state;

use std::collections::{BTreeSet, HashMap, VecDeque};

use row::{Kind, Layout, Waiting};
pub use state::JoinCounts;
use state::State;

use crate::error::{Error, Result};
use crate::schema::{Missing, TableSchema};
use crate::store::Store;
use crate::table::{Table, Update};
use crate::types::{Key, UnixSeconds, mix};

/// Keys read from the table at once.
const KEYS_A_READ: usize = 4096;
/// Apart from other draws of the same seed.
const DRAW_DOMAIN: u64 = 0x6e65_6761_7469_7665;

/// How features and actions are joined. All of it must be equal when a job goes on.
///
/// ```
/// use embedrock::join::JoinOptions;
/// let options = JoinOptions::new(39, 13).wait(3600).remember(86_400).negatives(0.1).seed(7);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct JoinOptions {
    pub(crate) keys: usize,
    pub(crate) dense: usize,
    pub(crate) wait: u32,
    pub(crate) remember: u32,
    pub(crate) negatives: f64,
    pub(crate) seed: u64,
    pub(crate) table: String,
}

impl JoinOptions {
    /// For features of so many keys and dense numbers.
    pub fn new(keys: usize, dense: usize) -> JoinOptions {
        JoinOptions { keys, dense, wait: 3600, remember: 3600, negatives: 1.0, seed: 0, table: "join".into() }
    }

    /// Seconds that features wait for their action, and actions for their features. Default: an hour.
    #[must_use]
    pub fn wait(self, seconds: u32) -> JoinOptions {
        JoinOptions { wait: seconds, ..self }
    }

    /// Seconds for which a request that is done is remembered, so that what comes of it again is dropped. Default: an hour.
    #[must_use]
    pub fn remember(self, seconds: u32) -> JoinOptions {
        JoinOptions { remember: seconds, ..self }
    }

    /// The share of negative examples, those whose label is at most 0.5 or whose action never came, that is kept; above 0, at most 1, the default.
    #[must_use]
    pub fn negatives(self, rate: f64) -> JoinOptions {
        JoinOptions { negatives: rate, ..self }
    }

    /// Decides with the request which negatives are kept.
    #[must_use]
    pub fn seed(self, seed: u64) -> JoinOptions {
        JoinOptions { seed, ..self }
    }

    /// The table that holds what waits. Default: "join".
    #[must_use]
    pub fn table(self, name: impl Into<String>) -> JoinOptions {
        JoinOptions { table: name.into(), ..self }
    }

    /// The share of negatives that is kept.
    pub fn rate(&self) -> f64 {
        self.negatives
    }

    /// Keys and dense numbers of features.
    pub fn shape(&self) -> (usize, usize) {
        (self.keys, self.dense)
    }

    fn validate(&self) -> Result<()> {
        let refuse = |option, what: &str| Err(Error::InvalidOption { option, what: what.to_owned() });
        match self {
            o if o.keys == 0 || o.keys > 4096 => refuse("keys", "must be 1 to 4096"),
            o if o.dense > 4096 => refuse("dense", "must be at most 4096"),
            o if !(o.negatives > 0.0 && o.negatives <= 1.0) => refuse("negatives", "must be above 0 and at most 1"),
            _ => Ok(()),
        }
    }

    /// Whether a negative example is kept: a function of the request alone, so that it does not depend on how often it is asked.
    fn keeps(&self, request: u64) -> bool {
        let draw = mix(mix(self.seed ^ DRAW_DOMAIN) ^ request) >> 11;
        (draw as f64) * 2f64.powi(-53) < self.negatives
    }
}

/// What comes in.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What a request was answered with.
    Features {
        /// Which request.
        request: u64,
        /// When.
        time: UnixSeconds,
        /// As many as [`JoinOptions::new`] says.
        keys: Vec<Key>,
        /// As many as that says, finite.
        dense: Vec<f32>,
    },
    /// What the user did.
    Action {
        /// Upon which request.
        request: u64,
        /// When.
        time: UnixSeconds,
        /// 1 for a click, or anything finite.
        label: f32,
    },
}

impl Event {
    fn request(&self) -> u64 {
        let (Event::Features { request, .. } | Event::Action { request, .. }) = self;
        *request
    }

    fn time(&self) -> UnixSeconds {
        let (Event::Features { time, .. } | Event::Action { time, .. }) = self;
        *time
    }
}

/// A training example.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Which request.
    pub request: u64,
    /// When its features were made.
    pub time: UnixSeconds,
    /// The action's, or 0 where none came in time.
    pub label: f32,
    /// The features.
    pub keys: Vec<Key>,
    /// The features.
    pub dense: Vec<f32>,
}

/// What to take from a log-odds that a model serves, so that it is learned from examples of whose negatives a share was kept
/// (Wang et al. 2021; Monolith 2.2.2): train on `logit - ln(rate)`, of all examples, and serve the logit as it is.
///
/// Keeping negatives at `rate` multiplies the odds of a positive by `1 / rate`; a model that is trained so finds the odds before that.
pub fn training_offset(rate: f64) -> f32 {
    -rate.ln() as f32
}

/// See the module.
///
/// ```
/// use embedrock::join::{Event, JoinOptions, Joiner};
/// use embedrock::{Store, StoreOptions};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-join-{}", std::process::id()));
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let mut joiner = Joiner::open(&store, JoinOptions::new(2, 0).wait(60), None)?;
/// joiner.push(&[
///     Event::Action { request: 5, time: 1_000, label: 1.0 },
///     Event::Features { request: 5, time: 990, keys: vec![7, 8], dense: vec![] },
///     Event::Features { request: 6, time: 991, keys: vec![7, 9], dense: vec![] },
/// ])?;
/// let example = joiner.next().expect("joined");
/// assert_eq!((example.request, example.label, &example.keys[..]), (5, 1.0, &[7, 8][..]));
/// joiner.push(&[Event::Action { request: 99, time: 1_051, label: 1.0 }])?; // a minute after the features of request 6
/// assert_eq!(joiner.next().map(|example| (example.request, example.label)), Some((6, 0.0)));
/// store.commit(&joiner.state())?; // what waits is in the table, the rest in the state
/// # drop((joiner, store)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
pub struct Joiner {
    options: JoinOptions,
    layout: Layout,
    table: Table,
    /// When something is to be done about which request. About 30 bytes each.
    deadlines: BTreeSet<(u64, u64)>,
    /// Requests whose rows are to go.
    forgotten: Vec<u64>,
    state: State,
}

/// What a batch of events changes, until it is in the table.
struct Change {
    rows: HashMap<u64, Option<Waiting>>,
    state: State,
    /// Deadlines that were touched, and whether they were there.
    before: HashMap<(u64, u64), bool>,
}

impl Joiner {
    /// Joins in a table of `store`, made if it is not there, from `state` on, as the last commit has it; without one from the beginning.
    ///
    /// Cost: reads all that waits.
    ///
    /// # Errors
    /// Options that cannot be; [`Error::OtherJob`] for a state of other options; [`Error::TrainerState`] for what is none; the store's.
    pub fn open(store: &Store, options: JoinOptions, state: Option<&[u8]>) -> Result<Joiner> {
        options.validate()?;
        let layout = Layout { keys: options.keys, dense: options.dense };
        let state = state.map_or_else(|| Ok(State::default()), |bytes| State::decode(bytes, &options))?;
        let table = store.create_table(TableSchema::new(&options.table, layout.lanes()).missing(Missing::Zeros))?;
        let mut deadlines = BTreeSet::new();
        table.for_each_row(|request, _, row, _| {
            deadlines.insert((layout.read(row).deadline(&options), request));
            Ok(())
        })?;
        Ok(Joiner { options, layout, table, deadlines, forgotten: Vec::new(), state })
    }

    /// Takes events in the order in which they came. What becomes of them does not depend on how they are cut into batches.
    ///
    /// Commits must not be cut by another thread meanwhile.
    ///
    /// # Errors
    /// Features of another shape, numbers that are not finite, a time too far ahead for the store, a failing store: then nothing changed.
    pub fn push(&mut self, events: &[Event]) -> Result<()> {
        for (position, event) in events.iter().enumerate() {
            self.check(position, event)?;
        }
        let latest = events.iter().map(|event| u64::from(event.time())).max();
        let Some(latest) = latest.map(|latest| latest.max(self.state.time)) else { return Ok(()) };
        let due = self.deadlines.range(..=(latest, u64::MAX)).map(|(_, request)| *request);
        let mut requests: Vec<u64> = events.iter().map(Event::request).chain(due).collect();
        requests.sort_unstable();
        requests.dedup();
        let mut change = Change { rows: self.read(&requests)?, state: self.state.clone(), before: HashMap::new() };
        for event in events {
            change.state.time = change.state.time.max(u64::from(event.time()));
            self.time_out(&mut change);
            self.take(event, &mut change);
            // One that came late may be due at once.
            self.time_out(&mut change);
        }
        let written = self.write(&change, latest);
        if written.is_err() {
            for (deadline, was_there) in change.before {
                _ = if was_there { self.deadlines.insert(deadline) } else { self.deadlines.remove(&deadline) };
            }
            return written;
        }
        self.state = change.state;
        self.forget()
    }

    /// The next example, in the order in which they came about.
    #[allow(clippy::should_implement_trait, reason = "more come with each push, so it is no iterator that ends")]
    pub fn next(&mut self) -> Option<Example> {
        self.state.ready.pop_front()
    }

    /// Examples that [`Joiner::next`] would give now.
    pub fn ready(&self) -> usize {
        self.state.ready.len()
    }

    /// What a commit must hold beside the table: the examples not taken yet, the time, the counts.
    pub fn state(&self) -> Vec<u8> {
        self.state.encode(&self.options)
    }

    /// What has become of all events.
    pub fn counts(&self) -> JoinCounts {
        self.state.counts
    }

    /// Requests that wait or are remembered.
    pub fn waiting(&self) -> usize {
        self.deadlines.len()
    }

    fn check(&self, position: usize, event: &Event) -> Result<()> {
        let length = |what, expected, found| match expected == found {
            true => Ok(()),
            false => Err(Error::WrongLength { what, expected, found, keys: 1 }),
        };
        let finite = |what, values: &[f32]| match values.iter().all(|value| value.is_finite()) {
            true => Ok(()),
            false => Err(Error::NotFinite { what, key: event.request(), position }),
        };
        match event {
            Event::Features { keys, dense, .. } => {
                length("keys", self.options.keys, keys.len())?;
                length("dense", self.options.dense, dense.len())?;
                finite("a dense feature", dense)
            }
            Event::Action { label, .. } => finite("the label", &[*label]),
        }
    }

    fn read(&self, requests: &[u64]) -> Result<HashMap<u64, Option<Waiting>>> {
        let (lanes, mut known) = (self.layout.lanes(), HashMap::with_capacity(requests.len()));
        let (mut rows, mut found) = (vec![0.0; KEYS_A_READ.min(requests.len()) * lanes], vec![false; KEYS_A_READ]);
        for requests in requests.chunks(KEYS_A_READ) {
            let (rows, found) = (&mut rows[..requests.len() * lanes], &mut found[..requests.len()]);
            self.table.lookup_found(requests, rows, found)?;
            for ((request, row), found) in requests.iter().zip(rows.chunks_exact(lanes)).zip(found) {
                let waiting = found.then(|| self.layout.read(row));
                // One that is to go is not there any more.
                let gone = |waiting: &Waiting| !self.deadlines.contains(&(waiting.deadline(&self.options), *request));
                known.insert(*request, waiting.filter(|waiting| !gone(waiting)));
            }
        }
        Ok(known)
    }

    /// Does what is due, in the order of time and request.
    fn time_out(&mut self, change: &mut Change) {
        while let Some(&(at, request)) = self.deadlines.first().filter(|(at, _)| *at <= change.state.time) {
            self.deadlines.remove(&(at, request));
            change.before.entry((at, request)).or_insert(true);
            let Some(waiting) = change.rows.insert(request, None).flatten() else { continue };
            match waiting.kind {
                Kind::Features { keys, dense } => {
                    change.state.counts.timed_out += 1;
                    self.emit(Example { request, time: waiting.time, label: 0.0, keys, dense }, change);
                    self.put(request, Waiting { time: at_most(change.state.time), kind: Kind::Done }, change);
                }
                Kind::Action { .. } => change.state.counts.without_features += 1,
                Kind::Done => {}
            }
        }
    }

    fn take(&mut self, event: &Event, change: &mut Change) {
        let (request, time) = (event.request(), event.time());
        let known = change.rows.get(&request).cloned().flatten();
        let counts = &mut change.state.counts;
        match (event, known.map(|waiting| (waiting.time, waiting.kind))) {
            (Event::Features { keys, dense, .. }, None) => {
                let kind = Kind::Features { keys: keys.clone(), dense: dense.clone() };
                self.put(request, Waiting { time, kind }, change);
            }
            (Event::Features { keys, dense, .. }, Some((at, Kind::Action { label }))) => {
                self.lift(request, at, change);
                let example = Example { request, time, label, keys: keys.clone(), dense: dense.clone() };
                self.join(example, change);
            }
            (Event::Features { .. }, Some(_)) => counts.duplicates += 1,
            (Event::Action { label, .. }, None) => {
                self.put(request, Waiting { time, kind: Kind::Action { label: *label } }, change);
            }
            (Event::Action { label, .. }, Some((at, Kind::Features { keys, dense }))) => {
                let example = Example { request, time: at, label: *label, keys, dense };
                self.lift(request, at, change);
                self.join(example, change);
            }
            (Event::Action { .. }, Some((_, Kind::Action { .. }))) => counts.duplicates += 1,
            (Event::Action { .. }, Some((_, Kind::Done))) => counts.late += 1,
        }
    }

    /// Takes back the deadline of what waits since `time`.
    fn lift(&mut self, request: u64, time: UnixSeconds, change: &mut Change) {
        let deadline = (u64::from(time) + u64::from(self.options.wait), request);
        if self.deadlines.remove(&deadline) {
            change.before.entry(deadline).or_insert(true);
        }
    }

    fn put(&mut self, request: u64, waiting: Waiting, change: &mut Change) {
        let deadline = (waiting.deadline(&self.options), request);
        let was_there = !self.deadlines.insert(deadline);
        change.before.entry(deadline).or_insert(was_there);
        change.rows.insert(request, Some(waiting));
    }

    fn join(&mut self, example: Example, change: &mut Change) {
        let done = Waiting { time: at_most(change.state.time), kind: Kind::Done };
        self.put(example.request, done, change);
        change.state.counts.joined += 1;
        self.emit(example, change);
    }

    fn emit(&self, example: Example, change: &mut Change) {
        if example.label > 0.5 || self.options.keeps(example.request) {
            change.state.counts.examples += 1;
            change.state.ready.push_back(example);
        } else {
            change.state.counts.not_drawn += 1;
        }
    }

    /// Writes the rows that are there after a change; the others are forgotten.
    fn write(&mut self, change: &Change, latest: u64) -> Result<()> {
        let mut kept: Vec<(u64, &Waiting)> =
            change.rows.iter().filter_map(|(request, waiting)| Some((*request, waiting.as_ref()?))).collect();
        // In an order of its own, so that the same events make the same store.
        kept.sort_unstable_by_key(|(request, _)| *request);
        let requests: Vec<u64> = kept.iter().map(|(request, _)| *request).collect();
        let mut rows = Vec::with_capacity(requests.len() * self.layout.lanes());
        kept.iter().for_each(|(_, waiting)| self.layout.write(waiting, &mut rows));
        if !requests.is_empty() {
            self.table.assign(&requests, &rows, &Update::at(latest))?;
        }
        self.forgotten.retain(|request| !requests.contains(request));
        self.forgotten.extend(change.rows.iter().filter(|(_, waiting)| waiting.is_none()).map(|(request, _)| *request));
        Ok(())
    }

    /// Removes the rows that are to go. What fails here is done at the next call, or after the next open.
    fn forget(&mut self) -> Result<()> {
        self.forgotten.sort_unstable();
        self.forgotten.dedup();
        if !self.forgotten.is_empty() {
            self.table.remove(&self.forgotten)?;
            self.forgotten.clear();
        }
        Ok(())
    }
}

fn at_most(time: u64) -> UnixSeconds {
    UnixSeconds::try_from(time).unwrap_or(UnixSeconds::MAX)
}
