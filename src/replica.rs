//! A serving copy of a store: its embeddings, followed from commit to commit while another process trains.
//!
//! A replica reads the store's files and writes nothing there. It begins with the newest base that serves, loads of its rows the
//! embeddings alone, and replays the deltas up to the one that DURABLE names; each [`Replica::catch_up`] replays those that came
//! since, every one as a whole between two lookups, reading the log from its own commit on. Where that is no longer in the history that
//! leads to the newest one (the trainer went back, or retention removed what it would have read) it begins anew.
#![forbid(unsafe_code)]

mod feed;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use feed::Feed;

use crate::catalog::Catalog;
use crate::context::{lock, read, write};
use crate::error::{Error, Result};
use crate::fs::{LockGuard, Scratch, names};
use crate::log::Mark;
use crate::options::StoreOptions;
use crate::recovery::{Into, Place, Placed, Site, Survey, ahead, check_options, rebuild, replay_one};
#[cfg(feature = "remote")]
use crate::remote::Remote;
use crate::schema::TableSchema;
use crate::serving::Layout;
use crate::shard::IMAGE_HEADER_BYTES;
use crate::sync::{Mutex, RwLock};
use crate::table::{Table, TableInner, check_length};
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
    feed: Feed,
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
    /// Where that commit lies, if it is in the log.
    place: Option<Place>,
    /// Whether frames of the next delta may stand in it.
    has_early: bool,
    /// Why it is not whole: a commit failed half way.
    torn: Option<String>,
}

impl Served {
    fn find(&self, table: &str) -> Result<Arc<TableInner>> {
        self.catalog.find(table).ok_or_else(|| Error::UnknownTable { table: table.to_owned() })
    }
}

