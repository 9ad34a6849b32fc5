//! Runs a candidate through batches, follows each row exactly, and checks what is read.
#![allow(clippy::cast_precision_loss, reason = "figures")]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use serde_json::{Value, json};

use crate::draw::Draw;
use crate::run::Operation;
use crate::workload::{Distribution, key_of, value_of};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Numbers from here on are those of no row, those from the last row to here of new rows.
const ABSENT: u64 = 1 << 40;
/// Rows looked up after updates, to see that none was lost.
const CHECKED: usize = 200_000;

/// What the candidates of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) rows: u64,
    /// f32s of a row.
    pub(crate) dim: usize,
    pub(crate) budget: usize,
    /// Bytes of the budget, if said.
    #[allow(dead_code, reason = "the peers have no such share")]
    pub(crate) cold_memory: Option<usize>,
    pub(crate) callers: usize,
    pub(crate) keep: bool,
    /// The directory that this process only fills, for another that measures.
    #[allow(dead_code, reason = "the peers fill so")]
    pub(crate) fill: Option<PathBuf>,
}

/// Waits until what filling left to do in the background is done, or a minute.
pub(crate) fn settle() -> Result<(), Failure> {
    const LOOKS: usize = 60;
    let (mut before, mut quiet) = (Io::now()?, 0);
    for _ in 0..LOOKS {
        std::thread::sleep(Duration::from_secs(1));
        let now = Io::now()?;
        quiet = if (now.read, now.written) == (before.read, before.written) { quiet + 1 } else { 0 };
        if quiet == 2 {
            break;
        }
        before = now;
    }
    Ok(())
}

/// Keeps rows by key.
pub(crate) trait Candidate: Sync {
    fn name(&self) -> &str;

    /// Reads the rows of keys. A key may come several times.
    fn lookup(&self, keys: &[u64], out: &mut [f32]) -> Result<(), Failure>;

    /// Adds 1 to each value of a row, for each time that its key comes.
    fn update(&self, keys: &[u64]) -> Result<(), Failure>;

    /// Whether keys without a row are zeros to lookups, and new rows to updates.
    fn takes_any_key(&self) -> bool {
        false
    }

    fn looks_ahead(&self) -> bool {
        false
    }

    /// Says which keys come soon.
    fn ahead(&self, _keys: &[u64]) -> Result<(), Failure> {
        Ok(())
    }

    /// Keys so far whose rows were not in memory, where that is known.
    fn misses(&self) -> Option<u64> {
        None
    }

    /// The bytes that it says it holds.
    fn memory_bytes(&self) -> usize {
        0
    }
}

/// Rows in the order of `all_rows`: by number.
pub(crate) fn fill(site: &Site, mut put: impl FnMut(&[u64], &[f32]) -> Result<(), Failure>) -> Result<(), Failure> {
    const A_BATCH: u64 = 16_384;
    for first in (0..site.rows).step_by(A_BATCH as usize) {
        let numbers = first..(first + A_BATCH).min(site.rows);
        let keys: Vec<u64> = numbers.clone().map(key_of).collect();
        let rows: Vec<f32> = numbers.flat_map(|row| std::iter::repeat_n(value_of(row), site.dim)).collect();
        put(&keys, &rows)?;
    }
    Ok(())
}

/// Updates of each row so far.
pub(crate) struct Counts(Vec<AtomicU32>);

impl Counts {
    /// None yet; its memory is touched at once.
    pub(crate) fn new(site: &Site) -> Counts {
        Counts((0..site.rows).map(|_| AtomicU32::new(0)).collect())
    }
}

/// What is done with a candidate, and for how long.
pub(crate) struct Course {
    pub(crate) distribution: Distribution,
    pub(crate) operation: Operation,
    /// Batches that keys are named ahead of their use.
    pub(crate) ahead: usize,
    pub(crate) warm: Duration,
    pub(crate) measured: Duration,
}

/// A run of one candidate.
pub(crate) struct Drive<'a> {
    site: &'a Site,
    candidate: &'a dyn Candidate,
    batch: usize,
    updates: Counts,
    /// Rows inserted so far.
    new: AtomicU64,
    phase: u64,
}

/// A batch's rows by number, and their keys.
struct Batch {
    rows: Vec<u64>,
    keys: Vec<u64>,
}

