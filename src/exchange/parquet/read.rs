//! Reading files as others write them: keys and times as any whole numbers, lists of floats or doubles, in any row groups.
#![forbid(unsafe_code)]

use std::path::Path;

use parquet::basic::Type as Physical;
use parquet::data_type::FixedLenByteArray;
use parquet::file::reader::FileReader;

use super::super::layout::{
    Batch, EMBEDDING, FILE_CODECS, KEY, Layout, MAX_VALUES, REMOVED, STATE, Source, TIME, encoded_name, encoded_values,
};
use super::super::refused;
use super::OPTIMIZER;
use super::columns::{FLOATS, Fields, Groups, Lists, open, read_arrays, read_lists, read_numbers};
use crate::error::{Error, Result};
use crate::quantize::Quantization;

/// See the module. Columns: key, time, embedding, state, removed.
pub(in super::super) struct ParquetReader {
    groups: Groups<5>,
    layout: Layout,
}

impl ParquetReader {
    pub(in super::super) fn open(path: &Path) -> Result<ParquetReader> {
        let file = open(path)?;
        let metadata = file.metadata();
        let fields = Fields::of(path, metadata.file_metadata().schema_descr());
        let key = fields.number(KEY)?;
        let (time, removed) = (fields.number(TIME)?, fields.flat(REMOVED, &[Physical::BOOLEAN], "of truths")?);
        let (mut embedding, state) = (fields.list(EMBEDDING, &FLOATS)?, fields.list(STATE, &FLOATS)?);
        let (mut codec, mut dim) = (None, 0);
        for of in FILE_CODECS {
            let name = encoded_name(EMBEDDING, of);
            if embedding.is_none()
                && let Some(field) = fields.flat(&name, &[Physical::FIXED_LEN_BYTE_ARRAY], "of byte arrays of one length")?
            {
                let bytes = usize::try_from(fields.schema.column(field.index).type_length()).unwrap_or(0);
                dim = encoded_values(of, bytes).unwrap_or(0);
                (embedding, codec) = (Some(field), Some(of));
            }
        }
        if key.is_none() || embedding.is_none() {
            return Err(refused(path, "it has no column 'key', or none 'embedding'"));
        }
        let rows = (0..metadata.num_row_groups()).map(|at| u64::try_from(metadata.row_group(at).num_rows()).unwrap_or(0));
        let rows = rows.fold(0, u64::saturating_add);
        let entries = metadata.file_metadata().key_value_metadata();
        let optimizer = entries.into_iter().flatten().find(|entry| entry.key == OPTIMIZER).and_then(|entry| entry.value.clone());
        let layout = Layout { rows, dim, state: 0, times: time.is_some(), removed: removed.is_some(), codec, optimizer };
        let fields = [key, time, embedding, state, removed];
        let mut reader = ParquetReader { groups: Groups::new(path, file, fields), layout };
        reader.measure()?;
        Ok(reader)
    }

    /// Takes the lengths of the lists from the first row that has them: the file says them nowhere else.
    fn measure(&mut self) -> Result<()> {
        if self.layout.codec.is_none() {
            self.layout.dim = self.first_width(2)?;
        }
        if self.groups.fields[3].is_some() {
            self.layout.state = self.first_width(3)?;
        }
        if self.layout.rows > 0 && (self.layout.dim == 0 || self.layout.dim > MAX_VALUES || self.layout.state > MAX_VALUES) {
            return Err(refused(
                &self.groups.path,
                format!("its rows have {} values, expected 1 to {MAX_VALUES}", self.layout.dim),
            ));
        }
        Ok(())
    }

    fn first_width(&mut self, field: usize) -> Result<usize> {
        for group in 0..self.groups.file.metadata().num_row_groups() {
            let Some(mut column) = self.groups.column(group, field)? else { return Ok(0) };
            loop {
                let list = read_lists(&self.groups.path, &mut column, (1, MAX_VALUES))?;
                match list.widths.first() {
                    None => break,
                    Some(Some(width)) => return Ok(*width),
                    Some(None) => {}
                }
            }
        }
        Ok(0)
    }
}

