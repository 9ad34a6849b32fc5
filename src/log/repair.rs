//! For tests: makes checksums right again after bytes of a segment were changed, so that what lies behind them is reached.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::frame::COMMIT;
use super::record::CommitRecord;
use super::segment::HEADER_BYTES;
use super::writer::FRAME_HEADER_BYTES;
use crate::codec::crc;
use crate::types::CommitHash;

/// Where a header has the hash of the commit that it follows.
const PARENT_HASH: std::ops::Range<usize> = 60..76;

/// Hashes of commits as they were and as they are: they change with the bytes below them, from segment to segment.
pub(crate) type Renamed = BTreeMap<[u8; 16], [u8; 16]>;

/// Repairs a segment's header and frames as far as their lengths lead.
pub(crate) fn repair(bytes: &mut [u8], renamed: &mut Renamed) {
    let mut found = Renamed::new();
    repair_with(bytes, renamed, |record, parent, frames, chain| {
        let mut sealed = CommitRecord { parent: CommitHash(parent), frames, ..record.clone() };
        sealed.seal(chain);
        found.insert(record.hash.0, sealed.hash.0);
        sealed
    });
    renamed.append(&mut found);
}

/// Repairs the hot rows of a base: they end in a record of the log, whose hash is not theirs.
pub(crate) fn repair_base(bytes: &mut [u8], renamed: &Renamed) {
    let rename = |hash: CommitHash| CommitHash(*renamed.get(&hash.0).unwrap_or(&hash.0));
    repair_with(bytes, renamed, |record, _, _, _| CommitRecord {
        parent: rename(record.parent),
        hash: rename(record.hash),
        ..record.clone()
    });
}

/// `mend` makes a commit's record right, given it, its parent's hash, the frames before it, and the checksum before it.
fn repair_with(bytes: &mut [u8], renamed: &Renamed, mut mend: impl FnMut(&CommitRecord, [u8; 16], u64, u32) -> CommitRecord) {
    let Some((header, mut rest)) = bytes.split_at_mut_checked(HEADER_BYTES) else { return };
    let mut parent = [0; 16];
    parent.copy_from_slice(&header[PARENT_HASH]);
    parent = *renamed.get(&parent).unwrap_or(&parent);
    header[PARENT_HASH].copy_from_slice(&parent);
    let mut chain = crc(0, &header[..HEADER_BYTES - 4]);
    header[HEADER_BYTES - 4..].copy_from_slice(&chain.to_le_bytes());
    let mut frames = 0;
    while let Some((head, behind)) = rest.split_at_mut_checked(FRAME_HEADER_BYTES) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some((payload, next)) = behind.split_at_mut_checked(length) else { return };
        match CommitRecord::decode(payload).filter(|_| head[4] == COMMIT) {
            Some(record) => {
                let mended = mend(&record, parent, frames, chain);
                payload.copy_from_slice(&mended.encode());
                (parent, frames) = (mended.hash.0, 0);
            }
            None => frames += 1,
        }
        chain = crc(crc(chain, &head[..8]), payload);
        head[8..12].copy_from_slice(&chain.to_le_bytes());
        rest = next;
    }
}
