//! Arrays of numbers in files, read in step: one array for each thing that a row has.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::layout::{
    Batch, EMBEDDING, FILE_CODECS, KEY, Layout, MAX_VALUES, REMOVED, STATE, Source, TIME, encoded_name, encoded_values,
};
use super::refused;
use crate::error::{Error, Result};
use crate::quantize::Quantization;

/// Bytes read at once from each array.
const BUFFER_BYTES: usize = 256 << 10;

/// The numbers that an array may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    F16,
    Bf16,
    F32,
    F64,
    U8,
    U32,
    U64,
    I32,
    I64,
    Bool,
}

impl Number {
    pub(super) fn bytes(self) -> usize {
        match self {
            Number::U8 | Number::Bool => 1,
            Number::F16 | Number::Bf16 => 2,
            Number::F32 | Number::U32 | Number::I32 => 4,
            Number::F64 | Number::U64 | Number::I64 => 8,
        }
    }

    pub(super) fn is_float(self) -> bool {
        matches!(self, Number::F16 | Number::Bf16 | Number::F32 | Number::F64)
    }

    /// Appends the f32s that are in `bytes`.
    pub(super) fn put_f32s(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Number::F32 => out.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
            Number::F64 => out.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
            Number::F16 | Number::Bf16 => {
                let codec = if self == Number::F16 { Quantization::F16 } else { Quantization::Bf16 };
                let begin = out.len();
                out.resize(begin + bytes.len() / 2, 0.0);
                let _whole = codec.decode(bytes, &mut out[begin..]);
            }
            _ => {}
        }
    }

    /// The number in `bytes`, if it is a whole one that is not negative.
    pub(super) fn whole(self, bytes: &[u8]) -> Option<u64> {
        let mut wide = [0; 8];
        wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let value = u64::from_le_bytes(wide);
        match self {
            Number::U8 | Number::U32 | Number::U64 | Number::Bool => Some(value),
            Number::I32 => u64::try_from(value as u32 as i32).ok(),
            Number::I64 => u64::try_from(value as i64).ok(),
            _ => None,
        }
    }
}

/// An array as a file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Array {
    pub(super) number: Number,
    pub(super) shape: Vec<u64>,
}

impl Array {
    /// Bytes of all of it; `None` if that is no number.
    pub(super) fn bytes(&self) -> Option<u64> {
        self.shape.iter().try_fold(self.number.bytes() as u64, |bytes, length| bytes.checked_mul(*length))
    }

    /// Numbers of a row, for an array of two dimensions.
    fn width(&self) -> Option<usize> {
        let [_, width] = self.shape[..] else { return None };
        usize::try_from(width).ok().filter(|width| (1..=MAX_VALUES).contains(width))
    }
}

/// An array and its bytes, from the first on.
pub(super) struct Column {
    array: Array,
    reader: Box<dyn Read>,
}

/// Files of arrays by name.
pub(super) struct Arrays {
    path: PathBuf,
    layout: Layout,
    done: u64,
    key: Column,
    time: Option<Column>,
    embedding: Column,
    state: Option<Column>,
    removed: Option<Column>,
    bytes: Vec<u8>,
}

impl Arrays {
    /// Finds the arrays of a file that says which there are, and opens them.
    pub(super) fn open(
        path: &Path,
        named: &[(String, Array)],
        optimizer: Option<String>,
        mut open: impl FnMut(&str) -> Result<Box<dyn Read>>,
    ) -> Result<Arrays> {
        let mut column = |name: &str| -> Result<Option<Column>> {
            let Some((_, array)) = named.iter().find(|(other, _)| other == name) else { return Ok(None) };
            Ok(Some(Column { array: array.clone(), reader: open(name)? }))
        };
        let missing = |name: &str| refused(path, format!("it has no array '{name}'"));
        let key = column(KEY)?.ok_or_else(|| missing(KEY))?;
        let (time, state, removed) = (column(TIME)?, column(STATE)?, column(REMOVED)?);
        let (mut embedding, mut codec) = (column(EMBEDDING)?, None);
        for of in FILE_CODECS {
            if embedding.is_none() {
                (embedding, codec) = (column(&encoded_name(EMBEDDING, of))?, Some(of));
            }
        }
        let embedding = embedding.ok_or_else(|| missing(EMBEDDING))?;
        let rows = key.array.shape.first().copied().unwrap_or(0);
        let odd = |name: &str, array: &Array, wanted: &str| {
            refused(path, format!("array '{name}' is {:?} of shape {:?}, expected {wanted}", array.number, array.shape))
        };
        for (name, column) in [(KEY, Some(&key)), (TIME, time.as_ref()), (REMOVED, removed.as_ref())] {
            if let Some(Column { array, .. }) = column.filter(|c| c.array.shape != [rows] || c.array.number.is_float()) {
                return Err(odd(name, array, &format!("{rows} whole numbers")));
            }
        }
        let width_of = |name: &str, array: &Array, float: bool| {
            let width = array.width().filter(|_| array.shape[0] == rows && array.number.is_float() == float);
            width.ok_or_else(|| {
                odd(name, array, &format!("{rows} rows of at most {MAX_VALUES} floats, or of bytes where encoded"))
            })
        };
        let bytes = width_of(EMBEDDING, &embedding.array, codec.is_none())?;
        let dim = match codec {
            None => Some(bytes),
            Some(codec) => encoded_values(codec, bytes).filter(|dim| *dim > 0 && embedding.array.number == Number::U8),
        };
        let dim = dim.ok_or_else(|| odd(EMBEDDING, &embedding.array, "as many bytes as its encoding has"))?;
        let state_width = state.as_ref().map_or(Ok(0), |state| width_of(STATE, &state.array, true))?;
        let (times, marks) = (time.is_some(), removed.is_some());
        let layout = Layout { rows, dim, state: state_width, times, removed: marks, codec, optimizer };
        Ok(Arrays { path: path.to_path_buf(), layout, done: 0, key, time, embedding, state, removed, bytes: Vec::new() })
    }
}