impl Source for ParquetReader {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&mut self, rows: usize, batch: &mut Batch) -> Result<()> {
        let rows = self.groups.ready(rows)?;
        if rows == 0 {
            return Ok(());
        }
        let (path, layout, first) = (&self.groups.path, &self.layout, self.groups.done);
        let at = |row: usize, what: String| Error::Input { path: path.clone(), line: first + row as u64 + 1, what };
        let [Some(key), time, Some(embedding), state, removed] = &mut self.groups.columns[..] else {
            return Err(refused(path, "it has no columns"));
        };
        for number in read_numbers(path, key, rows)? {
            let row = batch.keys.len();
            batch.keys.push(number.ok_or_else(|| at(row, "it has no key".into()))? as u64);
        }
        if let Some(column) = time {
            for number in read_numbers(path, column, rows)? {
                let row = batch.times.len();
                let seconds = number.map(|number| number.div_euclid(column.field.per_second));
                let time = seconds.and_then(|seconds| u64::try_from(seconds).ok());
                batch.times.push(time.ok_or_else(|| at(row, "its time is missing or negative".into()))?);
            }
        }
        if let Some(column) = removed {
            batch.removed.extend(read_numbers(path, column, rows)?.into_iter().map(|truth| truth == Some(1)));
        }
        let embeddings = match layout.codec {
            None => read_lists(path, embedding, (rows, layout.dim))?,
            Some(codec) => {
                let lists = decode(read_arrays(path, embedding, rows)?, codec, layout.dim);
                lists.map_err(|row| at(row, "its encoded embedding has another length".into()))?
            }
        };
        let states =
            state.as_mut().map_or_else(|| Ok(Lists::default()), |state| read_lists(path, state, (rows, layout.state)))?;
        let whole = |found: usize| found == rows;
        let counts = [batch.keys.len(), embeddings.widths.len()];
        let extra =
            [(layout.times, batch.times.len()), (layout.removed, batch.removed.len()), (layout.state > 0, states.widths.len())];
        if !counts.into_iter().all(whole) || !extra.iter().all(|(has, found)| !has || whole(*found)) {
            return Err(refused(path, format!("its columns end before row {}", first + rows as u64)));
        }
        let (mut of_embeddings, mut of_states) = (&embeddings.values[..], &states.values[..]);
        for row in 0..rows {
            let gone = batch.removed.get(row) == Some(&true);
            for (lists, values, width) in [(&embeddings, &mut of_embeddings, layout.dim), (&states, &mut of_states, layout.state)]
            {
                let found = lists.widths.get(row).copied().flatten().unwrap_or(0);
                let (own, rest) = values.split_at_checked(found).unwrap_or((&[], &[]));
                *values = rest;
                if gone || width == 0 {
                    batch.lanes.resize(batch.lanes.len() + width, 0.0);
                } else if own.len() == width {
                    batch.lanes.extend_from_slice(own);
                } else {
                    return Err(at(row, format!("it has {} values where {width} were expected", own.len())));
                }
            }
        }
        self.groups.read(rows);
        Ok(())
    }
}

/// Lists from encoded ones of `width` values; or the row of the first that is no such list.
fn decode(arrays: Vec<Option<FixedLenByteArray>>, codec: Quantization, width: usize) -> Result<Lists<f32>, usize> {
    let mut lists = Lists::default();
    for (row, array) in arrays.into_iter().enumerate() {
        let begin = lists.values.len();
        lists.widths.push(array.is_some().then_some(width));
        if let Some(array) = array {
            lists.values.resize(begin + width, 0.0);
            if !codec.decode(array.data(), &mut lists.values[begin..]) {
                return Err(row);
            }
        }
    }
    Ok(lists)
}
