//! Training at full rate, with commits and checkpoints back to back in turns with none.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use embedrock::{Store, Table, Waits};
use serde_json::{Value, json};

use crate::disk;
use crate::resident::{peak_of, resident};
use crate::site::{Batches, Failure, POOL_BYTES, Site, median, reopened, same, segments};

/// The seconds of each batch of the turns of one kind.
#[derive(Default)]
struct Times {
    batches: Vec<f64>,
    /// Batches a second in each turn.
    rates: Vec<f64>,
    wall: f64,
    /// Seconds that the thread was ready to run and had no core.
    without_core: f64,
}

/// What was written beside the training.
#[derive(Default)]
struct Written {
    segments: HashMap<OsString, u64>,
    delta_bytes: u64,
    deltas: u64,
    delta_seconds: f64,
    base_bytes: u64,
    bases: u64,
    base_seconds: f64,
}

impl Times {
    fn at(&mut self, share: f64) -> f64 {
        self.batches.sort_unstable_by(f64::total_cmp);
        let at = (self.batches.len() as f64 * share) as usize;
        self.batches.get(at.min(self.batches.len().saturating_sub(1))).copied().unwrap_or(0.0)
    }

    fn figures(&mut self) -> Value {
        let ms = |seconds: f64| seconds * 1e3;
        json!({
            "batches": self.batches.len(), "batches_per_second": median(self.rates.clone()), "p50_ms": ms(self.at(0.5)),
            "p99_ms": ms(self.at(0.99)), "p999_ms": ms(self.at(0.999)), "max_ms": ms(self.at(1.0)),
            "without_core_share": self.without_core / self.wall,
        })
    }

    /// Trains for some seconds.
    fn turn(&mut self, batches: &mut Batches, table: &Table, next: &mut usize, seconds: f64) -> Result<(), Failure> {
        let (begun, before, without_core_before) = (Instant::now(), *next, without_core());
        while begun.elapsed().as_secs_f64() < seconds {
            self.batches.push(batches.train(table, *next)?);
            *next += 1;
        }
        let wall = begun.elapsed().as_secs_f64();
        self.wall += wall;
        self.without_core += without_core() - without_core_before;
        self.rates.push((*next - before) as f64 / wall);
        Ok(())
    }
}

/// Seconds that this thread has waited for a core since it began; 0 where the system does not say.
fn without_core() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().nth(1).and_then(|nanos| nanos.parse::<f64>().ok()).map_or(0.0, |nanos| nanos / 1e9)
}

impl Written {
    /// Counts what the log has grown by.
    fn note_log(&mut self, store: &Store) -> Result<(), Failure> {
        for (name, bytes) in segments(store.dir())? {
            let known = self.segments.entry(name).or_default();
            self.delta_bytes += bytes.saturating_sub(*known);
            *known = bytes;
        }
        Ok(())
    }

    fn commit(&mut self, store: &Store) -> Result<(), Failure> {
        let begun = Instant::now();
        store.commit(b"back to back")?;
        self.delta_seconds += begun.elapsed().as_secs_f64();
        self.deltas += 1;
        self.note_log(store)
    }

    fn checkpoint(&mut self, store: &Store) -> Result<(), Failure> {
        let begun = Instant::now();
        let number = store.checkpoint()?;
        self.base_seconds += begun.elapsed().as_secs_f64();
        self.bases += 1;
        // Cold files are links to files that were there before.
        self.base_bytes += std::fs::metadata(store.dir().join(format!("base/{number:08}/hot.rows")))?.len();
        Ok(())
    }
}

/// Writes without training beside it: medians of bytes a second, and the disk's own beside them.
fn idle(site: &Site, store: &Store, table: &Table) -> Result<Value, Failure> {
    let (mut deltas, mut bases, mut cached, mut direct) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..site.turns.min(3) {
        let mut written = Written::default();
        site.touch(table, 1)?;
        written.note_log(store)?;
        written.delta_bytes = 0;
        written.commit(store)?;
        written.checkpoint(store)?;
        let rates = disk::write_rates(&site.dir, written.base_bytes.max(1 << 20))?;
        deltas.push(written.delta_bytes as f64 / written.delta_seconds);
        bases.push(written.base_bytes as f64 / written.base_seconds);
        cached.push(rates.cached);
        direct.push(rates.direct);
    }
    let of = |rates: &[f64], limit: &[f64]| median(rates.iter().zip(limit).map(|(a, b)| a / b));
    let best: Vec<f64> = cached.iter().zip(&direct).map(|(a, b)| a.max(*b)).collect();
    Ok(json!({
        "commit_mb_s": median(deltas.clone()) / 1e6, "checkpoint_mb_s": median(bases.clone()) / 1e6,
        "disk_cached_mb_s": median(cached.clone()) / 1e6, "disk_direct_mb_s": median(direct.clone()) / 1e6,
        "commit_of_cached": of(&deltas, &cached), "checkpoint_of_cached": of(&bases, &cached),
        "commit_of_best": of(&deltas, &best), "checkpoint_of_best": of(&bases, &best),
    }))
}

