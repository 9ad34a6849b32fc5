//! Verify: every checksum of every file of a store, whether its history holds together, and whether each delta of it applies.
#![forbid(unsafe_code)]

mod rehearsal;
mod replay;

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{Fs, RealFs, names};
use crate::log::{HEADER_BYTES, Mark};
use crate::manifest::Manifest;
use crate::recovery::{Chain, Identity, Survey, choose, survey};
use crate::types::At;

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Files read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Damage, in the order it was met.
    pub damage: Vec<Damage>,
    /// What is no damage but worth knowing, as bytes that a crash left after the last commit.
    pub notes: Vec<String>,
}

/// A place that does not check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// The first byte of the unit that failed.
    pub offset: u64,
    /// What was expected and found.
    pub what: String,
}

impl VerifyReport {
    /// Keeps damage; any other failure ends the verification.
    fn take<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Corrupt { path, offset, what }) => {
                let damage = Damage { path, offset, what };
                if !self.damage.contains(&damage) {
                    self.damage.push(damage);
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn count(&mut self, fs: &dyn Fs, path: &Path) -> Result<()> {
        self.files += 1;
        self.bytes += fs.open_read(path)?.len();
        Ok(())
    }
}

/// Reads all of the store in `dir` that recovery could need and checks it. The store must not be open.
///
/// The live directory is a cache and not read. Frames are replayed without their rows, in little memory. Cost:
/// one sequential read of cold files, two of the log and of hot rows.
///
/// ```
/// use embedrock::{Store, StoreOptions, verify};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-verify-{}", std::process::id()));
/// Store::open(&dir, StoreOptions::default())?.commit(b"state")?;
/// let report = verify(&dir)?;
/// assert!(report.damage.is_empty() && report.bytes > 0);
/// # std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
///
/// # Errors
/// The directory is no store, is in use, or cannot be read. Damage is no error: it is in the report.
pub fn verify(dir: impl AsRef<Path>) -> Result<VerifyReport> {
    verify_on(&RealFs, dir.as_ref())
}

pub(crate) fn verify_on(fs: &dyn Fs, dir: &Path) -> Result<VerifyReport> {
    if !fs.exists(&names::identity(dir))? {
        return Err(Error::NotAStore { path: dir.to_path_buf(), why: "it has no IDENTITY file".into() });
    }
    let _lock = match fs.lock(&names::lock(dir)) {
        // On a read-only disk nobody writes meanwhile.
        Err(Error::ReadOnly { .. }) => None,
        lock => Some(lock?),
    };
    verify_files(fs, dir, || Ok(()))
}

/// Checks files that nobody removes meanwhile; what `at_rest` returns keeps the log as it is while that is read.
pub(crate) fn verify_files<G>(fs: &dyn Fs, dir: &Path, at_rest: impl FnOnce() -> Result<G>) -> Result<VerifyReport> {
    let mut report = VerifyReport::default();
    report.count(fs, &names::identity(dir))?;
    for damage in Identity::check(fs, dir)? {
        report.take::<()>(Err(damage))?;
    }
    verify_bases(fs, dir, &mut report)?;
    let at_rest = at_rest()?;
    if fs.exists(&names::durable(dir))? {
        report.count(fs, &names::durable(dir))?;
        for damage in Mark::check(fs, &names::durable(dir))? {
            report.take::<()>(Err(damage))?;
        }
    }
    let history = verify_history(fs, dir, &mut report)?;
    // What follows is behind the newest commit or before it, and does not change any more.
    drop(at_rest);
    if let Some((survey, chain)) = history {
        replay::replay(fs, dir, (&survey, &chain), &mut report)?;
    }
    Ok(report)
}

fn verify_bases(fs: &dyn Fs, dir: &Path, report: &mut VerifyReport) -> Result<()> {
    for entry in fs.list(&names::bases(dir))? {
        let base = names::bases(dir).join(&entry.name);
        if names::parse_base(&entry.name).is_none() {
            report.notes.push(format!("{} is no base and not read", base.display()));
            continue;
        }
        if !fs.exists(&base.join(names::MANIFEST))? {
            report.take::<()>(Err(Error::corrupt(&base.join(names::MANIFEST), 0, "the manifest is missing")))?;
            continue;
        }
        report.count(fs, &base.join(names::MANIFEST))?;
        let Some(manifest) = report.take(Manifest::read(fs, &base.join(names::MANIFEST)))? else { continue };
        for file in &manifest.files {
            if !fs.exists(&base.join(&file.name))? {
                report.take::<()>(Err(Error::corrupt(&base.join(&file.name), 0, "the file is missing")))?;
                continue;
            }
            report.count(fs, &base.join(&file.name))?;
            report.take(file.check(fs, &base))?;
        }
    }
    Ok(())
}

/// Returns the history that leads to the newest commit, if it holds together.
fn verify_history(fs: &dyn Fs, dir: &Path, report: &mut VerifyReport) -> Result<Option<(Survey, Chain)>> {
    for entry in fs.list(&names::logs(dir))? {
        if names::parse_segment(&entry.name).is_some() {
            report.count(fs, &names::logs(dir).join(&entry.name))?;
        }
    }
    let Ok(identity) = Identity::read(fs, dir) else { return Ok(None) };
    let Some(survey) = report.take(survey(fs, dir, identity.uuid))? else { return Ok(None) };
    for lost in &survey.stillborn {
        // Frames are written only behind a header that is durable.
        if lost.bytes > HEADER_BYTES as u64 {
            report.take::<()>(Err(Error::corrupt(&lost.path, lost.offset, lost.what.clone())))?;
        } else {
            report.notes.push(format!("{} was begun when a crash came and holds nothing", lost.path.display()));
        }
    }
    let Some(chain) = report.take(choose(&survey, dir, At::Latest))? else { return Ok(None) };
    if chain.root.0.sequence > 0 {
        // Nothing older than the history is kept, so a segment before its beginning is one whose commits were lost.
        let first = chain.commits.first().map_or(survey.segments.len(), |(at, _)| *at);
        for segment in &survey.segments[..first] {
            if let Some((offset, what)) = &segment.torn {
                report.take::<()>(Err(Error::corrupt(&segment.path, *offset, what.clone())))?;
            }
        }
    }
    if chain.bytes_cut > 0 {
        let tip = survey.segments.last();
        let torn = tip.and_then(|segment| segment.torn.as_ref());
        let why = torn.map_or("whole frames without a commit".to_owned(), |(offset, what)| format!("at byte {offset}: {what}"));
        let path = tip.map_or_else(|| names::logs(dir), |segment| segment.path.clone());
        report.notes.push(format!(
            "{}: {} bytes after the last commit are cut at the next open ({why})",
            path.display(),
            chain.bytes_cut
        ));
    }
    if chain.bases(&survey).is_empty() && chain.root.0.sequence > 0 {
        let what = format!("no valid base is left to begin from at commit {}", chain.root.0);
        report.take::<()>(Err(Error::corrupt(&names::bases(dir), 0, what)))?;
    }
    report.notes.push(format!("the newest commit is {}", chain.target().0));
    Ok(Some((survey, chain)))
}
