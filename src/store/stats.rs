//! What a store holds and where, in numbers.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use super::engine::Engine;
use crate::catalog::Catalog;
use crate::cold::ColdTraffic;
use crate::context::{lock, read};
use crate::fs::names;
use crate::table::TableInner;
use crate::waits::{Wait, Waits};

/// Figures of a store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Bytes accounted under the budget: slabs, indexes, marks, the cold tier's share.
    pub memory_bytes: usize,
    /// The budget.
    pub memory_budget: usize,
    /// Bytes that the cold tier's caches and buffers hold, within their share of the budget.
    pub cold_memory_bytes: usize,
    /// Bytes of the live cold tier's files.
    pub cold_disk_bytes: u64,
    /// What the cold tier read and wrote since the store was opened, where [`StoreOptions::cold_traffic`](crate::StoreOptions::cold_traffic)
    /// has it counted.
    pub cold_traffic: Option<ColdTraffic>,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Bytes of images that are kept for the commit being written.
    pub kept_image_bytes: usize,
    /// Batches applied since the store was made.
    pub batches: u64,
    /// Commits written to the log, failed attempts too, and how long that took.
    pub commits: Wait,
    /// Bytes written to the log.
    pub commit_bytes: u64,
    /// Commits that are in the log and not durable yet, and the one being written.
    pub queued_commits: usize,
    /// Bases written, failed attempts too, and how long that took.
    pub checkpoints: Wait,
    /// Bytes of their hot rows; files of the cold tier are linked.
    pub checkpoint_bytes: u64,
    /// Rows whose last update no commit holds yet.
    pub uncommitted_rows: u64,
    /// Pieces of work that [`Table::prefetch`](crate::Table::prefetch) handed over and no thread has begun.
    pub prefetches_waiting: usize,
    /// The largest event time seen.
    pub clock: u32,
    /// How long batches waited for commits and checkpoints since the store was opened.
    pub waits: Waits,
    /// Each table's figures.
    pub tables: Vec<TableStats>,
}

/// Figures of a table; the counts of moves are since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStats {
    /// Its name.
    pub name: String,
    /// f32s of an embedding.
    pub dim: usize,
    /// Rows, hot and cold; expired ones that were not reclaimed count too.
    pub rows: u64,
    /// Rows in memory.
    pub hot_rows: u64,
    /// Keys in the cold tier, stale copies of hot rows and expired ones too: an estimate.
    pub cold_keys: u64,
    /// Keys looked up.
    pub looked_up: u64,
    /// Of those, keys whose row was in memory.
    pub hot_hits: u64,
    /// Of those, keys whose row was in the cold tier; the rest have none.
    pub cold_hits: u64,
    /// Distinct keys of batches that change rows.
    pub updated: u64,
    /// Of those, keys found in memory. Those found in the cold tier are promoted, as what lookups read where there is room.
    pub updated_hot: u64,
    /// Of those, keys that admission refused.
    pub refused: u64,
    /// Admission counts that were dropped because more keys were counted than the filter is made for.
    pub dropped_counts: u64,
    /// Rows freed from memory because they had expired.
    pub expired: u64,
    /// Keys asked of the cold tier.
    pub cold_reads: u64,
    /// Rows brought up.
    pub promoted: u64,
    /// Rows that left memory.
    pub demoted: u64,
    /// Of those, rows that had to be written.
    pub demoted_writes: u64,
    /// Bytes of a row: embedding and optimizer state.
    pub row_bytes: usize,
    /// Rows that [`Table::prefetch`](crate::Table::prefetch) brought up.
    pub prefetched: u64,
    /// Of those, rows that a batch or a lookup then used.
    pub prefetched_used: u64,
    /// Bytes of its slabs, indexes, marks and admission filter.
    pub memory_bytes: usize,
    /// Of those, the admission filter.
    pub filter_bytes: usize,
}

pub(super) fn stats(engine: &Engine) -> StoreStats {
    let Engine { catalog, fs, dir, log: delta_log, .. } = engine;
    let meters = &catalog.context.meters;
    let log = fs.list(&names::logs(dir)).map_or(0, |entries| entries.iter().map(|entry| entry.len).sum());
    StoreStats {
        memory_bytes: catalog.context.budget.used(),
        memory_budget: catalog.context.budget.limit(),
        cold_memory_bytes: catalog.context.cold.memory_bytes(),
        cold_disk_bytes: catalog.context.cold.disk_bytes(),
        cold_traffic: catalog.context.cold.traffic(),
        log_bytes: log,
        kept_image_bytes: catalog.context.captures.used(),
        batches: catalog.context.batches.load(Relaxed),
        commits: meters.commits.waited(),
        commit_bytes: delta_log.written(),
        // One that is being written holds the lock.
        queued_commits: lock(&engine.tickets).len()
            + engine.pending.try_lock().map_or(1, |pending| usize::from(pending.is_some())),
        checkpoints: meters.checkpoints.waited(),
        checkpoint_bytes: engine.checkpoint_bytes.load(Relaxed),
        uncommitted_rows: uncommitted(catalog),
        prefetches_waiting: catalog.context.ahead.len(),
        clock: catalog.context.now(),
        waits: Waits {
            gate: meters.gate.waited(),
            images: catalog.context.captures.waits.waited(),
            shards: meters.shards.waited(),
            log: delta_log.waited(),
        },
        tables: catalog.tables().iter().map(|table| table_stats(table)).collect(),
    }
}

fn table_stats(table: &TableInner) -> TableStats {
    let schema = table.schema();
    let counters = table.counters();
    TableStats {
        name: schema.name().to_owned(),
        dim: schema.dim(),
        rows: u64::try_from(counters.rows.load(Relaxed)).unwrap_or(0),
        hot_rows: table.shards().iter().map(|shard| read(shard).hot_rows() as u64).sum(),
        cold_keys: table.context.cold.keys(table.id),
        looked_up: counters.looked_up.load(Relaxed),
        hot_hits: counters.hot_hits.load(Relaxed),
        cold_hits: counters.cold_hits.load(Relaxed),
        updated: counters.updated.load(Relaxed),
        updated_hot: counters.updated_hot.load(Relaxed),
        refused: counters.refused.load(Relaxed),
        dropped_counts: table.filter().dropped(),
        expired: counters.expired.load(Relaxed),
        row_bytes: schema.row_bytes(),
        filter_bytes: table.filter_bytes(),
        cold_reads: counters.cold_reads.load(Relaxed),
        promoted: counters.promoted.load(Relaxed),
        demoted: counters.demoted.load(Relaxed),
        demoted_writes: counters.demoted_writes.load(Relaxed),
        memory_bytes: table.filter_bytes() + table.shards().iter().map(|shard| read(shard).memory_bytes()).sum::<usize>(),
        prefetched: counters.ahead.load(Relaxed),
        prefetched_used: counters.claimed.load(Relaxed),
    }
}

pub(super) fn uncommitted(catalog: &Catalog) -> u64 {
    let of_table =
        |table: &std::sync::Arc<TableInner>| table.shards().iter().map(|shard| read(shard).uncommitted() as u64).sum::<u64>();
    catalog.tables().iter().map(of_table).sum()
}
