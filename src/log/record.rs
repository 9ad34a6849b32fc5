//! What a commit frame says: which commit, after which, and the state beside the rows.
#![forbid(unsafe_code)]

use crate::codec::Reader;
use crate::types::{CommitHash, CommitId, TableId};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommitRecord {
    pub(crate) id: CommitId,
    pub(crate) parent: CommitHash,
    /// Over the parent's hash, the delta (through its checksum chain) and this record.
    pub(crate) hash: CommitHash,
    /// The largest event time seen.
    pub(crate) clock: Option<u32>,
    /// Batches applied since the store was made.
    pub(crate) batches: u64,
    pub(crate) state_bytes: u64,
    /// Frames of the delta before this one.
    pub(crate) frames: u64,
    /// The base that this commit makes valid, 0 for none.
    pub(crate) base: u64,
    pub(crate) next_table: u32,
    /// Rows of each table.
    pub(crate) rows: Vec<(TableId, u64)>,
}

impl Default for CommitRecord {
    fn default() -> Self {
        CommitRecord {
            id: CommitId::EMPTY,
            parent: CommitHash::default(),
            hash: CommitHash::default(),
            clock: None,
            batches: 0,
            state_bytes: 0,
            frames: 0,
            base: 0,
            next_table: 0,
            rows: Vec::new(),
        }
    }
}

impl CommitRecord {
    /// Sets the hash, given the checksum of the frame before.
    pub(crate) fn seal(&mut self, chain: u32) {
        self.hash = self.hash_with(chain);
    }

    /// Whether the hash is that of this record after that frame.
    pub(crate) fn is_sealed_by(&self, chain: u32) -> bool {
        self.hash == self.hash_with(chain)
    }

    fn hash_with(&self, chain: u32) -> CommitHash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&CommitRecord { hash: CommitHash::default(), ..self.clone() }.encode());
        hasher.update(&chain.to_le_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        CommitHash(hash)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.id.timeline.to_le_bytes());
        out.extend_from_slice(&self.id.sequence.to_le_bytes());
        out.extend_from_slice(&self.parent.0);
        out.extend_from_slice(&self.hash.0);
        out.push(u8::from(self.clock.is_some()));
        out.extend_from_slice(&self.clock.unwrap_or(0).to_le_bytes());
        for number in [self.batches, self.state_bytes, self.frames, self.base] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.next_table.to_le_bytes());
        for (table, rows) in &self.rows {
            out.extend_from_slice(&table.0.to_le_bytes());
            out.extend_from_slice(&rows.to_le_bytes());
        }
        out
    }

    pub(crate) fn decode(payload: &[u8]) -> Option<CommitRecord> {
        let mut reader = Reader::new(payload);
        let id = CommitId { timeline: reader.u64()?, sequence: reader.u64()? };
        let parent = CommitHash(reader.bytes(16)?.try_into().ok()?);
        let hash = CommitHash(reader.bytes(16)?.try_into().ok()?);
        let known = reader.u8()?;
        let time = reader.u32()?;
        let clock = match known {
            0 if time == 0 => None,
            1 => Some(time),
            _ => return None,
        };
        let (batches, state_bytes, frames, base) = (reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?);
        let next_table = reader.u32()?;
        let mut rows = Vec::new();
        while !reader.is_empty() {
            rows.push((TableId(reader.u32()?), reader.u64()?));
        }
        Some(CommitRecord { id, parent, hash, clock, batches, state_bytes, frames, base, next_table, rows })
    }
}
