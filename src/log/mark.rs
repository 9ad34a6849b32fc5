//! The DURABLE file: up to where the log was made durable, for replicas, and to tell damage from a crash's tail.
//!
//! Two copies of 64 bytes are written in turn, without a sync: after a power cut the mark may be old, which is safe, and a torn
//! copy fails its checksum.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use crate::codec::{Reader, crc};
use crate::error::{Error, Result};
use crate::fs::{self, Fs, WriteFile};
use crate::types::{CommitHash, CommitId};

const COPY_BYTES: usize = 8 + 5 * 8 + 16 + 8;
const MAGIC: &[u8; 8] = b"EMBRMARK";

/// What a mark says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MarkRecord {
    pub(crate) segment: u64,
    /// The log is durable up to this byte of the segment.
    pub(crate) offset: u64,
    pub(crate) id: CommitId,
    pub(crate) hash: CommitHash,
}

/// The mark, open to publish.
pub(crate) struct Mark {
    path: PathBuf,
    file: Box<dyn WriteFile>,
    counter: u64,
}

impl Mark {
    /// Opens the file, or makes one whose both copies say nothing is durable.
    pub(crate) fn open_or_create(fs: &dyn Fs, path: &Path) -> Result<Mark> {
        if !fs.exists(path)? {
            let nothing = MarkRecord { segment: 0, offset: 0, id: CommitId::EMPTY, hash: CommitHash::default() };
            let mut bytes = encode(0, &nothing);
            bytes.extend(encode(1, &nothing));
            fs::write_atomic(fs, path, &bytes)?;
        }
        let newest = copies(fs, path)?.into_iter().flatten().map(|(counter, _)| counter).max().unwrap_or(0);
        Ok(Mark { path: path.to_path_buf(), file: fs.open_write(path)?, counter: newest })
    }

    /// Publishes; the older copy is overwritten.
    pub(crate) fn publish(&mut self, record: MarkRecord) -> Result<()> {
        let no_more = || Error::corrupt(&self.path, 0, format!("a mark with number {} can have no successor", self.counter));
        let counter = self.counter.checked_add(1).ok_or_else(no_more)?;
        self.file.write_at((counter % 2) * COPY_BYTES as u64, &encode(counter, &record))?;
        self.counter = counter;
        Ok(())
    }

    /// The newest sound copy; `None` where there is no file, or none is sound, as after a power cut.
    pub(crate) fn read(fs: &dyn Fs, path: &Path) -> Result<Option<MarkRecord>> {
        if !fs.exists(path)? {
            return Ok(None);
        }
        let newest = copies(fs, path)?.into_iter().flatten().max_by_key(|(counter, _)| *counter);
        Ok(newest.map(|(_, record)| record))
    }

    /// The damage of each copy, for `verify`.
    pub(crate) fn check(fs: &dyn Fs, path: &Path) -> Result<Vec<Error>> {
        let damaged = |at| Error::corrupt(path, at, "this copy of the durable mark does not check");
        let sound = copies(fs, path)?;
        let mut damage: Vec<Error> =
            (0u64..).zip(&sound).filter(|(_, copy)| copy.is_none()).map(|(at, _)| damaged(at * COPY_BYTES as u64)).collect();
        if fs.open_read(path)?.len() > 2 * COPY_BYTES as u64 {
            damage.push(Error::corrupt(path, 2 * COPY_BYTES as u64, "bytes after the second copy"));
        }
        Ok(damage)
    }
}

fn copies(fs: &dyn Fs, path: &Path) -> Result<[Option<(u64, MarkRecord)>; 2]> {
    let bytes = fs::read_all(fs, path, 4096)?;
    Ok([0, COPY_BYTES].map(|at| bytes.get(at..at + COPY_BYTES).and_then(decode)))
}

fn encode(counter: u64, record: &MarkRecord) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for number in [counter, record.segment, record.offset, record.id.timeline, record.id.sequence] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.extend_from_slice(&record.hash.0);
    out.resize(COPY_BYTES - 4, 0);
    let sum = crc(0, &out);
    out.extend_from_slice(&sum.to_le_bytes());
    out
}

fn decode(copy: &[u8]) -> Option<(u64, MarkRecord)> {
    let (body, sum) = copy.split_last_chunk::<4>()?;
    if crc(0, body) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut reader = Reader::new(body.strip_prefix(MAGIC.as_slice())?);
    let (counter, segment, offset) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let id = CommitId { timeline: reader.u64()?, sequence: reader.u64()? };
    Some((counter, MarkRecord { segment, offset, id, hash: CommitHash(reader.bytes(16)?.try_into().ok()?) }))
}
