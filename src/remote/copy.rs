//! The manifest of a copy: whose state it is, which commits can be restored from it, and its files as lists of chunks.
#![forbid(unsafe_code)]

use std::path::Path;

use super::CHUNK_BYTES;
use crate::codec::Reader;
use crate::error::{Error, Result};
use crate::fs::names;
use crate::quantize::Quantization;
use crate::types::{CommitHash, CommitId};

/// Where the manifests lie.
pub(super) const COPIES: &str = "copies";
/// Where the chunks lie.
pub(super) const CHUNKS: &str = "chunks";

const MAGIC: &[u8; 8] = b"EMBRCOPY";
const VERSION: u32 = 2;
/// The version of copies that are neither compressed nor quantised.
const PLAIN_VERSION: u32 = 1;
const HASH_BYTES: usize = 32;
/// The largest manifest that is read: one of some terabytes.
pub(super) const MAX_MANIFEST_BYTES: u64 = 64 << 20;
const MAX_FILES: u32 = 1 << 16;

/// A whole copy of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its name at the remote place.
    pub name: String,
    /// The newest commit in it.
    pub commit: CommitId,
    /// The hash of that commit.
    pub hash: CommitHash,
    /// The commits that can be restored from it, oldest first; the newest is the last.
    pub commits: Vec<CommitId>,
    /// How embeddings were encoded: what is restored has other rows, and another digest, than the commit.
    pub quantization: Option<Quantization>,
    /// Whether its chunks are compressed.
    pub compressed: bool,
    pub(super) store: [u8; 16],
    pub(super) files: Vec<CopiedFile>,
}

/// A file of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CopiedFile {
    /// Relative to the store, with slashes.
    pub(super) name: String,
    pub(super) bytes: u64,
    /// The hash of each chunk.
    pub(super) chunks: Vec<[u8; HASH_BYTES]>,
}

/// The name of a chunk's object, after the bytes as they are.
pub(super) fn chunk_name(hash: &[u8; HASH_BYTES], compressed: bool) -> String {
    format!("{CHUNKS}/{}{}", blake3::Hash::from_bytes(*hash).to_hex(), if compressed { ".zst" } else { "" })
}

impl CopiedFile {
    /// Bytes of chunk `at`.
    pub(super) fn chunk_bytes(&self, at: usize) -> u64 {
        (self.bytes - at as u64 * CHUNK_BYTES).min(CHUNK_BYTES)
    }
}

