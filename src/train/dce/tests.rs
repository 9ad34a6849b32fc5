//! Tests of the whole job: resuming, memory, what may be known when, forgetting.
#![forbid(unsafe_code)]

use super::bank::Bank;
use super::data::{Label, Session, Sessions, Task, When, event, simulate};
use super::heads::Examples;
use super::moment::{Layout, Part};
use super::*;
use crate::{Error, Key, Store, StoreOptions, Update};

const DAY: u32 = 86_400;

fn bank(seed: u64) -> Sessions {
    simulate(&Bank { seed, customers: 25, days: 60 }).unwrap()
}

fn options() -> DceOptions {
    DceOptions {
        event: 5,
        session: 7,
        sequence: 6,
        context: 3,
        max_events: 10,
        window: 6,
        counted: 9,
        batch: 24,
        session_epochs: 2,
        customer_epochs: 2,
        head_epochs: 2,
        inactivity_days: 20,
        commit_every: 7,
        ..DceOptions::default()
    }
}

fn open(dir: &tempfile::TempDir, hot_rows: usize) -> Store {
    let options = StoreOptions::default().memory_budget(32 << 20).hot_rows(hot_rows).max_clock_step(u32::MAX);
    Store::open(dir.path().join("store"), options).unwrap()
}

fn train(store: &Store, data: &Sessions, options: &DceOptions) -> DceReport {
    train_dce(store, data, options, &mut |_| ()).unwrap()
}

fn figures(report: &DceReport) -> String {
    format!("{:?} {:?} {:?}", report.tasks, report.said, report.unexplained)
}

#[test]
fn a_job_resumed_in_a_tenth_of_its_rows_ends_with_the_bits_of_one_never_interrupted() {
    let data = bank(1);
    let (whole, parts) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = open(&whole, 1_000_000);
    let report = train(&store, &data, &options());
    assert!(report.stage == Stage::Done && report.rows.cold == 0, "{report}");
    assert_eq!(report.tasks.iter().map(|task| task.figures.len()).collect::<Vec<_>>(), [8, 12, 12]);
    println!("{report}");
    let tenth = report.rows.total as usize / 10;
    let mut stages = Vec::new();
    for share in 1..=9 {
        let stop = DceOptions { max_batches: Some(report.batches * share / 10), commit_every: 5 + share, ..options() };
        let store = open(&parts, tenth);
        stages.push(train(&store, &data, &stop).stage);
        // What is changed after the last commit and then lost in a crash leaves no trace.
        let events = store.table(EVENT_TABLE).unwrap();
        events.apply_gradients(&[1], &vec![1.0; events.dim()], &Update::at(1_900_000_000)).unwrap();
    }
    stages.dedup();
    assert!(stages.len() > 2, "{stages:?}");
    let resumed = open(&parts, tenth);
    let last = train(&resumed, &data, &options());
    assert!(last.resumed_from.is_some() && last.rows.cold > last.rows.total / 2, "{last}");
    assert_eq!((last.batches, figures(&last)), (report.batches, figures(&report)));
    assert_eq!(resumed.digest().unwrap(), store.digest().unwrap());
    assert_eq!(resumed.last_commit().unwrap().state, store.last_commit().unwrap().state);
    // Once more: nothing is left to do, and the figures are the same.
    let again = train(&resumed, &data, &options());
    assert_eq!((again.batches, figures(&again)), (report.batches, figures(&report)));
    let other = train_dce(&resumed, &data, &DceOptions { rate: 0.5, ..options() }, &mut |_| ());
    assert!(matches!(other, Err(Error::OtherJob(what)) if what.contains("rate: 0.003")));
    let other = train_dce(&resumed, &bank(2), &options(), &mut |_| ());
    assert!(matches!(other, Err(Error::OtherJob(what)) if what.contains("seed 1")));
}

/// The data with all that happens from `from` on dealt out anew, and what becomes known from then on.
fn shuffled(data: &Sessions, from: u32) -> Sessions {
    let mut other = data.clone();
    let first = data.sessions.partition_point(|session| session.start < from);
    let later = data.sessions.len() - first;
    for (at, session) in other.sessions.iter_mut().enumerate() {
        if at >= first {
            let source = &data.sessions[first + (at - first + later / 2) % later];
            session.events = source.events.iter().rev().copied().collect();
            session.context = source.context.iter().map(|x| 1.0 - x).collect();
        }
        for (label, task) in session.labels.iter_mut().zip(&data.tasks) {
            let flipped = |label: Label| Label { class: (label.class + 1) % task.classes as u32, ..label };
            *label = label.map(|label| if label.known >= from { flipped(label) } else { label });
        }
    }
    other
}

/// The moments of sessions before a time, and the heads' part of the state.
fn before(data: &Sessions, from: u32) -> (Vec<Vec<f32>>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 1_000);
    let report = train(&store, data, &options());
    let table = store.table(MOMENT_TABLE).unwrap();
    let mut moments = Vec::new();
    let first = data.sessions.partition_point(|session| session.start < from) as Key;
    for key in 0..2 * first {
        let mut row = vec![0.0; table.dim()];
        table.lookup(&[key], &mut row).unwrap();
        moments.push(row);
    }
    assert_eq!(report.stage, Stage::Done);
    (moments, store.last_commit().unwrap().state.to_vec())
}

