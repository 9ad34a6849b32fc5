//! The cold tier in memory, for tests, fuzzing and Miri: what RocksDB would lose, when it would filter, how it would fail.
//!
//! A table is a memtable over flushed rows. Both die with the process; a checkpoint flushes and writes one file:
//!
//! ```text
//! twin.rows = magic[8] block*          block = len u32, crc u32 (of len and payload), payload[len]      (little-endian)
//! payload   = 1, table u32, value_bytes u64      rows of this table follow
//!           | 2, (mixed u64, len u32, value[len])*       ascending by mixed key
//!           | 3, rows u64                        the end: how many rows there were
//! ```
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::codec::crc;
use crate::cold::{ColdBatch, ColdTier, TIME_BYTES, time_of};
use crate::error::{Error, Result};
use crate::fs::{Fs, ReadFile, WriteFile};
use crate::types::{TableId, UnixSeconds, mix};

const FILE: &str = "twin.rows";
const MAGIC: &[u8; 8] = b"ERTWIN01";
const BLOCK_BYTES: usize = 16 << 10;
const MAX_BLOCK_BYTES: usize = 64 << 20;
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
    horizon: Option<UnixSeconds>,
    memtable: BTreeMap<u64, Option<Box<[u8]>>>,
    memtable_bytes: usize,
    flushed: BTreeMap<u64, Box<[u8]>>,
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
        if let Some(horizon) = self.horizon {
            self.flushed.retain(|_, value| time_of(value).is_none_or(|time| time > horizon));
        }
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
        let tables = from.map(|dir| load(fs.as_ref(), &dir.join(FILE))).transpose()?.unwrap_or_default();
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

    fn get_many(&self, table: TableId, mixed: &[u64], found: &mut dyn FnMut(usize, &[u8])) -> Result<()> {
        debug_assert!(mixed.is_sorted());
        let state = self.operate();
        if strikes(&self.options.faults.read) {
            return Err(injected("read"));
        }
        let table = state.tables.get(&table).ok_or_else(|| missing("read", table))?;
        for (position, &key) in mixed.iter().enumerate() {
            if let Some(value) = table.get(key) {
                found(position, value);
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

    fn scan(&self, table: TableId, visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let rows: Vec<(u64, Box<[u8]>)> = {
            let state = self.operate();
            if strikes(&self.options.faults.read) {
                return Err(injected("scan"));
            }
            let table = state.tables.get(&table).ok_or_else(|| missing("scan", table))?;
            let mut merged: BTreeMap<u64, &[u8]> = table.flushed.iter().map(|(key, value)| (*key, value.as_ref())).collect();
            for (key, newest) in &table.memtable {
                match newest {
                    Some(value) => merged.insert(*key, value),
                    None => merged.remove(key),
                };
            }
            merged.into_iter().map(|(key, value)| (key, Box::from(value))).collect()
        };
        rows.iter().try_for_each(|(key, value)| visit(*key, value))
    }

    fn checkpoint(&self, dir: &Path) -> Result<()> {
        if self.fs.exists(dir)? {
            return Err(Error::TargetExists { path: dir.to_path_buf() });
        }
        let mut state = self.operate();
        state.tables.values_mut().for_each(Table::flush);
        self.fs.create_dir(dir)?;
        let mut writer = Writer { file: self.fs.create(&dir.join(FILE))?, payload: Vec::new(), rows: 0 };
        writer.file.append(MAGIC)?;
        for (id, table) in &state.tables {
            writer.table(*id, table)?;
        }
        if strikes(&self.options.faults.checkpoint) {
            return Err(injected("write a checkpoint"));
        }
        writer.finish()?;
        self.fs.sync_dir(dir)?;
        dir.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), |parent| self.fs.sync_dir(parent))
    }

    fn expire_through(&self, table: TableId, horizon: Option<UnixSeconds>) {
        if let Some(table) = self.peek().tables.get_mut(&table) {
            table.horizon = horizon;
        }
    }

    fn memory_bytes(&self) -> usize {
        self.peek().tables.values().map(|table| table.memtable_bytes + table.flushed_bytes()).sum()
    }

    fn disk_bytes(&self) -> u64 {
        self.peek().tables.values().map(|table| table.flushed_bytes() as u64).sum()
    }
}

struct Writer {
    file: Box<dyn WriteFile>,
    payload: Vec<u8>,
    rows: u64,
}

impl Writer {
    fn table(&mut self, id: TableId, table: &Table) -> Result<()> {
        self.payload.push(1);
        self.payload.extend_from_slice(&id.0.to_le_bytes());
        self.payload.extend_from_slice(&(table.value_bytes as u64).to_le_bytes());
        self.block()?;
        for (mixed, value) in &table.flushed {
            if self.payload.is_empty() {
                self.payload.push(2);
            }
            self.payload.extend_from_slice(&mixed.to_le_bytes());
            self.payload.extend_from_slice(&(value.len() as u32).to_le_bytes());
            self.payload.extend_from_slice(value);
            self.rows += 1;
            if self.payload.len() >= BLOCK_BYTES {
                self.block()?;
            }
        }
        self.block()
    }

