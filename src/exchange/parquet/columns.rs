//! Columns of a file as others write them, and their values a row: whole numbers, floats or doubles, lists of them.
#![forbid(unsafe_code)]

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parquet::basic::{LogicalType, TimeUnit, Type as Physical};
use parquet::column::reader::{ColumnReader, ColumnReaderImpl, get_column_reader};
use parquet::data_type::{DataType, FixedLenByteArray};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::schema::types::{ColumnDescriptor, SchemaDescriptor};

use super::super::refused;
use super::pages::{Allowance, Pages};
use crate::error::{Error, Result};

/// Types of whole numbers.
pub(super) const WHOLE: [Physical; 2] = [Physical::INT32, Physical::INT64];
/// Types of floats.
pub(super) const FLOATS: [Physical; 2] = [Physical::FLOAT, Physical::DOUBLE];

/// A column that is read, and what its levels mean.
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) index: usize,
    /// Levels of a value that is there.
    present: i16,
    physical: Physical,
    /// Units of a time in a second.
    pub(super) per_second: i64,
}

/// A field's column of the row group at hand, with what was read of it and not yet used.
pub(super) struct Column {
    pub(super) field: Field,
    reader: ColumnReader,
    allowance: Allowance,
}

/// What columns a file has.
pub(super) struct Fields<'a> {
    path: &'a Path,
    pub(super) schema: &'a SchemaDescriptor,
}

impl<'a> Fields<'a> {
    pub(super) fn of(path: &'a Path, schema: &'a SchemaDescriptor) -> Fields<'a> {
        Fields { path, schema }
    }

    /// A column of whole numbers.
    pub(super) fn number(&self, name: &str) -> Result<Option<Field>> {
        self.flat(name, &WHOLE, "of whole numbers")
    }

    /// A column of a value a row, if there is one; it must be of one of `types`.
    pub(super) fn flat(&self, name: &str, types: &[Physical], wanted: &str) -> Result<Option<Field>> {
        self.find(name, wanted, |column| {
            column.path().parts().len() == 1 && column.max_rep_level() == 0 && types.contains(&column.physical_type())
        })
    }

    /// A column of a list a row.
    pub(super) fn list(&self, name: &str, types: &[Physical]) -> Result<Option<Field>> {
        let wanted = if types == FLOATS { "a list of floats" } else { "a list of whole numbers" };
        self.find(name, wanted, |column| column.max_rep_level() == 1 && types.contains(&column.physical_type()))
    }

    fn find(&self, name: &str, wanted: &str, fits: impl Fn(&ColumnDescriptor) -> bool) -> Result<Option<Field>> {
        let named = |column: &std::sync::Arc<ColumnDescriptor>| column.path().parts().first().is_some_and(|root| root == name);
        let Some(index) = self.schema.columns().iter().position(named) else { return Ok(None) };
        let column = self.schema.column(index);
        if fits(&column) {
            Ok(Some(described(index, &column)))
        } else {
            Err(refused(self.path, format!("its column '{name}' is not {wanted}")))
        }
    }
}

impl Column {
    /// The column of a row group.
    pub(super) fn open(path: &Path, file: &SerializedFileReader<File>, (group, field): (usize, Field)) -> Result<Column> {
        let allowance = Allowance::default();
        let inner = sound(path, || file.get_row_group(group)?.get_column_page_reader(field.index))?;
        let pages = Pages { inner, allowance: allowance.clone() };
        let column = file.metadata().file_metadata().schema_descr().column(field.index);
        let reader = sound(path, || Ok(get_column_reader(column, Box::new(pages))))?;
        Ok(Column { field, reader, allowance })
    }
}

/// A file's row groups, one after the other, with the columns of the one at hand.
pub(super) struct Groups<const N: usize> {
    pub(super) path: PathBuf,
    pub(super) file: SerializedFileReader<File>,
    /// In the order of `columns`; what the file has not is none.
    pub(super) fields: [Option<Field>; N],
    next: usize,
    pub(super) columns: Vec<Option<Column>>,
    /// Rows left in the row group, and rows read of the file.
    left: u64,
    pub(super) done: u64,
}

impl<const N: usize> Groups<N> {
    pub(super) fn new(path: &Path, file: SerializedFileReader<File>, fields: [Option<Field>; N]) -> Groups<N> {
        Groups { path: path.to_path_buf(), file, fields, next: 0, columns: Vec::new(), left: 0, done: 0 }
    }

    pub(super) fn column(&self, group: usize, field: usize) -> Result<Option<Column>> {
        self.fields[field].map(|field| Column::open(&self.path, &self.file, (group, field))).transpose()
    }

