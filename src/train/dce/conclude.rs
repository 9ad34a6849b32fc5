//! The end of a job: what its encoders and heads are worth on sessions that they have not learned from.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use super::autoencoder::{Events, Said};
use super::data::{Session, When};
use super::heads::{Examples, rows};
use super::moment::sets;
use super::report::{DceReport, Reconstruction, TaskReport};
use super::run::{CHUNK, Job};
use super::scores::{Figures, Scores};
use super::state::Stage;
use crate::train::Rows;
use crate::{CommitId, Key, Result};

/// Sessions that are said back.
const SAID: usize = 4_096;

pub(crate) fn report(job: &Job<'_>, begun: Instant, resumed: Option<CommitId>) -> Result<DceReport> {
    let (data, state) = (job.data, &job.state);
    let train = data.sessions.partition_point(|session| session.start < job.split);
    let done = state.stage == Stage::Done;
    let tasks = if done { tasks(job)? } else { Vec::new() };
    let said = if state.stage > Stage::Sessions {
        let frequencies = Frequencies::new(job, &data.sessions[..train]);
        let (early, late) = data.sessions.split_at(train);
        Some([frequencies.said(job, early)?, frequencies.said(job, late)?])
    } else {
        None
    };
    let decided = state.stage > Stage::Customers && !data.tasks.is_empty();
    Ok(DceReport {
        format: data.format.to_string(),
        name: data.name.clone(),
        synthetic: data.synthetic,
        seed: job.options.seed,
        sessions: data.sessions.len() as u64,
        customers: data.sessions.iter().map(|session| session.customer).collect::<HashSet<_>>().len() as u64,
        train_sessions: train as u64,
        stage: state.stage,
        batches: state.batches,
        seconds: begun.elapsed().as_secs_f64(),
        said,
        unexplained: (decided && state.foretold.1 > 0).then(|| state.foretold.0 / state.foretold.1 as f64),
        everybody_weighs: (decided && state.weight > 0.0).then_some(state.weight),
        half_life_days: (decided && state.decay > 0.0).then(|| std::f64::consts::LN_2 / f64::from(state.decay)),
        tasks,
        rows: Rows::of(job.store),
        dense_weights: (state.autoencoder.weights() + state.customers.weights() + state.heads.weights()) as u64,
        commit: job.commits.last().map(|id| id.to_string()),
        resumed_from: resumed.map(|id| id.to_string()),
    })
}

/// How often each event is in the part that is learned from.
struct Frequencies {
    counts: HashMap<Key, u64>,
    most: Option<Key>,
}

impl Frequencies {
    fn new(job: &Job<'_>, train: &[Session]) -> Frequencies {
        let mut counts = HashMap::new();
        let events = train.iter().flat_map(|session| job.events(session));
        events.for_each(|key| *counts.entry(*key).or_default() += 1);
        let most = counts.iter().max_by_key(|(key, count)| (**count, **key)).map(|(key, _)| *key);
        Frequencies { counts, most }
    }

    /// Says sessions back, beside what the frequencies alone would say among the same events.
    fn said(&self, job: &Job<'_>, sessions: &[Session]) -> Result<Reconstruction> {
        let every = sessions.len().div_ceil(SAID).max(1);
        let chosen: Vec<&[Key]> = sessions.iter().step_by(every).map(|session| job.events(session)).collect();
        let (mut said, mut loss, mut most) = (Said::default(), 0.0, 0u64);
        for chunk in chosen.chunks(job.options.batch) {
            let events = Events::new(chunk.iter().copied());
            said.add(job.state.autoencoder.say(&events, &job.event_rows(&events)?)?);
            let weight = |key: &Key| self.counts.get(key).copied().unwrap_or(0) as f64 + 1.0;
            let total: f64 = events.keys.iter().map(weight).sum();
            for key in chunk.iter().copied().flatten() {
                loss -= (weight(key) / total).ln();
                most += u64::from(Some(*key) == self.most);
            }
        }
        let events = said.events.max(1) as f64;
        Ok(Reconstruction {
            sessions: chosen.len() as u64,
            events: said.events,
            accuracy: said.right as f64 / events,
            loss: said.loss / events,
            most_frequent: most as f64 / events,
            frequency_loss: loss / events,
        })
    }
}

fn tasks(job: &Job<'_>) -> Result<Vec<TaskReport>> {
    let (learned, tried) = (Examples::new(job.data, job.split, true), Examples::new(job.data, job.split, false));
    let norms = job.norms(&learned)?;
    let heads = &job.state.heads;
    let mut scores = heads.no_scores();
    let mut before = 0;
    let mut plain: Vec<[Scores; 2]> = job.data.tasks.iter().map(|_| [Scores::new(2), Scores::new(2)]).collect();
    let mut moments = Vec::new();
    for chunk in tried.keys.chunks(CHUNK) {
        rows(&job.tables.moments, chunk, &mut moments)?;
        heads.score(&tried, chunk, &moments, &norms, &mut scores)?;
        add_plain(job, &tried, chunk, &moments, &mut plain);
    }
    let mut reports = Vec::new();
    for (task, asked) in job.data.tasks.iter().enumerate() {
        let sets = sets(asked.when);
        let own = &scores[before..before + sets.len()];
        before += sets.len();
        let mut figures: Vec<Figures> = Vec::new();
        let names = ["past rate (no head)", "likelihood (no head)"];
        figures.extend(
            plain[task].iter().zip(names).filter(|(plain, _)| plain.samples() > 0).map(|(p, name)| p.figures(name, false)),
        );
        figures.extend(own.iter().zip(sets).map(|(scores, set)| scores.figures(set.name, true)));
        let count = |all: &Examples<'_>| all.keys.iter().filter(|moment| all.class(**moment, task).is_some()).count() as u64;
        reports.push(TaskReport {
            name: asked.name.to_string(),
            learned: count(&learned),
            tried: count(&tried),
            classes: own.first().map_or(Vec::new(), Scores::counts),
            figures,
        });
    }
    Ok(reports)
}

/// Two numbers that need no head: how often it came true for the customer so far, and how unlike the customer the session is.
fn add_plain(job: &Job<'_>, tried: &Examples<'_>, chunk: &[Key], moments: &[f32], plain: &mut [[Scores; 2]]) {
    let mut from = 0;
    for ((task, asked), [rate, likelihood]) in job.data.tasks.iter().enumerate().zip(plain) {
        let yes = job.layout.outcome(from + 1);
        from += asked.classes;
        if asked.classes > 2 {
            continue;
        }
        for (moment, row) in chunk.iter().zip(moments.chunks_exact(job.layout.moment())) {
            if let Some(class) = tried.class(*moment, task) {
                rate.add(&[row[yes]], &[class]);
                if asked.when == When::Logout {
                    likelihood.add(&[-row[job.layout.likelihood()]], &[class]);
                }
            }
        }
    }
}
