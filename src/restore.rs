//! Restore: the state of a commit, written as a new store in a new directory.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::checkpoint::{BasePlan, write_base};
use crate::error::{Error, Result};
use crate::fs::{Fs, LockGuard, Scratch, names};
use crate::kill_point::{KillPoint, reach};
use crate::log::{Mark, MarkRecord};
use crate::options::StoreOptions;
use crate::pins::Pins;
use crate::quantize::Quantization;
use crate::recovery::{Chain, Identity, Rebuilt, Site, Survey, choose, glance, rebuild};
use crate::types::{At, CommitId};
use crate::view::View;

/// What a restore wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The commit restored.
    pub commit: CommitId,
    /// Its tables and their rows.
    pub tables: Vec<(String, u64)>,
    /// Bytes of the trainer's state that came along.
    pub state_bytes: u64,
    /// How embeddings had been encoded, if it came from a quantised copy: its rows are near those of the commit, and not the same.
    pub quantization: Option<Quantization>,
}

/// Restores the state of store `source` at a commit into `target`, which must not exist.
///
/// The source is not changed, and may be open elsewhere: then its newest commit is the last one published as durable. The target is a
/// store of its own that goes on in a new timeline; it appears under its name only when it is whole.
///
/// ```
/// use embedrock::{At, Store, StoreOptions, TableSchema, Update, restore};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-restore-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir).unwrap();
/// let store = Store::open(dir.join("a"), StoreOptions::default())?;
/// let table = store.create_table(TableSchema::new("t", 1))?;
/// table.assign(&[1], &[1.0], &Update::at(1))?;
/// let first = store.commit(b"")?;
/// table.assign(&[1], &[2.0], &Update::at(2))?;
/// store.commit(b"")?;
/// drop((table, store));
///
/// restore(&dir.join("a"), At::Commit(first), &dir.join("b"))?;
/// let mut row = [0.0];
/// Store::open(dir.join("b"), StoreOptions::default())?.table("t")?.lookup(&[1], &mut row)?;
/// assert_eq!(row, [1.0]);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
///
/// # Errors
/// The source is damaged, the commit cannot be rebuilt, the target exists, or a write fails: then there is no target.
pub fn restore(source: impl AsRef<Path>, at: At, target: impl AsRef<Path>) -> Result<RestoreReport> {
    restore_with(source.as_ref(), at, target.as_ref(), &StoreOptions::default())
}

/// As [`restore`], within the memory budget and the threads of `options`.
///
/// # Errors
/// As [`restore`].
pub fn restore_with(source: &Path, at: At, target: &Path, options: &StoreOptions) -> Result<RestoreReport> {
    Restore::of(source).at(at).options(options.clone()).to(target)
}

/// A restore with more to say than [`restore`] takes.
///
/// ```no_run
/// use embedrock::{At, Restore};
/// let rows = Restore::of("/stores/a").tables(["user"]).dry_run()?.tables[0].1;
/// Restore::of("/stores/a").tables(["user"]).to("/stores/users-only")?;
/// # Ok::<(), embedrock::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it begins with `to` or `dry_run`"]
pub struct Restore {
    source: PathBuf,
    at: At,
    tables: Option<Vec<String>>,
    options: StoreOptions,
}

impl Restore {
    /// From this store: its newest commit with all tables, unless more is said.
    pub fn of(source: impl Into<PathBuf>) -> Restore {
        Restore { source: source.into(), at: At::Latest, tables: None, options: StoreOptions::default() }
    }

    /// As of this commit.
    pub fn at(self, at: At) -> Restore {
        Restore { at, ..self }
    }

    /// Only these tables. The trainer's state comes along whole.
    pub fn tables<T: Into<String>>(self, names: impl IntoIterator<Item = T>) -> Restore {
        Restore { tables: Some(names.into_iter().map(Into::into).collect()), ..self }
    }

    /// Within the memory budget and the threads of these.
    pub fn options(self, options: StoreOptions) -> Restore {
        Restore { options, ..self }
    }

    /// Restores into `target`, which must not exist.
    ///
    /// # Errors
    /// As [`restore`]; [`Error::UnknownTable`] for a table that the commit does not have; [`Error::Locked`] while another restore to the
    /// same target is under way.
    pub fn to(&self, target: impl AsRef<Path>) -> Result<RestoreReport> {
        let (fs, target) = (&*self.options.fs, target.as_ref());
        if fs.exists(target)? {
            return Err(Error::TargetExists { path: target.to_path_buf() });
        }
        let source = self.look()?;
        let parent = crate::fs::parent(target);
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = names::temporary(parent, &format!("restore-{name}"));
        let _lock = begin(fs, &temporary)?;
        let result = self.rebuild(&source, names::live(&temporary), None).and_then(|rebuilt| {
            let report = report(&rebuilt);
            write_store(fs, &temporary, source.identity, &rebuilt)?;
            drop(rebuilt);
            fs.remove_dir_all(&names::live(&temporary))?;
            reach(KillPoint::RestoreWritten);
            fs.rename(&temporary, target)?;
            reach(KillPoint::RestoreRenamed);
            fs.sync_dir(parent)?;
            Ok(report)
        });
        if result.is_err() {
            let _ = fs.remove_dir_all(&temporary);
        }
        result
    }

