//! Turns, medians and ratios; and the check of what every candidate read and wrote.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::candidate::{Candidate, Failure};
use super::pin::pin;
use super::workload::{Batch, GRADIENT, Site, Workload, adagrad, initial_state, key_of, value_of};
use super::{Args, Builder, Distribution, Operation};

/// Rows of each thread whose values are followed through all updates.
const FOLLOWED: u64 = 64;

/// A candidate's figure for one operation.
pub(crate) struct Figure {
    case: Case,
    candidate: &'static str,
    /// Rows a second, the median over the turns.
    rate: f64,
    /// The rate over that of the first and of the second candidate: the limits.
    ratios: Vec<f64>,
}

#[derive(Clone)]
struct Case {
    operation: Operation,
    dim: usize,
    rows: u64,
    threads: usize,
    distribution: Option<Distribution>,
    batch: Option<usize>,
}

impl Figure {
    pub(super) fn heading(&self) -> String {
        let Case { operation, dim, rows, threads, distribution, batch } = &self.case;
        let threads = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        let keys = distribution.map_or(String::new(), |distribution| format!(", {distribution}"));
        let batch = batch.map_or(String::new(), |batch| format!(", batches of {batch}"));
        format!("{}: {rows} rows of dim {dim}{keys}{batch}, {threads}", operation.name())
    }

    pub(super) fn line(&self) -> String {
        let ratio = |at: usize| self.ratios.get(at).map_or(String::new(), |ratio| format!("{ratio:>8.3}"));
        format!("  {:<34} {:>9.3} M rows/s {} {}", self.candidate, self.rate / 1e6, ratio(0), ratio(1))
    }

    pub(super) fn to_json(&self) -> Value {
        let Case { operation, dim, rows, threads, distribution, batch } = &self.case;
        json!({
            "operation": operation.name(), "dim": dim, "rows": rows, "threads": threads, "batch": batch,
            "distribution": distribution.map(|d| d.to_string()), "candidate": self.candidate,
            "rows_per_second": self.rate, "of_limit": self.ratios.first(), "of_limit_with_index": self.ratios.get(1),
        })
    }
}

/// A candidate in its run.
struct Runner {
    candidate: Box<dyn Candidate>,
    /// The batches of each thread that were learned in this workload, in order.
    learned: Vec<Vec<usize>>,
    next: Vec<usize>,
    /// The followed rows: place, embedding value and sum of squares as they should be.
    followed: Vec<HashMap<u32, (f32, f32)>>,
}

/// All figures of one set of candidates, a list for each operation, distribution and batch size.
pub(super) fn measure(
    args: &Args,
    site: &Site,
    builders: &[Builder],
    operations: &[Operation],
) -> Result<Vec<Vec<Figure>>, Failure> {
    let mut runners = Vec::new();
    let mut figures = Vec::new();
    let mut inserted = Vec::new();
    for build in builders {
        if let Some((candidate, seconds)) = build(site)? {
            inserted.push((candidate.name(), vec![site.rows as f64 / seconds]));
            runners.push(Runner::new(candidate, site));
        }
    }
    let case = |operation, distribution, batch| Case {
        operation,
        dim: site.dim,
        rows: site.rows,
        threads: if operation == Operation::Insert { 1 } else { site.threads },
        distribution,
        batch,
    };
    if operations.contains(&Operation::Insert) {
        figures.push(figures_of(&case(Operation::Insert, None, None), &inserted));
    }
    for &distribution in &args.distribution {
        for &batch in &args.batch {
            let work = Workload::new(site, distribution, batch as usize);
            for &operation in operations.iter().filter(|op| **op != Operation::Insert) {
                let rates = race(args, site, &work, operation, &mut runners)?;
                figures.push(figures_of(&case(operation, Some(distribution), Some(batch as usize)), &rates));
            }
            runners.iter_mut().try_for_each(|runner| runner.check_updates(site, &work))?;
        }
    }
    Ok(figures)
}