    fn block(&mut self) -> Result<()> {
        if self.payload.is_empty() {
            return Ok(());
        }
        let len = (self.payload.len() as u32).to_le_bytes();
        self.file.append(&len)?;
        self.file.append(&crc(crc(0, &len), &self.payload).to_le_bytes())?;
        self.file.append(&self.payload)?;
        self.payload.clear();
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        self.payload.push(3);
        self.payload.extend_from_slice(&self.rows.to_le_bytes());
        self.block()?;
        self.file.sync()
    }
}

struct Reader {
    file: Box<dyn ReadFile>,
    path: PathBuf,
    offset: u64,
}

impl Reader {
    fn corrupt(&self, what: &str) -> Error {
        Error::corrupt(&self.path, self.offset, what)
    }

    fn bytes(&self, at: u64, len: usize) -> Result<Vec<u8>> {
        if at.checked_add(len as u64).is_none_or(|end| end > self.file.len()) {
            return Err(self.corrupt("the file ends early"));
        }
        let mut bytes = vec![0; len];
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match self.file.read_at(at + done as u64, rest)? {
                0 => return Err(self.corrupt("the file ends early")),
                read => done += read,
            }
        }
        Ok(bytes)
    }

    /// The payload of the block at the offset, and where the next block begins.
    fn block(&self) -> Result<(Vec<u8>, u64)> {
        let head = self.bytes(self.offset, 8)?;
        let (len, sum) = take::<4>(&mut head.as_slice()).zip(head.last_chunk::<4>().copied()).unwrap_or_default();
        let size = u32::from_le_bytes(len) as usize;
        if size == 0 || size > MAX_BLOCK_BYTES {
            return Err(self.corrupt("a block of impossible length"));
        }
        let payload = self.bytes(self.offset + 8, size)?;
        if crc(crc(0, &len), &payload) != u32::from_le_bytes(sum) {
            return Err(self.corrupt("a block's checksum is wrong"));
        }
        Ok((payload, self.offset + 8 + size as u64))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

fn load(fs: &dyn Fs, path: &Path) -> Result<BTreeMap<TableId, Table>> {
    if !fs.exists(path)? {
        return Err(Error::corrupt(path, 0, "the file is missing"));
    }
    let mut reader = Reader { file: fs.open_read(path)?, path: path.to_path_buf(), offset: 0 };
    if reader.bytes(0, MAGIC.len())? != MAGIC {
        return Err(reader.corrupt("it is not a checkpoint of the in-memory cold tier"));
    }
    reader.offset = MAGIC.len() as u64;
    let mut tables = BTreeMap::new();
    let mut current: Option<(TableId, Table)> = None;
    let mut rows = 0u64;
    loop {
        let (payload, next) = reader.block()?;
        let mut body = payload.as_slice();
        match take::<1>(&mut body) {
            Some([1]) => {
                tables.extend(current.take());
                let table = header(&mut body).filter(|(id, _)| body.is_empty() && tables.keys().all(|known| known < id));
                current = Some(table.ok_or_else(|| reader.corrupt("a table's block is malformed or out of order"))?);
            }
            Some([2]) => {
                let table = current.as_mut().map(|(_, table)| table);
                let added = table.and_then(|table| decode_rows(&mut body, table));
                rows += added.ok_or_else(|| reader.corrupt("a block of rows is malformed or out of order"))?;
            }
            Some([3]) => {
                tables.extend(current.take());
                let whole = take::<8>(&mut body).is_some_and(|said| u64::from_le_bytes(said) == rows);
                if !whole || !body.is_empty() || next != reader.file.len() {
                    return Err(reader.corrupt("the end does not match what came before"));
                }
                return Ok(tables);
            }
            _ => return Err(reader.corrupt("a block of unknown kind")),
        }
        reader.offset = next;
    }
}

fn header(body: &mut &[u8]) -> Option<(TableId, Table)> {
    let id = TableId(u32::from_le_bytes(take(body)?));
    let value_bytes = usize::try_from(u64::from_le_bytes(take(body)?)).ok()?;
    Some((id, Table { value_bytes, ..Table::default() }))
}

/// Adds a block's rows, and says how many they are; none if they are malformed.
fn decode_rows(body: &mut &[u8], table: &mut Table) -> Option<u64> {
    let mut rows = 0;
    while !body.is_empty() {
        let mixed = u64::from_le_bytes(take(body)?);
        let len = usize::try_from(u32::from_le_bytes(take(body)?)).ok()?;
        let (value, rest) = body.split_at_checked(len)?;
        let ascending = table.flushed.last_key_value().is_none_or(|(last, _)| *last < mixed);
        if len < TIME_BYTES || (table.value_bytes != 0 && len != table.value_bytes) || !ascending {
            return None;
        }
        table.flushed.insert(mixed, Box::from(value));
        *body = rest;
        rows += 1;
    }
    Some(rows)
}