/// Reads the next rows of an array into `bytes`; returns the bytes of a row.
fn read(path: &Path, column: &mut Column, rows: usize, bytes: &mut Vec<u8>) -> Result<usize> {
    let of_a_row = column.array.number.bytes() * column.array.width().unwrap_or(1);
    bytes.resize(rows * of_a_row, 0);
    let failed = |source| Error::Io { action: "read", path: path.to_path_buf(), source };
    column.reader.read_exact(bytes).map_err(failed)?;
    Ok(of_a_row)
}

impl Source for Arrays {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&mut self, rows: usize, batch: &mut Batch) -> Result<()> {
        let Arrays { path, layout, done, bytes, .. } = self;
        let rows = usize::try_from(layout.rows - *done).unwrap_or(usize::MAX).min(rows);
        let first = *done;
        *done += rows as u64;
        if rows == 0 {
            return Ok(());
        }
        let negative = |row: usize, what: &str| {
            let line = first + row as u64 + 1;
            Error::Input { path: path.clone(), line, what: format!("{what} is negative") }
        };
        for (column, into) in [(Some(&mut self.key), &mut batch.keys), (self.time.as_mut(), &mut batch.times)] {
            let Some(column) = column else { continue };
            let (number, size) = (column.array.number, read(path, column, rows, bytes)?);
            for (row, bytes) in bytes.chunks_exact(size).enumerate() {
                // A key may be written as a signed number: its bits are the key.
                let bits = if number == Number::I64 { number_bits(bytes) } else { number.whole(bytes) };
                into.push(bits.ok_or_else(|| negative(row, "the key or time"))?);
            }
        }
        if let Some(column) = &mut self.removed {
            let size = read(path, column, rows, bytes)?;
            batch.removed.extend(bytes.chunks_exact(size).map(|bytes| bytes.iter().any(|byte| *byte != 0)));
        }
        let (mut embeddings, mut states) = (Vec::new(), Vec::new());
        let size = read(path, &mut self.embedding, rows, bytes)?;
        match layout.codec {
            None => self.embedding.array.number.put_f32s(bytes, &mut embeddings),
            Some(codec) => {
                embeddings.resize(rows * layout.dim, 0.0);
                for (row, bytes) in embeddings.chunks_exact_mut(layout.dim).zip(bytes.chunks_exact(size)) {
                    let _whole = codec.decode(bytes, row);
                }
            }
        }
        if let Some(column) = &mut self.state {
            read(path, column, rows, bytes)?;
            column.array.number.put_f32s(bytes, &mut states);
        }
        for row in 0..rows {
            batch.lanes.extend_from_slice(&embeddings[row * layout.dim..(row + 1) * layout.dim]);
            batch.lanes.extend_from_slice(&states[row * layout.state..(row + 1) * layout.state]);
        }
        Ok(())
    }
}

fn number_bits(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))
}

/// The bytes of a file from an offset on, at most so many.
pub(super) fn part_of(path: &Path, at: u64, bytes: u64) -> Result<Box<dyn Read>> {
    let failed = |source| Error::Io { action: "open", path: path.to_path_buf(), source };
    let mut file = File::open(path).map_err(failed)?;
    file.seek(SeekFrom::Start(at)).map_err(failed)?;
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file.take(bytes))))
}
