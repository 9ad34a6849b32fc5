//! How much memory and disk a table will take, before there is one.
#![forbid(unsafe_code)]

use crate::cold::{BLOCK_BYTES, FILTER_BITS};
use crate::optimizer::Optimizer;
use crate::schema::TableSchema;

/// Bytes of key, time and flags beside a hot row.
const META_BYTES: u64 = size_of::<crate::slab::RowMeta>() as u64;
/// Bytes of index a hot row takes, between growths: a line of 64 bytes for twelve rows, half to seven eighths full.
const INDEX_BYTES: u64 = 8;
/// Bytes of a cold row beside its lanes: key, time, and RocksDB's framing, filter and index.
const COLD_OVERHEAD_BYTES: u64 = 26;
/// Bytes of a cold row beside its lanes in a block of rows: key with RocksDB's sequence number, lengths, time.
const BLOCK_ENTRY_BYTES: u64 = 23;
/// Bytes of index a block of rows has.
const BLOCK_INDEX_BYTES: u64 = 16;
/// Half of the cold tier's memory is for filters and indexes, whatever waits to be written.
const FILTER_SHARE: u64 = 2;

/// An estimate; see [`plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of a row: embedding and optimizer state.
    pub row_bytes: u64,
    /// Bytes of a hot row with its index entry, key, time and flags.
    pub hot_row_bytes: u64,
    /// Bytes of memory for all rows hot.
    pub memory_bytes: u64,
    /// Bytes of disk for all rows cold, before compaction's slack.
    pub cold_bytes: u64,
    /// Bytes of [`StoreOptions::cold_memory`](crate::StoreOptions::cold_memory) that hold filters and indexes of all rows cold: so many
    /// once they are merged, up to twice as many before, when files hold older copies of rows too.
    pub cold_memory_bytes: u64,
    /// Bytes of a base with all rows hot: what each checkpoint writes at most.
    pub base_bytes: u64,
}

/// Estimates memory and disk for `rows` rows of `dim` f32s trained by `optimizer`.
///
/// ```
/// use embedrock::{Optimizer, plan};
/// let plan = plan(1_000_000, 64, &Optimizer::adagrad(0.05));
/// assert_eq!(plan.row_bytes, 512);
/// assert!(plan.hot_row_bytes - plan.row_bytes <= 24);
/// ```
pub fn plan(rows: u64, dim: usize, optimizer: &Optimizer) -> Plan {
    let row_bytes = TableSchema::new("plan", dim).optimizer(*optimizer).row_bytes() as u64;
    let hot_row_bytes = row_bytes.saturating_add(META_BYTES + INDEX_BYTES);
    Plan {
        row_bytes,
        hot_row_bytes,
        memory_bytes: rows.saturating_mul(hot_row_bytes),
        cold_bytes: rows.saturating_mul(row_bytes.saturating_add(COLD_OVERHEAD_BYTES)),
        cold_memory_bytes: cold_index_bytes(rows, row_bytes).saturating_mul(FILTER_SHARE),
        base_bytes: rows.saturating_mul(row_bytes.saturating_add(crate::shard::IMAGE_HEADER_BYTES as u64)),
    }
}

/// Bytes of filters and indexes of so many cold rows, merged.
pub(crate) fn cold_index_bytes(rows: u64, row_bytes: u64) -> u64 {
    let rows_a_block = BLOCK_BYTES as u64 / row_bytes.saturating_add(BLOCK_ENTRY_BYTES) + 1;
    let index = rows.div_ceil(rows_a_block).saturating_mul(BLOCK_INDEX_BYTES);
    (rows / 8).saturating_mul(FILTER_BITS.into()).saturating_add(index)
}
