//! Cold rows in RocksDB: one column family a table, no log (the engine's own log is the log), direct writes.
//!
//! One number bounds the memory. Three quarters of it are a block cache, which index and filter partitions live in
//! before any data block, and which memtables are charged to, up to a quarter of the number. The last quarter is for what
//! RocksDB does not account: open tables' readers, the buffers of compactions and the blocks a read pins.
//! A batch is one unit, so it passes through the memtables whole: keep batches small beside a quarter of the memory.
//!
//! Lookups fill the cache, against the usual advice for a cache of index and filters only: `fill_cache = false` keeps
//! *them* out too, and every lookup would read its partitions again. They go first in the cache, data blocks last.
#![forbid(unsafe_code)]

mod reclaim;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ChecksumType, ColumnFamilyDescriptor, DBCompactionStyle, DBCompressionType,
    DBWithThreadMode, ErrorKind, LogLevel, MultiThreaded, Options, ReadOptions, UniversalCompactOptions, WriteBatch,
    WriteBufferManager, WriteOptions, properties,
};

use self::reclaim::{Filters, Horizon};
use self::walk::Walk;
use crate::cold::readers::{MAX_GROUP, Readers};
use crate::cold::{BLOCK_BYTES, ColdBatch, ColdRows, ColdTier, ColdTraffic, FILTER_BITS, TIME_BYTES, link};
use crate::error::{Error, Result};
use crate::expiry::Horizons;
use crate::types::TableId;

/// The least memory RocksDB runs in.
pub(crate) const MIN_MEMORY: usize = 8 << 20;

/// Keys that are read before their rows are given to the caller: enough for all readers, and what is found stays small.
const READ_ROUND: usize = 4096;

/// Runs of rows that a table may have before some are merged.
const RUNS_BEFORE_MERGE: i32 = 6;

/// Open table files: each takes a descriptor, and a few KiB beside the cache.
const MAX_OPEN_FILES: i32 = 512;

type Db = DBWithThreadMode<MultiThreaded>;

/// Cold rows on disk.
pub(crate) struct RocksCold {
    // First, so that its threads have ended when the database closes.
    readers: Readers,
    files: Arc<Files>,
    tables: RwLock<BTreeMap<TableId, Table>>,
    cache: Cache,
    buffers: WriteBufferManager,
    base: Options,
    counts: bool,
}

/// How it is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RocksOptions {
    /// Bytes of memory in all.
    pub(crate) memory: usize,
    /// Threads that read beside the callers.
    pub(crate) readers: usize,
    /// Each of them hands its reads to the kernel together: only where that takes them, see [`crate::cold::takes_many_reads`].
    pub(crate) many_reads: bool,
    /// Count what is read and written.
    pub(crate) traffic: bool,
}

/// What reader threads need.
struct Files {
    db: Db,
    live_dir: PathBuf,
    many_reads: bool,
}

/// What RocksDB does not keep of a table.
#[derive(Default)]
struct Table {
    /// Zero until the table is created or opened in this process.
    value_bytes: usize,
    horizon: Arc<Horizon>,
}