#[test]
fn nothing_that_comes_later_changes_what_was_known() {
    let data = bank(1);
    let split = data.split_at(options().train_share);
    let late = data.sessions[data.sessions.len() * 85 / 100].start;
    let after = |data: &Sessions| before(data, u32::MAX).0;
    // From the split on: all that is learned, the heads too, stays the same. From a later time on: so do moments until then.
    for (from, heads) in [(split, true), (late, false)] {
        let other = shuffled(&data, from);
        let (a, b) = (before(&data, from), before(&other, from));
        assert!(a.0.iter().flatten().any(|x| *x != 0.0) && a.0 == b.0);
        assert!(!heads || a.1 == b.1);
        assert_ne!(after(&data), after(&other));
    }
    // The test can fail: from before the split on, what is learned changes.
    let early = data.sessions[data.sessions.len() / 2].start;
    assert_ne!(before(&data, early).1, before(&shuffled(&data, early), early).1);
    // A label that is known only after the split is not learned from.
    let learned = Examples::new(&data, split, true);
    let usable = |key: &&Key, task| learned.class(**key, task).is_some();
    let label = |key: &Key, task: usize| data.sessions[moment::moment_of(*key).0].labels[task].unwrap();
    for task in 0..data.tasks.len() {
        let mut keys = learned.keys.iter().filter(|key| usable(key, task)).peekable();
        assert!(keys.peek().is_some() && keys.all(|key| label(key, task).known < split));
    }
}

/// A customer's sessions at these days; another customer's every day, so that the clock goes on.
fn visits(days: &[u32]) -> Sessions {
    let session = |customer: Key, day: u32| {
        let start = 1_600_000_000 + day * DAY + customer as u32;
        let events = vec![event(1, "a"), event(1, if day.is_multiple_of(2) { "b" } else { "c" })];
        let labels = vec![Some(Label { class: day % 2, known: start + 60 })];
        Session { customer, start, end: start + 60, events, context: Vec::new(), labels, probe: false }
    };
    let mut sessions: Vec<Session> = (0..100).map(|day| session(7, day)).collect();
    sessions.extend(days.iter().map(|day| session(3, *day)));
    sessions.sort_by_key(|session| session.start);
    let (format, name, fingerprint, split) = ("made", "days".to_string(), [0; 32], Some(1_600_000_000 + 50 * DAY));
    let tasks = vec![Task { name: "odd", classes: 2, when: When::Login }];
    Sessions { format, name, synthetic: true, fingerprint, tasks, context: 0, split, sessions }
}

#[test]
fn customers_who_stay_away_are_forgotten() {
    let data = visits(&[0, 2, 4, 90]);
    let back = data.sessions.iter().rposition(|session| session.customer == 3).unwrap();
    let known = |inactivity_days: u32| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, 1_000);
        let options = DceOptions { inactivity_days, ..options() };
        train(&store, &data, &options);
        let layout = Layout::new(&data, &options);
        let mut row = vec![0.0; layout.moment()];
        store.table(MOMENT_TABLE).unwrap().lookup(&[moment::key(back, When::Login)], &mut row).unwrap();
        assert!(store.table(CUSTOMER_TABLE).unwrap().contains(3).unwrap());
        row[layout.range(Part::Sequence)].iter().any(|x| *x != 0.0)
    };
    assert!(known(87) && !known(85));
}

#[test]
fn labels_known_at_the_login_count_however_often_it_commits() {
    let mut data = visits(&[0, 2, 4, 90]);
    data.sessions
        .iter_mut()
        .for_each(|session| session.labels[0] = session.labels[0].map(|l| Label { known: session.start, ..l }));
    let rolled = |commit_every: u64| {
        let dir = tempfile::tempdir().unwrap();
        let store = open(&dir, 1_000);
        let report = train(&store, &data, &DceOptions { commit_every, ..options() });
        let mut counts = vec![0.0; 2];
        store.table(OUTCOME_TABLE).unwrap().lookup(&[7], &mut counts).unwrap();
        // All but the last day's, which nothing came after.
        assert_eq!(counts, [50.0, 49.0]);
        (store.digest().unwrap(), figures(&report))
    };
    assert_eq!(rolled(0), rolled(1));
    assert_eq!(rolled(0), rolled(7));
}

#[test]
fn sessions_without_tasks_teach_the_session_encoder_only() {
    let mut data = bank(3);
    data.tasks.clear();
    data.sessions.iter_mut().for_each(|session| session.labels.clear());
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir, 100);
    let report = train(&store, &data, &DceOptions { session_epochs: 6, ..options() });
    let [early, late] = report.said.as_ref().unwrap();
    assert!(report.stage == Stage::Done && report.tasks.is_empty() && report.unexplained.is_none());
    assert!(early.loss < early.frequency_loss && late.loss < late.frequency_loss, "{report}");
    assert_eq!(store.table(CUSTOMER_TABLE).unwrap().len(), 0);
    assert!(DceOptions { window: 1, ..options() }.validate().is_err());
}