impl<'a> Drive<'a> {
    pub(crate) fn new(site: &'a Site, candidate: &'a dyn Candidate, batch: usize, updates: Counts) -> Drive<'a> {
        Drive { site, candidate, batch, updates, new: AtomicU64::new(0), phase: 0 }
    }

    /// One figure: the rate after warming, what it read and wrote, and that everything read was right.
    pub(crate) fn figure(&mut self, course: &Course) -> Result<Value, Failure> {
        self.phase += 1;
        let (before, after) = self.run(course)?;
        let keys = (after.keys - before.keys) as f64;
        let elapsed = (after.at - before.at).as_secs_f64();
        let missed = after.misses.zip(before.misses).map(|(after, before)| (after - before) as f64 / keys);
        let Course { distribution, operation, ahead, .. } = *course;
        if matches!(operation, Operation::Update | Operation::New) {
            self.check(distribution, operation)?;
        }
        Ok(json!({
            "candidate": self.candidate.name(),
            "dim": self.site.dim,
            "distribution": distribution.to_string(),
            "operation": operation.to_possible_value().map(|value| value.get_name().to_owned()),
            "ahead": ahead,
            "callers": self.site.callers,
            "rows_per_second": keys / elapsed,
            "missed": missed,
            "read_bytes_a_row": (after.io.read - before.io.read) as f64 / keys,
            "written_bytes_a_row": (after.io.written - before.io.written) as f64 / keys,
            "cores": (after.cpu - before.cpu) / elapsed,
            "memory_bytes": self.candidate.memory_bytes(),
            "resident_bytes": resident_bytes()?,
        }))
    }

    /// Runs batches until the course is over; returns what stood when measuring began and ended.
    fn run(&self, course: &Course) -> Result<(Counters, Counters), Failure> {
        let (start, keys) = (Instant::now(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..self.site.callers as u64)
                .map(|caller| {
                    let keys = &keys;
                    scope.spawn(move || self.call(course, start, keys, caller))
                })
                .collect();
            let ends = callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| Err("a caller panicked".into())));
            let ends: Vec<_> = ends.collect::<Result<_, Failure>>()?;
            ends.into_iter().next().ok_or_else(|| "nobody called".into())
        })
    }

    /// Between warming and measuring nothing stops: what was named ahead by the one is used by the other.
    fn call(&self, course: &Course, start: Instant, keys: &AtomicU64, caller: u64) -> Result<(Counters, Counters), Failure> {
        let mut draw = Draw::new(self.site.rows, course.distribution, self.phase << 32 | caller);
        let mut soon = VecDeque::new();
        let mut out = vec![0.0; self.batch * self.site.dim];
        let mut before = None;
        loop {
            // Before a batch is drawn: where none is named ahead none is left undone.
            match &before {
                None if start.elapsed() >= course.warm => before = Some(self.counters(keys)?),
                Some(before) if start.elapsed() >= course.warm + course.measured => {
                    let after = self.counters(keys)?;
                    if after.keys > before.keys {
                        return Ok((*before, after));
                    }
                }
                _ => {}
            }
            while soon.len() <= course.ahead {
                let batch = match course.operation {
                    Operation::Lookup | Operation::Update => self.draw(|| draw.row()),
                    Operation::Absent => self.draw(|| ABSENT + draw.bits() % ABSENT),
                    Operation::New => self.draw(|| self.site.rows + self.new.fetch_add(1, Ordering::Relaxed)),
                };
                if course.ahead > 0 {
                    self.candidate.ahead(&batch.keys)?;
                }
                soon.push_back(batch);
            }
            let Some(batch) = soon.pop_front() else { continue };
            match course.operation {
                Operation::Lookup | Operation::Absent => {
                    self.candidate.lookup(&batch.keys, &mut out)?;
                    self.compare(&batch, &out)?;
                }
                Operation::Update | Operation::New => {
                    self.candidate.update(&batch.keys)?;
                    batch.rows.iter().for_each(|&row| self.count(row));
                }
            }
            keys.fetch_add(self.batch as u64, Ordering::Relaxed);
        }
    }

    fn counters(&self, keys: &AtomicU64) -> Result<Counters, Failure> {
        let (io, cpu, misses) = (Io::now()?, cpu_seconds()?, self.candidate.misses());
        Ok(Counters { at: Instant::now(), keys: keys.load(Ordering::Relaxed), io, cpu, misses })
    }

    fn count(&self, row: u64) {
        if let Some(updates) = self.updates.0.get(row as usize) {
            updates.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What each value of a row must be.
    fn expected(&self, row: u64) -> f32 {
        match self.updates.0.get(row as usize) {
            Some(updates) => value_of(row) + updates.load(Ordering::Relaxed) as f32,
            None if row < ABSENT => 1.0,
            None => 0.0,
        }
    }

    fn draw(&self, row: impl FnMut() -> u64) -> Batch {
        let rows: Vec<u64> = std::iter::repeat_with(row).take(self.batch).collect();
        Batch { keys: rows.iter().map(|&row| key_of(row)).collect(), rows }
    }

    fn compare(&self, batch: &Batch, out: &[f32]) -> Result<(), Failure> {
        for (&row, found) in batch.rows.iter().zip(out.chunks_exact(self.site.dim)) {
            let expected = self.expected(row);
            if found.iter().fold(false, |odd, &value| odd | (value != expected)) {
                return Err(format!("row {row}: expected {expected}, found {found:?}").into());
            }
        }
        Ok(())
    }

    fn check(&self, distribution: Distribution, operation: Operation) -> Result<(), Failure> {
        let mut draw = Draw::new(self.site.rows, distribution, self.phase << 32);
        let inserted = self.new.load(Ordering::Relaxed);
        let mut out = vec![0.0; self.batch * self.site.dim];
        for _ in 0..CHECKED.min(self.site.rows as usize / 4) / self.batch {
            let batch = self.draw(|| match (operation, inserted) {
                (Operation::New, 1..) => self.site.rows + draw.bits() % inserted,
                _ => draw.row(),
            });
            self.candidate.lookup(&batch.keys, &mut out)?;
            self.compare(&batch, &out)?;
        }
        Ok(())
    }
}

/// What happened so far.
#[derive(Clone, Copy)]
struct Counters {
    at: Instant,
    /// Keys of batches that are done.
    keys: u64,
    io: Io,
    cpu: f64,
    misses: Option<u64>,
}

/// What this process made the device do so far.
#[derive(Clone, Copy)]
struct Io {
    read: u64,
    written: u64,
}

impl Io {
    fn now() -> Result<Io, Failure> {
        let text = std::fs::read_to_string("/proc/self/io")?;
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or(0);
        Ok(Io { read: field("read_bytes:"), written: field("write_bytes:") })
    }
}

fn resident_bytes() -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    Ok(text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096)
}

/// Seconds of all cores, in user and kernel mode.
fn cpu_seconds() -> Result<f64, Failure> {
    const TICKS_A_SECOND: f64 = 100.0;
    let text = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    Ok((ticks(11) + ticks(12)) / TICKS_A_SECOND)
}
