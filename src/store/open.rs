//! Opening: the directory is made or recognised, locked, cleaned of litter, and the store rebuilt from it.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Store;
use super::commit::Due;
use super::engine::{Engine, Growth, NextBase};
use crate::error::{Error, Result};
use crate::fs::{Fs, LockGuard, Scratch, names};
use crate::kill_point::{KillPoint, reach};
use crate::options::StoreOptions;
use crate::recovery::{Chain, Identity, Rebuilt, Site, Survey, check_options, choose, glance, harden, rebuild};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64};
use crate::types::CommitId;
use crate::view::View;

/// What opening a store found and did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The commit that the store is at.
    pub at: CommitId,
    /// The base that it was rebuilt from.
    pub base: Option<u64>,
    /// Commits replayed after it.
    pub commits_replayed: u64,
    /// Bytes after the last commit, left by a crash or a close without a commit: they count for nothing.
    pub bytes_cut: u64,
    /// Damage of newer bases that an older one and a longer log made up for.
    pub damaged_bases: Vec<String>,
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commits = match self.commits_replayed {
            1 => "1 commit".to_owned(),
            count => format!("{count} commits"),
        };
        match self.base {
            _ if self.at.sequence == 0 => f.write_str("empty, without a commit yet")?,
            Some(base) => write!(f, "at commit {} (base {base} and {commits} after it)", self.at)?,
            None => write!(f, "at commit {} ({commits} from the beginning)", self.at)?,
        }
        if self.bytes_cut > 0 {
            write!(f, "; {} bytes of log after the last commit were cut", self.bytes_cut)?;
        }
        self.damaged_bases.iter().try_for_each(|damage| write!(f, "; passed over a base: {damage}"))
    }
}

pub(super) fn open(dir: &Path, options: &StoreOptions) -> Result<Store> {
    check_options(options)?;
    if options.read_only {
        return open_to_read(dir, options);
    }
    let fs = Arc::clone(&options.fs);
    let (lock, identity) = enter(&*fs, dir, options)?;
    remove_litter(&*fs, dir)?;
    reach(KillPoint::LitterRemoved);
    let survey = glance(&*fs, dir, identity.uuid)?;
    reach(KillPoint::Surveyed);
    let chain = choose(&survey, dir, options.at)?;
    harden(&*fs, dir, &survey, &chain)?;
    reach(KillPoint::Hardened);
    let lock = Some(Arc::from(lock));
    let site = Site { fs, dir, live: names::live(dir), identity, read_only: false, serving: false, scratch: None, lock };
    let rebuilt = rebuild(&site, options, &survey, &chain)?;
    let next_base = next_base(&*site.fs, dir)?;
    let store = store(&site, options, (&survey, &chain), rebuilt, next_base)?;
    store.sweep_in_background()?;
    Ok(store)
}

/// What is read is pinned until it is rebuilt: from then on nothing in the directory is needed.
fn open_to_read(dir: &Path, options: &StoreOptions) -> Result<Store> {
    let View { identity, survey, chain, pins } = View::new(&*options.fs, dir, options.at)?;
    let scratch = Arc::new(Scratch::new(&options.fs, options.scratch.as_deref())?);
    let live = names::live(scratch.path());
    let site = Site {
        fs: Arc::clone(&options.fs),
        dir,
        live,
        identity,
        read_only: true,
        serving: false,
        scratch: Some(scratch),
        lock: None,
    };
    let rebuilt = rebuild(&site, options, &survey, &chain)?;
    drop(pins);
    store(&site, options, (&survey, &chain), rebuilt, 0)
}