/// What [`Replica::catch_up`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CatchUp {
    /// The commit that is served now.
    pub at: CommitId,
    /// Commits applied.
    pub commits: u64,
    /// Bytes read of the log, and of a base where it began anew; of copies elsewhere, bytes fetched.
    pub bytes: u64,
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
    /// memory budget, and belongs to one replica at a time. Of `options` the budget, shards, threads, slabs, hot rows and codecs count.
    ///
    /// Cost: reads the newest base and the whole log, and writes all rows.
    ///
    /// # Errors
    /// No store, a damaged one, or one of a newer format; a directory that another replica has, or that is a store; a budget that is
    /// too small.
    pub fn open(store: impl AsRef<Path>, dir: impl AsRef<Path>, options: StoreOptions) -> Result<Replica> {
        let dir = dir.as_ref();
        let guard = prepare(dir, &options)?;
        Replica::start(Feed::of_store(store.as_ref()), dir, options, guard)
    }

    /// As [`Replica::open`], from the copies that [`Store::upload`](crate::Store::upload) sends to a place that this machine reaches. They
    /// are fetched into `dir` too, which so needs room for one of them; of the next one only chunks that are not there. Quantised copies
    /// hold no log: each is begun anew.
    ///
    /// # Errors
    /// As [`Replica::open`]; as [`Remote::restore`] for copies that are not there, not whole, or of several stores.
    #[cfg(feature = "remote")]
    pub fn open_copies(remote: Remote, dir: impl AsRef<Path>, options: StoreOptions) -> Result<Replica> {
        let dir = dir.as_ref();
        let guard = prepare(dir, &options)?;
        Replica::start(Feed::of_copies(remote, dir.join("feed")), dir, options, guard)
    }

    fn start(feed: Feed, dir: &Path, options: StoreOptions, guard: Box<dyn LockGuard>) -> Result<Replica> {
        let level = Instant::now();
        feed.fetch()?;
        let (served, _) = begin(feed.store(), dir, &options)?;
        Ok(Replica {
            feed,
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
    /// Cost: reads the log from its own commit on, and writes the rows of the new commits. Beginning anew costs what [`Replica::open`]
    /// does, and takes the budget a second time until it is done.
    ///
    /// # Errors
    /// The store cannot be read or is damaged. What was served is served on, unless a commit failed half way: then lookups fail with
    /// [`Error::Poisoned`] until a later call succeeds.
    pub fn catch_up(&self) -> Result<CatchUp> {
        let _only = lock(&self.following);
        let began = Instant::now();
        let fetched = self.feed.fetch()?;
        let torn = read(&self.served).torn.clone();
        let followed = match torn {
            Some(why) => Err(format!("a commit failed half way: {why}")),
            None => self.follow()?,
        };
        let report = match followed {
            Ok((commits, bytes)) => CatchUp { at: self.at(), commits, bytes, restarted: None },
            Err(why) => {
                let (served, bytes) = begin(self.feed.store(), &self.dir, &self.options)?;
                let at = served.at.0;
                // The old rows go after the lock does.
                let old = std::mem::replace(&mut *write(&self.served), served);
                drop(old);
                CatchUp { at, commits: 0, bytes, restarted: Some(why) }
            }
        };
        *lock(&self.level) = began;
        Ok(CatchUp { bytes: fetched.unwrap_or(report.bytes), ..report })
    }

    /// Applies the commits after its own and returns how many there were and their bytes; or says why it cannot.
    fn follow(&self) -> Result<Result<(u64, u64), String>> {
        let (fs, store) = (&*self.options.fs, self.feed.store());
        let (at, place) = {
            let served = read(&self.served);
            (served.at, served.place.clone())
        };
        if let Some(mark) = Mark::read(fs, &names::durable(store))? {
            if (mark.id, mark.hash) == at {
                return Ok(Ok((0, 0)));
            }
            if let Some(place) = place
                && let Some(ahead) = ahead(fs, store, &place, &mark)?
            {
                return self.apply(&ahead.survey, &ahead.commits, 1).map(Ok);
            }
        }
        let view = View::new(fs, store, At::Latest)?;
        let commits = &view.chain.commits;
        let own = commits.iter().position(|(_, placed)| (placed.record.id, placed.record.hash) == at);
        let first = own.map(|own| own + 1).or((view.chain.root == at).then_some(0));
        match first {
            Some(first) => self.apply(&view.survey, commits, first).map(Ok),
            None => Ok(Err(format!("commit {} is not in the store's history any more", at.0))),
        }
    }

    /// Applies commits from `first` on, each under the lock that lookups share.
    fn apply(&self, survey: &Survey, commits: &[(usize, Placed)], first: usize) -> Result<(u64, u64)> {
        let (mut open, mut bytes) = (None, 0);
        for place in first..commits.len() {
            let (at, placed) = &commits[place];
            let mut served = write(&self.served);
            let before = place.checked_sub(1).and_then(|before| commits.get(before)).filter(|_| served.has_early);
            let early = before.map(|(at, placed)| (*at, placed));
            let mut into = Into::delta(&served.catalog);
            let replayed = replay_one(&*self.options.fs, survey, (*at, placed), (&mut open, early), &mut into);
            let replayed = replayed.and_then(|replayed| into.loader.finish().map(|()| replayed));
            drop(into);
            match replayed {
                Ok((rebuilt, has_early)) => {
                    served.at = (rebuilt.record.id, rebuilt.record.hash);
                    served.place = Some(Place { segment: survey.segments[*at].number, placed: placed.clone() });
                    served.has_early = has_early;
                }
                Err(error) => {
                    served.torn = Some(error.to_string());
                    return Err(error);
                }
            }
            bytes += placed.end - placed.start;
        }
        Ok(((commits.len() - first) as u64, bytes))
    }

    /// Copies embeddings as [`Table::lookup`] does, at the commit that is served, as the replica's [`Codecs`](crate::Codecs) keep them.
    ///
    /// # Errors
    /// As [`Table::lookup`]; an unknown table; [`Error::Poisoned`] after a commit that failed half way.
    pub fn lookup(&self, table: &str, keys: &[Key], rows: &mut [f32]) -> Result<usize> {
        self.lookup_found(table, keys, rows, &mut vec![false; keys.len()])
    }

    /// As [`Replica::lookup`], and sets `found[i]` to whether `keys[i]` has a row.
    ///
    /// # Errors
    /// As [`Replica::lookup`].
    pub fn lookup_found(&self, table: &str, keys: &[Key], rows: &mut [f32], found: &mut [bool]) -> Result<usize> {
        self.lookup_at(table, keys, rows, found).map(|(_, hits)| hits)
    }

    /// As [`Replica::lookup_found`], and says of which commit the rows are.
    ///
    /// # Errors
    /// As [`Replica::lookup`].
    pub fn lookup_at(&self, table: &str, keys: &[Key], rows: &mut [f32], found: &mut [bool]) -> Result<(CommitId, usize)> {
        let served = read(&self.served);
        if let Some(reason) = &served.torn {
            return Err(Error::Poisoned { reason: reason.clone() });
        }
        let inner = served.find(table)?;
        let hits = match served.catalog.layout(inner.id).filter(|layout| layout.is_encoded()) {
            None => Table { inner }.lookup_found(keys, rows, found),
            Some(layout) => lookup_encoded(inner, &layout, (keys, rows, found)),
        };
        Ok((served.at.0, hits?))
    }

    /// f32s of an embedding of a table.
    ///
    /// # Errors
    /// An unknown table.
    pub fn dim(&self, table: &str) -> Result<usize> {
        let served = read(&self.served);
        let inner = served.find(table)?;
        Ok(served.catalog.layout(inner.id).map_or(0, |layout| layout.logged.dim()))
    }

    /// The tables that are served, without what only training needs.
    pub fn tables(&self) -> Vec<TableSchema> {
        let served = read(&self.served);
        let layouts = served.catalog.tables().into_iter().filter_map(|table| served.catalog.layout(table.id));
        layouts.map(|layout| layout.logged.for_serving()).collect()
    }

    /// Rows of each table.
    pub fn rows(&self) -> Vec<(String, u64)> {
        let tables = read(&self.served).catalog.tables().into_iter().map(|inner| Table { inner });
        tables.map(|table| (table.name(), table.len())).collect()
    }

    /// Bytes of a copy of all rows as the store has them: what beginning anew reads, about.
    pub fn full_bytes(&self) -> u64 {
        let served = read(&self.served);
        let bytes = |inner: Arc<TableInner>| {
            let layout = served.catalog.layout(inner.id)?;
            Some(Table { inner }.len() * (IMAGE_HEADER_BYTES + layout.logged.row_bytes()) as u64)
        };
        served.catalog.tables().into_iter().filter_map(bytes).sum()
    }

    /// Bytes that slabs, indexes and caches take of the memory budget.
    pub fn memory_bytes(&self) -> u64 {
        read(&self.served).catalog.context.budget.used() as u64
    }

    /// The commit that is served.
    pub fn at(&self) -> CommitId {
        read(&self.served).at.0
    }

    /// How far it is behind what the store published as durable, or what was copied elsewhere. Reads 128 bytes, or a copy's manifest.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn lag(&self) -> Result<Lag> {
        let at = self.at();
        let newest = self.feed.newest(&*self.options.fs)?;
        let ahead = |id: CommitId| match at.sequence == 0 || id.sequence == 0 || id.timeline == at.timeline {
            true => id.sequence.checked_sub(at.sequence),
            false => None,
        };
        let commits = newest.map_or(Some(0), ahead);
        let seconds = if commits == Some(0) { 0.0 } else { lock(&self.level).elapsed().as_secs_f64() };
        Ok(Lag { commits, seconds })
    }
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("store", &self.feed.store()).field("at", &self.at()).finish_non_exhaustive()
    }
}

