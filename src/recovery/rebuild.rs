//! A store's tables and log, rebuilt from what is on disk: the best base that is sound, then the deltas.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::Identity;
use super::chain::Chain;
use super::load::{Into, Rebuild, Told, load_base, load_cold, replay};
use super::survey::Survey;
use crate::catalog::Catalog;
use crate::cold::ColdTier;
use crate::cold::twin::{TwinCold, TwinOptions};
use crate::context::{Budget, Captures, Context};
use crate::crew::Crew;
use crate::delta::{DeltaLog, FIRST_EPOCH, Tip};
use crate::error::{Error, Result};
use crate::fs::{Fs, LockGuard, Scratch, names};
use crate::kill_point::{KillPoint, reach};
use crate::log::CommitRecord;
use crate::manifest::Manifest;
use crate::options::StoreOptions;
use crate::queue::Queue;
use crate::sync::atomic::AtomicU64;
use crate::sync::{Mutex, RwLock};

/// The cold tier's share of the budget where nothing is said, and its bounds: caches and buffers want some, rows the rest.
const COLD_SHARE: usize = 8;
const MIN_COLD_BYTES: usize = 8 << 20;
const MAX_COLD_BYTES: usize = 256 << 20;
/// The share of the pool for images that a delta being written still needs, and its bounds.
const CAPTURE_SHARE: usize = 32;
const MIN_CAPTURE_BYTES: usize = 64 << 10;
const MAX_CAPTURE_BYTES: usize = 64 << 20;
/// Shards of a table, in small budgets and in large ones.
const FEW_SHARDS: usize = 16;
const MANY_SHARDS: usize = 64;
const LARGE_BUDGET_BYTES: usize = 16 << 30;
/// The most shards: more would be mostly empty.
const MAX_SHARDS: usize = 4096;

/// Keys that may wait to be brought in ahead.
const MOST_KEYS_AHEAD: usize = 1 << 17;
/// Threads that bring rows in ahead, where nothing is said: each waits for the device most of the time, and only so many at once keep
/// it busy.
const PREFETCH_THREADS_A_CORE: usize = 4;
const MOST_PREFETCH_THREADS: usize = 32;

/// The most threads: beyond the cores they only wait.
const MAX_THREADS: usize = 1024;

/// Which store to rebuild, and where its live cold tier goes.
pub(crate) struct Site<'a> {
    pub(crate) fs: Arc<dyn Fs>,
    pub(crate) dir: &'a Path,
    pub(crate) live: PathBuf,
    pub(crate) identity: Identity,
    /// Refuse all changes.
    pub(crate) read_only: bool,
    /// Keep of all rows the embeddings alone.
    pub(crate) serving: bool,
    /// Where `live` is, if that goes with what is rebuilt.
    pub(crate) scratch: Option<Arc<Scratch>>,
    /// The lock of the directory, if `live` is in it.
    pub(crate) lock: Option<Arc<dyn LockGuard>>,
}

/// What a restore wants besides.
#[derive(Clone, Copy)]
pub(crate) struct Guide<'a> {
    /// The directory to take a base's cold files from.
    pub(crate) cold: &'a dyn Fn(&Manifest) -> Result<PathBuf>,
    pub(crate) told: Told<'a>,
}

/// What was rebuilt.
pub(crate) struct Rebuilt {
    pub(crate) catalog: Catalog,
    pub(crate) log: Arc<DeltaLog>,
    pub(crate) base: Option<u64>,
    /// Bases that should have served and are damaged.
    pub(crate) skipped: Vec<(u64, Error)>,
}

/// Tries the valid bases from the newest on; without one, the log from its beginning.
pub(crate) fn rebuild(site: &Site<'_>, options: &StoreOptions, survey: &Survey, chain: &Chain) -> Result<Rebuilt> {
    rebuild_guided(site, options, survey, chain, None)
}

/// As [`rebuild`], with what a restore wants besides.
pub(crate) fn rebuild_guided(
    site: &Site<'_>,
    options: &StoreOptions,
    survey: &Survey,
    chain: &Chain,
    guide: Option<Guide<'_>>,
) -> Result<Rebuilt> {
    let mut skipped = Vec::new();
    let mut candidates: Vec<Option<&Manifest>> = chain.bases(survey).into_iter().map(Some).collect();
    if chain.root.0.sequence == 0 {
        candidates.push(None);
    }
    for base in candidates {
        match attempt(site, options, (survey, chain), base, guide) {
            Ok((catalog, log)) => return Ok(Rebuilt { catalog, log, base: base.map(|base| base.number), skipped }),
            Err(error @ Error::Corrupt { .. }) if base.is_some() => skipped.extend(base.map(|base| (base.number, error))),
            Err(error) => return Err(error),
        }
    }
    Err(skipped.into_iter().map(|(_, error)| error).next().unwrap_or_else(|| Error::UnknownCommit {
        id: chain.target().0,
        why: "no base from which it could be rebuilt is left".into(),
    }))
}

