//! Rows of one moment of a table, one after the other, ahead of which RocksDB reads.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

use rocksdb::DBRawIteratorWithThreadMode;

use super::{Db, Files, read_options};
use crate::cold::{ColdRows, TIME_BYTES};
use crate::error::Result;
use crate::types::TableId;

/// An iterator sees the moment at which it was made.
pub(super) struct Walk<'a> {
    files: &'a Files,
    table: TableId,
    rows: DBRawIteratorWithThreadMode<'a, Db>,
    /// Where it begins, until it did.
    from: Option<u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(files: &'a Files, table: TableId, mixed: RangeInclusive<u64>) -> Result<Walk<'a>> {
        let family = files.family("scan", table)?;
        let mut options = read_options(false);
        if let Some(end) = mixed.end().checked_add(1) {
            options.set_iterate_upper_bound(end.to_be_bytes());
        }
        Ok(Walk { files, table, rows: files.db.raw_iterator_cf_opt(&family, options), from: Some(*mixed.start()) })
    }
}

impl ColdRows for Walk<'_> {
    fn next(&mut self) -> Result<Option<(u64, &[u8])>> {
        match self.from.take() {
            Some(from) => self.rows.seek(from.to_be_bytes()),
            None => self.rows.next(),
        }
        let Walk { files, table, rows, .. } = self;
        let Some((key, value)) = rows.item() else {
            return rows.status().map(|()| None).map_err(|error| files.translate("scan", error));
        };
        let key = <[u8; 8]>::try_from(key).map_err(|_| files.odd(*table, "a key that is not 8 bytes long"))?;
        if value.len() < TIME_BYTES {
            return Err(files.odd(*table, "a value too short for a time"));
        }
        Ok(Some((u64::from_be_bytes(key), value)))
    }
}