fn figures_of(case: &Case, rates: &[(&'static str, Vec<f64>)]) -> Vec<Figure> {
    let limits: Vec<&Vec<f64>> = rates.iter().filter(|(name, _)| name.starts_with("limit")).map(|(_, rates)| rates).collect();
    let figure = |(candidate, turns): &(&'static str, Vec<f64>)| Figure {
        case: case.clone(),
        candidate,
        rate: median(turns.iter().copied()),
        ratios: limits.iter().map(|limit| median(turns.iter().zip(*limit).map(|(rate, limit)| rate / limit))).collect(),
    };
    rates.iter().map(figure).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The rates of all turns of each candidate.
fn race(
    args: &Args,
    site: &Site,
    work: &Workload,
    operation: Operation,
    runners: &mut [Runner],
) -> Result<Vec<(&'static str, Vec<f64>)>, Failure> {
    let turn = Duration::from_secs_f64(args.seconds / f64::from(args.turns));
    let mut taking: Vec<&mut Runner> =
        runners.iter_mut().filter(|runner| operation != Operation::Miss || runner.candidate.can_miss()).collect();
    let mut rates: Vec<(&'static str, Vec<f64>)> = taking.iter().map(|r| (r.candidate.name(), Vec::new())).collect();
    for runner in &mut taking {
        runner.turn(site, work, operation, turn / 8)?;
    }
    for _ in 0..args.turns {
        for (runner, (_, rates)) in taking.iter_mut().zip(&mut rates) {
            rates.push(runner.turn(site, work, operation, turn)?);
        }
    }
    Ok(rates)
}

/// What one caller did in a turn.
struct Done {
    rows: usize,
    busy: Duration,
    learned: Vec<(usize, usize)>,
    next: usize,
}

impl Runner {
    fn new(candidate: Box<dyn Candidate>, site: &Site) -> Runner {
        let follow = |thread: usize| {
            let places = (0..FOLLOWED).map(|i| (i * 1_000_003 % site.rows_of(thread) as u64) as u32);
            places.map(|place| (place, (value_of(row_at(site, thread, place)), initial_state()))).collect()
        };
        let followed = (0..site.threads).map(follow).collect();
        Runner { candidate, learned: vec![Vec::new(); site.threads], next: vec![0; site.threads], followed }
    }

    /// Runs for a while and returns the rate.
    fn turn(&mut self, site: &Site, work: &Workload, operation: Operation, time: Duration) -> Result<f64, Failure> {
        let callers = self.candidate.callers(site.threads);
        let candidate = &*self.candidate;
        let next = &self.next;
        let results: Vec<Result<Done, Failure>> = std::thread::scope(|scope| {
            let call = |caller: usize| {
                scope.spawn(move || {
                    if callers == site.threads {
                        pin(caller);
                    }
                    let threads: Vec<usize> = (caller..site.threads).step_by(callers).collect();
                    Caller { candidate, site, work, operation, threads }.run(next[caller], time)
                })
            };
            let handles: Vec<_> = (0..callers).map(call).collect();
            handles.into_iter().map(|handle| handle.join().unwrap_or_else(|_| Err("a caller panicked".into()))).collect()
        });
        let mut rate = 0.0;
        for (caller, done) in results.into_iter().enumerate() {
            let done = done.map_err(|failure| format!("{}: {failure}", self.candidate.name()))?;
            rate += done.rows as f64 / done.busy.as_secs_f64();
            done.learned.iter().for_each(|&(thread, batch)| self.learned[thread].push(batch));
            self.next[caller] = done.next;
        }
        Ok(rate)
    }

    /// Follows some rows through everything learned in this workload and compares.
    fn check_updates(&mut self, site: &Site, work: &Workload) -> Result<(), Failure> {
        for thread in 0..site.threads {
            let learned = std::mem::take(&mut self.learned[thread]);
            self.follow(thread, &work.present[thread], &learned);
            let places: Vec<u32> = self.followed[thread].keys().copied().collect();
            let keys = places.iter().map(|&place| key_of(row_at(site, thread, place))).collect();
            let mut out = vec![0.0; places.len() * site.dim];
            self.candidate.lookup(thread, &Batch { keys, places: places.clone() }, &mut out)?;
            for (place, row) in places.iter().zip(out.chunks_exact(site.dim)) {
                let expected = self.followed[thread][place].0;
                if let Some(found) = row.iter().find(|value| value.to_bits() != expected.to_bits()) {
                    let name = self.candidate.name();
                    return Err(format!("{name}: a row at place {place} has {found}, expected {expected}").into());
                }
            }
        }
        Ok(())
    }

    /// In the order of the batches: where a key's gradients differ from batch to batch, another order ends elsewhere.
    fn follow(&mut self, thread: usize, batches: &[Batch], learned: &[usize]) {
        let followed = &mut self.followed[thread];
        let times_in = |batch: &Batch| {
            let mut times: HashMap<u32, u32> = HashMap::new();
            let known = batch.places.iter().filter(|place| followed.contains_key(place));
            known.for_each(|place| *times.entry(*place).or_default() += 1);
            times
        };
        let times: Vec<HashMap<u32, u32>> = batches.iter().map(times_in).collect();
        for (&place, &times) in learned.iter().flat_map(|&batch| &times[batch]) {
            let (weight, sum) = followed.entry(place).or_default();
            let together = (0..times).fold(0.0, |sum, _| sum + GRADIENT);
            let (steps, gradient) = if self.candidate.sums_duplicates() { (1, together) } else { (times, GRADIENT) };
            for _ in 0..steps {
                adagrad(std::slice::from_mut(weight), std::slice::from_mut(sum), &[gradient]);
            }
        }
    }
}

fn row_at(site: &Site, thread: usize, place: u32) -> u64 {
    u64::from(place) * site.threads as u64 + thread as u64
}

/// One thread that calls a candidate.
struct Caller<'a> {
    candidate: &'a dyn Candidate,
    site: &'a Site,
    work: &'a Workload,
    operation: Operation,
    /// Whose batches it takes.
    threads: Vec<usize>,
}

impl Caller<'_> {
    fn run(&self, first: usize, time: Duration) -> Result<Done, Failure> {
        let batches = if self.operation == Operation::Miss { &self.work.absent } else { &self.work.present };
        let size = batches[0][0].keys.len();
        let mut out = vec![0.0; size * self.site.dim];
        let gradients = vec![GRADIENT; size * self.site.dim];
        let mut done = Done { rows: 0, busy: Duration::ZERO, learned: Vec::new(), next: first };
        let begun = Instant::now();
        while begun.elapsed() < time || done.rows == 0 {
            let thread = self.threads[done.next % self.threads.len()];
            let at = done.next / self.threads.len() % batches[thread].len();
            let batch = &batches[thread][at];
            let learns = self.operation == Operation::Update || self.operation == Operation::Mixed && done.next.is_multiple_of(2);
            let call = Instant::now();
            if learns {
                self.candidate.update(thread, batch, &gradients)?;
            } else {
                self.candidate.lookup(thread, batch, &mut out)?;
            }
            done.busy += call.elapsed();
            if learns {
                done.learned.push((thread, at));
            } else if self.operation != Operation::Mixed {
                self.check(thread, batch, &out)?;
            }
            done.rows += size;
            done.next += 1;
        }
        Ok(done)
    }

    /// The first and the last value of every row.
    fn check(&self, thread: usize, batch: &Batch, out: &[f32]) -> Result<(), Failure> {
        for (place, row) in batch.places.iter().zip(out.chunks_exact(self.site.dim)) {
            let expected = if self.operation == Operation::Miss { 0.0 } else { value_of(row_at(self.site, thread, *place)) };
            if row[0] != expected || row[row.len() - 1] != expected {
                return Err(format!("a row holds {} and {}, expected {expected}", row[0], row[row.len() - 1]).into());
            }
        }
        Ok(())
    }
}