/// One turn with commits and checkpoints back to back beside the training.
fn loaded_turn(
    store: &Store,
    written: &mut (Written, Written),
    train: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let stop = AtomicBool::new(false);
    let (deltas, bases) = (&mut written.0, &mut written.1);
    let text = |error: Failure| error.to_string();
    std::thread::scope(|scope| {
        let commits = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                deltas.commit(store).map_err(text)?;
            }
            Ok::<(), String>(())
        });
        let checkpoints = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                bases.checkpoint(store).map_err(text)?;
            }
            Ok::<(), String>(())
        });
        let trained = train();
        stop.store(true, Ordering::Relaxed);
        for worker in [commits, checkpoints] {
            worker.join().map_err(|_| "a writer panicked")??;
        }
        trained
    })
}

fn stalls(before: Waits, after: Waits, wall: f64) -> Value {
    let kinds = [
        ("gate", before.gate, after.gate),
        ("images", before.images, after.images),
        ("shards", before.shards, after.shards),
        ("log", before.log, after.log),
    ];
    let total: Duration = kinds.iter().map(|(_, before, after)| after.total - before.total).sum();
    let longest = kinds.iter().map(|(_, _, after)| after.longest).max().unwrap_or_default();
    let each: serde_json::Map<String, Value> = kinds
        .iter()
        .map(|(name, before, after)| {
            let total = (after.total - before.total).as_secs_f64();
            let figures = json!({
                "times": after.times - before.times, "share": total / wall, "longest_ms": after.longest.as_secs_f64() * 1e3,
            });
            ((*name).to_owned(), figures)
        })
        .collect();
    json!({ "share": total.as_secs_f64() / wall, "longest_ms": longest.as_secs_f64() * 1e3, "of": each })
}

/// The figures of one tier.
pub(crate) fn run(site: &Site, cold: bool) -> Result<Value, Failure> {
    let name = if cold { "stalls-cold" } else { "stalls" };
    let mut batches = Batches::new(site);
    let before_store = resident();
    let (store, table) = site.filled(name, cold)?;
    let idle = idle(site, &store, &table)?;
    let (mut quiet, mut loaded, mut written, mut next) = (Times::default(), Times::default(), Default::default(), 0);
    let seconds = site.seconds / site.turns as f64 / 2.0;
    let mut waited = Vec::new();
    let mut peak = 0;
    for _ in 0..site.turns {
        quiet.turn(&mut batches, &table, &mut next, seconds)?;
        store.commit(b"between")?;
        let (deltas, _): &mut (Written, Written) = &mut written;
        let known = deltas.delta_bytes;
        deltas.note_log(&store)?;
        deltas.delta_bytes = known;
        let (before, wall) = (store.stats().waits, loaded.wall);
        let (done, most) =
            peak_of(|| loaded_turn(&store, &mut written, || loaded.turn(&mut batches, &table, &mut next, seconds)));
        done?;
        peak = peak.max(most);
        waited.push((before, store.stats().waits, loaded.wall - wall));
    }
    store.commit(b"last")?;
    let digest = store.digest()?;
    store.close()?;
    drop(table);
    same("the store opened again", &reopened(site, name, cold)?, &digest)?;
    site.remove(name)?;
    let rounds = site.turns.min(3);
    same("the same batches without commits", &replayed(site, cold, &mut batches, (next, rounds))?, &digest)?;
    let wall: f64 = waited.iter().map(|(_, _, wall)| wall).sum();
    let shares = waited.iter().map(|(before, after, wall)| stalls(*before, *after, *wall)["share"].as_f64().unwrap_or(1.0));
    let all = match (waited.first(), waited.last()) {
        (Some((first, ..)), Some((_, last, _))) => stalls(*first, *last, wall),
        _ => Value::Null,
    };
    let (deltas, bases) = written;
    let slower = median(loaded.rates.iter().zip(&quiet.rates).map(|(loaded, quiet)| loaded / quiet));
    Ok(json!({
        "cold": cold, "rows": site.rows, "dim": site.dim, "batch": site.batch, "stall": all, "stall_share_median": median(shares),
        "quiet": quiet.figures(), "loaded": loaded.figures(), "loaded_of_quiet": slower,
        "commits": deltas.deltas, "commit_mb_s": deltas.delta_bytes as f64 / wall / 1e6,
        "checkpoints": bases.bases, "checkpoint_mb_s": bases.base_bytes as f64 / wall / 1e6, "idle": idle,
        "peak_mib": peak.saturating_sub(before_store) >> 20,
        "allowed_mib": (site.budget(cold) as u64 + POOL_BYTES) >> 20,
    }))
}

/// The digest after the same batches in a store that never commits them.
fn replayed(
    site: &Site,
    cold: bool,
    batches: &mut Batches,
    (count, rounds): (usize, usize),
) -> Result<embedrock::Digest, Failure> {
    let (store, table) = site.open("replayed", cold)?;
    for _ in 0..=rounds {
        site.touch(&table, 1)?;
    }
    for at in 0..count {
        batches.train(&table, at)?;
    }
    let digest = store.digest()?;
    drop((store, table));
    site.remove("replayed")?;
    Ok(digest)
}