fn store(
    site: &Site<'_>,
    options: &StoreOptions,
    (survey, chain): (&Survey, &Chain),
    rebuilt: Rebuilt,
    next_base: u64,
) -> Result<Store> {
    let base = survey.bases.iter().find(|base| Some(base.number) == rebuilt.base);
    let damaged = rebuilt.skipped.iter().map(|(_, error)| error).chain(&survey.bad_bases).map(ToString::to_string).collect();
    let report = RecoveryReport {
        at: chain.target().0,
        base: rebuilt.base,
        commits_replayed: chain.after(base).len() as u64,
        bytes_cut: chain.bytes_cut,
        damaged_bases: damaged,
    };
    tracing::info!(dir = %site.dir.display(), read_only = site.read_only, "opened the store {report}");
    let growth = Growth {
        base_bytes: base.map_or(0, |base| base.files.iter().map(|file| file.bytes).sum()),
        replayed: chain.after(base).iter().map(|(_, placed)| placed.end - placed.start).sum(),
        ..Growth::default()
    };
    let batches = rebuilt.catalog.context.batches.load(Ordering::Relaxed);
    let engine = Engine {
        dir: site.dir.to_path_buf(),
        fs: Arc::clone(&site.fs),
        identity: site.identity,
        #[cfg(feature = "remote")]
        twin: options.twin,
        catalog: rebuilt.catalog,
        log: rebuilt.log,
        pending: Mutex::default(),
        tickets: Mutex::default(),
        pruned: Mutex::default(),
        damaged_bases: rebuilt.skipped.iter().map(|(number, _)| *number).collect(),
        retention: options.retention,
        growth: Mutex::new(growth),
        checkpoint_bytes: AtomicU64::new(0),
        base_under_way: AtomicBool::new(false),
        budget_change: Mutex::default(),
        next_base: Mutex::new(NextBase { number: next_base, known: base.map_or_else(Vec::new, |base| base.files.clone()) }),
    };
    let store = Store {
        engine: Arc::new(engine),
        report,
        due: Mutex::new(Due::new(options.commit_policy, batches)),
        checkpoint_ratio: options.checkpoint_ratio,
        workers: Mutex::default(),
        sweeper: Mutex::default(),
        _lock: site.lock.clone(),
    };
    let engine = Arc::clone(&store.engine);
    store.in_background("demotion", move || super::demoter::run(&engine))?;
    Ok(store)
}

/// Locks the store's directory, which is made when there is none, and reads or writes its identity.
fn enter(fs: &dyn Fs, dir: &Path, options: &StoreOptions) -> Result<(Box<dyn LockGuard>, Identity)> {
    let refuse = |why: &str| Err(Error::NotAStore { path: dir.to_path_buf(), why: why.into() });
    let exists = fs.exists(dir)?;
    if exists && fs.list(dir).is_err_and(|error| is_no_directory(&error)) {
        return refuse("it is a file, not a directory");
    }
    let known = exists && fs.exists(&names::identity(dir))?;
    if known {
        let lock = fs.lock(&names::lock(dir))?;
        return Ok((lock, Identity::read(fs, dir)?));
    }
    if !options.create {
        return refuse(if exists { "it has no IDENTITY file" } else { "there is no such directory" });
    }
    if exists && !is_vacant(fs, dir)? {
        return refuse("it holds other files and no IDENTITY: choose an empty or new directory");
    }
    if !exists {
        fs.create_dir(dir)?;
    }
    let lock = fs.lock(&names::lock(dir))?;
    if fs.exists(&names::identity(dir))? {
        // Another process made the store between the look and the lock.
        return Ok((lock, Identity::read(fs, dir)?));
    }
    for sub in [names::logs(dir), names::bases(dir)] {
        if !fs.exists(&sub)? {
            fs.create_dir(&sub)?;
        }
    }
    fs.sync_dir(dir)?;
    reach(KillPoint::StoreBegun);
    // Last: without it the directory is vacant and may be taken again.
    let identity = Identity::generate(dir, options.seed);
    identity.write(fs, dir)?;
    reach(KillPoint::IdentityWritten);
    Ok((lock, identity))
}

fn is_no_directory(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotADirectory)
}

/// Empty, or what a creation leaves that did not get as far as the identity.
fn is_vacant(fs: &dyn Fs, dir: &Path) -> Result<bool> {
    for entry in fs.list(dir)? {
        let path = dir.join(&entry.name);
        let expected = path == names::lock(dir) || names::is_litter(&entry.name) && !entry.is_dir;
        let empty = entry.is_dir && (path == names::logs(dir) || path == names::bases(dir)) && fs.list(&path)?.is_empty();
        if !expected && !empty {
            return Ok(false);
        }
    }
    Ok(true)
}

fn remove_litter(fs: &dyn Fs, dir: &Path) -> Result<()> {
    for entry in fs.list(dir)?.into_iter().filter(|entry| names::is_litter(&entry.name)) {
        let path = dir.join(&entry.name);
        if entry.is_dir { fs.remove_dir_all(&path)? } else { fs.remove_file(&path)? }
    }
    Ok(())
}

fn next_base(fs: &dyn Fs, dir: &Path) -> Result<u64> {
    let numbers = fs.list(&names::bases(dir))?;
    Ok(numbers.iter().filter_map(|entry| names::parse_base(&entry.name)).max().unwrap_or(0).saturating_add(1))
}