fn attempt(
    site: &Site<'_>,
    options: &StoreOptions,
    (survey, chain): (&Survey, &Chain),
    base: Option<&Manifest>,
    guide: Option<Guide<'_>>,
) -> Result<(Catalog, Arc<DeltaLog>)> {
    let budget = Budget::new(options.memory_budget);
    let cold = open_cold(site, options, &budget, base.filter(|_| !site.serving), guide)?;
    reach(KillPoint::LiveOpened);
    let poison = Arc::new(OnceLock::new());
    let tip = Tip {
        record: CommitRecord::default(),
        state: Arc::default(),
        timeline: timeline(survey, chain),
        next_segment: survey.last_segment.saturating_add(1),
    };
    let log = Arc::new(DeltaLog::new(Arc::clone(&site.fs), site.dir, site.identity.uuid, tip, Arc::clone(&poison)));
    let captures = capture_bytes(options);
    budget.reserve(captures)?;
    let context = Context {
        seed: site.identity.seed,
        allow_non_finite: options.allow_non_finite,
        max_clock_step: options.max_clock_step,
        hot_rows: options.hot_rows,
        slabs: options.slabs.clone(),
        gate: RwLock::default(),
        clock: Mutex::default(),
        epoch: AtomicU64::new(FIRST_EPOCH),
        captures: Captures::new(captures),
        sweeps: Default::default(),
        meters: Default::default(),
        batches: Default::default(),
        cold,
        journal: Arc::clone(&log) as _,
        budget,
        lenders: Default::default(),
        room: Default::default(),
        ahead: Queue::new(prefetch_threads(options.prefetch_threads), MOST_KEYS_AHEAD),
        crew: crew(options.threads)?,
        process: std::process::id(),
        poison,
        read_only: site.read_only.then(|| site.dir.to_path_buf()),
        _scratch: site.scratch.clone(),
        _lock: site.lock.clone(),
    };
    let (context, shards) = (Arc::new(context), shards(options)?);
    let catalog = match site.serving {
        true => Catalog::for_serving(context, shards, options.codecs.clone()),
        false => Catalog::new(context, shards),
    };
    let mut into = Into::new(&*site.fs, site.dir, &catalog, (chain, base), guide.map(|guide| guide.told));
    if let (true, Some(base)) = (site.serving, base) {
        let live = site.live.with_extension("base");
        let of_base = Site { live: live.clone(), fs: Arc::clone(&site.fs), scratch: None, lock: None, ..*site };
        let cold = open_cold(&of_base, options, &Budget::new(usize::MAX), Some(base), None)?;
        load_cold(&*site.fs, site.dir, base, &*cold, &mut into)?;
        drop(cold);
        site.fs.remove_dir_all(&live)?;
    }
    let from_base = match base {
        Some(base) => load_base(&*site.fs, site.dir, base, &mut into)?,
        None => Rebuild::default(),
    };
    reach(KillPoint::BaseLoaded);
    let rebuilt = replay(&*site.fs, survey, chain, base, (&mut into, from_base))?;
    reach(KillPoint::LogReplayed);
    log.set_tip(rebuilt.record, rebuilt.state);
    Ok((catalog, log))
}

/// Refuses options that no store can be opened with, before anything is on disk.
pub(crate) fn check_options(options: &StoreOptions) -> Result<()> {
    shards(options)?;
    check_threads("threads", options.threads)?;
    check_threads("prefetch_threads", options.prefetch_threads.unwrap_or(0))?;
    check_threads("cold_readers", options.cold_readers)?;
    if let Some(given) = options.cold_memory.filter(|&given| given < MIN_COLD_BYTES) {
        let what = format!("{given} bytes are fewer than {MIN_COLD_BYTES}, which the cold tier needs");
        return Err(Error::InvalidOption { option: "cold_memory", what });
    }
    let cold = if options.twin { 0 } else { cold_bytes(options) };
    Budget::new(options.memory_budget).reserve(cold.saturating_add(capture_bytes(options)))
}

fn capture_bytes(options: &StoreOptions) -> usize {
    (options.memory_budget / CAPTURE_SHARE).clamp(MIN_CAPTURE_BYTES, MAX_CAPTURE_BYTES)
}