impl RocksCold {
    /// Rebuilds `live_dir` from the checkpoint at `from`, or empty, and opens it.
    pub(crate) fn open(live_dir: &Path, from: Option<&Path>, how: RocksOptions) -> Result<RocksCold> {
        let RocksOptions { memory, readers, many_reads, traffic: counts } = how;
        if memory < MIN_MEMORY {
            return Err(Error::BudgetTooSmall { needed: MIN_MEMORY, budget: memory });
        }
        link::fresh_dir(live_dir)?;
        let imported = from.map(|from| link::import(from, live_dir)).transpose()?.unwrap_or_default();
        // Damage found while opening is damage of the checkpoint.
        let failed = |error| translate("open", from.unwrap_or(live_dir), from, error);
        let cache = Cache::new_lru_cache(memory / 4 * 3);
        let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(memory / 4, false, cache.clone());
        let mut base = options(memory, &cache, &buffers);
        if counts {
            base.enable_statistics();
            // Counters of each core; neither clocks nor histograms.
            base.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
        }
        base.create_if_missing(from.is_none());
        // Until the files are checked: a compaction would replace them meanwhile.
        base.set_disable_auto_compactions(true);
        let names = match from {
            Some(_) => Db::list_cf(&base, live_dir).map_err(failed)?,
            None => vec!["default".to_owned()],
        };
        let mut tables = BTreeMap::new();
        for name in names.iter().filter(|name| *name != "default") {
            let table = table_of(name)
                .ok_or_else(|| Error::corrupt(from.unwrap_or(live_dir), 0, format!("it holds {name:?}, which is no table")))?;
            tables.insert(table, Table::default());
        }
        let open = |base: &Options| {
            let described = tables.iter().map(|(id, table)| (name_of(*id), table_options(base, &table.horizon)));
            let described = described.chain([("default".to_owned(), base.clone())]);
            Db::open_cf_descriptors(base, live_dir, described.map(|(name, options)| ColumnFamilyDescriptor::new(name, options)))
        };
        let db = match open(&base) {
            Err(error) if AsRef::<str>::as_ref(&error).contains("Direct I/O") => {
                base.set_use_direct_reads(false);
                base.set_use_direct_io_for_flush_and_compaction(false);
                open(&base)
            }
            other => other,
        };
        let (db, tables) = (db.map_err(failed)?, RwLock::new(tables));
        base.set_disable_auto_compactions(false);
        let files = Arc::new(Files { db, live_dir: live_dir.to_path_buf(), many_reads });
        let readers = Readers::new(readers, if many_reads { MAX_GROUP } else { 1 });
        let cold = RocksCold { readers, files, tables, cache, buffers, base, counts };
        if let Some(from) = from {
            cold.complete(from, &imported)?;
        }
        cold.tables().into_iter().try_for_each(|table| {
            let family = cold.files.family("open", table)?;
            cold.files.db.set_options_cf(&family, &[("disable_auto_compactions", "false")]).map_err(failed)
        })?;
        Ok(cold)
    }

    /// Checks that the manifest knows every table file beside it. RocksDB takes a manifest that was cut short for one whose
    /// last write was torn, and would quietly go on without the rows.
    fn complete(&self, from: &Path, imported: &[String]) -> Result<()> {
        let live = self.files.db.live_files().map_err(|error| self.files.translate("open", error))?;
        let live: BTreeSet<&str> = live.iter().map(|file| file.name.trim_start_matches('/')).collect();
        match imported.iter().find(|name| !live.contains(name.as_str())) {
            Some(name) => {
                Err(Error::corrupt(&from.join(name), 0, "the manifest does not know this file: one of the two is damaged"))
            }
            None => Ok(()),
        }
    }

