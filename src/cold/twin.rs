//! The cold tier in memory, for tests, fuzzing and Miri: what RocksDB would lose, when it would filter, how it would fail.
//!
//! A table is a memtable over flushed rows. Both die with the process; a checkpoint flushes and writes one file (`rows.rs`).
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use crate::cold::rows::{self, Rows, Writer};
use crate::cold::{ColdBatch, ColdRows, ColdTier, time_of};
use crate::error::{Error, Result};
use crate::expiry::Horizons;
use crate::fs::Fs;
use crate::sync::{Mutex, MutexGuard};
use crate::types::{TableId, mix, unmix};

/// The file of a checkpoint.
pub(crate) const FILE: &str = "twin.rows";
/// What a row takes beside its value, roughly.
const ROW_BYTES: usize = 32;

/// How the twin behaves.
#[derive(Clone, Debug)]
pub(crate) struct TwinOptions {
    /// Decides at which operations a compaction drops expired rows.
    pub(crate) seed: u64,
    /// One operation in so many compacts; 0 for never.
    pub(crate) compact_every: u64,
    /// The memtable's size at which it is flushed.
    pub(crate) flush_bytes: usize,
    /// Failures to come, shared with the test that arms them.
    pub(crate) faults: Arc<TwinFaults>,
}

impl Default for TwinOptions {
    fn default() -> TwinOptions {
        TwinOptions { seed: 0, compact_every: 16, flush_bytes: 1 << 20, faults: Arc::default() }
    }
}

/// Failures to come: the n-th call of a kind from now fails, once; 0 for none.
#[derive(Debug, Default)]
pub(crate) struct TwinFaults {
    /// The n-th read or scan.
    pub(crate) read: AtomicU64,
    /// The n-th write, or creation or drop of a table; nothing of it is applied.
    pub(crate) write: AtomicU64,
    /// The n-th checkpoint; it leaves an incomplete directory.
    pub(crate) checkpoint: AtomicU64,
}

fn strikes(countdown: &AtomicU64) -> bool {
    countdown.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) == Ok(1)
}

fn injected(action: &'static str) -> Error {
    Error::Cold { action, message: "injected failure".to_owned() }
}

/// Cold rows in memory.
#[derive(Debug)]
pub(crate) struct TwinCold {
    fs: Arc<dyn Fs>,
    options: TwinOptions,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<TableId, Table>,
    operations: u64,
}

#[derive(Debug, Default)]
struct Table {
    value_bytes: usize,
    horizons: Horizons,
    memtable: BTreeMap<u64, Option<Box<[u8]>>>,
    memtable_bytes: usize,
    flushed: Rows,
}

impl Table {
    fn get(&self, mixed: u64) -> Option<&[u8]> {
        self.memtable.get(&mixed).map_or_else(|| self.flushed.get(&mixed).map(AsRef::as_ref), |newest| newest.as_deref())
    }

    fn flush(&mut self) {
        for (mixed, value) in std::mem::take(&mut self.memtable) {
            match value {
                Some(value) => self.flushed.insert(mixed, value),
                None => self.flushed.remove(&mixed),
            };
        }
        self.memtable_bytes = 0;
    }

    /// As RocksDB's, a compaction sees flushed rows only.
    fn compact(&mut self) {
        let Table { horizons, flushed, .. } = self;
        flushed.retain(|mixed, value| time_of(value).is_none_or(|time| !horizons.passed(unmix(*mixed), time)));
    }

    fn flushed_bytes(&self) -> usize {
        self.flushed.values().map(|value| value.len() + ROW_BYTES).sum()
    }
}

impl TwinCold {
    /// Empties `live_dir` and reads the checkpoint at `from`, if any.
    pub(crate) fn open(fs: Arc<dyn Fs>, live_dir: &Path, from: Option<&Path>, options: TwinOptions) -> Result<TwinCold> {
        if fs.exists(live_dir)? {
            fs.remove_dir_all(live_dir)?;
        }
        fs.create_dir(live_dir)?;
        let loaded = from.map(|dir| rows::load(fs.as_ref(), &dir.join(FILE))).transpose()?.unwrap_or_default();
        let table = |(id, (value_bytes, flushed))| (id, Table { value_bytes, flushed, ..Table::default() });
        let tables = loaded.into_iter().map(table).collect();
        Ok(TwinCold { fs, options, state: Mutex::new(State { tables, operations: 0 }) })
    }

    fn peek(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state for one operation, after the compaction the schedule has for it.
    fn operate(&self) -> MutexGuard<'_, State> {
        let mut state = self.peek();
        state.operations += 1;
        let draw = mix(self.options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ state.operations);
        if draw.checked_rem(self.options.compact_every) == Some(0) {
            state.tables.values_mut().for_each(Table::compact);
        }
        state
    }
}

fn missing(action: &'static str, table: TableId) -> Error {
    Error::Cold { action, message: format!("there is no cold table {}", table.0) }
}

