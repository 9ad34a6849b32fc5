//! Restore: the state of a commit, written as a new store in a new directory.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{BasePlan, write_base};
use crate::error::{Error, Result};
use crate::fs::{Fs, RealFs, names};
use crate::log::{Mark, MarkRecord};
use crate::options::StoreOptions;
use crate::recovery::{Identity, Rebuilt, Site, choose, rebuild, survey};
use crate::types::{At, CommitId};

/// What a restore wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The commit restored.
    pub commit: CommitId,
    /// Its tables and their rows.
    pub tables: Vec<(String, u64)>,
    /// Bytes of the trainer's state that came along.
    pub state_bytes: u64,
}

/// Restores the state of store `source` at a commit into `target`, which must not exist.
///
/// The source is locked and not changed. The target is a store of its own that goes on in a new timeline; it appears under its
/// name only when it is whole.
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
/// The source is in use or damaged, the commit cannot be rebuilt, the target exists, or a write fails: then there is no target.
pub fn restore(source: impl AsRef<Path>, at: At, target: impl AsRef<Path>) -> Result<RestoreReport> {
    restore_with(source.as_ref(), at, target.as_ref(), &StoreOptions::default())
}

/// As [`restore`], within the memory budget and the threads of `options`.
///
/// # Errors
/// As [`restore`].
pub fn restore_with(source: &Path, at: At, target: &Path, options: &StoreOptions) -> Result<RestoreReport> {
    let fs: Arc<dyn Fs> = Arc::new(RealFs);
    if fs.exists(target)? {
        return Err(Error::TargetExists { path: target.to_path_buf() });
    }
    if !fs.exists(&names::identity(source))? {
        return Err(Error::NotAStore { path: source.to_path_buf(), why: "it has no IDENTITY file".into() });
    }
    let _lock = fs.lock(&names::lock(source))?;
    let identity = Identity::read(&*fs, source)?;
    let survey = survey(&*fs, source, identity.uuid)?;
    let chain = choose(&survey, source, at)?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = names::temporary(parent, &format!("restore-{name}"));
    if fs.exists(&temporary)? {
        fs.remove_dir_all(&temporary)?;
    }
    fs.create_dir(&temporary)?;
    let site = Site { fs: Arc::clone(&fs), dir: source, live: names::live(&temporary), identity };
    let result = rebuild(&site, options, &survey, &chain).and_then(|rebuilt| {
        let report = write_store(&*fs, &temporary, identity, &rebuilt)?;
        drop(rebuilt);
        fs.remove_dir_all(&names::live(&temporary))?;
        fs.rename(&temporary, target)?;
        fs.sync_dir(parent)?;
        Ok(report)
    });
    if result.is_err() {
        let _ = fs.remove_dir_all(&temporary);
    }
    result
}

/// The seed stays, so keys that were never seen begin as they would have; the identity does not.
fn write_store(fs: &dyn Fs, dir: &Path, source: Identity, rebuilt: &Rebuilt) -> Result<RestoreReport> {
    fs.create_dir(&names::logs(dir))?;
    fs.create_dir(&names::bases(dir))?;
    let identity = Identity::generate(dir, source.seed);
    let (record, state) = rebuilt.log.tip();
    let plan = BasePlan { fs, dir, uuid: identity.uuid, number: 1, begin: &record, state: &state, first_segment: 1 };
    write_base(&plan, &rebuilt.catalog)?;
    // Says that there is a commit, so that the store is never taken for a new one should its base be lost.
    let mark = MarkRecord { segment: 0, offset: 0, id: record.id, hash: record.hash };
    Mark::open_or_create(fs, &names::durable(dir))?.publish(mark)?;
    identity.write(fs, dir)?;
    let tables = rebuilt.catalog.tables();
    let rows = |table: &Arc<crate::table::TableInner>| {
        let rows = table.counters().rows.load(std::sync::atomic::Ordering::Relaxed);
        (table.schema().name().to_owned(), u64::try_from(rows).unwrap_or(0))
    };
    Ok(RestoreReport { commit: record.id, tables: tables.iter().map(rows).collect(), state_bytes: state.len() as u64 })
}
