//! Rolls customers' rows through time: what was known at each login and logout is written down, then the session becomes part of the past.
//!
//! Sessions are taken by login, in batches in which no customer comes twice. Of a batch only what was known when its first session began
//! is used: rows written by earlier batches, and labels known by then. So no number of a moment comes from after it.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::ops::Range;

use super::customer::{CustomerEncoder, Step};
use super::data::{Session, Sessions, When};
use super::decay;
use super::moment::{Counted, Layout, TIME, key, time};
use super::options::Tables;
use crate::{Key, Result, UnixSeconds, Update};

/// Labels that are not known yet: when each will be, of which session and task.
type Pending = BinaryHeap<Reverse<(UnixSeconds, usize, usize)>>;

/// What has been learned before the roll, and does not change in it.
#[derive(Clone, Copy)]
pub(crate) struct Frozen<'a> {
    pub(crate) encoder: &'a CustomerEncoder,
    /// Mean of each lane of the session vectors, then one over its deviation.
    pub(crate) norms: &'a [f32],
    /// A day's decay of the decayed mean.
    pub(crate) decay: f32,
    /// How many events of everybody the likelihood adds to a customer's own.
    pub(crate) weight: f32,
}

pub(crate) struct Roll<'a> {
    pub(crate) data: &'a Sessions,
    pub(crate) tables: &'a Tables,
    pub(crate) layout: &'a Layout,
    pub(crate) frozen: Frozen<'a>,
    pub(crate) counted: Counted,
    /// For each task, the share of each class to begin with.
    pub(crate) priors: Vec<f32>,
    /// Whether each session's customer was there before.
    pub(crate) has_past: Vec<bool>,
    pending: Pending,
}

/// A customer's past, as its row has it.
struct Past<'a> {
    row: &'a [f32],
    layout: &'a Layout,
}

impl Past<'_> {
    fn visits(&self) -> f32 {
        self.row[0]
    }

    /// Exact: days and seconds of a day are small enough for an `f32`.
    fn last(&self) -> Option<UnixSeconds> {
        (self.visits() > 0.0).then(|| self.row[1] as u32 * 86_400 + self.row[2] as u32)
    }

    fn weight(&self) -> f32 {
        self.row[3]
    }

    fn sum(&self) -> &[f32] {
        &self.row[4..4 + self.layout.session]
    }

    /// The vector of the last session.
    fn code(&self) -> &[f32] {
        &self.row[4 + self.layout.session..][..self.layout.session]
    }

    fn counts(&self) -> &[f32] {
        &self.row[4 + 2 * self.layout.session..][..self.layout.counted + 1]
    }

    fn last_counts(&self) -> &[f32] {
        &self.row[4 + 2 * self.layout.session + self.layout.counted + 1..]
    }
}