    fn read_tables<T>(&self, read: impl FnOnce(&BTreeMap<TableId, Table>) -> T) -> T {
        read(&self.tables.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Bytes of filters and indexes of a table's files.
    #[cfg(test)]
    pub(crate) fn index_bytes(&self, table: TableId) -> Result<u64> {
        let family = self.files.family("look at", table)?;
        let told = self.files.db.property_value_cf(&family, properties::AGGREGATED_TABLE_PROPERTIES);
        let told = told.map_err(|error| self.files.translate("look at", error))?.unwrap_or_default();
        let of = |what: &str| told.split("; ").find_map(|line| line.strip_prefix(what)?.rsplit_once('=')?.1.parse::<u64>().ok());
        of("index block size").zip(of("filter block size")).map(|(index, filter)| index + filter).ok_or_else(|| Error::Cold {
            action: "look at",
            message: format!("what RocksDB tells of table {} has no sizes: {told}", table.0),
        })
    }

    /// Compacts a table's every file, so that everything expired goes.
    #[cfg(test)]
    pub(crate) fn compact(&self, table: TableId) -> Result<()> {
        self.files.db.compact_range_cf(&self.files.family("compact", table)?, None::<&[u8]>, None::<&[u8]>);
        Ok(())
    }
}

impl Files {
    fn family(&self, action: &'static str, table: TableId) -> Result<Arc<rocksdb::BoundColumnFamily<'_>>> {
        self.db
            .cf_handle(&name_of(table))
            .ok_or_else(|| Error::Cold { action, message: format!("there is no cold table {}", table.0) })
    }

    fn translate(&self, action: &'static str, error: rocksdb::Error) -> Error {
        translate(action, &self.live_dir, None, error)
    }

    fn odd(&self, table: TableId, what: &str) -> Error {
        Error::corrupt(&self.live_dir, 0, format!("table {} holds {what}", table.0))
    }

    /// Reads a group of ascending keys, with many device reads at once or one after the other.
    fn read(&self, table: TableId, keys: &[u64]) -> Result<Rows> {
        let family = self.family("read", table)?;
        let keys: Vec<[u8; 8]> = keys.iter().map(|key| key.to_be_bytes()).collect();
        let options = read_options(true);
        let values = match self.many_reads {
            true => self.db.batched_multi_get_cf_opt(&family, keys.iter(), true, &options),
            false => keys.iter().map(|key| self.db.get_pinned_cf_opt(&family, key, &options)).collect(),
        };
        let mut rows = Rows::default();
        for (position, value) in values.into_iter().enumerate() {
            if let Some(value) = value.map_err(|error| self.translate("read", error))? {
                if value.len() < TIME_BYTES {
                    return Err(self.odd(table, "a value too short for a time"));
                }
                rows.bytes.extend_from_slice(&value);
                rows.places.push((position, rows.bytes.len()));
            }
        }
        Ok(rows)
    }
}

/// Values that were found.
#[derive(Default)]
struct Rows {
    /// The position of a key in its group, and where its value ends in `bytes`.
    places: Vec<(usize, usize)>,
    bytes: Vec<u8>,
}

impl Rows {
    fn visit(&self, first: usize, found: &mut dyn FnMut(usize, &[u8])) {
        let mut start = 0;
        for &(position, end) in &self.places {
            found(first + position, &self.bytes[start..end]);
            start = end;
        }
    }
}

impl ColdTier for RocksCold {
    fn create_table(&self, table: TableId, value_bytes: usize) -> Result<()> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tables.get_mut(&table) {
            if known.value_bytes != 0 && known.value_bytes != value_bytes {
                let message = format!("table {} has values of {} bytes, not {value_bytes}", table.0, known.value_bytes);
                return Err(Error::Cold { action: "create a table", message });
            }
            known.value_bytes = value_bytes;
            return Ok(());
        }
        let made = Table { value_bytes, horizon: Arc::default() };
        let options = table_options(&self.base, &made.horizon);
        self.files.db.create_cf(name_of(table), &options).map_err(|error| self.files.translate("create a table", error))?;
        tables.insert(table, made);
        Ok(())
    }

    fn drop_table(&self, table: TableId) -> Result<()> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        if tables.contains_key(&table) {
            self.files.db.drop_cf(&name_of(table)).map_err(|error| self.files.translate("drop a table", error))?;
            tables.remove(&table);
        }
        Ok(())
    }

    fn tables(&self) -> Vec<TableId> {
        self.read_tables(|tables| tables.keys().copied().collect())
    }

    fn get_parts(&self, parts: &[(TableId, &[u64])], found: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        debug_assert!(parts.iter().all(|(_, mixed)| mixed.is_sorted()));
        let keys: usize = parts.iter().map(|(_, mixed)| mixed.len()).sum();
        let size = self.readers.group_of(keys.min(READ_ROUND));
        let mut groups = parts.iter().flat_map(|&(table, mixed)| mixed.chunks(size).map(move |keys| (table, Box::from(keys))));
        let mut first = 0;
        loop {
            let round: Arc<[(TableId, Box<[u64]>)]> = groups.by_ref().take(READ_ROUND.div_ceil(size)).collect();
            if round.is_empty() {
                return Ok(());
            }
            let (files, asked) = (Arc::clone(&self.files), Arc::clone(&round));
            let rows = self.readers.run(round.len(), move |group| files.read(asked[group].0, &asked[group].1))?;
            for (rows, (_, keys)) in rows.into_iter().zip(&*round) {
                rows?.visit(first, found);
                first += keys.len();
            }
        }
    }

    fn write(&self, table: TableId, batch: &ColdBatch) -> Result<()> {
        let family = self.files.family("write", table)?;
        let value_bytes = self.read_tables(|tables| tables.get(&table).map_or(0, |known| known.value_bytes));
        if let Some(message) = batch.misfit(table, value_bytes) {
            return Err(Error::Cold { action: "write", message });
        }
        let mut operations = WriteBatch::default();
        for (mixed, value) in batch.iter() {
            match value {
                Some(value) => operations.put_cf(&family, mixed.to_be_bytes(), value),
                None => operations.delete_cf(&family, mixed.to_be_bytes()),
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.files.db.write_opt(operations, &options).map_err(|error| self.files.translate("write", error))
    }

    fn rows(&self, table: TableId, mixed: RangeInclusive<u64>) -> Result<Box<dyn ColdRows + '_>> {
        Ok(Box::new(Walk::new(&self.files, table, mixed)?))
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        if std::fs::symlink_metadata(dir).is_ok() {
            return Err(Error::TargetExists { path: dir.to_path_buf() });
        }
        // Tables neither come nor go meanwhile: the checkpoint holds all of each it names.
        let _tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        Checkpoint::new(&self.files.db)
            .and_then(|checkpoint| checkpoint.create_checkpoint(dir))
            .map_err(|error| self.files.translate("write a checkpoint", error))?;
        link::seal(dir)
    }

    fn expire(&self, table: TableId, horizons: Horizons) {
        self.read_tables(|tables| {
            if let Some(known) = tables.get(&table) {
                known.horizon.set(horizons);
            }
        });
    }

    fn keys(&self, table: TableId) -> u64 {
        let Some(family) = self.files.db.cf_handle(&name_of(table)) else { return 0 };
        self.files.db.property_int_value_cf(&family, properties::ESTIMATE_NUM_KEYS).ok().flatten().unwrap_or(0)
    }

    fn memory_bytes(&self) -> usize {
        // The cache is charged for the memtables, but only as long as it can take the charge.
        self.cache.get_usage().max(self.buffers.get_usage()) + self.sum(properties::ESTIMATE_TABLE_READERS_MEM) as usize
    }

    fn disk_bytes(&self) -> u64 {
        self.sum(properties::TOTAL_SST_FILES_SIZE)
    }

    fn traffic(&self) -> Option<ColdTraffic> {
        let count = |ticker| self.base.get_ticker_count(ticker);
        self.counts.then(|| ColdTraffic {
            flushed_bytes: count(Ticker::FlushWriteBytes),
            compacted_bytes: count(Ticker::CompactWriteBytes),
            compaction_read_bytes: count(Ticker::CompactReadBytes),
            row_blocks: count(Ticker::BlockCacheDataMiss),
            index_blocks: count(Ticker::BlockCacheIndexMiss) + count(Ticker::BlockCacheFilterMiss),
        })
    }
}

impl RocksCold {
    fn sum(&self, property: &rocksdb::properties::PropName) -> u64 {
        let of = |table: TableId| {
            self.files.db.property_int_value_cf(&self.files.db.cf_handle(&name_of(table))?, property).ok().flatten()
        };
        self.tables().into_iter().filter_map(of).sum()
    }
}

/// The options of the whole database and of every table.
fn options(memory: usize, cache: &Cache, buffers: &WriteBufferManager) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(BLOCK_BYTES);
    blocks.set_format_version(6);
    blocks.set_checksum_type(ChecksumType::XXH3);
    blocks.set_bloom_filter(FILTER_BITS.into(), false);
    blocks.set_whole_key_filtering(true);
    // In partitions, so that a lookup needs a page of the filter, not all of it, when memory is short.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(4 << 10);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_top_level_index_and_filter(true);

    let memtable = (memory / 8).clamp(1 << 20, 64 << 20);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_manager(buffers);
    options.set_write_buffer_size(memtable);
    options.set_arena_block_size(memtable / 16);
    options.set_max_write_buffer_number(2);
    options.set_compaction_style(DBCompactionStyle::Universal);
    options.set_universal_compaction_options(&universal());
    options.set_level_zero_file_num_compaction_trigger(RUNS_BEFORE_MERGE);
    options.set_level_zero_slowdown_writes_trigger(4 * RUNS_BEFORE_MERGE);
    options.set_level_zero_stop_writes_trigger(6 * RUNS_BEFORE_MERGE);
    options.set_compression_type(DBCompressionType::None);
    options.set_use_direct_reads(true);
    options.set_use_direct_io_for_flush_and_compaction(true);
    let buffer = (memory / 32).clamp(256 << 10, 2 << 20);
    options.set_compaction_readahead_size(buffer);
    options.set_writable_file_max_buffer_size((buffer / 2) as u64);
    options.set_max_background_jobs(2);
    options.set_max_open_files(MAX_OPEN_FILES);
    options.set_paranoid_checks(true);
    options.set_log_level(LogLevel::Error);
    options.set_max_log_file_size(1 << 20);
    options.set_keep_log_file_num(1);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options
}

/// Keys are spread evenly, so every file of a level overlaps every file of the next: levels would write a row that changes dozens of times.
/// Runs of about a size are merged instead, and all of them when the older ones are mostly covered by newer ones.
fn universal() -> UniversalCompactOptions {
    let mut options = UniversalCompactOptions::default();
    options.set_size_ratio(10);
    options.set_min_merge_width(4);
    options.set_max_size_amplification_percent(100);
    options
}

fn table_options(base: &Options, horizon: &Arc<Horizon>) -> Options {
    let mut options = base.clone();
    options.set_compaction_filter_factory(Filters(Arc::clone(horizon)));
    options
}

fn read_options(fill_cache: bool) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_verify_checksums(true);
    options.fill_cache(fill_cache);
    options
}

fn name_of(table: TableId) -> String {
    format!("t{:010}", table.0)
}

fn table_of(name: &str) -> Option<TableId> {
    let table = TableId(name.strip_prefix('t')?.parse().ok()?);
    (name_of(table) == name).then_some(table)
}

/// RocksDB's error as ours: damage by its place, a full disk as such. Damage of a live file is that of `from`'s, if given.
fn translate(action: &'static str, dir: &Path, from: Option<&Path>, error: rocksdb::Error) -> Error {
    let message: &str = error.as_ref();
    if message.contains("No space left on device") {
        return Error::NoSpace { action, path: dir.to_path_buf() };
    }
    if let Some((name, offset)) = link::place(message) {
        let missing = from.is_some() && message.contains("No such file");
        if error.kind() == ErrorKind::Corruption || missing {
            return Error::corrupt(&from.unwrap_or(dir).join(name), offset, message);
        }
    }
    Error::Cold { action, message: error.into_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_named_one_way_only() {
        assert_eq!(table_of("t0000000007"), Some(TableId(7)));
        for name in ["t7", "t+000000007", "t4294967296", "default", "x0000000007", ""] {
            assert_eq!(table_of(name), None, "{name}");
        }
    }
}
