//! Reading files as others write them: keys and times as any whole numbers, lists of floats or doubles, in any row groups.
#![forbid(unsafe_code)]

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{LogicalType, TimeUnit, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{DataType, FixedLenByteArray};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::ColumnDescriptor;

use super::super::layout::{
    Batch, EMBEDDING, FILE_CODECS, KEY, Layout, MAX_VALUES, REMOVED, STATE, Source, TIME, encoded_name, encoded_values,
};
use super::super::refused;
use super::OPTIMIZER;
use super::pages::{Allowance, Pages};
use crate::error::{Error, Result};
use crate::quantize::Quantization;

/// A column that is read, and what its levels mean.
#[derive(Clone, Copy)]
struct Field {
    index: usize,
    /// Levels of a value that is there.
    present: i16,
    physical: Physical,
    /// Units of a time in a second.
    per_second: i64,
}

/// A field's column of the row group at hand, with what was read of it and not yet used.
struct Column {
    field: Field,
    reader: ColumnReader,
    allowance: Allowance,
}

/// See the module.
pub(in super::super) struct ParquetReader {
    path: PathBuf,
    file: SerializedFileReader<File>,
    layout: Layout,
    fields: Fields,
    next_group: usize,
    /// Rows left in the row group, and its columns in the order of [`Fields`].
    left: u64,
    columns: Vec<Option<Column>>,
    done: u64,
}

/// Key, time, embedding, state, removed.
type Fields = [Option<Field>; 5];

impl ParquetReader {
    pub(in super::super) fn open(path: &Path) -> Result<ParquetReader> {
        let file = File::open(path).map_err(|source| Error::Io { action: "open", path: path.to_path_buf(), source })?;
        let file = sound(path, || SerializedFileReader::new(file))?;
        let metadata = file.metadata();
        let schema = metadata.file_metadata().schema_descr();
        let find = |name: &str| {
            let of_it =
                |column: &&std::sync::Arc<ColumnDescriptor>| column.path().parts().first().is_some_and(|root| root == name);
            let index = schema.columns().iter().position(|column| of_it(&column))?;
            Some((index, schema.column(index)))
        };
        let odd = |name: &str, wanted: &str| refused(path, format!("its column '{name}' is not {wanted}"));
        let flat = |name: &str, types: &[Physical], wanted: &str| -> Result<Option<Field>> {
            let Some((index, column)) = find(name) else { return Ok(None) };
            let fits = column.path().parts().len() == 1 && column.max_rep_level() == 0 && types.contains(&column.physical_type());
            fits.then(|| Some(field(index, &column))).ok_or_else(|| odd(name, wanted))
        };
        let list = |name: &str| -> Result<Option<Field>> {
            let Some((index, column)) = find(name) else { return Ok(None) };
            let floats = matches!(column.physical_type(), Physical::FLOAT | Physical::DOUBLE);
            let fits = column.max_rep_level() == 1 && floats;
            fits.then(|| Some(field(index, &column))).ok_or_else(|| odd(name, "a list of floats"))
        };
        let whole = [Physical::INT32, Physical::INT64];
        let key = flat(KEY, &whole, "of whole numbers")?;
        let (time, removed) = (flat(TIME, &whole, "of whole numbers")?, flat(REMOVED, &[Physical::BOOLEAN], "of truths")?);
        let (mut embedding, state) = (list(EMBEDDING)?, list(STATE)?);
        let (mut codec, mut dim) = (None, 0);
        for of in FILE_CODECS {
            let name = encoded_name(EMBEDDING, of);
            if embedding.is_none()
                && let Some(field) = flat(&name, &[Physical::FIXED_LEN_BYTE_ARRAY], "of byte arrays of one length")?
            {
                let bytes = usize::try_from(schema.column(field.index).type_length()).unwrap_or(0);
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
        let columns = Vec::new();
        let mut reader =
            ParquetReader { path: path.to_path_buf(), file, layout, fields, next_group: 0, left: 0, columns, done: 0 };
        reader.measure()?;
        Ok(reader)
    }

    /// Takes the lengths of the lists from the first row that has them: the file says them nowhere else.
    fn measure(&mut self) -> Result<()> {
        if self.layout.codec.is_none() {
            self.layout.dim = self.first_width(2)?;
        }
        if self.fields[3].is_some() {
            self.layout.state = self.first_width(3)?;
        }
        if self.layout.rows > 0 && (self.layout.dim == 0 || self.layout.dim > MAX_VALUES || self.layout.state > MAX_VALUES) {
            return Err(refused(&self.path, format!("its rows have {} values, expected 1 to {MAX_VALUES}", self.layout.dim)));
        }
        Ok(())
    }

    fn first_width(&mut self, field: usize) -> Result<usize> {
        for group in 0..self.file.metadata().num_row_groups() {
            let Some(mut column) = self.column(group, field)? else { return Ok(0) };
            loop {
                let list = read_lists(&self.path, &mut column, (1, MAX_VALUES))?;
                match list.widths.first() {
                    None => break,
                    Some(Some(width)) => return Ok(*width),
                    Some(None) => {}
                }
            }
        }
        Ok(0)
    }

    fn column(&self, group: usize, field: usize) -> Result<Option<Column>> {
        let Some(field) = self.fields[field] else { return Ok(None) };
        let allowance = Allowance::default();
        let inner = sound(&self.path, || self.file.get_row_group(group)?.get_column_page_reader(field.index))?;
        let pages = Pages { inner, allowance: allowance.clone() };
        let column = self.file.metadata().file_metadata().schema_descr().column(field.index);
        let reader = sound(&self.path, || Ok(get_column_reader(column, Box::new(pages))))?;
        Ok(Some(Column { field, reader, allowance }))
    }

    /// Opens the next row group that has rows; false at the end of the file.
    fn advance(&mut self) -> Result<bool> {
        while self.left == 0 {
            if self.next_group == self.file.metadata().num_row_groups() {
                return Ok(false);
            }
            self.left = u64::try_from(self.file.metadata().row_group(self.next_group).num_rows()).unwrap_or(0);
            self.columns = (0..self.fields.len()).map(|field| self.column(self.next_group, field)).collect::<Result<_>>()?;
            self.next_group += 1;
        }
        Ok(true)
    }
}

impl Source for ParquetReader {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&mut self, rows: usize, batch: &mut Batch) -> Result<()> {
        if !self.advance()? {
            return Ok(());
        }
        let rows = usize::try_from(self.left).unwrap_or(usize::MAX).min(rows);
        let (path, layout, first) = (&self.path, &self.layout, self.done);
        let at = |row: usize, what: String| Error::Input { path: path.clone(), line: first + row as u64 + 1, what };
        let [Some(key), time, Some(embedding), state, removed] = &mut self.columns[..] else {
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
        self.left -= rows as u64;
        self.done += rows as u64;
        Ok(())
    }
}

fn field(index: usize, column: &ColumnDescriptor) -> Field {
    let per_second = match column.logical_type_ref() {
        Some(LogicalType::Timestamp(timestamp)) => match timestamp.unit {
            TimeUnit::MILLIS => 1000,
            TimeUnit::MICROS => 1_000_000,
            TimeUnit::NANOS => 1_000_000_000,
        },
        _ => 1,
    };
    Field { index, present: column.max_def_level(), physical: column.physical_type(), per_second }
}

/// Runs what reads bytes of unknown origin: an error of it, and a panic, is one of the file.
fn sound<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| refused(path, error.to_string())),
        Err(_) => Err(refused(path, "it is damaged: reading it panicked")),
    }
}

