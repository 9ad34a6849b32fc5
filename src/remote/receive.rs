//! Fetching: the files of a copy into a directory, each chunk checked; what is there already is not fetched again.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::Path;

use super::copy::{COPIES, CopiedFile, Copy, MAX_MANIFEST_BYTES, chunk_name};
use super::{AT_ONCE, CHUNK_BYTES, Remote, Transfer};
use crate::codec::unpack;
use crate::error::{Error, Result};
use crate::fs::{self, Fs, RealFs, names};
use crate::log::{Mark, MarkRecord};
use crate::restore::{Restore, RestoreReport};
use crate::types::At;

/// Names of copies whose manifests cannot be read, and why.
type Unreadable = Vec<(String, Error)>;

impl Remote {
    /// The whole copies, oldest first. Those whose manifests cannot be read are left out: see [`Remote::unreadable`].
    ///
    /// # Errors
    /// The place cannot be read.
    pub fn copies(&self) -> Result<Vec<Copy>> {
        Ok(self.look()?.0)
    }

    /// The names of copies whose manifests are damaged, or of a newer format, and what is wrong with each. They stand in the way of
    /// nothing but themselves.
    ///
    /// # Errors
    /// The place cannot be read.
    pub fn unreadable(&self) -> Result<Vec<(String, Error)>> {
        Ok(self.look()?.1)
    }

    fn look(&self) -> Result<(Vec<Copy>, Unreadable)> {
        let (mut copies, mut unreadable) = (Vec::new(), Unreadable::new());
        for name in self.names()? {
            match self.copy(&name) {
                Ok(copy) if self.store.as_ref().is_some_and(|id| !copy.store_id().starts_with(id)) => {}
                Ok(copy) => copies.push(copy),
                Err(error @ (Error::Corrupt { .. } | Error::FormatTooNew { .. })) => unreadable.push((name, error)),
                Err(error) => return Err(error),
            }
        }
        Ok((copies, unreadable))
    }

    /// Restores a commit of a copy as a new store in `target`, which must not exist. `with` may ask for some tables, or set options.
    ///
    /// The copy's files are fetched into a temporary directory beside the target first. It stays when that is interrupted, and the
    /// next call with the same target goes on with it.
    ///
    /// # Errors
    /// No copy has the commit, or those of several stores do ([`Remote::of_store`]); the newest copy cannot be read, and no commit is
    /// named; [`Error::Remote`]; a chunk that is not what its name says ([`Error::Corrupt`] with its name); as
    /// [`restore`](crate::restore()).
    pub fn restore(
        &self,
        at: At,
        target: impl AsRef<Path>,
        with: impl FnOnce(Restore) -> Restore,
        progress: &mut dyn FnMut(Transfer),
    ) -> Result<RestoreReport> {
        let target = target.as_ref();
        self.fetched(at, target, progress, |downloaded, at| with(Restore::of(downloaded).at(at)).to(target))
    }

