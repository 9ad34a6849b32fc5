//! Sending: the newest valid base and the log after it, up to the last durable commit; nothing that the target has.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::copy::{CHUNKS, COPIES, CopiedFile, Copy, chunk_name};
use super::{AT_ONCE, CHUNK_BYTES, Remote, Transfer};
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
    pub(crate) fn send(&self, source: &Source<'_>, progress: &mut dyn FnMut(Transfer)) -> Result<Transfer> {
        let (mut copy, pieces) = plan(source)?;
        let held = self.objects.list(CHUNKS)?;
        let mut sending = Sending {
            remote: self,
            held: held.into_iter().collect(),
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
        if let Some(name) = &newest
            && self.copy(name)?.encode() == copy.encode()
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
    /// Names and sizes of the chunks that are there.
    held: HashSet<(String, u64)>,
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
            self.chunk(chunk_name(&hash), bytes)?;
        }
        Ok(copied)
    }

    fn chunk(&mut self, name: String, bytes: Vec<u8>) -> Result<()> {
        let size = bytes.len() as u64;
        self.transfer.done += size;
        let short = name.trim_start_matches(CHUNKS).trim_start_matches('/').to_owned();
        if self.held.insert((short, size)) {
            self.transfer.moved += size;
            self.queue.push((name, bytes));
        }
        if self.queue.len() == AT_ONCE { self.flush() } else { Ok(()) }
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
    Ok((Copy { name: String::new(), commit: tip, hash, commits, store: identity.uuid, files: Vec::new() }, pieces))
}