    /// Rebuilds the commit and reports what [`Restore::to`] would write, and leaves nothing behind. Cost: as the restore itself but
    /// for the writing; it needs a temporary directory for cold rows ([`StoreOptions::scratch`]).
    ///
    /// # Errors
    /// As [`Restore::to`]: a restore that would fail for what the source holds fails here.
    pub fn dry_run(&self) -> Result<RestoreReport> {
        let source = self.look()?;
        let scratch = Arc::new(Scratch::new(&self.options.fs, self.options.scratch.as_deref())?);
        let rebuilt = self.rebuild(&source, names::live(scratch.path()), Some(Arc::clone(&scratch)))?;
        Ok(report(&rebuilt))
    }

    /// Finds the commit. A store that another holds, or that lies on a read-only disk, is read as far as it is known to be durable.
    fn look(&self) -> Result<Source> {
        let (fs, dir) = (&*self.options.fs, &*self.source);
        if !fs.exists(&names::identity(dir))? {
            return Err(Error::NotAStore { path: dir.to_path_buf(), why: "it has no IDENTITY file".into() });
        }
        let lock = match fs.lock(&names::lock(dir)) {
            Err(Error::Locked { .. } | Error::ReadOnly { .. }) => {
                let View { identity, survey, chain, pins } = View::new(fs, dir, self.at)?;
                return Ok(Source { identity, survey, chain, _pins: pins, _lock: None });
            }
            lock => lock?,
        };
        let identity = Identity::read(fs, dir)?;
        let survey = glance(fs, dir, identity.uuid)?;
        let chain = choose(&survey, dir, self.at)?;
        Ok(Source { identity, survey, chain, _pins: Pins::default(), _lock: Some(lock) })
    }

    fn rebuild(&self, source: &Source, live: PathBuf, scratch: Option<Arc<Scratch>>) -> Result<Rebuilt> {
        let fs = Arc::clone(&self.options.fs);
        let site = Site { fs, dir: &self.source, live, identity: source.identity, read_only: false, serving: false, scratch };
        let rebuilt = rebuild(&site, &self.options, &source.survey, &source.chain)?;
        self.choose_tables(&rebuilt.catalog)?;
        Ok(rebuilt)
    }

    fn choose_tables(&self, catalog: &Catalog) -> Result<()> {
        let Some(chosen) = &self.tables else { return Ok(()) };
        if let Some(unknown) = chosen.iter().find(|name| catalog.find(name).is_none()) {
            return Err(Error::UnknownTable { table: unknown.clone() });
        }
        let others = catalog.tables().into_iter().filter(|table| !chosen.iter().any(|name| name == table.schema().name()));
        // Of the rebuilt copy, not of the source.
        others.into_iter().try_for_each(|table| catalog.drop_table(table.id))
    }
}

/// What is restored, held while it is read.
struct Source {
    identity: Identity,
    survey: Survey,
    chain: Chain,
    _pins: Pins,
    _lock: Option<Box<dyn LockGuard>>,
}

/// Makes the directory in which a store is written before it gets its name. Its lock, which goes along, keeps others out; what a
/// restore left there that was interrupted is removed.
fn begin(fs: &dyn Fs, temporary: &Path) -> Result<Box<dyn LockGuard>> {
    if fs.exists(temporary)? {
        let _lock = fs.lock(&names::lock(temporary))?;
        fs.remove_dir_all(temporary)?;
    }
    fs.create_dir(temporary)?;
    fs.lock(&names::lock(temporary))
}

fn report(rebuilt: &Rebuilt) -> RestoreReport {
    let (record, state) = rebuilt.log.tip();
    let rows = |table: &Arc<crate::table::TableInner>| {
        let rows = table.counters().rows.load(std::sync::atomic::Ordering::Relaxed);
        (table.schema().name().to_owned(), u64::try_from(rows).unwrap_or(0))
    };
    let tables = rebuilt.catalog.tables().iter().map(rows).collect();
    RestoreReport { commit: record.id, tables, state_bytes: state.len() as u64, quantization: None }
}

/// The seed stays, so keys that were never seen begin as they would have; the identity does not.
fn write_store(fs: &dyn Fs, dir: &Path, source: Identity, rebuilt: &Rebuilt) -> Result<()> {
    fs.create_dir(&names::logs(dir))?;
    fs.create_dir(&names::bases(dir))?;
    let identity = Identity::generate(dir, source.seed);
    let (record, state) = rebuilt.log.tip();
    let plan = BasePlan { fs, dir, uuid: identity.uuid, number: 1, begin: &record, state: &state, first_segment: 1, known: &[] };
    write_base(&plan, &rebuilt.catalog)?;
    // Says that there is a commit, so that the store is never taken for a new one should its base be lost.
    let mark = MarkRecord { segment: 0, offset: 0, id: record.id, hash: record.hash };
    Mark::open_or_create(fs, &names::durable(dir))?.publish(mark)?;
    identity.write(fs, dir)
}
