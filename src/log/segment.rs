//! The header of a segment: whose it is, and which commit it follows.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::codec::{Reader, crc};
use crate::error::{Error, Result};
use crate::types::{CommitHash, CommitId};

/// Bytes of a header.
pub(crate) const HEADER_BYTES: usize = 88;
const MAGIC: &[u8; 8] = b"EMBROCKL";
const VERSION: u32 = 1;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) store: [u8; 16],
    pub(crate) segment: u64,
    /// The timeline of the commits in it.
    pub(crate) timeline: u64,
    /// The commit that the first delta follows.
    pub(crate) parent: CommitId,
    pub(crate) parent_hash: CommitHash,
    /// The early frames of the parent's delta belong to the first delta here: the same process went on.
    pub(crate) continues: bool,
}

impl SegmentHeader {
    /// The header's bytes; the last four are its checksum, which the first frame's goes on from.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.store);
        out.extend_from_slice(&self.segment.to_le_bytes());
        out.extend_from_slice(&self.timeline.to_le_bytes());
        out.extend_from_slice(&self.parent.timeline.to_le_bytes());
        out.extend_from_slice(&self.parent.sequence.to_le_bytes());
        out.extend_from_slice(&self.parent_hash.0);
        out.push(u8::from(self.continues));
        out.resize(HEADER_BYTES - 4, 0);
        let sum = crc(0, &out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// The header and its checksum.
    pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<(SegmentHeader, u32)> {
        let damaged = |what: &str| Error::corrupt(path, 0, what);
        let (body, sum) = bytes
            .get(..HEADER_BYTES)
            .and_then(|header| header.split_last_chunk::<4>())
            .ok_or_else(|| damaged("too short for a segment's header"))?;
        let mut reader = Reader::new(body);
        if reader.bytes(8) != Some(MAGIC.as_slice()) {
            return Err(damaged("not a segment of a log"));
        }
        let sum = u32::from_le_bytes(*sum);
        if crc(0, body) != sum {
            return Err(damaged("the header's checksum does not match"));
        }
        match reader.u32() {
            Some(VERSION) => {}
            Some(found) if found > VERSION => {
                return Err(Error::FormatTooNew { path: path.to_path_buf(), found, supported: VERSION });
            }
            _ => return Err(damaged("no version")),
        }
        let header = Self::decode_fields(&mut reader).ok_or_else(|| damaged("the header does not decode"))?;
        Ok((header, sum))
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Option<SegmentHeader> {
        Some(SegmentHeader {
            store: reader.bytes(16)?.try_into().ok()?,
            segment: reader.u64()?,
            timeline: reader.u64()?,
            parent: CommitId { timeline: reader.u64()?, sequence: reader.u64()? },
            parent_hash: CommitHash(reader.bytes(16)?.try_into().ok()?),
            continues: match reader.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            },
        })
    }
}