/// A copy of the rows of a moment.
struct Walk {
    rows: std::vec::IntoIter<(u64, Box<[u8]>)>,
    here: Option<(u64, Box<[u8]>)>,
}

impl ColdRows for Walk {
    fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        self.here = self.rows.next();
        Ok(self.here.as_ref().map(|(mixed, value)| (*mixed, value.as_ref())))
    }
}

impl ColdTier for TwinCold {
    fn create_table(&self, table: TableId, value_bytes: usize) -> Result<()> {
        let mut state = self.operate();
        if strikes(&self.options.faults.write) {
            return Err(injected("create a table"));
        }
        let known = state.tables.entry(table).or_default();
        if known.value_bytes != 0 && known.value_bytes != value_bytes {
            let message = format!("table {} has values of {} bytes, not {value_bytes}", table.0, known.value_bytes);
            return Err(Error::Cold { action: "create a table", message });
        }
        known.value_bytes = value_bytes;
        Ok(())
    }

    fn drop_table(&self, table: TableId) -> Result<()> {
        let mut state = self.operate();
        if strikes(&self.options.faults.write) {
            return Err(injected("drop a table"));
        }
        state.tables.remove(&table);
        Ok(())
    }

    fn tables(&self) -> Vec<TableId> {
        self.peek().tables.keys().copied().collect()
    }

    fn get_parts(&self, parts: &[(TableId, &[u64])], found: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        let state = self.operate();
        if strikes(&self.options.faults.read) {
            return Err(injected("read"));
        }
        let mut position = 0;
        for &(table, mixed) in parts {
            debug_assert!(mixed.is_sorted());
            let table = state.tables.get(&table).ok_or_else(|| missing("read", table))?;
            for &key in mixed {
                if let Some(value) = table.get(key) {
                    found(position, value);
                }
                position += 1;
            }
        }
        Ok(())
    }

    fn write(&self, table: TableId, batch: &ColdBatch) -> Result<()> {
        let mut state = self.operate();
        if strikes(&self.options.faults.write) {
            return Err(injected("write"));
        }
        let known = state.tables.get_mut(&table).ok_or_else(|| missing("write", table))?;
        if let Some(message) = batch.misfit(table, known.value_bytes) {
            return Err(Error::Cold { action: "write", message });
        }
        for (mixed, value) in batch.iter() {
            known.memtable_bytes += ROW_BYTES + value.map_or(0, <[u8]>::len);
            known.memtable.insert(mixed, value.map(Box::from));
        }
        if known.memtable_bytes >= self.options.flush_bytes {
            known.flush();
        }
        Ok(())
    }

    fn rows(&self, table: TableId, mixed: RangeInclusive<u64>) -> Result<Box<dyn ColdRows + '_>> {
        let state = self.operate();
        if strikes(&self.options.faults.read) {
            return Err(injected("scan"));
        }
        let table = state.tables.get(&table).ok_or_else(|| missing("scan", table))?;
        let mut merged: BTreeMap<u64, &[u8]> =
            table.flushed.range(mixed.clone()).map(|(key, value)| (*key, value.as_ref())).collect();
        for (key, newest) in table.memtable.range(mixed) {
            match newest {
                Some(value) => merged.insert(*key, value),
                None => merged.remove(key),
            };
        }
        let rows: Vec<(u64, Box<[u8]>)> = merged.into_iter().map(|(key, value)| (key, Box::from(value))).collect();
        Ok(Box::new(Walk { rows: rows.into_iter(), here: None }))
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        if self.fs.exists(dir)? {
            return Err(Error::TargetExists { path: dir.to_path_buf() });
        }
        let mut state = self.operate();
        state.tables.values_mut().for_each(Table::flush);
        self.fs.create_dir(dir)?;
        let mut writer = Writer::new(self.fs.create(&dir.join(FILE))?)?;
        for (id, table) in &state.tables {
            writer.table(*id, table.value_bytes, &table.flushed)?;
        }
        if strikes(&self.options.faults.checkpoint) {
            return Err(injected("write a checkpoint"));
        }
        writer.finish()?;
        self.fs.sync_dir(dir)?;
        dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), |parent| self.fs.sync_dir(parent))
    }

    fn expire(&self, table: TableId, horizons: Horizons) {
        if let Some(table) = self.peek().tables.get_mut(&table) {
            table.horizons = horizons;
        }
    }

    fn keys(&self, table: TableId) -> u64 {
        self.peek().tables.get(&table).map_or(0, |table| (table.memtable.len() + table.flushed.len()) as u64)
    }

    fn memory_bytes(&self) -> usize {
        self.peek().tables.values().map(|table| table.memtable_bytes + table.flushed_bytes()).sum()
    }

    fn disk_bytes(&self) -> u64 {
        self.peek().tables.values().map(|table| table.flushed_bytes() as u64).sum()
    }
}
