//! The joiner beside a naive one, in any order of events, cut into any batches, with crashes at any moment.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;

use embedrock::join::{Event, Example, JoinCounts, JoinOptions, Joiner, training_offset};
use embedrock::{Error, Store, StoreOptions};
use proptest::prelude::*;

const T: u32 = 1_700_000_000;

fn options() -> JoinOptions {
    JoinOptions::new(2, 1).wait(20).remember(30).negatives(0.5).seed(3)
}

/// Few rows in memory: most of what waits does so in the cold tier.
fn store_options() -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).hot_rows(20).twin(true)
}

fn features(request: u64, time: u32) -> Event {
    Event::Features { request, time, keys: vec![request * 7, u64::MAX - request], dense: vec![request as f32 + 0.5] }
}

fn action(request: u64, time: u32, label: f32) -> Event {
    Event::Action { request, time, label }
}

/// All in one map, searched whole for what is due, event by event.
#[derive(Default)]
struct Naive {
    now: u32,
    /// Of each request the deadline, and features with their time, an action, or nothing where it is done.
    known: BTreeMap<u64, (u32, Option<Event>)>,
    examples: Vec<Example>,
}

impl Naive {
    fn example(&mut self, features: &Event, label: f32, keeps: &dyn Fn(u64) -> bool) {
        let Event::Features { request, time, keys, dense } = features.clone() else { panic!("no features") };
        self.known.insert(request, (self.now + 30, None));
        if label > 0.5 || keeps(request) {
            self.examples.push(Example { request, time, label, keys, dense });
        }
    }

    fn time_out(&mut self, keeps: &dyn Fn(u64) -> bool) {
        while let Some((_, request)) =
            self.known.iter().map(|(request, (at, _))| (*at, *request)).min().filter(|(at, _)| *at <= self.now)
        {
            if let Some((_, Some(waiting @ Event::Features { .. }))) = self.known.remove(&request) {
                self.example(&waiting, 0.0, keeps);
            }
        }
    }

    fn take(&mut self, event: &Event, keeps: &dyn Fn(u64) -> bool) {
        let (Event::Features { request, time, .. } | Event::Action { request, time, .. }) = event;
        self.now = self.now.max(*time);
        self.time_out(keeps);
        match (self.known.get(request).cloned(), event) {
            (None, _) => _ = self.known.insert(*request, (time + 20, Some(event.clone()))),
            (Some((_, Some(Event::Action { label, .. }))), Event::Features { .. }) => self.example(event, label, keeps),
            (Some((_, Some(waiting @ Event::Features { .. }))), Event::Action { label, .. }) => {
                self.example(&waiting, *label, keeps);
            }
            _ => {}
        }
        self.time_out(keeps);
    }
}

/// Which negatives are kept, found by asking for one each.
fn keeps(requests: u64) -> Vec<bool> {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), store_options()).unwrap();
    let mut joiner = Joiner::open(&store, options(), None).unwrap();
    let one_by_one = |request: u64| {
        joiner.push(&[features(request, T), action(request, T, 0.0)]).unwrap();
        joiner.next().is_some()
    };
    (0..requests).map(one_by_one).collect()
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    // Steps of time, mostly small, sometimes past all that waits; an event's own time lies up to 40 s behind.
    let step = prop_oneof![8 => 0u32..3, 1 => 0u32..70];
    let event = (step, 0u32..40, 0u64..25, 0u32..5);
    prop::collection::vec(event, 0..250).prop_map(|steps| {
        let mut now = T + 100;
        let make = |(step, behind, request, kind): (u32, u32, u64, u32)| {
            now += step;
            let time = if kind % 2 == 0 { now } else { now - behind };
            match kind {
                0 | 1 => features(request, time),
                kind => action(request, time, if kind == 2 { 0.0 } else { 1.0 }),
            }
        };
        steps.into_iter().map(make).collect()
    })
}

