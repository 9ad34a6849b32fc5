//! What is known of a customer at a login or a logout, as one row of numbers, and which parts of it a head reads.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::ops::Range;

use super::data::{Session, Sessions, When};
use super::options::DceOptions;
use crate::{Key, UnixSeconds};

/// Numbers that say when: time since the last session twice, hour of the day and day of the week as points on circles.
pub(crate) const TIME: usize = 6;
const DAY: u32 = 86_400;
/// The time since the last session where there was none, in seconds.
const NEVER: u32 = 90 * DAY;

/// Time since the last session and time of the day and week (several representations of time, as the paper has them).
pub(crate) fn time(now: UnixSeconds, last: Option<UnixSeconds>) -> [f32; TIME] {
    let gap = last.map_or(NEVER, |last| now.saturating_sub(last)) as f32;
    let turn = |period: u32| (now % period) as f32 / period as f32 * std::f32::consts::TAU;
    let (day, week) = (turn(DAY), turn(7 * DAY));
    let pause = libm::log1pf(gap / 60.0) / 10.0;
    [pause, libm::expf(-gap / DAY as f32), libm::sinf(day), libm::cosf(day), libm::sinf(week), libm::cosf(week)]
}

/// Where each part of a moment is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    /// Floats of a session's vector.
    pub(crate) session: usize,
    /// Events counted by hand; one more lane counts all others.
    pub(crate) counted: usize,
    /// Lanes of known outcomes.
    pub(crate) classes: usize,
    /// Numbers of a login's context.
    pub(crate) facts: usize,
    /// Floats of a customer's vector from sessions.
    pub(crate) sequence: usize,
    /// Floats of it from contexts.
    pub(crate) context: usize,
}

/// A part of a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Time,
    Last,
    Mean,
    Hand,
    Sequence,
    Context,
    Surprise,
    /// Of `Hand`, the likelihood ratio alone.
    Likelihood,
}

/// All that lie side by side.
const PARTS: [Part; 7] = [Part::Time, Part::Last, Part::Mean, Part::Hand, Part::Sequence, Part::Context, Part::Surprise];

impl Layout {
    pub(crate) fn new(data: &Sessions, options: &DceOptions) -> Layout {
        Layout {
            session: options.session,
            counted: options.counted,
            classes: data.tasks.iter().map(|task| task.classes).sum(),
            facts: data.context,
            sequence: options.sequence,
            context: if data.context == 0 { 0 } else { options.context },
        }
    }

    fn width(&self, part: Part) -> usize {
        match part {
            Part::Time => TIME,
            Part::Last | Part::Mean => self.session,
            Part::Surprise => 2 * self.session,
            Part::Hand => self.hand(),
            Part::Sequence => self.sequence,
            Part::Context => self.context,
            Part::Likelihood => 1,
        }
    }

    /// Shares of events over the past and over the last session, likelihood ratio, visits, outcomes, context.
    pub(crate) fn hand(&self) -> usize {
        2 * (self.counted + 1) + 2 + self.classes + self.facts
    }

    /// Visits, day and second of the last, weight and sum of the decayed mean, the last session, counts of all and of the last.
    pub(crate) fn past(&self) -> usize {
        4 + 2 * self.session + 2 * (self.counted + 1)
    }

    pub(crate) fn moment(&self) -> usize {
        PARTS.iter().map(|part| self.width(*part)).sum()
    }

    pub(crate) fn range(&self, part: Part) -> Range<usize> {
        if part == Part::Likelihood {
            return self.likelihood()..self.likelihood() + 1;
        }
        let mut from = 0;
        for other in PARTS {
            let to = from + self.width(other);
            if other == part {
                return from..to;
            }
            from = to;
        }
        from..from
    }

    /// Where the likelihood ratio is in a moment.
    pub(crate) fn likelihood(&self) -> usize {
        self.range(Part::Hand).start + 2 * (self.counted + 1)
    }

    /// Where the share of an outcome is in a moment, counted over all tasks' classes.
    pub(crate) fn outcome(&self, class: usize) -> usize {
        self.likelihood() + 2 + class
    }
}

