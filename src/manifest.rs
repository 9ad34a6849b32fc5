//! The manifest of a base: which commit it follows, what files it has, and a checksum of every 64 KiB of them.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::codec::{BlockSums, Reader, crc};
use crate::error::{Error, Result};
use crate::fs::{self, Fs};
use crate::types::{CommitHash, CommitId};

/// Bytes under one checksum.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;
/// Bytes of a file read at once.
const CHUNK_BYTES: usize = 1 << 20;
/// The largest manifest that is read: checksums of a terabyte.
const MAX_BYTES: u64 = 80 << 20;
const MAGIC: &[u8; 8] = b"EMBRBASE";
const VERSION: u32 = 1;

/// A base, as its manifest describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) number: u64,
    /// The commit that the base follows; its rows may be newer.
    pub(crate) begin: CommitId,
    pub(crate) begin_hash: CommitHash,
    /// Nothing changed while the base was written: it is valid by itself. Otherwise a commit has to name it.
    pub(crate) still: bool,
    /// The segment with the first delta after `begin`.
    pub(crate) first_segment: u64,
    pub(crate) files: Vec<FileSum>,
}

/// A file of a base and its checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileSum {
    /// Relative to the base: `hot.rows`, or `cold/` and a flat name.
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) blocks: Vec<u32>,
}

impl FileSum {
    /// Of a file summed in blocks of [`BLOCK_BYTES`] as it was written.
    pub(crate) fn written(name: String, sums: BlockSums) -> FileSum {
        let (bytes, blocks) = sums.finish();
        FileSum { name, bytes, blocks }
    }

    /// Reads a file and sums it.
    pub(crate) fn of(fs: &dyn Fs, base: &Path, name: String) -> Result<FileSum> {
        let file = fs.open_read(&base.join(&name))?;
        let (mut sums, mut at) = (BlockSums::new(BLOCK_BYTES), 0);
        let mut chunk = vec![0; usize::try_from(file.len()).unwrap_or(CHUNK_BYTES).clamp(1, CHUNK_BYTES)];
        loop {
            let read = file.read_at(at, &mut chunk)?;
            if read == 0 {
                return Ok(FileSum::written(name, sums));
            }
            sums.add(&chunk[..read]);
            at += read as u64;
        }
    }

    /// Compares a file with its sums; `Err` says where it differs first.
    pub(crate) fn check(&self, fs: &dyn Fs, base: &Path) -> Result<()> {
        let path = base.join(&self.name);
        let file = fs.open_read(&path)?;
        // Block by block, up to the first that differs: a file may be far longer than it should be.
        let mut block = vec![0; BLOCK_BYTES];
        for (number, sum) in (0..).zip(&self.blocks) {
            let at = u64::from(number) * BLOCK_BYTES as u64;
            let length = usize::try_from(self.bytes.saturating_sub(at)).unwrap_or(usize::MAX).min(BLOCK_BYTES);
            let read = file.read_at(at, &mut block[..length])?;
            if read == length && crc(number, &block[..read]) != *sum {
                return Err(Error::corrupt(&path, at, "this block of 64 KiB has another checksum than the manifest says"));
            }
        }
        if file.len() != self.bytes {
            let what = format!("the file has {} bytes, the manifest says {}", file.len(), self.bytes);
            return Err(Error::corrupt(&path, file.len().min(self.bytes), what));
        }
        Ok(())
    }
}

impl Manifest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.begin.timeline.to_le_bytes());
        out.extend_from_slice(&self.begin.sequence.to_le_bytes());
        out.extend_from_slice(&self.begin_hash.0);
        out.push(u8::from(self.still));
        out.extend_from_slice(&self.first_segment.to_le_bytes());
        out.extend_from_slice(&(self.files.len() as u32).to_le_bytes());
        for file in &self.files {
            out.push(file.name.len() as u8);
            out.extend_from_slice(file.name.as_bytes());
            out.extend_from_slice(&file.bytes.to_le_bytes());
            file.blocks.iter().for_each(|sum| out.extend_from_slice(&sum.to_le_bytes()));
        }
        let sum = crc(0, &out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads and checks a manifest; the files it names are checked when they are read.
    pub(crate) fn read(fs: &dyn Fs, path: &Path) -> Result<Manifest> {
        let bytes = fs::read_all(fs, path, MAX_BYTES)?;
        let damaged = |what: &str| Error::corrupt(path, 0, what);
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or_else(|| damaged("too short for a manifest"))?;
        if crc(0, body) != u32::from_le_bytes(*sum) {
            return Err(damaged("the manifest's checksum does not match"));
        }
        let mut reader = Reader::new(body);
        if reader.bytes(8) != Some(MAGIC.as_slice()) {
            return Err(damaged("not a manifest of a base"));
        }
        match reader.u32() {
            Some(VERSION) => {}
            Some(found) if found > VERSION => {
                return Err(Error::FormatTooNew { path: path.to_path_buf(), found, supported: VERSION });
            }
            _ => return Err(damaged("no version")),
        }
        let manifest = Self::decode(&mut reader).ok_or_else(|| damaged("the manifest does not decode"))?;
        if reader.is_empty() { Ok(manifest) } else { Err(damaged("bytes after the manifest")) }
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Manifest> {
        let number = reader.u64()?;
        let begin = CommitId { timeline: reader.u64()?, sequence: reader.u64()? };
        let begin_hash = CommitHash(reader.bytes(16)?.try_into().ok()?);
        let still = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let first_segment = reader.u64()?;
        let count = reader.u32()?;
        let mut files = Vec::new();
        for _ in 0..count {
            let length = usize::from(reader.u8()?);
            let name = String::from_utf8(reader.bytes(length)?.to_vec()).ok()?;
            let flat = name.strip_prefix("cold/").unwrap_or(&name);
            if flat.is_empty() || flat.contains(['/', '\\', '\0']) || flat.starts_with('.') {
                return None;
            }
            let bytes = reader.u64()?;
            let sums = usize::try_from(bytes.div_ceil(BLOCK_BYTES as u64)).ok()?;
            let blocks = reader.bytes(sums.checked_mul(4)?)?;
            let blocks = blocks.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            files.push(FileSum { name, bytes, blocks });
        }
        Some(Manifest { number, begin, begin_hash, still, first_segment, files })
    }
}
