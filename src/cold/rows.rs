//! The file of the twin's checkpoint.
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

use crate::codec::crc;
use crate::cold::TIME_BYTES;
use crate::error::{Error, Result};
use crate::fs::{Fs, ReadFile, WriteFile};
use crate::types::TableId;

const MAGIC: &[u8; 8] = b"ERTWIN01";
const BLOCK_BYTES: usize = 16 << 10;
const MAX_BLOCK_BYTES: usize = 64 << 20;

/// Values by mixed key.
pub(super) type Rows = BTreeMap<u64, Box<[u8]>>;

/// A table's value length, zero if not known, and its rows.
type Table = (usize, Rows);

/// Writes a checkpoint's file.
pub(super) struct Writer {
    file: Box<dyn WriteFile>,
    payload: Vec<u8>,
    rows: u64,
}

impl Writer {
    pub(super) fn new(mut file: Box<dyn WriteFile>) -> Result<Writer> {
        file.append(MAGIC)?;
        Ok(Writer { file, payload: Vec::new(), rows: 0 })
    }

    /// Tables come ascending.
    pub(super) fn table(&mut self, id: TableId, value_bytes: usize, rows: &Rows) -> Result<()> {
        self.payload.push(1);
        self.payload.extend_from_slice(&id.0.to_le_bytes());
        self.payload.extend_from_slice(&(value_bytes as u64).to_le_bytes());
        self.block()?;
        for (mixed, value) in rows {
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

    pub(super) fn finish(mut self) -> Result<()> {
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

/// Reads a checkpoint's file: whatever its bytes, an answer or an error.
pub(super) fn load(fs: &dyn Fs, path: &Path) -> Result<BTreeMap<TableId, Table>> {
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
    Some((id, (value_bytes, Rows::new())))
}

/// Adds a block's rows, and says how many they are; none if they are malformed.
fn decode_rows(body: &mut &[u8], table: &mut Table) -> Option<u64> {
    let mut rows = 0;
    while !body.is_empty() {
        let mixed = u64::from_le_bytes(take(body)?);
        let len = usize::try_from(u32::from_le_bytes(take(body)?)).ok()?;
        let (value, rest) = body.split_at_checked(len)?;
        let ascending = table.1.last_key_value().is_none_or(|(last, _)| *last < mixed);
        if len < TIME_BYTES || (table.0 != 0 && len != table.0) || !ascending {
            return None;
        }
        table.1.insert(mixed, Box::from(value));
        *body = rest;
        rows += 1;
    }
    Some(rows)
}

/// For tests: makes the checksums of a checkpoint's blocks right again, as far as their lengths lead.
#[cfg(feature = "testing")]
pub(crate) fn repair(bytes: &mut [u8]) {
    let Some((_, mut rest)) = bytes.split_at_mut_checked(MAGIC.len()) else { return };
    while let Some((head, behind)) = rest.split_at_mut_checked(8) {
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let Some((payload, next)) = behind.split_at_mut_checked(length as usize) else { return };
        let sum = crc(crc(0, &length.to_le_bytes()), payload);
        head[4..].copy_from_slice(&sum.to_le_bytes());
        rest = next;
    }
}
