//! The engine's vocabulary: keys, identifiers of tables and commits, and unix times.
#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;

/// Identifies a row within its table. Any `u64` is a valid key, 0 and `u64::MAX` included.
pub type Key = u64;

/// Seconds since the unix epoch, of the *event* a batch was made of, not of the wall clock.
pub type UnixSeconds = u32;

/// The feature slot of a key, as Monolith lays its ids out: bits 48 to 62. Rules for slots are for ids made that way.
///
/// ```
/// assert_eq!(embedrock::slot_of(7 << 48 | 12_345), 7);
/// ```
pub fn slot_of(key: Key) -> u16 {
    (key >> 48) as u16 & MAX_SLOT
}

/// The largest feature slot.
pub(crate) const MAX_SLOT: u16 = 0x7fff;

/// A table's number within its store, never reused. The name is in the table's schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TableId(pub(crate) u32);

/// Names one commit: a point in the history of a store.
///
/// A *timeline* is one unbroken line of commits. Going back to an older commit, or losing an unfinished tail in a crash,
/// starts a new timeline, so the same sequence number on two timelines means two different states.
/// It is written `timeline.sequence`, e.g. `1.42`.
///
/// ```
/// use embedrock::CommitId;
/// let id: CommitId = "1.42".parse().unwrap();
/// assert_eq!((id.timeline, id.sequence), (1, 42));
/// assert_eq!(id.to_string(), "1.42");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitId {
    /// The timeline, from 1.
    pub timeline: u64,
    /// The number of commits that led here, this one included; 0 is the empty store.
    pub sequence: u64,
}

impl CommitId {
    /// The state before the first commit.
    pub const EMPTY: CommitId = CommitId { timeline: 1, sequence: 0 };
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.timeline, self.sequence)
    }
}

impl FromStr for CommitId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = |part: &str| part.parse::<u64>().ok();
        text.split_once('.')
            .and_then(|(timeline, sequence)| Some(CommitId { timeline: parse(timeline)?, sequence: parse(sequence)? }))
            .ok_or_else(|| format!("'{text}' is not a commit: write TIMELINE.SEQUENCE, e.g. 1.42"))
    }
}

/// Which state of a store to open or restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum At {
    /// The newest durable commit.
    #[default]
    Latest,
    /// This commit; `Store::commits` lists those that can still be restored.
    Commit(CommitId),
}

/// A hash over a commit and all its ancestors: two equal hashes mean two equal histories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CommitHash(pub [u8; 16]);

/// Spreads a key's bits evenly, reversibly (the finalizer of SplitMix64: Steele, Lea, Flood 2014).
///
/// The mixed key's high bits choose the shard, and cold rows are ordered by the mixed key, so a shard's cold rows are neighbours.
#[inline(always)]
pub(crate) fn mix(key: Key) -> u64 {
    let mut x = key;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The inverse of [`mix`].
pub(crate) fn unmix(mixed: u64) -> Key {
    let mut x = mixed;
    x = (x ^ (x >> 31) ^ (x >> 62)).wrapping_mul(0x3196_42b2_d24d_8ec3);
    x = (x ^ (x >> 27) ^ (x >> 54)).wrapping_mul(0x96de_1b17_3f11_9089);
    x ^ (x >> 30) ^ (x >> 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_is_reversible() {
        let mut key = 1u64;
        for _ in 0..if cfg!(miri) { 100 } else { 10_000 } {
            assert_eq!(unmix(mix(key)), key);
            key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(7);
        }
        for key in [0, 1, u64::MAX, 1 << 63] {
            assert_eq!(unmix(mix(key)), key);
        }
    }
}
