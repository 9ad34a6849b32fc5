//! How customer embeddings are trained, and the tables they live in.
#![forbid(unsafe_code)]

use super::data::Sessions;
use super::moment::Layout;
use crate::{Error, Expiry, Initializer, Optimizer, Result, Segment, Store, Table, TableSchema};

/// Events: `[bias, vector...]`.
pub const EVENT_TABLE: &str = "event";
/// The vector of each session, under its number in the data.
pub const SESSION_TABLE: &str = "session";
/// The vector of each customer: what a serving system reads. It is the state of the recurrent layers, sessions' first.
pub const CUSTOMER_TABLE: &str = "customer";
/// What else is known of each customer's past: visits, time of the last, decayed mean, counts of events.
pub const PAST_TABLE: &str = "past";
/// How often each class of each task came true for a customer, as far as it is known.
pub const OUTCOME_TABLE: &str = "outcome";
/// All that was known at each login (key `2 n` for session `n`) and logout (`2 n + 1`) of which something is to be foretold.
pub const MOMENT_TABLE: &str = "moment";

/// How customer embeddings are trained. All but the last three decide what is learned, and must be equal when a job goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct DceOptions {
    /// Floats of an event's vector.
    pub event: usize,
    /// Floats of a session's vector.
    pub session: usize,
    /// Floats of a customer's vector that come from the sessions.
    pub sequence: usize,
    /// Floats of it that come from the contexts at login; none where the data has no context.
    pub context: usize,
    /// Events of a session that are read: the last ones.
    pub max_events: usize,
    /// Sessions through which the customer encoder learns at once.
    pub window: usize,
    /// Events that are counted by hand, the most frequent ones of the training part.
    pub counted: usize,
    /// Sessions, or customers, a batch.
    pub batch: usize,
    /// Passes of the session encoder.
    pub session_epochs: usize,
    /// Passes of the customer encoder.
    pub customer_epochs: usize,
    /// Passes of the heads.
    pub head_epochs: usize,
    /// Adagrad's rate for the events' rows.
    pub event_rate: f32,
    /// Adam's rate for the encoders.
    pub rate: f32,
    /// Adam's rate for the heads.
    pub head_rate: f32,
    /// How much a head's weights shrink by, a step, as a share of its rate.
    pub head_decay: f32,
    /// The share of the sessions that is learned from, where the data does not say: the earlier part.
    pub train_share: f64,
    /// Customers who stay away for so many days are forgotten.
    pub inactivity_days: u32,
    /// Seed of all initial weights and orders.
    pub seed: u64,
    /// Batches between commits; 0 commits only at the end.
    pub commit_every: u64,
    /// Commits between checkpoints; 0 makes none.
    pub checkpoint_every: u64,
    /// Stop (and commit) after so many batches of the whole job.
    pub max_batches: Option<u64>,
}

impl Default for DceOptions {
    fn default() -> DceOptions {
        DceOptions {
            event: 16,
            session: 32,
            sequence: 48,
            context: 16,
            max_events: 32,
            window: 20,
            counted: 32,
            batch: 64,
            session_epochs: 4,
            customer_epochs: 6,
            head_epochs: 15,
            event_rate: 0.1,
            rate: 0.003,
            head_rate: 0.005,
            head_decay: 0.1,
            train_share: 0.7,
            inactivity_days: 400,
            seed: 1,
            commit_every: 500,
            checkpoint_every: 0,
            max_batches: None,
        }
    }
}

impl DceOptions {
    /// Refuses what nothing can be trained with.
    pub fn validate(&self) -> Result<()> {
        let refuse = |option, what: &str| Err(Error::InvalidOption { option, what: what.to_string() });
        let width = |width: usize| (1..=4_096).contains(&width);
        let rate = |rate: f32| rate.is_finite() && rate > 0.0;
        match self {
            o if ![o.event, o.session, o.sequence, o.context].into_iter().all(width) => {
                refuse("event, session, sequence, context", "must be 1 to 4096")
            }
            o if o.max_events == 0 || o.max_events > 10_000 => refuse("max-events", "must be 1 to 10000"),
            o if o.window < 2 || o.window > 1_000 => refuse("window", "must be 2 to 1000"),
            o if o.batch == 0 || o.batch > 65_536 => refuse("batch", "must be 1 to 65536"),
            o if o.counted == 0 || o.counted > 4_096 => refuse("counted", "must be 1 to 4096"),
            o if ![o.event_rate, o.rate, o.head_rate].into_iter().all(rate) => refuse("rate", "must be above 0"),
            o if !(0.0..10.0).contains(&o.head_decay) => refuse("head-decay", "must be 0 to 10"),
            o if !(0.01..=0.99).contains(&o.train_share) => refuse("train-share", "must be 0.01 to 0.99"),
            o if o.inactivity_days == 0 || o.inactivity_days > 40_000 => refuse("inactivity-days", "must be 1 to 40000"),
            _ => Ok(()),
        }
    }

    /// What decides what is learned, a line each.
    pub(crate) fn lines(&self) -> String {
        let learned = DceOptions { commit_every: 0, checkpoint_every: 0, max_batches: None, ..self.clone() };
        format!("{learned:#?}")
    }
}

/// The tables of a job.
pub(crate) struct Tables {
    pub(crate) events: Table,
    pub(crate) sessions: Table,
    pub(crate) customers: Table,
    pub(crate) past: Table,
    pub(crate) outcomes: Table,
    pub(crate) moments: Table,
}

impl Tables {
    pub(crate) fn create(store: &Store, data: &Sessions, options: &DceOptions, layout: &Layout) -> Result<Tables> {
        let inactive = Expiry::after_secs(options.inactivity_days.saturating_mul(86_400));
        let adagrad = Optimizer::adagrad(options.event_rate);
        let segments = [
            Segment::new(1).optimizer(adagrad),
            Segment::new(options.event).optimizer(adagrad).initializer(Initializer::uniform(0.2)),
        ];
        let classes: usize = data.tasks.iter().map(|task| task.classes).sum();
        let plain = |name, dim: usize| TableSchema::new(name, dim.max(1));
        Ok(Tables {
            events: store.create_table(TableSchema::new(EVENT_TABLE, 1 + options.event).segments(segments))?,
            sessions: store.create_table(plain(SESSION_TABLE, options.session))?,
            customers: store.create_table(plain(CUSTOMER_TABLE, layout.sequence + layout.context).expiry(inactive))?,
            past: store.create_table(plain(PAST_TABLE, layout.past()).expiry(inactive))?,
            outcomes: store.create_table(plain(OUTCOME_TABLE, classes).expiry(inactive))?,
            moments: store.create_table(plain(MOMENT_TABLE, layout.moment()))?,
        })
    }
}