    /// How many rows can be read now, `most` at most: opens the next row group that has some; 0 at the end of the file.
    pub(super) fn ready(&mut self, most: usize) -> Result<usize> {
        while self.left == 0 {
            if self.next == self.file.metadata().num_row_groups() {
                return Ok(0);
            }
            self.left = u64::try_from(self.file.metadata().row_group(self.next).num_rows()).unwrap_or(0);
            self.columns = (0..N).map(|field| self.column(self.next, field)).collect::<Result<_>>()?;
            self.next += 1;
        }
        Ok(usize::try_from(self.left).unwrap_or(usize::MAX).min(most))
    }

    pub(super) fn read(&mut self, rows: usize) {
        self.left -= rows as u64;
        self.done += rows as u64;
    }
}

/// Opens a file and reads what it says of itself.
pub(super) fn open(path: &Path) -> Result<SerializedFileReader<File>> {
    let file = File::open(path).map_err(|source| Error::Io { action: "open", path: path.to_path_buf(), source })?;
    sound(path, || SerializedFileReader::new(file))
}

fn described(index: usize, column: &ColumnDescriptor) -> Field {
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
pub(super) fn sound<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
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

pub(super) fn read_numbers(path: &Path, column: &mut Column, rows: usize) -> Result<Vec<Option<i64>>> {
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

pub(super) fn read_arrays(path: &Path, column: &mut Column, rows: usize) -> Result<Vec<Option<FixedLenByteArray>>> {
    column.allowance.set(rows as u64);
    match &mut column.reader {
        ColumnReader::FixedLenByteArrayColumnReader(reader) => Ok(spread(records(path, reader, rows)?, column.field.present)),
        _ => Err(refused(path, format!("a column of {} where byte arrays were expected", column.field.physical))),
    }
}

/// Lists of numbers: how many each row has, none where it has no list, and the numbers one after the other.
#[derive(Default)]
pub(super) struct Lists<T> {
    pub(super) widths: Vec<Option<usize>>,
    pub(super) values: Vec<T>,
}

impl<T> Lists<T> {
    fn of<S>(levels: Levels<S>, present: i16, number: impl Fn(S) -> T) -> Lists<T> {
        let mut widths = Vec::new();
        for (definition, repetition) in levels.definitions.iter().zip(&levels.repetitions) {
            if *repetition == 0 {
                widths.push(None);
            }
            if *definition == present
                && let Some(width) = widths.last_mut()
            {
                *width = Some(width.unwrap_or(0) + 1);
            }
        }
        Lists { widths, values: levels.values.into_iter().map(number).collect() }
    }
}

/// Lists of at most `width` floats each, all together.
pub(super) fn read_lists(path: &Path, column: &mut Column, (rows, width): (usize, usize)) -> Result<Lists<f32>> {
    column.allowance.set((rows as u64).saturating_mul(width.max(1) as u64));
    let present = column.field.present;
    match &mut column.reader {
        ColumnReader::FloatColumnReader(reader) => Ok(Lists::of(records(path, reader, rows)?, present, |value| value)),
        ColumnReader::DoubleColumnReader(reader) => Ok(Lists::of(records(path, reader, rows)?, present, |value| value as f32)),
        _ => Err(refused(path, format!("a list of {} where floats were expected", column.field.physical))),
    }
}

/// Lists of at most `width` whole numbers each, all together.
pub(super) fn read_whole_lists(path: &Path, column: &mut Column, (rows, width): (usize, usize)) -> Result<Lists<u64>> {
    column.allowance.set((rows as u64).saturating_mul(width.max(1) as u64));
    let present = column.field.present;
    match &mut column.reader {
        ColumnReader::Int64ColumnReader(reader) => Ok(Lists::of(records(path, reader, rows)?, present, |value| value as u64)),
        ColumnReader::Int32ColumnReader(reader) => {
            Ok(Lists::of(records(path, reader, rows)?, present, |value| u64::from(value as u32)))
        }
        _ => Err(refused(path, format!("a list of {} where whole numbers were expected", column.field.physical))),
    }
}

/// A float a row, none where there is none.
pub(super) fn read_floats(path: &Path, column: &mut Column, rows: usize) -> Result<Vec<Option<f32>>> {
    column.allowance.set(rows as u64);
    let present = column.field.present;
    match &mut column.reader {
        ColumnReader::FloatColumnReader(reader) => Ok(spread(records(path, reader, rows)?, present)),
        ColumnReader::DoubleColumnReader(reader) => {
            Ok(spread(records(path, reader, rows)?, present).into_iter().map(|value| value.map(|value| value as f32)).collect())
        }
        _ => Err(refused(path, format!("a column of {} where floats were expected", column.field.physical))),
    }
}