impl Copy {
    /// Bytes of all its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Which store it is a copy of: 32 hexadecimal digits.
    pub fn store_id(&self) -> String {
        self.store.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The number of the last segment of its log, and where it ends; 0 and 0 without a log.
    pub(super) fn log_end(&self) -> (u64, u64) {
        let number = |file: &CopiedFile| names::parse_segment(file.name.strip_prefix("log/")?);
        self.files.iter().filter_map(|file| Some((number(file)?, file.bytes))).max().unwrap_or_default()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let plain = !self.compressed && self.quantization.is_none();
        out.extend_from_slice(&(if plain { PLAIN_VERSION } else { VERSION }).to_le_bytes());
        out.extend_from_slice(&self.store);
        put_id(&mut out, self.commit);
        out.extend_from_slice(&self.hash.0);
        if !plain {
            out.push(u8::from(self.compressed));
            out.push(self.quantization.map_or(0, Quantization::code));
        }
        out.extend_from_slice(&(self.commits.len() as u32).to_le_bytes());
        self.commits.iter().for_each(|id| put_id(&mut out, *id));
        out.extend_from_slice(&(self.files.len() as u32).to_le_bytes());
        for file in &self.files {
            out.push(file.name.len() as u8);
            out.extend_from_slice(file.name.as_bytes());
            out.extend_from_slice(&file.bytes.to_le_bytes());
            file.chunks.iter().for_each(|hash| out.extend_from_slice(hash));
        }
        let hash = *blake3::hash(&out).as_bytes();
        out.extend_from_slice(&hash);
        out
    }

    /// Decodes the manifest of this name. Nothing in it is trusted: a name leads nowhere but into a store's own files.
    pub(super) fn decode(name: &str, bytes: &[u8]) -> Result<Copy> {
        let damaged = |what: &str| Error::corrupt(Path::new(name), 0, what);
        let (body, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or_else(|| damaged("the manifest is too short"))?;
        if body.get(..8) != Some(MAGIC.as_slice()) {
            return Err(damaged("not the manifest of a copy"));
        }
        let mut reader = Reader::new(&body[8..]);
        let version = reader.u32().unwrap_or(0);
        if version > VERSION {
            return Err(Error::FormatTooNew { path: name.into(), found: version, supported: VERSION });
        }
        if blake3::hash(body).as_bytes() != hash {
            return Err(damaged("the manifest's hash does not match"));
        }
        Self::read(name, version, &mut reader)
            .filter(|_| reader.is_empty())
            .ok_or_else(|| damaged("the manifest's parts do not fit"))
    }

    fn read(name: &str, version: u32, reader: &mut Reader<'_>) -> Option<Copy> {
        let store = reader.bytes(16)?.try_into().ok()?;
        let commit = id(reader)?;
        let hash = CommitHash(reader.bytes(16)?.try_into().ok()?);
        let (compressed, quantization) = match version {
            PLAIN_VERSION => (false, None),
            VERSION => (flag(reader.u8()?)?, codec(reader.u8()?)?),
            _ => return None,
        };
        let commits = (0..reader.u32()?).map(|_| id(reader)).collect::<Option<Vec<_>>>()?;
        let count = reader.u32().filter(|count| *count <= MAX_FILES)?;
        let files = (0..count).map(|_| CopiedFile::read(reader)).collect::<Option<Vec<_>>>()?;
        let mut seen: Vec<&str> = files.iter().map(|file| file.name.as_str()).collect();
        seen.sort_unstable();
        let sound = commits.last() == Some(&commit) && seen.windows(2).all(|pair| pair[0] != pair[1]);
        // The sum of their lengths is a number too.
        files.iter().try_fold(0u64, |sum, file| sum.checked_add(file.bytes))?;
        sound.then_some(Copy { name: name.to_owned(), commit, hash, commits, quantization, compressed, store, files })
    }
}

impl CopiedFile {
    fn read(reader: &mut Reader<'_>) -> Option<CopiedFile> {
        let length = reader.u8()?;
        let name = std::str::from_utf8(reader.bytes(length.into())?).ok().filter(|name| is_of_a_store(name))?.to_owned();
        let bytes = reader.u64()?;
        let chunk = |_| reader.bytes(HASH_BYTES)?.try_into().ok();
        let chunks = (0..bytes.div_ceil(CHUNK_BYTES)).map(chunk).collect::<Option<Vec<_>>>()?;
        Some(CopiedFile { name, bytes, chunks })
    }
}

/// Whether a name is one that a store's own files have.
fn is_of_a_store(name: &str) -> bool {
    let flat = |name: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        !name.is_empty() && !name.starts_with('.') && name.bytes().all(plain)
    };
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        ["IDENTITY"] => true,
        ["log", segment] => names::parse_segment(segment).is_some(),
        ["base", base, file] => names::parse_base(base).is_some() && (file == names::MANIFEST || file == names::HOT_ROWS),
        ["base", base, dir, file] => names::parse_base(base).is_some() && dir == names::COLD && flat(file),
        _ => false,
    }
}

fn flag(byte: u8) -> Option<bool> {
    (byte < 2).then_some(byte == 1)
}

fn codec(code: u8) -> Option<Option<Quantization>> {
    if code == 0 { Some(None) } else { Quantization::from_code(code).map(Some) }
}

fn put_id(out: &mut Vec<u8>, id: CommitId) {
    out.extend_from_slice(&id.timeline.to_le_bytes());
    out.extend_from_slice(&id.sequence.to_le_bytes());
}