/// Where rows go that do not fit the budget.
fn spill(dir: &Path) -> PathBuf {
    dir.join("spill")
}

/// Makes a replica's directory and takes it; what a replica that was killed left there goes.
fn prepare(dir: &Path, options: &StoreOptions) -> Result<Box<dyn LockGuard>> {
    check_options(options)?;
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
    for entry in fs.list(&spill(dir))? {
        fs.remove_dir_all(&spill(dir).join(&entry.name))?;
    }
    Ok(guard)
}

/// The store as it is now, rebuilt from its files, and how many bytes these have.
fn begin(store: &Path, dir: &Path, options: &StoreOptions) -> Result<(Served, u64)> {
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
        lock: None,
    };
    let rebuilt = rebuild(&site, options, &survey, &chain)?;
    drop(pins);
    let base = survey.bases.iter().find(|base| Some(base.number) == rebuilt.base);
    let of_base: u64 = base.map_or(0, |base| base.files.iter().map(|file| file.bytes).sum());
    let of_log: u64 = chain.after(base).iter().map(|(_, placed)| placed.end - placed.start).sum();
    let last = chain.commits.last();
    let place = last.map(|(at, placed)| Place { segment: survey.segments[*at].number, placed: placed.clone() });
    let served = Served { catalog: rebuilt.catalog, at: chain.target(), place, has_early: true, torn: None };
    Ok((served, of_base + of_log))
}

/// As [`Table::lookup_found`], of rows whose lanes mean nothing to the table.
fn lookup_encoded(
    inner: Arc<TableInner>,
    layout: &Layout,
    (keys, rows, found): (&[Key], &mut [f32], &mut [bool]),
) -> Result<usize> {
    let (dim, lanes, store) = (layout.logged.dim(), layout.served.dim(), (inner.context.seed, inner.id));
    check_length("rows", keys.len() * dim, rows.len(), keys.len())?;
    let mut encoded = vec![0.0; keys.len() * lanes];
    let hits = Table { inner }.lookup_found(keys, &mut encoded, found)?;
    let mut bytes = Vec::new();
    for (((key, row), lanes), found) in keys.iter().zip(rows.chunks_exact_mut(dim)).zip(encoded.chunks_exact(lanes)).zip(found) {
        match found {
            true => layout.decode(lanes, &mut bytes, row),
            false => layout.fill_missing(store, *key, row),
        }
    }
    Ok(hits)
}