/// What a consumer does that commits its state with the joiner's: how far its input was read, what it has taken.
fn run(events: &[Event], cuts: &[(usize, u32)]) -> Vec<Example> {
    let dir = tempfile::tempdir().unwrap();
    let mut cuts = cuts.iter().cycle();
    let mut committed = (0, Vec::new());
    let mut lives = 0;
    'life: loop {
        let store = Store::open(dir.path(), store_options()).unwrap();
        let state = store.last_commit().map(|commit| commit.state);
        let mut joiner = Joiner::open(&store, options(), state.as_deref()).unwrap();
        let (mut at, mut taken) = committed.clone();
        lives += 1;
        loop {
            let (length, then) = cuts.next().copied().unwrap_or((7, 0));
            let end = (at + length).min(events.len());
            joiner.push(&events[at..end]).unwrap();
            at = end;
            // Not all of it: what is left is part of the state.
            for _ in 0..joiner.ready().saturating_sub(then as usize % 3) {
                taken.extend(joiner.next());
            }
            if then % 3 == 1 {
                store.commit(&joiner.state()).unwrap();
                committed = (at, taken.clone());
            }
            if then % 7 == 2 && lives < 6 {
                continue 'life;
            }
            if at == events.len() {
                taken.extend(std::iter::from_fn(|| joiner.next()));
                return taken;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn it_gives_the_examples_of_a_naive_one_whatever_the_batches_and_crashes(
        events in events(), cuts in prop::collection::vec((1usize..20, 0u32..21), 1..40)
    ) {
        let kept = keeps(25);
        let mut naive = Naive::default();
        events.iter().for_each(|event| naive.take(event, &|request| kept[request as usize]));
        prop_assert_eq!(&run(&events, &cuts), &naive.examples);
        prop_assert_eq!(run(&events, &[(1, 0)]), naive.examples);
    }
}

#[test]
fn each_event_is_counted_as_what_became_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), store_options()).unwrap();
    let mut joiner = Joiner::open(&store, options().negatives(1.0), None).unwrap();
    let late = [features(1, T), action(1, T + 1, 1.0), action(1, T + 2, 1.0), features(1, T + 2)];
    joiner.push(&late).unwrap();
    joiner.push(&[action(2, T + 3, 1.0), action(2, T + 3, 0.0), features(3, T + 4), features(3, T + 4)]).unwrap();
    joiner.push(&[features(4, T + 24), action(3, T + 24, 1.0)]).unwrap();
    let counts = joiner.counts();
    let JoinCounts { examples, joined, timed_out, not_drawn, duplicates, late, without_features, .. } = counts;
    assert_eq!([examples, joined, timed_out, not_drawn, duplicates, late, without_features], [2, 1, 1, 0, 3, 2, 1]);
    let labels: Vec<(u64, f32)> = std::iter::from_fn(|| joiner.next()).map(|example| (example.request, example.label)).collect();
    assert_eq!(labels, [(1, 1.0), (3, 0.0)]);
    // All is forgotten in the end, in the table too.
    joiner.push(&[features(9, T + 1000), action(9, T + 1000, 1.0)]).unwrap();
    joiner.push(&[features(10, T + 2000)]).unwrap();
    assert_eq!((joiner.waiting(), store.table("join").unwrap().len()), (1, 1));
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), store_options()).unwrap();
    for bad in [options().negatives(0.0), options().negatives(1.5), options().negatives(f64::NAN), JoinOptions::new(0, 1)] {
        assert!(matches!(Joiner::open(&store, bad, None), Err(Error::InvalidOption { .. })));
    }
    let mut joiner = Joiner::open(&store, options(), None).unwrap();
    joiner.push(&[features(1, T)]).unwrap();
    let (state, waiting) = (joiner.state(), joiner.waiting());
    let short = Event::Features { request: 2, time: T, keys: vec![1], dense: vec![0.0] };
    let odd = Event::Features { request: 2, time: T, keys: vec![1, 2], dense: vec![f32::NAN] };
    for bad in [short, odd, action(1, T, f32::INFINITY), action(1, T + 10 * 86_400, 1.0)] {
        assert!(joiner.push(&[features(5, T + 1), action(1, T + 30, 1.0), bad]).is_err());
        assert_eq!((joiner.state(), joiner.waiting()), (state.clone(), waiting));
    }
    joiner.push(&[action(1, T + 1, 1.0)]).unwrap();
    assert_eq!(joiner.next().map(|example| example.label), Some(1.0));
    store.commit(&joiner.state()).unwrap();
    assert!(matches!(Joiner::open(&store, options().wait(9), Some(&joiner.state())), Err(Error::OtherJob(_))));
}

/// The odds that sampling changed are the true ones again: a model of one number, trained with the offset, finds the share of positives.
#[test]
fn the_offset_takes_the_sampling_out_of_the_log_odds() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), store_options().hot_rows(100_000)).unwrap();
    let rate = 0.1;
    let mut joiner = Joiner::open(&store, options().negatives(rate), None).unwrap();
    let events =
        (0..20_000).flat_map(|request| [features(request, T), action(request, T, if request % 50 == 0 { 1.0 } else { 0.0 })]);
    joiner.push(&events.collect::<Vec<_>>()).unwrap();
    let labels: Vec<f32> = std::iter::from_fn(|| joiner.next()).map(|example| example.label).collect();
    let kept = labels.len() as f64 - 400.0;
    assert!((kept / 19_600.0 - rate).abs() < 0.01, "{kept} negatives");
    let mut logit = 0.0f64;
    for _ in 0..2000 {
        let shown = 1.0 / (1.0 + (-(logit + f64::from(training_offset(rate)))).exp());
        let error: f64 = labels.iter().map(|label| shown - f64::from(*label)).sum();
        logit -= 5.0 * error / labels.len() as f64;
    }
    let served = 1.0 / (1.0 + (-logit).exp());
    assert!((served - 0.02).abs() < 0.002, "{served}");
}