fn cold_bytes(options: &StoreOptions) -> usize {
    options.cold_memory.unwrap_or_else(|| (options.memory_budget / COLD_SHARE).clamp(MIN_COLD_BYTES, MAX_COLD_BYTES))
}

/// A history that was cut goes on under another name, so that nobody takes the two for one.
fn timeline(survey: &Survey, chain: &Chain) -> u64 {
    let target = chain.target().0.timeline;
    let segments = survey.segments.iter().map(|segment| segment.header.timeline);
    let bases = survey.bases.iter().map(|base| base.begin.timeline);
    if chain.new_timeline { segments.chain(bases).fold(target, u64::max).saturating_add(1) } else { target }
}

fn shards(options: &StoreOptions) -> Result<usize> {
    let default = if options.memory_budget < LARGE_BUDGET_BYTES { FEW_SHARDS } else { MANY_SHARDS };
    match options.shards.unwrap_or(default) {
        shards @ 1..=MAX_SHARDS => Ok(shards),
        shards => Err(Error::InvalidOption { option: "shards", what: format!("{shards} is not within 1 to {MAX_SHARDS}") }),
    }
}

fn check_threads(option: &'static str, threads: usize) -> Result<()> {
    let what = format!("{threads} is more than {MAX_THREADS}");
    if threads <= MAX_THREADS { Ok(()) } else { Err(Error::InvalidOption { option, what }) }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

fn prefetch_threads(given: Option<usize>) -> usize {
    given.unwrap_or_else(|| (cores() * PREFETCH_THREADS_A_CORE).min(MOST_PREFETCH_THREADS))
}

fn crew(threads: usize) -> Result<Option<Crew>> {
    let threads = if threads == 0 { cores() } else { threads };
    if threads == 1 {
        return Ok(None);
    }
    Crew::new(threads).map(Some).map_err(|what| Error::InvalidOption { option: "threads", what })
}

fn open_cold(
    site: &Site<'_>,
    options: &StoreOptions,
    budget: &Budget,
    base: Option<&Manifest>,
    guide: Option<Guide<'_>>,
) -> Result<Arc<dyn ColdTier>> {
    // A quantised copy has all its rows in one file.
    let has_cold = |base: &&Manifest| base.files.iter().any(|file| file.name != names::HOT_ROWS);
    let mut from = None;
    if let Some(base) = base.filter(has_cold) {
        check_cold_files(site, base)?;
        let in_place = || Ok(names::base(site.dir, base.number).join(names::COLD));
        from = Some(guide.map_or_else(in_place, |guide| (guide.cold)(base))?);
    }
    if options.twin {
        let twin = TwinCold::open(Arc::clone(&site.fs), &site.live, from.as_deref(), TwinOptions::default())?;
        return Ok(Arc::new(twin));
    }
    let memory = cold_bytes(options);
    budget.reserve(memory)?;
    open_rocks(&site.live, from.as_deref(), memory, options)
}

/// The cold tier checks its blocks as it reads them; that a file is missing or shorter must be found now.
fn check_cold_files(site: &Site<'_>, base: &Manifest) -> Result<()> {
    let dir = names::base(site.dir, base.number);
    for file in &base.files {
        let path = dir.join(&file.name);
        if !site.fs.exists(&path)? {
            return Err(Error::corrupt(&path, 0, "the file is missing"));
        }
        let found = site.fs.open_read(&path)?.len();
        if found != file.bytes {
            return Err(Error::corrupt(&path, found.min(file.bytes), format!("{found} bytes, the manifest says {}", file.bytes)));
        }
    }
    Ok(())
}

#[cfg(feature = "rocksdb")]
fn open_rocks(live: &Path, from: Option<&Path>, memory: usize, options: &StoreOptions) -> Result<Arc<dyn ColdTier>> {
    use crate::cold::rocks::{RocksCold, RocksOptions};
    use crate::cold::takes_many_reads;
    let (readers, many_reads) = (options.cold_readers, takes_many_reads());
    let how = RocksOptions { memory, readers, many_reads, traffic: options.cold_traffic };
    Ok(Arc::new(RocksCold::open(live, from, how)?))
}

#[cfg(not(feature = "rocksdb"))]
fn open_rocks(_: &Path, _: Option<&Path>, _: usize, _: &StoreOptions) -> Result<Arc<dyn ColdTier>> {
    Err(Error::InvalidOption { option: "twin", what: "this build has no RocksDB".into() })
}
