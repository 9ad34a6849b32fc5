//! Sending: the newest valid base and the log after it, up to the last durable commit; nothing that the target has.
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::copy::{CHUNKS, COPIES, CopiedFile, Copy, chunk_name};
use super::{AT_ONCE, CHUNK_BYTES, Remote, Transfer, Upload};
use crate::codec::{pack, unpack};
use crate::error::{Error, Result};
use crate::fs::{Fs, names, read_exact_at};
use crate::recovery::{Identity, choose, survey};
use crate::types::{At, CommitId};

/// The store that is sent, whose files nobody removes meanwhile.
pub(crate) struct Source<'a> {
    pub(crate) fs: &'a dyn Fs,
    pub(crate) dir: &'a Path,
    pub(crate) identity: Identity,
    /// Its last durable commit.
    pub(crate) tip: CommitId,
}

/// A file to be sent: its name, where it is, and how much of it belongs to the commit.
struct Piece {
    name: String,
    path: PathBuf,
    bytes: u64,
}

impl Remote {
    /// Sends what the target lacks, then the manifest.
    pub(crate) fn send(&self, source: &Source<'_>, upload: &Upload, progress: &mut dyn FnMut(Transfer)) -> Result<Transfer> {
        let (mut copy, pieces) = plan(source)?;
        (copy.compressed, copy.quantization) = (upload.level.is_some(), upload.quantization);
        let held = self.objects.list(CHUNKS)?;
        let mut sending = Sending {
            remote: self,
            upload,
            held: held.into_iter().collect(),
            sent: HashSet::new(),
            queue: Vec::new(),
            transfer: Transfer { total: pieces.iter().map(|piece| piece.bytes).sum(), ..Transfer::default() },
            progress,
        };
        for piece in &pieces {
            copy.files.push(sending.file(source.fs, piece)?);
        }
        sending.flush()?;
        let transfer = sending.transfer;
        self.publish(copy)?;
        Ok(transfer)
    }

    /// Writes the manifest, unless the newest copy is the same.
    fn publish(&self, copy: Copy) -> Result<()> {
        let newest = self.names()?.pop();
        // One that cannot be read is not the same, and does not stand in the way of a better one.
        if let Some(name) = &newest
            && self.copy(name).is_ok_and(|newest| newest.encode() == copy.encode())
        {
            return Ok(());
        }
        // Names sort by time; a clock that went back does not bring an older copy to the front.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let last = newest.and_then(|name| name.split_once('-')?.0.parse::<u64>().ok()).unwrap_or(0);
        let name = format!(
            "{:020}-{}-{}",
            now.max(last.saturating_add(1)),
            copy.commit,
            blake3::hash(&copy.hash.0).to_hex().split_at(8).0
        );
        self.objects.create(&format!("{COPIES}/{name}"), copy.encode())
    }
}

struct Sending<'a> {
    remote: &'a Remote,
    upload: &'a Upload,
    /// Names of the chunks that are there, and their sizes.
    held: HashMap<String, u64>,
    /// Those that this copy sent.
    sent: HashSet<String>,
    queue: Vec<(String, Vec<u8>)>,
    transfer: Transfer,
    progress: &'a mut dyn FnMut(Transfer),
}

