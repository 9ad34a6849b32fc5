//! The directory in which a restore makes a store before that gets its name. It stays when the restore is interrupted, and the next one to the
//! same target goes on with the files that were finished.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::plan::Plan;
use super::{RestoreProgress, RestoreReport, RestoreStage};
use crate::codec::BlockSums;
use crate::error::{Error, Result};
use crate::fs::{self, Fs, LockGuard, names};
use crate::kill_point::{KillPoint, reach};
use crate::log::{Mark, MarkRecord};
use crate::manifest::{BLOCK_BYTES, FileSum, Manifest};
use crate::recovery::Identity;

/// The only base of a restored store.
pub(super) const BASE: u64 = 1;
/// Bytes copied at once: whole blocks.
const CHUNK_BYTES: usize = 16 * BLOCK_BYTES;

/// See the module. What is in it beside the store has names of litter, so that none of it counts once it is a store.
pub(super) struct Staging<'a> {
    fs: &'a dyn Fs,
    dir: PathBuf,
    plan: Plan,
    seed: u64,
    _lock: Box<dyn LockGuard>,
}

impl<'a> Staging<'a> {
    /// Makes the directory, or takes over what an interrupted restore of the same left there; what another left is removed. `source` is
    /// that of the plan. Its lock, which goes along, keeps others out.
    pub(super) fn begin(fs: &'a dyn Fs, dir: PathBuf, source: Identity, plan: Plan) -> Result<Staging<'a>> {
        let parent = fs::parent(&dir);
        let found = fs.list(parent)?.into_iter().find(|entry| parent.join(&entry.name) == dir);
        match found {
            Some(entry) if entry.is_dir => {
                let lock = fs.lock(&names::lock(&dir))?;
                if let Some(left) = Plan::read(fs, &plan_path(&dir))?.filter(|left| left.is_of(&plan)) {
                    let staging = Staging { fs, dir, plan: left, seed: source.seed, _lock: lock };
                    staging.clear()?;
                    return Ok(staging);
                }
                fs.remove_dir_all(&dir)?;
            }
            Some(_) => fs.remove_file(&dir)?,
            None => {}
        }
        fs.create_dir(&dir)?;
        let lock = fs.lock(&names::lock(&dir))?;
        fs.create_dir(&names::logs(&dir))?;
        fs.create_dir(&names::bases(&dir))?;
        plan.write(fs, &plan_path(&dir))?;
        fs.sync_dir(parent)?;
        Ok(Staging { fs, dir, plan, seed: source.seed, _lock: lock })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Which store this becomes: the seed stays, so keys that were never seen begin as they would have.
    pub(super) fn identity(&self) -> Identity {
        Identity { uuid: self.plan.target, seed: self.seed }
    }

    /// Removes what is of no use to whoever goes on.
    fn clear(&self) -> Result<()> {
        let kept =
            [names::lock(&self.dir), plan_path(&self.dir), cold_path(&self.dir), names::logs(&self.dir), names::bases(&self.dir)];
        for entry in self.fs.list(&self.dir)? {
            let path = self.dir.join(&entry.name);
            let is_kept = kept.contains(&path) && entry.is_dir == (path != kept[0] && path != kept[1]);
            match (is_kept, entry.is_dir) {
                (true, _) => {}
                (false, true) => self.fs.remove_dir_all(&path)?,
                (false, false) => self.fs.remove_file(&path)?,
            }
        }
        for path in [names::logs(&self.dir), names::bases(&self.dir)] {
            if !self.fs.exists(&path)? {
                self.fs.create_dir(&path)?;
            }
        }
        Ok(())
    }

    /// What the base holds, if it was finished; else nothing is left of it. It got its name when all of it was durable.
    pub(super) fn finished(&self) -> Result<Option<RestoreReport>> {
        let base = names::base(&self.dir, BASE);
        if !self.fs.exists(&base)? {
            return Ok(None);
        }
        if let (Some(report), true) = (&self.plan.report, self.is_whole(&base)?) {
            return Ok(Some(report.clone()));
        }
        self.fs.remove_dir_all(&base)?;
        Ok(None)
    }

    fn is_whole(&self, base: &Path) -> Result<bool> {
        let manifest = match Manifest::read(self.fs, &base.join(names::MANIFEST)) {
            Ok(manifest) if (manifest.begin, manifest.begin_hash) == (self.plan.commit, self.plan.hash) => manifest,
            Ok(_) | Err(Error::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        };
        for file in &manifest.files {
            let path = base.join(&file.name);
            if !self.fs.exists(&path)? || self.fs.open_read(&path)?.len() != file.bytes {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Notes what the base will hold, before it is written.
    pub(super) fn promise(&mut self, report: &RestoreReport) -> Result<()> {
        self.plan.report = Some(report.clone());
        self.plan.write(self.fs, &plan_path(&self.dir))
    }

    /// A directory with the cold files of a base of `source`: that of the base where they can be linked from there; else they are copied
    /// beside, each checked, and those that were copied before are not copied again.
    pub(super) fn cold(&self, source: &Path, base: &Manifest, told: &dyn Fn(RestoreProgress)) -> Result<PathBuf> {
        let (from, to) = (names::base(source, base.number), cold_path(&self.dir));
        let files: Vec<&FileSum> = base.files.iter().filter(|file| file.name != names::HOT_ROWS).collect();
        let Some(first) = files.first() else { return Ok(from.join(names::COLD)) };
        let probe = names::temporary(&self.dir, "link");
        if self.fs.link(&from.join(&first.name), &probe)? {
            self.fs.remove_file(&probe)?;
            return Ok(from.join(names::COLD));
        }
        if !self.fs.exists(&to)? {
            self.fs.create_dir(&to)?;
        }
        let flat = |file: &FileSum| file.name.rsplit('/').next().unwrap_or_default().to_owned();
        for entry in self.fs.list(&to)? {
            if !files.iter().any(|file| flat(file) == entry.name) {
                remove(self.fs, &to.join(&entry.name), entry.is_dir)?;
            }
        }
        let mut progress =
            RestoreProgress { stage: RestoreStage::Copying, done: 0, total: files.iter().map(|file| file.bytes).sum() };
        told(progress);
        for file in files {
            let there = to.join(flat(file));
            if !is_there(self.fs, &there, file)? {
                copy(self.fs, &from.join(&file.name), &there, file, &mut |bytes| {
                    told(RestoreProgress { done: progress.done + bytes, ..progress });
                })?;
                self.fs.sync_dir(&to)?;
            }
            progress.done += file.bytes;
            told(progress);
        }
        Ok(to)
    }

    /// Makes the directory a store, once its base is written, and gives it its name.
    pub(super) fn publish(self, target: &Path) -> Result<()> {
        let (fs, dir) = (self.fs, &*self.dir);
        // Says that there is a commit, so that the store is never taken for a new one should its base be lost.
        let mark = MarkRecord { segment: 0, offset: 0, id: self.plan.commit, hash: self.plan.hash };
        Mark::open_or_create(fs, &names::durable(dir))?.publish(mark)?;
        self.identity().write(fs, dir)?;
        if fs.exists(&names::live(dir))? {
            fs.remove_dir_all(&names::live(dir))?;
        }
        reach(KillPoint::RestoreWritten);
        fs.rename(dir, target)?;
        reach(KillPoint::RestoreRenamed);
        fs.sync_dir(fs::parent(target))?;
        // The store is whole: what fails from here on leaves litter in it, which its next open removes.
        let _ = fs.remove_dir_all(&cold_path(target));
        let _ = fs.remove_file(&plan_path(target));
        Ok(())
    }

    /// Leaves nothing behind.
    pub(super) fn give_up(self) {
        // The error that led here counts; what stays is litter, which the next restore to the same target removes.
        let _ = self.fs.remove_dir_all(&self.dir);
    }
}

fn plan_path(dir: &Path) -> PathBuf {
    names::temporary(dir, "plan")
}

fn cold_path(dir: &Path) -> PathBuf {
    names::temporary(dir, "cold")
}

fn remove(fs: &dyn Fs, path: &Path, is_dir: bool) -> Result<()> {
    if is_dir { fs.remove_dir_all(path) } else { fs.remove_file(path) }
}

/// Whether a file was copied wholly. One that was not is removed.
fn is_there(fs: &dyn Fs, path: &Path, file: &FileSum) -> Result<bool> {
    if !fs.exists(path)? {
        return Ok(false);
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let copied = FileSum { name, ..file.clone() };
    match copied.check(fs, fs::parent(path)) {
        Ok(()) => return Ok(true),
        Err(Error::Corrupt { .. }) => fs.remove_file(path)?,
        Err(error) => return Err(error),
    }
    Ok(false)
}

/// Copies a file and makes it durable; damage is that of the source.
fn copy(fs: &dyn Fs, from: &Path, to: &Path, file: &FileSum, told: &mut dyn FnMut(u64)) -> Result<()> {
    let (reader, mut writer) = (fs.open_read(from)?, fs.create(to)?);
    let (mut chunk, mut sums, mut at) = (vec![0; CHUNK_BYTES], BlockSums::new(BLOCK_BYTES), 0);
    while at < file.bytes {
        let length = usize::try_from(file.bytes - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        fs::read_exact_at(&*reader, from, at, &mut chunk[..length])?;
        sums.add(&chunk[..length]);
        writer.append(&chunk[..length])?;
        at += length as u64;
        told(at);
    }
    let (_, blocks) = sums.finish();
    if let Some(block) =
        (0..).zip(&blocks).zip(&file.blocks).find(|((_, found), expected)| found != expected).map(|((at, _), _)| at)
    {
        let at: u64 = block;
        let what = "this block of 64 KiB has another checksum than the manifest says";
        return Err(Error::corrupt(from, at * BLOCK_BYTES as u64, what));
    }
    writer.sync()
}