    /// As [`Remote::restore`], but only says what would be written. The files are fetched for that, and go again.
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
        self.fetched(at, target.as_ref(), progress, |downloaded, at| with(Restore::of(downloaded).at(at)).dry_run())
    }

    fn fetched(
        &self,
        at: At,
        target: &Path,
        progress: &mut dyn FnMut(Transfer),
        then: impl FnOnce(&Path, At) -> Result<RestoreReport>,
    ) -> Result<RestoreReport> {
        if RealFs.exists(target)? {
            return Err(Error::TargetExists { path: target.to_path_buf() });
        }
        let copy = self.choose(at)?;
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let downloaded = names::temporary(fs::parent(target), &format!("copy-{name}"));
        fetch(self, (&copy, None), &downloaded, progress)?;
        // Its own newest commit, whatever else lies there.
        let at = if at == At::Latest { At::Commit(copy.commit) } else { at };
        let report = RestoreReport { quantization: copy.quantization, ..then(&downloaded, at)? };
        RealFs.remove_dir_all(&downloaded)?;
        Ok(report)
    }

    /// The newest copy that has the commit.
    fn choose(&self, at: At) -> Result<Copy> {
        let (mut copies, mut unreadable) = self.look()?;
        if let At::Commit(id) = at {
            copies.retain(|copy| copy.commits.contains(&id));
        }
        let stores: BTreeSet<String> = copies.iter().map(Copy::store_id).collect();
        if stores.len() > 1 {
            let stores = stores.into_iter().collect::<Vec<_>>().join(", ");
            let what = format!("{} holds copies of several stores, {stores}: name the one that is meant", self.objects.place());
            return Err(Error::InvalidOption { option: "store", what });
        }
        // A newer copy that cannot be read is not passed over in silence.
        let newer = |(name, _): &(String, Error)| copies.last().is_none_or(|copy| *name > copy.name);
        if (at == At::Latest || copies.is_empty()) && unreadable.last().is_some_and(newer) {
            return Err(unreadable.swap_remove(unreadable.len() - 1).1);
        }
        copies.pop().ok_or_else(|| {
            let id = if let At::Commit(id) = at { id } else { crate::types::CommitId::EMPTY };
            let why = format!(
                "no copy in {} has it; `embedrock restore --from ... --list` shows those there are",
                self.objects.place()
            );
            Error::UnknownCommit { id, why }
        })
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

/// What a directory holds of a copy that was fetched there and is known to be whole.
#[derive(Default)]
pub(crate) struct Fetched(Option<Copy>);

impl Remote {
    /// The newest copy, of the same store as the one before.
    pub(crate) fn newest(&self, Fetched(before): &Fetched) -> Result<Copy> {
        let Some(before) = before else { return self.choose(At::Latest) };
        for name in self.names()?.iter().rev() {
            let copy = if *name == before.name { before.clone() } else { self.copy(name)? };
            if copy.store == before.store {
                return Ok(copy);
            }
        }
        // Somebody removed them all.
        self.choose(At::Latest)
    }

    /// Brings the newest copy into `dir`, for which a replica goes by `DURABLE` as in a store's own directory. Of what is there since the
    /// last time nothing is read again. Returns the bytes that came.
    pub(crate) fn fetch_newest(&self, dir: &Path, fetched: &mut Fetched) -> Result<u64> {
        let copy = self.newest(fetched)?;
        // What fails half way leaves a mixture, whose chunks are then looked at.
        let before = fetched.0.take();
        if before.as_ref().is_some_and(|before| before.name == copy.name) {
            fetched.0 = before;
            return Ok(0);
        }
        let mut moved = 0;
        fetch(self, (&copy, before.as_ref()), dir, &mut |transfer| moved = transfer.moved)?;
        let (segment, offset) = copy.log_end();
        let mark = MarkRecord { segment, offset, id: copy.commit, hash: copy.hash };
        Mark::open_or_create(&RealFs, &names::durable(dir))?.publish(mark)?;
        fetched.0 = Some(copy);
        Ok(moved)
    }
}

/// Brings all files of a copy into `dir`, where the chunks of the copy `before` are known to be. IDENTITY comes last: before it the directory is no store.
fn fetch(remote: &Remote, (copy, before): (&Copy, Option<&Copy>), dir: &Path, progress: &mut dyn FnMut(Transfer)) -> Result<()> {
    let mut transfer = Transfer { total: copy.bytes(), ..Transfer::default() };
    make_dirs(copy, dir)?;
    remove_others(copy, dir)?;
    let (last, files): (Vec<_>, Vec<_>) = copy.files.iter().partition(|file| file.name == "IDENTITY");
    for file in files.into_iter().chain(last) {
        let known = before.and_then(|before| before.files.iter().find(|known| known.name == file.name));
        if known == Some(file) {
            transfer.done += file.bytes;
            continue;
        }
        let same = known.map_or(0, |known| known.chunks.iter().zip(&file.chunks).take_while(|(a, b)| a == b).count());
        fetch_file(remote, (copy, file, same), &dir.join(&file.name), &mut transfer, progress)?;
        RealFs.sync_dir(fs::parent(&dir.join(&file.name)))?;
    }
    Ok(())
}

/// Removes the files of another copy, which an interrupted restore may have left: they would be taken for this one's.
fn remove_others(copy: &Copy, dir: &Path) -> Result<()> {
    let mut below = vec![String::new()];
    while let Some(prefix) = below.pop() {
        for entry in RealFs.list(&dir.join(&prefix))? {
            let name = format!("{prefix}{}", entry.name);
            if entry.is_dir {
                below.push(format!("{name}/"));
            } else if !copy.files.iter().any(|file| file.name == name) {
                RealFs.remove_file(&dir.join(&name))?;
            }
        }
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
    (copy, file, known): (&Copy, &CopiedFile, usize),
    path: &Path,
    transfer: &mut Transfer,
    progress: &mut dyn FnMut(Transfer),
) -> Result<()> {
    let mut at = sound_chunks(file, path, known)?;
    transfer.done += (at as u64 * CHUNK_BYTES).min(file.bytes);
    progress(*transfer);
    let mut writer = if RealFs.exists(path)? { RealFs.open_write(path)? } else { RealFs.create(path)? };
    while at < file.chunks.len() {
        let end = (at + AT_ONCE).min(file.chunks.len());
        let names: Vec<String> = file.chunks[at..end].iter().map(|hash| chunk_name(hash, copy.compressed)).collect();
        for (chunk, bytes) in (at..end).zip(remote.objects.get_all(&names, CHUNK_BYTES + 1)?) {
            let length = bytes.len() as u64;
            let bytes = if copy.compressed { unpack(&bytes, file.chunk_bytes(chunk) as usize) } else { Some(bytes) };
            let bytes = bytes.unwrap_or_default();
            if bytes.len() as u64 != file.chunk_bytes(chunk) || *blake3::hash(&bytes).as_bytes() != file.chunks[chunk] {
                let what =
                    format!("the chunk of {} is not what its name says: an upload with a recheck sends it again", file.name);
                return Err(Error::corrupt(Path::new(&names[chunk - at]), 0, what));
            }
            writer.write_at(chunk as u64 * CHUNK_BYTES, &bytes)?;
            transfer.done += bytes.len() as u64;
            transfer.moved += length;
            progress(*transfer);
        }
        at = end;
    }
    writer.sync()
}

/// How many chunks from the beginning are there already; the first `known` are. A file that is too long is another's, and begun anew.
fn sound_chunks(file: &CopiedFile, path: &Path, known: usize) -> Result<usize> {
    if !RealFs.exists(path)? {
        return Ok(0);
    }
    let reader = RealFs.open_read(path)?;
    if reader.len() > file.bytes {
        drop(reader);
        RealFs.remove_file(path)?;
        return Ok(0);
    }
    for (at, hash) in file.chunks.iter().enumerate().skip(known) {
        let mut bytes = vec![0; file.chunk_bytes(at) as usize];
        let read = reader.read_at(at as u64 * CHUNK_BYTES, &mut bytes)?;
        if read < bytes.len() || blake3::hash(&bytes).as_bytes() != hash {
            return Ok(at);
        }
    }
    Ok(file.chunks.len())
}