impl Sending<'_> {
    fn file(&mut self, fs: &dyn Fs, piece: &Piece) -> Result<CopiedFile> {
        let file = fs.open_read(&piece.path)?;
        let mut copied = CopiedFile { name: piece.name.clone(), bytes: piece.bytes, chunks: Vec::new() };
        for at in 0..piece.bytes.div_ceil(CHUNK_BYTES) as usize {
            let mut bytes = vec![0; copied.chunk_bytes(at) as usize];
            read_exact_at(&*file, &piece.path, at as u64 * CHUNK_BYTES, &mut bytes)?;
            let hash = *blake3::hash(&bytes).as_bytes();
            copied.chunks.push(hash);
            self.chunk(&hash, bytes)?;
        }
        Ok(copied)
    }

    fn chunk(&mut self, hash: &[u8; 32], bytes: Vec<u8>) -> Result<()> {
        let size = bytes.len() as u64;
        self.transfer.done += size;
        let name = chunk_name(hash, self.upload.level.is_some());
        let short = name.trim_start_matches(CHUNKS).trim_start_matches('/').to_owned();
        if !self.is_held(&short, &name, hash, size) {
            let object = match self.upload.level {
                None => bytes,
                Some(level) => pack(&bytes, level).map_err(|error| Error::Remote {
                    action: "compress",
                    place: name.clone(),
                    message: error.to_string(),
                })?,
            };
            self.transfer.moved += object.len() as u64;
            self.held.insert(short, if self.upload.level.is_some() { 0 } else { size });
            self.sent.insert(name.clone());
            self.queue.push((name, object));
        }
        if self.queue.len() == AT_ONCE { self.flush() } else { Ok(()) }
    }

    /// Whether a chunk is there: by its name and, of a plain one, its length; or by its content, where that is asked for.
    fn is_held(&self, short: &str, name: &str, hash: &[u8; 32], size: u64) -> bool {
        let compressed = self.upload.level.is_some();
        let named = self.held.get(short).is_some_and(|held| compressed || *held == size);
        if !named || !self.upload.recheck || self.sent.contains(name) {
            return named;
        }
        // What cannot be read is sent again too.
        let objects = self.remote.objects.get_all(&[name.to_owned()], CHUNK_BYTES + 1);
        let object = objects.ok().and_then(|mut objects| objects.pop());
        let bytes = object.and_then(|object| if compressed { unpack(&object, size as usize) } else { Some(object) });
        bytes.is_some_and(|bytes| blake3::hash(&bytes).as_bytes() == hash)
    }

    fn flush(&mut self) -> Result<()> {
        self.remote.objects.put_all(std::mem::take(&mut self.queue))?;
        (self.progress)(self.transfer);
        Ok(())
    }
}

/// What makes up the state at the last durable commit.
fn plan(source: &Source<'_>) -> Result<(Copy, Vec<Piece>)> {
    let Source { fs, dir, identity, tip } = *source;
    if tip.sequence == 0 {
        return Err(Error::UnknownCommit { id: tip, why: "nothing was committed yet, so there is nothing to copy".into() });
    }
    let survey = survey(fs, dir, identity.uuid)?;
    let chain = choose(&survey, dir, At::Commit(tip))?;
    let mut pieces = Vec::new();
    let mut add = |name: String, bytes: u64| pieces.push(Piece { path: dir.join(&name), name, bytes });
    // The best base that is whole: a damaged one would be found only by who restores.
    let mut damaged = None;
    let sound = chain.bases(&survey).into_iter().find(|base| {
        let root = names::base(dir, base.number);
        let check = base.files.iter().try_for_each(|file| file.check(fs, &root));
        check.map_err(|error| damaged = Some(error)).is_ok()
    });
    if let (None, true, Some(error)) = (sound, chain.root.0.sequence > 0, damaged) {
        return Err(error);
    }
    let mut first = 0;
    if let Some(base) = sound {
        let root = format!("base/{:08}", base.number);
        base.files.iter().for_each(|file| add(format!("{root}/{}", file.name), file.bytes));
        let manifest = format!("{root}/{}", names::MANIFEST);
        let length = fs.open_read(&dir.join(&manifest))?.len();
        add(manifest, length);
        // The segment with the base's commit goes along, so that the history is seen to begin there.
        first = chain.commits.iter().find(|(_, placed)| placed.record.id == base.begin).map_or(0, |(at, _)| *at);
    }
    let mut ends: Vec<(usize, u64)> = Vec::new();
    for (at, placed) in chain.commits.iter().filter(|(at, _)| *at >= first) {
        match ends.last_mut() {
            Some((last, end)) if last == at => *end = placed.end,
            _ => ends.push((*at, placed.end)),
        }
    }
    for (at, end) in ends {
        add(format!("log/{:08}.log", survey.segments[at].number), end);
    }
    let length = fs.open_read(&names::identity(dir))?.len();
    add("IDENTITY".to_owned(), length);
    let hash = chain.target().1;
    let begin = sound.map_or(0, |base| base.begin.sequence);
    let commits = chain.restorable(&survey).into_iter().filter(|id| id.sequence >= begin).collect();
    let copy = Copy {
        name: String::new(),
        commit: tip,
        hash,
        commits,
        quantization: None,
        compressed: false,
        store: identity.uuid,
        files: Vec::new(),
    };
    Ok((copy, pieces))
}