impl<'a> Roll<'a> {
    pub(crate) fn new(
        data: &'a Sessions,
        tables: &'a Tables,
        layout: &'a Layout,
        frozen: Frozen<'a>,
        split: UnixSeconds,
    ) -> Roll<'a> {
        let train = || data.sessions.iter().take_while(|session| session.start < split).filter(|session| !session.probe);
        let mut seen = HashSet::new();
        let has_past = data.sessions.iter().map(|session| {
            let past = seen.contains(&session.customer);
            if !session.probe {
                seen.insert(session.customer);
            }
            past
        });
        Roll {
            has_past: has_past.collect(),
            counted: Counted::new(train(), layout.counted),
            priors: priors(data, split),
            pending: BinaryHeap::new(),
            data,
            tables,
            layout,
            frozen,
        }
    }

    /// Goes on after the sessions before `at`, rolled in batches of at most `most`, the last of which began at `rolled`.
    pub(crate) fn resume(&mut self, at: usize, most: usize, rolled: UnixSeconds) {
        let mut last = 0..0;
        while last.end < at {
            last = self.batch(last.end, most);
        }
        // The last batch counted what was known when it began before it awaited labels of its own, known by then or not.
        (0..last.start).for_each(|session| self.await_labels(session, Some(rolled)));
        last.for_each(|session| self.await_labels(session, None));
    }

    /// Waits for the labels of a session, but for those known by `counted`.
    fn await_labels(&mut self, session: usize, counted: Option<UnixSeconds>) {
        let labels = &self.data.sessions[session].labels;
        if self.data.sessions[session].probe {
            return;
        }
        let known = labels.iter().enumerate().filter_map(|(task, label)| label.map(|label| (label.known, session, task)));
        self.pending.extend(known.filter(|(known, ..)| counted.is_none_or(|counted| *known > counted)).map(Reverse));
    }

    /// The sessions from `from` on that make a batch.
    pub(crate) fn batch(&self, from: usize, most: usize) -> Range<usize> {
        let mut seen = HashSet::new();
        let until = self.data.sessions[from..].iter().take(most).take_while(|session| seen.insert(session.customer)).count();
        from..from + until
    }

    /// Counts the labels that are known by now.
    fn count_labels(&mut self, now: UnixSeconds) -> Result<()> {
        let classes = self.layout.classes;
        let (mut keys, mut rows) = (Vec::new(), Vec::new());
        while let Some(Reverse((known, session, task))) = self.pending.peek().copied() {
            if known > now {
                break;
            }
            self.pending.pop();
            let before: usize = self.data.tasks[..task].iter().map(|task| task.classes).sum();
            if let Some(label) = self.data.sessions[session].labels[task] {
                keys.push(self.data.sessions[session].customer);
                rows.extend((0..classes).map(|at| f32::from(u8::from(at == before + label.class as usize))));
            }
        }
        if !keys.is_empty() {
            self.tables.outcomes.assign_add(&keys, &rows, &Update::at(u64::from(now)))?;
        }
        Ok(())
    }

    /// One batch; returns when it began.
    pub(crate) fn run(&mut self, batch: Range<usize>) -> Result<UnixSeconds> {
        let layout = self.layout;
        let sessions = &self.data.sessions[batch.clone()];
        let now = sessions.first().map_or(0, |session| session.start);
        self.count_labels(now)?;
        let customers: Vec<Key> = sessions.iter().map(|session| session.customer).collect();
        let numbers: Vec<Key> = batch.clone().map(|at| at as Key).collect();
        let read = |table: &crate::Table, keys: &[Key]| -> Result<Vec<f32>> {
            let mut rows = vec![0.0; keys.len() * table.dim()];
            table.lookup(keys, &mut rows)?;
            Ok(rows)
        };
        let states = read(&self.tables.customers, &customers)?;
        let past = read(&self.tables.past, &customers)?;
        let outcomes = read(&self.tables.outcomes, &customers)?;
        let mut codes = read(&self.tables.sessions, &numbers)?;
        normalise(&mut codes, self.frozen.norms);
        let pasts: Vec<Past<'_>> = past.chunks_exact(layout.past()).map(|row| Past { row, layout }).collect();
        let mut step = Step { sessions: codes, live: vec![true; sessions.len()], ..Step::default() };
        for (session, past) in sessions.iter().zip(&pasts) {
            step.times.extend(time(session.start, past.last()));
            step.facts.extend_from_slice(&session.context);
        }
        let (before, contexts) = halves(&states, layout);
        let after = self.frozen.encoder.visit(&step, &before, &contexts)?;
        let (mut keys, mut rows) = (Vec::new(), Vec::new());
        for (row, session) in sessions.iter().enumerate() {
            let asked = |when: When| {
                let asks = self.data.tasks.iter().zip(&session.labels).any(|(task, label)| task.when == when && label.is_some());
                asks && self.has_past[batch.start + row]
            };
            let known = Known { roll: self, session, past: &pasts[row], row, step: &step, outcomes: &outcomes };
            for when in [When::Login, When::Logout].into_iter().filter(|when| asked(*when)) {
                keys.push(key(batch.start + row, when));
                let sequence = if when == When::Login { &before } else { &after.sequence };
                known.moment(when, sequence, &after.context, &after.foretold, &mut rows);
            }
        }
        let update = Update::at(u64::from(now));
        if !keys.is_empty() {
            self.tables.moments.assign(&keys, &rows, &update)?;
        }
        self.remember(sessions, &pasts, &step, (&after.sequence, &after.context), &update)?;
        batch.for_each(|session| self.await_labels(session, None));
        Ok(now)
    }

    /// The sessions become part of the past.
    fn remember(
        &self,
        sessions: &[Session],
        pasts: &[Past<'_>],
        step: &Step,
        after: (&[f32], &[f32]),
        update: &Update,
    ) -> Result<()> {
        let layout = self.layout;
        let (mut keys, mut states, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (row, (session, past)) in sessions.iter().zip(pasts).enumerate().filter(|(_, (session, _))| !session.probe) {
            keys.push(session.customer);
            states.extend_from_slice(&after.0[row * layout.sequence..][..layout.sequence]);
            states.extend_from_slice(&after.1[row * layout.context..][..layout.context]);
            let left = past.last().map_or(0.0, |last| decay::left(self.frozen.decay, session.start.saturating_sub(last)));
            let counts = self.counted.count(&session.events);
            let (day, second) = (session.start / 86_400, session.start % 86_400);
            rows.extend([past.visits() + 1.0, day as f32, second as f32, past.weight() * left + 1.0]);
            rows.extend(past.sum().iter().zip(&step.sessions[row * layout.session..]).map(|(sum, x)| sum * left + x));
            rows.extend_from_slice(&step.sessions[row * layout.session..][..layout.session]);
            rows.extend(past.counts().iter().zip(&counts).map(|(all, now)| all + now));
            rows.extend(counts);
        }
        if !keys.is_empty() {
            self.tables.customers.assign(&keys, &states, update)?;
            self.tables.past.assign(&keys, &rows, update)?;
        }
        Ok(())
    }
}

/// One row of a batch, and what is known of it.
struct Known<'a> {
    roll: &'a Roll<'a>,
    session: &'a Session,
    past: &'a Past<'a>,
    row: usize,
    step: &'a Step,
    outcomes: &'a [f32],
}