fn id(reader: &mut Reader<'_>) -> Option<CommitId> {
    Some(CommitId { timeline: reader.u64()?, sequence: reader.u64()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn copy(name: &str, bytes: u64) -> Copy {
        let commit = CommitId { timeline: 1, sequence: 7 };
        let chunks = (0..bytes.div_ceil(CHUNK_BYTES)).map(|at| [at as u8; HASH_BYTES]).collect();
        let file = CopiedFile { name: name.to_owned(), bytes, chunks };
        Copy {
            name: "c".into(),
            commit,
            hash: CommitHash([3; 16]),
            commits: vec![commit],
            quantization: None,
            compressed: false,
            store: [9; 16],
            files: vec![file],
        }
    }

    #[test]
    fn a_manifest_decodes_to_what_it_was_and_damage_does_not() {
        let plain = copy("base/00000002/cold/000012.sst", 3 * CHUNK_BYTES + 1);
        let packed = Copy { compressed: true, ..plain.clone() };
        let quantised = Copy { quantization: Some(Quantization::Bf16), ..plain.clone() };
        for whole in [plain, packed, quantised] {
            let bytes = whole.encode();
            // Programs of the first version read what they can; the layout is that of docs/design.md for ever.
            assert_eq!(bytes[8], if whole.compressed || whole.quantization.is_some() { 2 } else { 1 });
            match (whole.compressed, whole.quantization) {
                (false, None) => assert_eq!(bytes[60..64], [1, 0, 0, 0]),
                (compressed, codec) => {
                    let codec = codec.map_or(0, Quantization::code);
                    assert_eq!(bytes[60..66], [u8::from(compressed), codec, 1, 0, 0, 0]);
                }
            }
            assert_eq!(Copy::decode("c", &bytes).unwrap(), whole);
            for at in 0..bytes.len() {
                let mut flipped = bytes.clone();
                flipped[at] ^= 4;
                assert!(Copy::decode("c", &flipped).is_err(), "byte {at}");
                assert!(Copy::decode("c", &bytes[..at]).is_err(), "cut at {at}");
            }
        }
    }

    #[test]
    fn names_lead_nowhere_else() {
        let whole = |name: &str| Copy::decode("c", &copy(name, 1).encode());
        for name in ["IDENTITY", "log/00000001.log", "base/00000001/MANIFEST", "base/00000001/cold/CURRENT"] {
            assert!(whole(name).is_ok(), "{name}");
        }
        for name in [
            "",
            "..",
            "/etc/passwd",
            "../x",
            "log/../IDENTITY",
            "log/x",
            "log",
            "LOCK",
            "DURABLE",
            "live/CURRENT",
            "base/1/MANIFEST",
            "base/00000001/other",
            "base/00000001/cold/..",
            "base/00000001/cold/.x",
            "base/00000001/cold/a/b",
            "base/00000001/cold/a\\b",
            "base/00000001/cold/",
            "tmp-x",
            "log/00000001.log/",
            "log//00000001.log",
        ] {
            assert!(whole(name).is_err(), "{name}");
        }
    }

    #[test]
    fn counts_beyond_the_bytes_are_refused_without_being_believed() {
        let sealed = |mut body: Vec<u8>| {
            let hash = *blake3::hash(&body).as_bytes();
            body.extend_from_slice(&hash);
            body
        };
        let bytes = copy("IDENTITY", 5).encode();
        let body = &bytes[..bytes.len() - HASH_BYTES];
        // Commits, files, and the length of the file: each the largest number.
        for (at, width) in [(60, 4), (80, 4), (93, 8)] {
            let mut forged = body.to_vec();
            forged[at..at + width].fill(0xff);
            assert!(Copy::decode("c", &sealed(forged)).is_err(), "at {at}");
        }
        let mut twice = copy("IDENTITY", 5);
        twice.files.push(twice.files[0].clone());
        assert!(Copy::decode("c", &twice.encode()).is_err());
    }
}