/// What a head reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FeatureSet {
    pub(crate) name: &'static str,
    parts: &'static [Part],
}

/// All sets; each head reads the time too.
const SETS: [FeatureSet; 10] = [
    FeatureSet { name: "time only", parts: &[] },
    FeatureSet { name: "last session", parts: &[Part::Last] },
    FeatureSet { name: "decayed mean", parts: &[Part::Mean] },
    FeatureSet { name: "hand counts", parts: &[Part::Hand] },
    FeatureSet { name: "DCE without sequence", parts: &[Part::Last, Part::Context] },
    FeatureSet { name: "DCE without context", parts: &[Part::Last, Part::Sequence] },
    FeatureSet { name: "DCE", parts: &[Part::Last, Part::Sequence, Part::Context, Part::Surprise] },
    FeatureSet { name: "DCE and hand counts", parts: &[Part::Last, Part::Sequence, Part::Context, Part::Surprise, Part::Hand] },
    FeatureSet { name: "likelihood", parts: &[Part::Likelihood] },
    FeatureSet { name: "vector and likelihood", parts: &[Part::Last, Part::Sequence, Part::Context, Part::Likelihood] },
];

/// Of `SETS`, those that say something at login: the others are of the session's events.
const AT_LOGIN: usize = 8;

/// The sets that heads read then.
pub(crate) fn sets(when: When) -> &'static [FeatureSet] {
    if when == When::Logout { &SETS } else { &SETS[..AT_LOGIN] }
}

impl FeatureSet {
    /// The lanes of a moment that it reads.
    pub(crate) fn lanes(&self, layout: &Layout) -> Vec<usize> {
        layout.range(Part::Time).chain(self.parts.iter().flat_map(|part| layout.range(*part))).collect()
    }
}

/// The events that are counted by hand, with their shares among all of the training part.
pub(crate) struct Counted {
    places: HashMap<Key, usize>,
    shares: Vec<f32>,
}

/// How many events of everybody may be added to a customer's own.
const WEIGHTS: [f32; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];

impl Counted {
    pub(crate) fn new<'a>(sessions: impl Iterator<Item = &'a Session>, most: usize) -> Counted {
        let mut counts: HashMap<Key, u64> = HashMap::new();
        sessions.flat_map(|session| &session.events).for_each(|key| *counts.entry(*key).or_default() += 1);
        let total = counts.values().sum::<u64>().max(1) as f32;
        let mut all: Vec<(Key, u64)> = counts.into_iter().collect();
        all.sort_by_key(|(key, count)| (std::cmp::Reverse(*count), *key));
        let mut shares = vec![0.0; most + 1];
        for (at, (_, count)) in all.iter().enumerate() {
            shares[at.min(most)] += *count as f32 / total;
        }
        Counted { places: all.into_iter().take(most).enumerate().map(|(at, (key, _))| (key, at)).collect(), shares }
    }

    /// How often each counted event, and any other, is in a session.
    pub(crate) fn count(&self, events: &[Key]) -> Vec<f32> {
        let mut counts = vec![0.0; self.shares.len()];
        for key in events {
            counts[self.places.get(key).copied().unwrap_or(self.shares.len() - 1)] += 1.0;
        }
        counts
    }

    /// Of `WEIGHTS`, the one by which customers' pasts make their next sessions likeliest. Takes sessions in order.
    pub(crate) fn weight<'a>(&self, sessions: impl Iterator<Item = &'a Session>) -> f32 {
        let (mut pasts, mut sums) = (HashMap::<Key, Vec<f32>>::new(), [0.0f64; WEIGHTS.len()]);
        for session in sessions {
            let now = self.count(&session.events);
            let past = pasts.entry(session.customer).or_insert_with(|| vec![0.0; now.len()]);
            for (sum, weight) in sums.iter_mut().zip(WEIGHTS) {
                *sum += f64::from(self.likelihood(&now, past, weight)) * session.events.len() as f64;
            }
            past.iter_mut().zip(now).for_each(|(past, now)| *past += now);
        }
        let best = sums.into_iter().zip(WEIGHTS).max_by(|a, b| a.0.total_cmp(&b.0));
        best.map_or(1.0, |(_, weight)| weight)
    }

    /// The mean log of how much likelier the customer makes the session's events than everybody together: naive Bayes, with so
    /// many events of everybody added to the customer's own.
    pub(crate) fn likelihood(&self, session: &[f32], past: &[f32], weight: f32) -> f32 {
        const LEAST: f32 = 1e-5;
        let (total, count) = (past.iter().sum::<f32>(), session.iter().sum::<f32>());
        let parts = session.iter().zip(past).zip(&self.shares).filter(|((now, _), _)| **now > 0.0);
        let sum: f32 = parts
            .map(|((now, past), share)| {
                let share = share.max(LEAST);
                now * libm::logf((past + weight * share) / (total + weight) / share)
            })
            .sum();
        if count > 0.0 { sum / count } else { 0.0 }
    }
}

