//! Runs a candidate through batches, follows each row exactly, and checks what is read.
#![allow(clippy::cast_precision_loss, reason = "figures")]

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::draw::Draw;
use crate::run::Operation;
use crate::workload::{Distribution, key_of, value_of};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

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

/// A run of one candidate.
pub(crate) struct Drive<'a> {
    site: &'a Site,
    candidate: &'a dyn Candidate,
    batch: usize,
    updates: Counts,
    phase: u64,
}

/// A batch's rows by number, and their keys.
struct Batch {
    rows: Vec<u64>,
    keys: Vec<u64>,
}

impl<'a> Drive<'a> {
    pub(crate) fn new(site: &'a Site, candidate: &'a dyn Candidate, batch: usize, updates: Counts) -> Drive<'a> {
        Drive { site, candidate, batch, updates, phase: 0 }
    }

    /// One figure: the rate after warming, what it read and wrote, and that everything read was right.
    pub(crate) fn figure(
        &mut self,
        distribution: Distribution,
        operation: Operation,
        ahead: usize,
        seconds: f64,
        warm: f64,
    ) -> Result<Value, Failure> {
        self.phase += 1;
        self.run(distribution, operation, ahead, seconds * warm)?;
        // Keys that were not drawn for warming.
        self.phase += 1;
        let (before, io, cpu, misses) = (Instant::now(), Io::now()?, cpu_seconds()?, self.candidate.misses());
        let keys = self.run(distribution, operation, ahead, seconds)?;
        let elapsed = before.elapsed().as_secs_f64();
        let (io_after, cpu_after) = (Io::now()?, cpu_seconds()?);
        let missed = self.candidate.misses().zip(misses).map(|(after, before)| (after - before) as f64 / keys as f64);
        if operation == Operation::Update {
            self.check(distribution)?;
        }
        Ok(json!({
            "candidate": self.candidate.name(),
            "dim": self.site.dim,
            "distribution": distribution.to_string(),
            "operation": if operation == Operation::Lookup { "lookup" } else { "update" },
            "ahead": ahead,
            "callers": self.site.callers,
            "rows_per_second": keys as f64 / elapsed,
            "missed": missed,
            "read_bytes_a_row": (io_after.read - io.read) as f64 / keys as f64,
            "written_bytes_a_row": (io_after.written - io.written) as f64 / keys as f64,
            "cores": (cpu_after - cpu) / elapsed,
            "memory_bytes": self.candidate.memory_bytes(),
            "resident_bytes": resident_bytes()?,
        }))
    }

    /// Runs batches for some seconds and returns the keys of all.
    fn run(&self, distribution: Distribution, operation: Operation, ahead: usize, seconds: f64) -> Result<u64, Failure> {
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..self.site.callers as u64)
                .map(|caller| scope.spawn(move || self.call(distribution, operation, ahead, until, caller)))
                .collect();
            callers.into_iter().map(|caller| caller.join().unwrap_or_else(|_| Err("a caller panicked".into()))).sum()
        })
    }

    fn call(
        &self,
        distribution: Distribution,
        operation: Operation,
        ahead: usize,
        until: Instant,
        caller: u64,
    ) -> Result<u64, Failure> {
        let mut draw = Draw::new(self.site.rows, distribution, self.phase << 32 | caller);
        let (mut soon, mut done) = (VecDeque::new(), 0);
        let mut out = vec![0.0; self.batch * self.site.dim];
        while Instant::now() < until {
            while soon.len() <= ahead {
                let batch = self.draw(&mut draw);
                if ahead > 0 {
                    self.candidate.ahead(&batch.keys)?;
                }
                soon.push_back(batch);
            }
            let Some(batch) = soon.pop_front() else { break };
            match operation {
                Operation::Lookup => {
                    self.candidate.lookup(&batch.keys, &mut out)?;
                    self.compare(&batch, &out)?;
                }
                Operation::Update => {
                    self.candidate.update(&batch.keys)?;
                    batch.rows.iter().for_each(|&row| self.count(row));
                }
            }
            done += self.batch as u64;
        }
        Ok(done)
    }

    fn count(&self, row: u64) {
        self.updates.0[row as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn draw(&self, draw: &mut Draw) -> Batch {
        let rows: Vec<u64> = (0..self.batch).map(|_| draw.row()).collect();
        Batch { keys: rows.iter().map(|&row| key_of(row)).collect(), rows }
    }

    fn compare(&self, batch: &Batch, out: &[f32]) -> Result<(), Failure> {
        for (&row, found) in batch.rows.iter().zip(out.chunks_exact(self.site.dim)) {
            let expected = value_of(row) + self.updates.0[row as usize].load(Ordering::Relaxed) as f32;
            if found.iter().fold(false, |odd, &value| odd | (value != expected)) {
                return Err(format!("row {row}: expected {expected}, found {found:?}").into());
            }
        }
        Ok(())
    }

    fn check(&self, distribution: Distribution) -> Result<(), Failure> {
        let mut draw = Draw::new(self.site.rows, distribution, self.phase << 32);
        let mut out = vec![0.0; self.batch * self.site.dim];
        for _ in 0..CHECKED.min(self.site.rows as usize / 4) / self.batch {
            let batch = self.draw(&mut draw);
            self.candidate.lookup(&batch.keys, &mut out)?;
            self.compare(&batch, &out)?;
        }
        Ok(())
    }
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
