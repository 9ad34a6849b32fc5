//! Restore: the state of a commit, written as a new store in a new directory.
#![forbid(unsafe_code)]

mod plan;
mod staging;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::catalog::Catalog;
use crate::checkpoint::{BasePlan, write_base};
use crate::context::read;
use crate::error::{Error, Result};
use crate::fs::{LockGuard, Scratch, names};
use crate::manifest::{FileSum, Manifest};
use crate::options::StoreOptions;
use crate::pins::Pins;
use crate::quantize::Quantization;
use crate::recovery::{Chain, Guide, Identity, Rebuilt, Site, Survey, choose, glance, rebuild_guided};
use crate::shard::IMAGE_HEADER_BYTES;
use crate::types::{At, CommitId};
use crate::view::View;
use plan::{Plan, tables_hash};
use staging::{BASE, Staging};

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

/// What a restore is at, and how far: bytes of `total`, which is known when a stage begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreProgress {
    /// The stage.
    pub stage: RestoreStage,
    /// Bytes done of it.
    pub done: u64,
    /// Its bytes.
    pub total: u64,
}

/// The stages of a restore, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestoreStage {
    /// Cold rows are copied, where their files cannot be linked.
    Copying,
    /// Hot rows and the log are read.
    Reading,
    /// Hot rows are written.
    Writing,
}

/// Is told of progress.
#[derive(Clone)]
struct Told(Arc<dyn Fn(RestoreProgress) + Send + Sync>);

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Told")
    }
}

/// Restores the state of store `source` at a commit into `target`, which must not exist.
///
/// The source is not changed, and may be open elsewhere: then its newest commit is the last one published as durable. The target is a
/// store of its own that goes on in a new timeline; it appears under its name only when it is whole. Until then it is a temporary directory
/// beside the target, which stays if the restore is interrupted: the same call again goes on with the files of cold rows that were copied
/// to another disk, and with a base that was finished.
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
/// The source is damaged, the commit cannot be rebuilt, the target exists, or a write fails: then there is no target. What was done
/// is kept for the next call where a call to the file system failed, and removed after other errors.
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
    told: Option<Told>,
}

impl Restore {
    /// From this store: its newest commit with all tables, unless more is said.
    pub fn of(source: impl Into<PathBuf>) -> Restore {
        Restore { source: source.into(), at: At::Latest, tables: None, options: StoreOptions::default(), told: None }
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

    /// Tells of progress, from the thread that restores, a few times a megabyte at most.
    pub fn progress(self, told: impl Fn(RestoreProgress) + Send + Sync + 'static) -> Restore {
        Restore { told: Some(Told(Arc::new(told))), ..self }
    }

    fn tell(&self, stage: RestoreStage, done: u64, total: u64) {
        if let Some(Told(told)) = &self.told {
            told(RestoreProgress { stage, done, total });
        }
    }

    /// Restores into `target`, which must not exist; one that was interrupted is gone on with.
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
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = names::temporary(crate::fs::parent(target), &format!("restore-{name}"));
        let (commit, hash) = source.chain.target();
        let plan = Plan {
            source: source.identity.uuid,
            commit,
            hash,
            tables: tables_hash(self.tables.as_deref()),
            target: Identity::generate(&temporary, source.identity.seed).uuid,
            report: None,
        };
        let mut staging = Staging::begin(fs, temporary, source.identity, plan)?;
        let report = match staging.finished() {
            Ok(Some(report)) => Ok(report),
            Ok(None) => self.write(&source, &mut staging),
            Err(error) => Err(error),
        };
        match report {
            Ok(report) => staging.publish(target).map(|()| report),
            Err(error @ (Error::Io { .. } | Error::NoSpace { .. })) => Err(error),
            Err(error) => {
                staging.give_up();
                Err(error)
            }
        }
    }

    /// Rebuilds the commit and reports what [`Restore::to`] would write, and leaves nothing behind. Cost: as the restore itself but
    /// for the writing; it needs a temporary directory for cold rows ([`StoreOptions::scratch`]).
    ///
    /// # Errors
    /// As [`Restore::to`]: a restore that would fail for what the source holds fails here.
    pub fn dry_run(&self) -> Result<RestoreReport> {
        let source = self.look()?;
        let scratch = Arc::new(Scratch::new(&self.options.fs, self.options.scratch.as_deref())?);
        let rebuilt = self.rebuild(&source, names::live(scratch.path()), Some(Arc::clone(&scratch)), None)?;
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

    fn rebuild(
        &self,
        source: &Source,
        live: PathBuf,
        scratch: Option<Arc<Scratch>>,
        staging: Option<&Staging<'_>>,
    ) -> Result<Rebuilt> {
        let fs = Arc::clone(&self.options.fs);
        let site = Site {
            fs,
            dir: &self.source,
            live,
            identity: source.identity,
            read_only: false,
            serving: false,
            scratch,
            lock: None,
        };
        let told = |done, total| self.tell(RestoreStage::Reading, done, total);
        let tell = |progress: RestoreProgress| self.tell(progress.stage, progress.done, progress.total);
        let in_place = |base: &Manifest| names::base(&self.source, base.number).join(names::COLD);
        let cold =
            |base: &Manifest| staging.map_or_else(|| Ok(in_place(base)), |staging| staging.cold(&self.source, base, &tell));
        let guide = Guide { cold: &cold, told: &told };
        let rebuilt = rebuild_guided(&site, &self.options, &source.survey, &source.chain, Some(guide))?;
        self.choose_tables(&rebuilt.catalog)?;
        Ok(rebuilt)
    }

    /// Writes the store's base.
    fn write(&self, source: &Source, staging: &mut Staging<'_>) -> Result<RestoreReport> {
        let rebuilt = self.rebuild(source, names::live(staging.dir()), None, Some(staging))?;
        let report = report(&rebuilt);
        staging.promise(&report)?;
        let (record, state) = rebuilt.log.tip();
        let bytes = |table: &Arc<crate::table::TableInner>| {
            let image = (IMAGE_HEADER_BYTES + table.schema().row_bytes()) as u64;
            table.shards().iter().map(|shard| read(shard).hot_rows() as u64 * image).sum::<u64>()
        };
        let total = rebuilt.catalog.tables().iter().map(bytes).sum();
        let plan = BasePlan {
            fs: &*self.options.fs,
            dir: staging.dir(),
            uuid: staging.identity().uuid,
            number: BASE,
            begin: &record,
            state: &state,
            first_segment: 1,
            known: source.sums(rebuilt.base),
            told: &|done| self.tell(RestoreStage::Writing, done.min(total), total),
        };
        write_base(&plan, &rebuilt.catalog)?;
        Ok(report)
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

impl Source {
    /// The sums of a base's files, which what is opened from it need not make anew.
    fn sums(&self, base: Option<u64>) -> &[FileSum] {
        self.survey.bases.iter().find(|found| Some(found.number) == base).map_or(&[], |found| &found.files)
    }
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