/// The key of a moment.
pub(crate) fn key(session: usize, when: When) -> Key {
    2 * session as Key + u64::from(when == When::Logout)
}

/// Whose key that is.
pub(crate) fn moment_of(key: Key) -> (usize, When) {
    ((key / 2) as usize, if key % 2 == 1 { When::Logout } else { When::Login })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_side_by_side_and_sets_hold_them() {
        let layout = Layout { session: 3, counted: 2, classes: 4, facts: 2, sequence: 5, context: 1 };
        let mut end = 0;
        for part in PARTS {
            let range = layout.range(part);
            assert_eq!(range.start, end);
            end = range.end;
        }
        assert_eq!((end, layout.hand()), (layout.moment(), 2 * 3 + 2 + 4 + 2));
        assert_eq!(layout.outcome(4), layout.range(Part::Hand).end - layout.facts);
        let all = SETS[7].lanes(&layout);
        assert_eq!(all.len(), layout.moment() - layout.session);
        assert_eq!(SETS[0].lanes(&layout), (0..TIME).collect::<Vec<_>>());
        assert_eq!(SETS[AT_LOGIN].lanes(&layout)[TIME..], [layout.likelihood()]);
        assert!(layout.range(Part::Hand).contains(&layout.likelihood()));
        let of_events = |set: &FeatureSet| set.parts.contains(&Part::Likelihood);
        assert!(SETS[AT_LOGIN..].iter().all(of_events) && !sets(When::Login).iter().any(of_events));
    }

    fn session(customer: Key, events: &[Key]) -> Session {
        let (context, labels) = Default::default();
        Session { customer, start: 0, end: 0, events: events.to_vec(), context, labels, probe: false }
    }

    #[test]
    fn everybody_weighs_the_more_the_less_customers_differ() {
        let weight = |events: fn(Key) -> [Key; 4]| {
            let all: Vec<Session> = (0..60).map(|at| session(at % 3, &events(at).map(|event| event % 9))).collect();
            Counted::new(all.iter(), 9).weight(all.iter())
        };
        // Each customer to an event of his own, and all alike.
        assert_eq!(
            (weight(|at| [at % 3; 4]), weight(|at| [at / 3, at / 3 + 2, at / 3 + 4, at / 3 + 6])),
            (WEIGHTS[0], WEIGHTS[9])
        );
        let between = weight(|at| [at % 3, at / 3, at / 3 + 2, at / 3 + 4]);
        assert!(between > WEIGHTS[0] && between < WEIGHTS[9], "{between}");
    }

    #[test]
    fn the_likelihood_tells_a_customer_from_another() {
        let all = [session(1, &[1, 1, 1, 2]), session(1, &[2, 2, 3, 9]), session(1, &[1, 4])];
        let counted = Counted::new(all.iter(), 2);
        assert_eq!(counted.count(&[1, 2, 3, 4, 9]), [1.0, 1.0, 3.0]);
        let past = [30.0, 1.0, 0.0];
        let own = counted.likelihood(&counted.count(&[1, 1]), &past, 20.0);
        let other = counted.likelihood(&counted.count(&[2, 9]), &past, 20.0);
        assert!(own > 0.0 && other < 0.0, "{own} {other}");
        assert_eq!(counted.likelihood(&[0.0; 3], &past, 20.0), 0.0);
    }
}