/// Values of a column as they are stored, with the levels of each place.
struct Levels<T> {
    values: Vec<T>,
    definitions: Vec<i16>,
    repetitions: Vec<i16>,
}

fn records<D: DataType>(path: &Path, reader: &mut ColumnReaderImpl<D>, rows: usize) -> Result<Levels<D::T>> {
    let mut levels = Levels { values: Vec::new(), definitions: Vec::new(), repetitions: Vec::new() };
    let mut done = 0;
    while done < rows {
        let Levels { values, definitions, repetitions } = &mut levels;
        let (read, ..) = sound(path, || reader.read_records(rows - done, Some(definitions), Some(repetitions), values))?;
        if read == 0 {
            break;
        }
        done += read;
    }
    Ok(levels)
}

/// A value a row, none where there is none. Columns that may not lack any have no levels.
fn spread<T>(levels: Levels<T>, present: i16) -> Vec<Option<T>> {
    let mut values = levels.values.into_iter();
    if present == 0 {
        return values.map(Some).collect();
    }
    levels.definitions.iter().map(|level| if *level == present { values.next() } else { None }).collect()
}

fn read_numbers(path: &Path, column: &mut Column, rows: usize) -> Result<Vec<Option<i64>>> {
    let present = column.field.present;
    column.allowance.set(rows as u64);
    match &mut column.reader {
        ColumnReader::Int64ColumnReader(reader) => Ok(spread(records(path, reader, rows)?, present)),
        ColumnReader::Int32ColumnReader(reader) => {
            let numbers = spread(records(path, reader, rows)?, present);
            // A narrow column holds times below 2^32, or small keys: neither is negative.
            Ok(numbers.into_iter().map(|number| number.map(|number| i64::from(number as u32))).collect())
        }
        ColumnReader::BoolColumnReader(reader) => {
            let truths = spread(records(path, reader, rows)?, present);
            Ok(truths.into_iter().map(|truth| truth.map(i64::from)).collect())
        }
        _ => Err(refused(path, format!("a column of {} where numbers were expected", column.field.physical))),
    }
}

