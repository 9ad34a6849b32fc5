//! A serving copy of a store: its embeddings, followed from commit to commit while another process trains.
//!
//! A replica reads the store's files and writes nothing there. It begins with the newest base that serves, loads of its rows the
//! embeddings alone, and replays the deltas up to the one that DURABLE names; each [`Replica::catch_up`] replays those that came
//! since, every one as a whole between two lookups. Where its own commit is no longer in that history (the trainer went back, or
//! retention removed what it would have read) it begins anew.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::catalog::Catalog;
use crate::context::{lock, read, write};
use crate::error::{Error, Result};
use crate::fs::{LockGuard, Scratch, names};
use crate::log::Mark;
use crate::options::StoreOptions;
use crate::recovery::{Into, Site, check_options, rebuild, replay_one};
use crate::schema::TableSchema;
use crate::sync::{Mutex, RwLock};
use crate::table::Table;
use crate::types::{At, CommitHash, CommitId, Key};
use crate::view::View;

/// See the module. Lookups may come from many threads, also while it catches up: each sees one commit, whole.
///
/// ```
/// use embedrock::{Replica, Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-replica-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir).unwrap();
/// let store = Store::open(&dir.join("store"), StoreOptions::default())?;
/// let users = store.create_table(TableSchema::new("user", 2))?;
/// let replica = Replica::open(&dir.join("store"), &dir.join("replica"), StoreOptions::default())?;
/// users.assign(&[7], &[1.0, 2.0], &Update::at(1_700_000_000))?;
/// store.commit(b"")?;
/// assert_eq!(replica.lag()?.commits, Some(1));
/// replica.catch_up()?;
/// let mut row = [0.0; 2];
/// assert_eq!((replica.lookup("user", &[7], &mut row)?, row), (1, [1.0, 2.0]));
/// # drop((users, store, replica)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
pub struct Replica {
    store: PathBuf,
    dir: PathBuf,
    options: StoreOptions,
    /// Lookups share it; one commit at a time is applied under it.
    served: RwLock<Served>,
    /// Held by the one that catches up.
    following: Mutex<()>,
    /// When it last had all that was durable.
    level: Mutex<Instant>,
    _lock: Box<dyn LockGuard>,
}

/// What is served.
struct Served {
    catalog: Catalog,
    at: (CommitId, CommitHash),
    /// Why it is not whole: a commit failed half way.
    torn: Option<String>,
}

/// What [`Replica::catch_up`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatchUp {
    /// The commit that is served now.
    pub at: CommitId,
    /// Commits applied.
    pub commits: u64,
    /// Why the replica began anew from a base, if it did.
    pub restarted: Option<String>,
}

/// How far a replica is behind the store.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Lag {
    /// Durable commits that it has not; `None` if the store went on under another timeline (it went back, or cut a crash's tail), whose
    /// commits only catching up compares.
    pub commits: Option<u64>,
    /// Seconds since it had all that was durable.
    pub seconds: f64,
}

impl Replica {
    /// Serves the store in `store`, from its last durable commit on. `dir` is made if it is not there; it holds what does not fit the
    /// memory budget, and belongs to one replica at a time. Of `options` the budget, shards, threads, slabs and hot rows count.
    ///
    /// Cost: reads the newest base and the whole log, and writes all rows.
    ///
    /// # Errors
    /// No store, a damaged one, or one of a newer format; a directory that another replica has, or that is a store; a budget that is
    /// too small.
    pub fn open(store: impl AsRef<Path>, dir: impl AsRef<Path>, options: StoreOptions) -> Result<Replica> {
        let (store, dir) = (store.as_ref(), dir.as_ref());
        check_options(&options)?;
        let fs = &options.fs;
        if fs.exists(&names::identity(dir))? {
            let what = format!("{} is a store; a replica needs a directory of its own", dir.display());
            return Err(Error::InvalidOption { option: "replica", what });
        }
        for dir in [dir, &spill(dir)] {
            if !fs.exists(dir)? {
                fs.create_dir(dir)?;
            }
        }
        let guard = fs.lock(&names::lock(dir))?;
        // What a replica that was killed left.
        for entry in fs.list(&spill(dir))? {
            fs.remove_dir_all(&spill(dir).join(&entry.name))?;
        }
        let level = Instant::now();
        let served = begin(store, dir, &options)?;
        Ok(Replica {
            store: store.to_path_buf(),
            dir: dir.to_path_buf(),
            options,
            served: RwLock::new(served),
            following: Mutex::default(),
            level: Mutex::new(level),
            _lock: guard,
        })
    }

