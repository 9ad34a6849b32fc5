//! Fetching: the files of a copy into a directory, each chunk checked; what is there already is not fetched again.
#![forbid(unsafe_code)]

use std::path::Path;

use super::copy::{COPIES, CopiedFile, Copy, MAX_MANIFEST_BYTES, chunk_name};
use super::{AT_ONCE, CHUNK_BYTES, Remote, Transfer};
use crate::error::{Error, Result};
use crate::fs::{self, Fs, RealFs, names};
use crate::restore::{Restore, RestoreReport};
use crate::types::At;

impl Remote {
    /// The whole copies, oldest first.
    ///
    /// # Errors
    /// The place cannot be read, or a manifest is damaged.
    pub fn copies(&self) -> Result<Vec<Copy>> {
        self.names()?.iter().map(|name| self.copy(name)).collect()
    }

    /// Restores a commit of a copy as a new store in `target`, which must not exist. `with` may ask for some tables, or set options.
    ///
    /// The copy's files are fetched into a temporary directory beside the target first. It stays when that is interrupted, and the
    /// next call with the same target goes on with it.
    ///
    /// # Errors
    /// No copy has the commit; [`Error::Remote`]; a chunk that is not what its name says ([`Error::Corrupt`] with its name); as
    /// [`restore`](crate::restore()).
    pub fn restore(
        &self,
        at: At,
        target: impl AsRef<Path>,
        with: impl FnOnce(Restore) -> Restore,
        progress: &mut dyn FnMut(Transfer),
    ) -> Result<RestoreReport> {
        let target = target.as_ref();
        self.fetched(at, target, progress, |downloaded| with(Restore::of(downloaded).at(at)).to(target))
    }

    /// As [`Remote::restore`], but only says what would be written; fetched files stay until the next one.
    ///
    /// # Errors
    /// As [`Remote::restore`].
    pub fn dry_run(
        &self,
        at: At,
        target: impl AsRef<Path>,
        with: impl FnOnce(Restore) -> Restore,
        progress: &mut dyn FnMut(Transfer),
    ) -> Result<RestoreReport> {
        self.fetched(at, target.as_ref(), progress, |downloaded| with(Restore::of(downloaded).at(at)).dry_run())
    }

    fn fetched(
        &self,
        at: At,
        target: &Path,
        progress: &mut dyn FnMut(Transfer),
        then: impl FnOnce(&Path) -> Result<RestoreReport>,
    ) -> Result<RestoreReport> {
        if RealFs.exists(target)? {
            return Err(Error::TargetExists { path: target.to_path_buf() });
        }
        let copy = self.choose(at)?;
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let downloaded = names::temporary(fs::parent(target), &format!("copy-{name}"));
        fetch(self, &copy, &downloaded, progress)?;
        let report = then(&downloaded)?;
        RealFs.remove_dir_all(&downloaded)?;
        Ok(report)
    }

    /// The newest copy that has the commit.
    fn choose(&self, at: At) -> Result<Copy> {
        for name in self.names()?.iter().rev() {
            let copy = self.copy(name)?;
            if matches!(at, At::Commit(id) if !copy.commits.contains(&id)) {
                continue;
            }
            return Ok(copy);
        }
        let id = if let At::Commit(id) = at { id } else { crate::types::CommitId::EMPTY };
        let why =
            format!("no copy in {} has it; `embedrock restore --from ... --list` shows those there are", self.objects.place());
        Err(Error::UnknownCommit { id, why })
    }

    /// Names of the manifests, oldest first.
    pub(super) fn names(&self) -> Result<Vec<String>> {
        let mut names: Vec<String> = self.objects.list(COPIES)?.into_iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        Ok(names)
    }

    pub(super) fn copy(&self, name: &str) -> Result<Copy> {
        let bytes = self.objects.get_all(&[format!("{COPIES}/{name}")], MAX_MANIFEST_BYTES)?.concat();
        Copy::decode(name, &bytes)
    }
}

/// Brings all files of a copy into `dir`. IDENTITY comes last: before it the directory is no store.
fn fetch(remote: &Remote, copy: &Copy, dir: &Path, progress: &mut dyn FnMut(Transfer)) -> Result<()> {
    let mut transfer = Transfer { total: copy.bytes(), ..Transfer::default() };
    make_dirs(copy, dir)?;
    let (last, files): (Vec<_>, Vec<_>) = copy.files.iter().partition(|file| file.name == "IDENTITY");
    for file in files.into_iter().chain(last) {
        fetch_file(remote, file, &dir.join(&file.name), &mut transfer, progress)?;
        RealFs.sync_dir(fs::parent(&dir.join(&file.name)))?;
    }
    Ok(())
}

fn make_dirs(copy: &Copy, dir: &Path) -> Result<()> {
    let mut dirs = vec![dir.to_path_buf(), names::logs(dir), names::bases(dir)];
    for file in &copy.files {
        // Those above a file come before it.
        let above: Vec<&Path> = Path::new(&file.name).ancestors().skip(1).collect();
        dirs.extend(above.into_iter().rev().map(|above| dir.join(above)));
    }
    for path in dirs {
        if !RealFs.exists(&path)? {
            RealFs.create_dir(&path)?;
        }
    }
    Ok(())
}

fn fetch_file(
    remote: &Remote,
    file: &CopiedFile,
    path: &Path,
    transfer: &mut Transfer,
    progress: &mut dyn FnMut(Transfer),
) -> Result<()> {
    let mut at = sound_chunks(file, path)?;
    transfer.done += (at as u64 * CHUNK_BYTES).min(file.bytes);
    progress(*transfer);
    let mut writer = if RealFs.exists(path)? { RealFs.open_write(path)? } else { RealFs.create(path)? };
    while at < file.chunks.len() {
        let end = (at + AT_ONCE).min(file.chunks.len());
        let names: Vec<String> = file.chunks[at..end].iter().map(chunk_name).collect();
        for (chunk, bytes) in (at..end).zip(remote.objects.get_all(&names, CHUNK_BYTES)?) {
            if bytes.len() as u64 != file.chunk_bytes(chunk) || *blake3::hash(&bytes).as_bytes() != file.chunks[chunk] {
                let what = format!("the chunk of {} is not what its name says", file.name);
                return Err(Error::corrupt(Path::new(&names[chunk - at]), 0, what));
            }
            writer.write_at(chunk as u64 * CHUNK_BYTES, &bytes)?;
            transfer.done += bytes.len() as u64;
            transfer.moved += bytes.len() as u64;
            progress(*transfer);
        }
        at = end;
    }
    writer.sync()
}

/// How many chunks from the beginning are there already. A file that is too long is another's, and begun anew.
fn sound_chunks(file: &CopiedFile, path: &Path) -> Result<usize> {
    if !RealFs.exists(path)? {
        return Ok(0);
    }
    let reader = RealFs.open_read(path)?;
    if reader.len() > file.bytes {
        drop(reader);
        RealFs.remove_file(path)?;
        return Ok(0);
    }
    for (at, hash) in file.chunks.iter().enumerate() {
        let mut bytes = vec![0; file.chunk_bytes(at) as usize];
        let read = reader.read_at(at as u64 * CHUNK_BYTES, &mut bytes)?;
        if read < bytes.len() || blake3::hash(&bytes).as_bytes() != hash {
            return Ok(at);
        }
    }
    Ok(file.chunks.len())
}
