//! Events of a joiner: `request` and `time`, of features `keys` and `dense`, of an action `label`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::file::reader::{FileReader, SerializedFileReader};

use super::super::events::EventRow;
use super::super::layout::MAX_VALUES;
use super::super::refused;
use super::columns::{
    Column, FLOATS, Field, Fields, Lists, WHOLE, open, read_floats, read_lists, read_numbers, read_whole_lists,
};
use crate::error::{Error, Result};

/// Request, time, keys, dense, label.
type EventFields = [Option<Field>; 5];

/// See the module.
pub(in super::super) struct EventReader {
    path: PathBuf,
    file: SerializedFileReader<File>,
    fields: EventFields,
    next_group: usize,
    /// Rows left in the row group, and its columns in the order of [`EventFields`].
    left: u64,
    columns: Vec<Option<Column>>,
    done: u64,
}

impl EventReader {
    pub(in super::super) fn open(path: &Path) -> Result<EventReader> {
        let file = open(path)?;
        let fields = Fields::of(path, file.metadata().file_metadata().schema_descr());
        let found = [
            fields.number("request")?,
            fields.number("time")?,
            fields.list("keys", &WHOLE)?,
            fields.list("dense", &FLOATS)?,
            fields.flat("label", &FLOATS, "of floats")?,
        ];
        if found[0].is_none() || found[1].is_none() {
            return Err(refused(path, "it has no column 'request', or none 'time'"));
        }
        Ok(EventReader { path: path.to_path_buf(), file, fields: found, next_group: 0, left: 0, columns: Vec::new(), done: 0 })
    }

    /// Opens the next row group that has rows; false at the end of the file.
    fn advance(&mut self) -> Result<bool> {
        while self.left == 0 {
            if self.next_group == self.file.metadata().num_row_groups() {
                return Ok(false);
            }
            self.left = u64::try_from(self.file.metadata().row_group(self.next_group).num_rows()).unwrap_or(0);
            let open = |field: &Option<Field>| {
                field.map(|field| Column::open(&self.path, &self.file, (self.next_group, field))).transpose()
            };
            self.columns = self.fields.iter().map(open).collect::<Result<_>>()?;
            self.next_group += 1;
        }
        Ok(true)
    }

    pub(in super::super) fn read(&mut self, most: usize) -> Result<Vec<EventRow>> {
        if !self.advance()? {
            return Ok(Vec::new());
        }
        let rows = usize::try_from(self.left).unwrap_or(usize::MAX).min(most);
        let (path, first) = (&self.path, self.done);
        let [Some(request), Some(time), keys, dense, label] = &mut self.columns[..] else {
            return Err(refused(path, "it has no columns"));
        };
        let per_second = time.field.per_second;
        let (requests, times) = (read_numbers(path, request, rows)?, read_numbers(path, time, rows)?);
        let keys = keys.as_mut().map(|column| read_whole_lists(path, column, (rows, MAX_VALUES))).transpose()?;
        let dense = dense.as_mut().map(|column| read_lists(path, column, (rows, MAX_VALUES))).transpose()?;
        let labels = label.as_mut().map(|column| read_floats(path, column, rows)).transpose()?;
        let lengths = [Some(requests.len()), Some(times.len()), keys.as_ref().map(|lists| lists.widths.len())];
        let others = [dense.as_ref().map(|lists| lists.widths.len()), labels.as_ref().map(Vec::len)];
        if lengths.into_iter().chain(others).flatten().any(|found| found != rows) {
            return Err(refused(path, format!("its columns end before row {}", first + rows as u64)));
        }
        let (mut keys, mut dense) = (Rows::of(keys), Rows::of(dense));
        let mut events = Vec::with_capacity(rows);
        for row in 0..rows {
            let at = |what: &str| Error::Input { path: path.clone(), line: first + row as u64 + 1, what: what.to_owned() };
            let time = times[row].and_then(|time| u32::try_from(time.div_euclid(per_second)).ok());
            events.push(EventRow {
                request: requests[row].ok_or_else(|| at("it has no request"))? as u64,
                time: time.ok_or_else(|| at("its time is missing, negative or beyond 2^32 seconds"))?,
                keys: keys.next(row),
                dense: dense.next(row).unwrap_or_default(),
                label: labels.as_ref().and_then(|labels| labels[row]),
            });
        }
        self.left -= rows as u64;
        self.done += rows as u64;
        Ok(events)
    }
}

/// Lists handed out row by row.
struct Rows<T> {
    widths: Vec<Option<usize>>,
    values: std::vec::IntoIter<T>,
}

impl<T> Rows<T> {
    fn of(lists: Option<Lists<T>>) -> Rows<T> {
        let (widths, values) = lists.map_or_else(Default::default, |lists| (lists.widths, lists.values));
        Rows { widths, values: values.into_iter() }
    }

    /// An empty list is none.
    fn next(&mut self, row: usize) -> Option<Vec<T>> {
        let width = self.widths.get(row).copied().flatten()?;
        Some(self.values.by_ref().take(width).collect())
    }
}