    /// Applies what became durable since. Lookups go on meanwhile, and wait for no more than one commit's rows.
    ///
    /// Cost: reads the log from the oldest base on, and writes the rows of the new commits. Beginning anew costs what [`Replica::open`]
    /// does, and takes the budget a second time until it is done.
    ///
    /// # Errors
    /// The store cannot be read or is damaged. What was served is served on, unless a commit failed half way: then lookups fail with
    /// [`Error::Poisoned`] until a later call succeeds.
    pub fn catch_up(&self) -> Result<CatchUp> {
        let _only = lock(&self.following);
        let began = Instant::now();
        let fs = &*self.options.fs;
        let view = View::new(fs, &self.store, At::Latest)?;
        let (at, torn) = {
            let served = read(&self.served);
            (served.at, served.torn.clone())
        };
        let commits = &view.chain.commits;
        let own = commits.iter().position(|(_, placed)| (placed.record.id, placed.record.hash) == at);
        let first = own.map(|own| own + 1).or((view.chain.root == at).then_some(0));
        let why = match (torn, first) {
            (Some(why), _) => format!("a commit failed half way: {why}"),
            (None, None) => format!("commit {} is not in the store's history any more", at.0),
            (None, Some(first)) => {
                let mut open = None;
                for place in first..commits.len() {
                    let mut served = write(&self.served);
                    let mut into = Into::delta(&served.catalog);
                    let early = place.checked_sub(1).and_then(|before| commits.get(before)).map(|(at, placed)| (*at, placed));
                    let (segment, placed) = &commits[place];
                    let replayed = replay_one(fs, &view.survey, (*segment, placed), (&mut open, early), &mut into);
                    let replayed = replayed.and_then(|(rebuilt, _)| into.loader.finish().map(|()| rebuilt));
                    drop(into);
                    match replayed {
                        Ok(rebuilt) => served.at = (rebuilt.record.id, rebuilt.record.hash),
                        Err(error) => {
                            served.torn = Some(error.to_string());
                            return Err(error);
                        }
                    }
                }
                *lock(&self.level) = began;
                let at = read(&self.served).at.0;
                return Ok(CatchUp { at, commits: (commits.len() - first) as u64, restarted: None });
            }
        };
        drop(view);
        let served = begin(&self.store, &self.dir, &self.options)?;
        let at = served.at.0;
        // The old rows go after the lock does.
        let old = std::mem::replace(&mut *write(&self.served), served);
        drop(old);
        *lock(&self.level) = began;
        Ok(CatchUp { at, commits: 0, restarted: Some(why) })
    }

    /// Copies embeddings as [`Table::lookup`] does, at the commit that is served.
    ///
    /// # Errors
    /// As [`Table::lookup`]; an unknown table; [`Error::Poisoned`] after a commit that failed half way.
    pub fn lookup(&self, table: &str, keys: &[Key], rows: &mut [f32]) -> Result<usize> {
        self.with(table, |table| table.lookup(keys, rows))
    }

    /// As [`Replica::lookup`], and sets `found[i]` to whether `keys[i]` has a row.
    ///
    /// # Errors
    /// As [`Replica::lookup`].
    pub fn lookup_found(&self, table: &str, keys: &[Key], rows: &mut [f32], found: &mut [bool]) -> Result<usize> {
        self.with(table, |table| table.lookup_found(keys, rows, found))
    }

    fn with<R>(&self, table: &str, run: impl FnOnce(&Table) -> Result<R>) -> Result<R> {
        let served = read(&self.served);
        if let Some(reason) = &served.torn {
            return Err(Error::Poisoned { reason: reason.clone() });
        }
        let inner = served.catalog.find(table).ok_or_else(|| Error::UnknownTable { table: table.to_owned() })?;
        run(&Table { inner })
    }

    /// The tables that are served, without what only training needs.
    pub fn tables(&self) -> Vec<TableSchema> {
        read(&self.served).catalog.tables().iter().map(|table| (*table.schema()).clone()).collect()
    }

    /// The commit that is served.
    pub fn at(&self) -> CommitId {
        read(&self.served).at.0
    }

    /// How far it is behind what the store published as durable. Reads 128 bytes.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn lag(&self) -> Result<Lag> {
        let at = self.at();
        let mark = Mark::read(&*self.options.fs, &names::durable(&self.store))?;
        let ahead = |id: CommitId| match at.sequence == 0 || id.sequence == 0 || id.timeline == at.timeline {
            true => id.sequence.checked_sub(at.sequence),
            false => None,
        };
        let commits = mark.map_or(Some(0), |mark| ahead(mark.id));
        let seconds = if commits == Some(0) { 0.0 } else { lock(&self.level).elapsed().as_secs_f64() };
        Ok(Lag { commits, seconds })
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("store", &self.store).field("at", &self.at()).finish_non_exhaustive()
    }
}

/// Where rows go that do not fit the budget.
fn spill(dir: &Path) -> PathBuf {
    dir.join("spill")
}

/// The store as it is now, rebuilt from its files.
fn begin(store: &Path, dir: &Path, options: &StoreOptions) -> Result<Served> {
    let View { identity, survey, chain, pins } = View::new(&*options.fs, store, At::Latest)?;
    let scratch = Arc::new(Scratch::new(&options.fs, Some(&spill(dir)))?);
    let site = Site {
        fs: Arc::clone(&options.fs),
        dir: store,
        live: names::live(scratch.path()),
        identity,
        read_only: true,
        serving: true,
        scratch: Some(scratch),
    };
    let rebuilt = rebuild(&site, options, &survey, &chain)?;
    drop(pins);
    Ok(Served { catalog: rebuilt.catalog, at: chain.target(), torn: None })
}
