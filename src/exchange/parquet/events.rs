//! Events of a joiner: `request` and `time`, of features `keys` and `dense`, of an action `label`.
#![forbid(unsafe_code)]

use std::path::Path;

use parquet::file::reader::FileReader;

use super::super::events::EventRow;
use super::super::layout::MAX_VALUES;
use super::super::refused;
use super::columns::{FLOATS, Fields, Groups, Lists, WHOLE, open, read_floats, read_lists, read_numbers, read_whole_lists};
use crate::error::{Error, Result};

/// See the module. Columns: request, time, keys, dense, label.
pub(in super::super) struct EventReader(Groups<5>);

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
        Ok(EventReader(Groups::new(path, file, found)))
    }

    pub(in super::super) fn read(&mut self, most: usize) -> Result<Vec<EventRow>> {
        let rows = self.0.ready(most)?;
        if rows == 0 {
            return Ok(Vec::new());
        }
        let (path, first) = (&self.0.path, self.0.done);
        let [Some(request), Some(time), keys, dense, label] = &mut self.0.columns[..] else {
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
        self.0.read(rows);
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
