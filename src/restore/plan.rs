//! What a restore under way is of, so that one that was interrupted is gone on with only where it is the same.
#![forbid(unsafe_code)]

use std::path::Path;

use super::RestoreReport;
use crate::codec::{Reader, crc};
use crate::error::Result;
use crate::fs::{self, Fs};
use crate::types::{CommitHash, CommitId};

const MAGIC: &[u8; 8] = b"EMBRPLAN";
const VERSION: u32 = 1;
/// The largest plan that is read: names of tables and numbers.
const MAX_BYTES: u64 = 16 << 20;

/// See the module. It is never part of a store: any program may read it otherwise, or not at all, and begin anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) source: [u8; 16],
    pub(super) commit: CommitId,
    pub(super) hash: CommitHash,
    /// Of the names of the tables chosen; zero for all.
    pub(super) tables: [u8; 16],
    /// Of the store being made.
    pub(super) target: [u8; 16],
    /// What the base holds, once that is known: it is written then.
    pub(super) report: Option<RestoreReport>,
}

/// What [`Plan::tables`] is for these.
pub(super) fn tables_hash(tables: Option<&[String]>) -> [u8; 16] {
    let Some(tables) = tables else { return [0; 16] };
    let mut names: Vec<&String> = tables.iter().collect();
    names.sort_unstable();
    names.dedup();
    let mut hasher = blake3::Hasher::new();
    for name in names {
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
    }
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    hash
}

impl Plan {
    /// Whether both are the same rows of the same commit.
    pub(super) fn is_of(&self, other: &Plan) -> bool {
        (self.source, self.commit, self.hash, self.tables) == (other.source, other.commit, other.hash, other.tables)
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&self.source);
        out.extend_from_slice(&self.commit.timeline.to_le_bytes());
        out.extend_from_slice(&self.commit.sequence.to_le_bytes());
        out.extend_from_slice(&self.hash.0);
        out.extend_from_slice(&self.tables);
        out.extend_from_slice(&self.target);
        out.push(u8::from(self.report.is_some()));
        if let Some(report) = &self.report {
            out.extend_from_slice(&report.state_bytes.to_le_bytes());
            out.extend_from_slice(&(report.tables.len() as u32).to_le_bytes());
            for (name, rows) in &report.tables {
                out.extend_from_slice(&(name.len() as u32).to_le_bytes());
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(&rows.to_le_bytes());
            }
        }
        let sum = crc(0, &out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Replaces the plan at `path`, durably.
    pub(super) fn write(&self, fs: &dyn Fs, path: &Path) -> Result<()> {
        fs::write_atomic(fs, path, &self.encode())
    }

    /// The plan at `path`; none where there is none, or none that can be read.
    pub(super) fn read(fs: &dyn Fs, path: &Path) -> Result<Option<Plan>> {
        if !fs.exists(path)? || fs.open_read(path)?.len() > MAX_BYTES {
            return Ok(None);
        }
        Ok(Plan::decode(&fs::read_all(fs, path, MAX_BYTES)?))
    }

    fn decode(bytes: &[u8]) -> Option<Plan> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        if crc(0, body) != u32::from_le_bytes(*sum) {
            return None;
        }
        let mut reader = Reader::new(body.strip_prefix(MAGIC.as_slice())?);
        if reader.u32()? != VERSION {
            return None;
        }
        let source = reader.bytes(16)?.try_into().ok()?;
        let commit = CommitId { timeline: reader.u64()?, sequence: reader.u64()? };
        let hash = CommitHash(reader.bytes(16)?.try_into().ok()?);
        let tables = reader.bytes(16)?.try_into().ok()?;
        let target = reader.bytes(16)?.try_into().ok()?;
        let report = if reader.u8()? == 1 { Some(Self::decode_report(commit, &mut reader)?) } else { None };
        reader.is_empty().then_some(Plan { source, commit, hash, tables, target, report })
    }

    fn decode_report(commit: CommitId, reader: &mut Reader<'_>) -> Option<RestoreReport> {
        let (state_bytes, count) = (reader.u64()?, reader.u32()?);
        let mut tables = Vec::new();
        for _ in 0..count {
            let length = reader.u32()? as usize;
            let name = String::from_utf8(reader.bytes(length)?.to_vec()).ok()?;
            tables.push((name, reader.u64()?));
        }
        Some(RestoreReport { commit, tables, state_bytes, quantization: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_comes_back_and_nothing_else_is_taken_for_one() {
        let commit = CommitId { timeline: 3, sequence: 4 };
        let report =
            RestoreReport { commit, tables: vec![("t".into(), 5), (String::new(), 0)], state_bytes: 6, quantization: None };
        let plan = Plan {
            source: [1; 16],
            commit,
            hash: CommitHash([2; 16]),
            tables: tables_hash(Some(&["t".into()])),
            target: [7; 16],
            report: None,
        };
        for plan in [plan.clone(), Plan { report: Some(report), ..plan.clone() }] {
            let bytes = plan.encode();
            assert_eq!(Plan::decode(&bytes).as_ref(), Some(&plan));
            for at in 0..bytes.len() {
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert_eq!(Plan::decode(&changed), None);
                assert_eq!(Plan::decode(&bytes[..at]), None);
            }
        }
        assert!(!plan.is_of(&Plan { tables: tables_hash(None), ..plan.clone() }));
        assert!(plan.is_of(&Plan { target: [0; 16], ..plan.clone() }));
    }

    #[test]
    fn the_order_of_tables_does_not_matter() {
        let hash = |names: &[&str]| tables_hash(Some(&names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()));
        assert_eq!(hash(&["a", "b"]), hash(&["b", "a", "b"]));
        assert_ne!(hash(&["a", "b"]), hash(&["ab"]));
        assert_ne!(hash(&[]), tables_hash(None));
    }
}
