//! Where cold rows live: one small trait, RocksDB behind it, and an in-memory twin for tests, fuzzing and Miri.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | [`ColdTier`], [`ColdBatch`], the shape of a value |
//! | `rocks.rs` | RocksDB (feature `rocksdb`): options, reads, writes, checkpoints, errors |
//! | `readers.rs` | (feature `rocksdb`) threads that keep many reads in flight |
//! | `ring.rs` | (feature `rocksdb`) whether the kernel takes several reads of a thread at once |
//! | `rocks/walk.rs` | (feature `rocksdb`) rows of one moment, one after the other |
//! | `rocks/reclaim.rs` | (feature `rocksdb`) what of a table its compactions drop |
//! | `link.rs` | (feature `rocksdb`) a fresh live directory from the untrusted files of a checkpoint |
//! | `twin.rs` | the twin: what RocksDB loses, when it filters, how it fails |
//! | `rows.rs` | the file of the twin's checkpoint |
//! | `suite.rs` | the tests both must pass |
//!
//! A value is `[time u32 LE][row bytes]`; rows are ordered by their mixed key, stored as 8 big-endian bytes.
//!
//! **Nothing here is durable but a checkpoint.** The live directory is a cache: opening rebuilds it from a checkpoint.
//! **Expiry here only reclaims.** A compaction may drop a value whose time the horizon has passed, or may not, at any
//! moment: the engine filters expired rows on every read as well.

use std::ops::{Range, RangeInclusive};
use std::path::Path;

use crate::error::Result;
use crate::expiry::Horizons;
use crate::types::{TableId, UnixSeconds};

#[cfg(feature = "rocksdb")]
mod link;
#[cfg(feature = "rocksdb")]
mod readers;
#[cfg(feature = "rocksdb")]
mod ring;
#[cfg(feature = "rocksdb")]
pub(crate) mod rocks;
mod rows;
#[cfg(test)]
mod suite;
pub(crate) mod twin;

#[cfg(feature = "rocksdb")]
pub(crate) use ring::takes_many_reads;
#[cfg(feature = "testing")]
pub(crate) use rows::repair as repair_twin;
#[cfg(feature = "testing")]
pub(crate) use twin::FILE as TWIN_ROWS;

/// The bytes of a value's time, ahead of its row.
pub(crate) const TIME_BYTES: usize = 4;
/// Bytes of a block of rows, about: one ends with the row that fills it.
pub(crate) const BLOCK_BYTES: usize = 4 << 10;
/// Bits of filter that a row has.
pub(crate) const FILTER_BITS: u32 = 10;

/// A store of cold rows, used from many threads at once.
pub(crate) trait ColdTier: Send + Sync {
    /// Makes room for a table whose values have `value_bytes` each, their time included. The same call again changes nothing.
    fn create_table(&self, table: TableId, value_bytes: usize) -> Result<()>;

    /// Drops a table and its rows; one that is not there is no error.
    fn drop_table(&self, table: TableId) -> Result<()>;

    /// The tables, ascending.
    fn tables(&self) -> Vec<TableId>;

    /// Calls `found(position, value)` for each of the ascending `mixed` keys that is present.
    fn get_many(&self, table: TableId, mixed: &[u64], found: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        self.get_parts(&[(table, mixed)], found)
    }

    /// As [`ColdTier::get_many`] in several tables at once; positions count on from one table's keys to the next one's. In their order.
    fn get_parts(&self, parts: &[(TableId, &[u64])], found: &mut dyn FnMut(usize, &[u8])) -> Result<()>;

    /// Applies all of a batch or nothing; not durable before a checkpoint.
    fn write(&self, table: TableId, batch: &ColdBatch) -> Result<()>;

    /// The rows of this moment whose mixed keys are in a range, ascending; what is written later is not among them. Nothing is read
    /// from disk before the first.
    fn rows(&self, table: TableId, mixed: RangeInclusive<u64>) -> Result<Box<dyn ColdRows + '_>>;

    /// Writes everything to `dir`, which must not exist, by hard links where possible; durable when it returns.
    /// Each table is of one moment, no older than the call. After an error `dir` may exist, incomplete.
    fn checkpoint(&self, dir: &Path) -> Result<()>;

    /// Lets compactions drop values whose time is before the horizon of their key. Not kept in a checkpoint.
    fn expire(&self, table: TableId, horizons: Horizons);

    /// The keys of a table, about; what waits to be merged counts twice.
    fn keys(&self, table: TableId) -> u64;

    /// The bytes of memory held.
    fn memory_bytes(&self) -> usize;

    /// The bytes of files held.
    fn disk_bytes(&self) -> u64;

    /// What it read and wrote since it was opened, where that is counted.
    fn traffic(&self) -> Option<ColdTraffic> {
        None
    }
}

/// What the cold tier read and wrote of its files since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ColdTraffic {
    /// Bytes written for rows that left its memory.
    pub flushed_bytes: u64,
    /// Bytes that merging files wrote.
    pub compacted_bytes: u64,
    /// Bytes that merging files read.
    pub compaction_read_bytes: u64,
    /// Blocks of rows that lookups, scans and merges found in no cache.
    pub row_blocks: u64,
    /// The same of blocks of indexes and filters.
    pub index_blocks: u64,
}

/// Rows of one moment of a table, one after the other.
pub(crate) trait ColdRows {
    /// The next mixed key and its value; nothing after the last.
    fn next(&mut self) -> Result<Option<(u64, &[u8])>>;
}

/// Puts and deletes to apply together; of two for one key the later wins.
#[derive(Debug, Default)]
pub(crate) struct ColdBatch {
    entries: Vec<(u64, Option<Range<usize>>)>,
    bytes: Vec<u8>,
}

impl ColdBatch {
    pub(crate) fn new() -> ColdBatch {
        ColdBatch::default()
    }

    /// Adds a row.
    pub(crate) fn put(&mut self, mixed: u64, time: UnixSeconds, row: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&time.to_le_bytes());
        self.bytes.extend_from_slice(row);
        self.entries.push((mixed, Some(start..self.bytes.len())));
    }

    /// Adds the removal of a row, present or not.
    pub(crate) fn delete(&mut self, mixed: u64) {
        self.entries.push((mixed, None));
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The operations in order: a key and its value, or none to delete it.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, Option<&[u8]>)> {
        self.entries.iter().map(|(mixed, range)| (*mixed, range.as_ref().and_then(|range| self.bytes.get(range.clone()))))
    }

    /// What is wrong with the batch for a table whose values have `value_bytes` bytes, zero if not known.
    fn misfit(&self, table: TableId, value_bytes: usize) -> Option<String> {
        let odd = |len: &usize| value_bytes != 0 && *len != value_bytes;
        let len = self.entries.iter().filter_map(|(_, range)| range.as_ref().map(|r| r.len())).find(odd)?;
        Some(format!("a value has {len} bytes, table {} has values of {value_bytes}", table.0))
    }
}

/// A value's time, unless the value is too short to have one.
fn time_of(value: &[u8]) -> Option<UnixSeconds> {
    value.first_chunk::<TIME_BYTES>().map(|time| UnixSeconds::from_le_bytes(*time))
}