impl Known<'_> {
    /// Appends a moment, part by part in the layout's order.
    fn moment(&self, when: When, sequence: &[f32], context: &[f32], foretold: &[f32], into: &mut Vec<f32>) {
        let (layout, past) = (self.roll.layout, self.past);
        let part = |values: &[f32], width: usize| values[self.row * width..(self.row + 1) * width].to_vec();
        let own = part(&self.step.sessions, layout.session);
        let now = self.roll.counted.count(&self.session.events);
        let logout = when == When::Logout;
        into.extend(part(&self.step.times, TIME));
        // At logout the session that ends is the last one, and part of the mean.
        into.extend(if logout { &own } else { past.code() });
        let left = past.last().map_or(0.0, |last| decay::left(self.roll.frozen.decay, self.session.start.saturating_sub(last)));
        let (left, one) = if logout { (left, 1.0) } else { (1.0, 0.0) };
        let weight = (past.weight() * left + one).max(1e-6);
        into.extend(past.sum().iter().zip(&own).map(|(sum, own)| (sum * left + own * one) / weight));
        share(past.counts(), into);
        share(if logout { &now } else { past.last_counts() }, into);
        into.push(if logout { self.roll.counted.likelihood(&now, past.counts(), self.roll.frozen.weight) } else { 0.0 });
        into.push(libm::log1pf(past.visits()));
        self.outcomes(into);
        into.extend_from_slice(&self.session.context);
        into.extend(part(sequence, layout.sequence));
        into.extend(part(context, layout.context));
        // How far the session lies from what was foretold, and from the mean of those before it.
        let before = past.sum().iter().map(|sum| sum / past.weight().max(1e-6));
        let aims = part(foretold, layout.session).into_iter().chain(before);
        into.extend(aims.zip(own.iter().cycle()).map(|(aim, own)| if logout { (aim - own).abs() } else { 0.0 }));
    }

    /// The share of each class of each task so far, beginning with that among everybody, weighing as much as one outcome.
    fn outcomes(&self, into: &mut Vec<f32>) {
        let classes = self.roll.layout.classes;
        let mut from = self.row * classes;
        let mut prior = 0;
        for task in &self.roll.data.tasks {
            let counts = &self.outcomes[from..from + task.classes];
            let total = counts.iter().sum::<f32>() + 1.0;
            into.extend(counts.iter().zip(&self.roll.priors[prior..]).map(|(count, prior)| (count + prior) / total));
            from += task.classes;
            prior += task.classes;
        }
    }
}

fn share(counts: &[f32], into: &mut Vec<f32>) {
    let total = counts.iter().sum::<f32>().max(1.0);
    into.extend(counts.iter().map(|count| count / total));
}

/// The parts of customers' rows, each row-major.
fn halves(states: &[f32], layout: &Layout) -> (Vec<f32>, Vec<f32>) {
    let rows = states.chunks_exact(layout.sequence + layout.context);
    let sequence = rows.clone().flat_map(|row| row[..layout.sequence].iter().copied()).collect();
    (sequence, rows.flat_map(|row| row[layout.sequence..].iter().copied()).collect())
}

/// Brings the lanes of session vectors to mean 0 and deviation 1.
pub(crate) fn normalise(codes: &mut [f32], norms: &[f32]) {
    let (mean, scale) = norms.split_at(norms.len() / 2);
    for code in codes.chunks_exact_mut(mean.len().max(1)) {
        code.iter_mut().zip(mean).zip(scale).for_each(|((x, mean), scale)| *x = (*x - mean) * scale);
    }
}

/// For each task, how often each class came true by the split.
fn priors(data: &Sessions, split: UnixSeconds) -> Vec<f32> {
    let mut priors = Vec::new();
    for (task, asked) in data.tasks.iter().enumerate() {
        let mut counts = vec![0.0f32; asked.classes];
        let known = data.sessions.iter().filter(|session| !session.probe).filter_map(|session| session.labels[task]);
        known.filter(|label| label.known < split).for_each(|label| counts[label.class as usize] += 1.0);
        let total = counts.iter().sum::<f32>().max(1.0);
        priors.extend(counts.iter().map(|count| count / total));
    }
    priors
}