fn read_arrays(path: &Path, column: &mut Column, rows: usize) -> Result<Vec<Option<FixedLenByteArray>>> {
    column.allowance.set(rows as u64);
    match &mut column.reader {
        ColumnReader::FixedLenByteArrayColumnReader(reader) => Ok(spread(records(path, reader, rows)?, column.field.present)),
        _ => Err(refused(path, format!("a column of {} where byte arrays were expected", column.field.physical))),
    }
}

/// Lists from encoded ones of `width` values; or the row of the first that is no such list.
fn decode(arrays: Vec<Option<FixedLenByteArray>>, codec: Quantization, width: usize) -> Result<Lists, usize> {
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

/// Lists of numbers: how many each row has, none where it has no list, and the numbers one after the other.
#[derive(Default)]
struct Lists {
    widths: Vec<Option<usize>>,
    values: Vec<f32>,
}

/// Lists of at most `width` values each, all together.
fn read_lists(path: &Path, column: &mut Column, (rows, width): (usize, usize)) -> Result<Lists> {
    column.allowance.set((rows as u64).saturating_mul(width.max(1) as u64));
    let (values, definitions, repetitions) = match &mut column.reader {
        ColumnReader::FloatColumnReader(reader) => {
            let levels = records(path, reader, rows)?;
            (levels.values, levels.definitions, levels.repetitions)
        }
        ColumnReader::DoubleColumnReader(reader) => {
            let levels = records(path, reader, rows)?;
            (levels.values.into_iter().map(|value| value as f32).collect(), levels.definitions, levels.repetitions)
        }
        _ => return Err(refused(path, format!("a list of {} where floats were expected", column.field.physical))),
    };
    let mut lists = Lists { widths: Vec::new(), values };
    for (definition, repetition) in definitions.iter().zip(&repetitions) {
        if *repetition == 0 {
            lists.widths.push(None);
        }
        if *definition == column.field.present
            && let Some(width) = lists.widths.last_mut()
        {
            *width = Some(width.unwrap_or(0) + 1);
        }
    }
    Ok(lists)
}
