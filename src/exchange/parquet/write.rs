//! Writing: row groups of some MiB, column by column.
#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{BoolType, FixedLenByteArray, FixedLenByteArrayType, FloatType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::super::layout::{EMBEDDING, KEY, Layout, REMOVED, Row, STATE, Sink, TIME};
use super::super::refused;
use super::super::sections::NewFile;
use super::OPTIMIZER;
use crate::error::{Error, Result};

/// Bytes of rows that are gathered for a row group.
const GROUP_BYTES: usize = 16 << 20;

/// The file, for a writer that knows only the standard library's errors.
struct Out {
    /// None once it is finished.
    new: Option<NewFile>,
    failed: Option<Error>,
}

impl Write for Out {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let Some(new) = &mut self.new else { return Ok(buf.len()) };
        match new.file.append(buf) {
            Ok(()) => Ok(buf.len()),
            Err(error) => {
                let message = error.to_string();
                self.failed.get_or_insert(error);
                Err(io::Error::other(message))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The rows of a row group.
#[derive(Default)]
struct Group {
    keys: Vec<i64>,
    times: Vec<i32>,
    embeddings: Vec<f32>,
    encoded: Vec<FixedLenByteArray>,
    states: Vec<f32>,
    removed: Vec<bool>,
}

/// See the module.
pub(in super::super) struct ParquetWriter {
    path: PathBuf,
    layout: Layout,
    group: Group,
    writer: SerializedFileWriter<Out>,
}

impl ParquetWriter {
    pub(in super::super) fn create(path: &Path, layout: &Layout) -> Result<ParquetWriter> {
        let text = schema(layout);
        let failed = |error: ParquetError| refused(path, error.to_string());
        let schema = Arc::new(parse_message_type(&text).map_err(failed)?);
        let metadata = layout.optimizer.clone().map(|optimizer| vec![KeyValue::new(OPTIMIZER.into(), optimizer)]);
        // Floats do not shrink, and are seldom the same twice.
        let properties = WriterProperties::builder()
            .set_compression(Compression::UNCOMPRESSED)
            .set_dictionary_enabled(false)
            .set_key_value_metadata(metadata)
            .build();
        let out = Out { new: Some(NewFile::create(path)?), failed: None };
        let writer = SerializedFileWriter::new(out, schema, Arc::new(properties)).map_err(failed)?;
        Ok(ParquetWriter { path: path.to_path_buf(), layout: layout.clone(), group: Group::default(), writer })
    }

    fn flush(&mut self) -> Result<()> {
        let group = std::mem::take(&mut self.group);
        if group.keys.is_empty() {
            return Ok(());
        }
        let written = self.writer.next_row_group().and_then(|writer| write_group(writer, &self.layout, &group));
        written.map_err(|error| self.failed(&error))
    }

    /// What the file system said, if it is that.
    fn failed(&mut self, error: &ParquetError) -> Error {
        let own = self.writer.inner_mut().failed.take();
        own.unwrap_or_else(|| refused(&self.path, error.to_string()))
    }
}

impl Sink for ParquetWriter {
    fn write(&mut self, row: &Row<'_>) -> Result<()> {
        let ParquetWriter { layout, group, .. } = self;
        // The bits of the key: the column is one of unsigned numbers.
        group.keys.push(row.key as i64);
        group.times.push(row.time as i32);
        group.removed.push(row.is_removed());
        match layout.codec {
            None => group.embeddings.extend_from_slice(row.embedding),
            Some(codec) if !row.is_removed() => {
                let mut bytes = Vec::new();
                codec.encode(row.embedding, &mut bytes);
                group.encoded.push(FixedLenByteArray::from(bytes));
            }
            Some(_) => {}
        }
        group.states.extend_from_slice(row.state);
        let bytes = group.keys.len() * (16 + layout.embedding_bytes() + layout.state * 4);
        if bytes >= GROUP_BYTES { self.flush() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.flush()?;
        let finished = self.writer.finish().map(drop).and_then(|()| self.writer.flush().map_err(ParquetError::from));
        finished.map_err(|error| self.failed(&error))?;
        self.writer.inner_mut().new.take().map_or(Ok(()), NewFile::finish)
    }
}

fn schema(layout: &Layout) -> String {
    // A removed row has neither embedding nor state.
    let presence = if layout.removed { "optional" } else { "required" };
    let list = |name: &str| format!("{presence} group {name} (LIST) {{ repeated group list {{ required float element; }} }}");
    let mut fields = vec![format!("required int64 {KEY} (INTEGER(64,false));")];
    if layout.times {
        fields.push(format!("required int32 {TIME} (INTEGER(32,false));"));
    }
    fields.push(match layout.codec {
        None => list(EMBEDDING),
        Some(_) => format!("{presence} fixed_len_byte_array({}) {};", layout.embedding_bytes(), layout.embedding_name()),
    });
    if layout.state > 0 {
        fields.push(list(STATE));
    }
    if layout.removed {
        fields.push(format!("required boolean {REMOVED};"));
    }
    format!("message rows {{ {} }}", fields.join(" "))
}

/// The levels of lists of `width` values: how deep each value is defined, and whether it goes on with the list before it.
fn levels(layout: &Layout, removed: &[bool], width: usize) -> (Vec<i16>, Vec<i16>) {
    let present = 1 + i16::from(layout.removed);
    let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
    for gone in removed {
        let count = if *gone { 1 } else { width };
        definitions.resize(definitions.len() + count, if *gone { 0 } else { present });
        repetitions.push(0);
        repetitions.resize(repetitions.len() + count - 1, 1);
    }
    (definitions, repetitions)
}

fn write_group(mut writer: SerializedRowGroupWriter<'_, Out>, layout: &Layout, group: &Group) -> Result<(), ParquetError> {
    let mut lists = vec![];
    if layout.codec.is_none() {
        lists.push((&group.embeddings, layout.dim));
    }
    if layout.state > 0 {
        lists.push((&group.states, layout.state));
    }
    let mut lists = lists.into_iter();
    while let Some(mut column) = writer.next_column()? {
        let name = column_name(column.untyped());
        match name.as_str() {
            KEY => drop(column.typed::<Int64Type>().write_batch(&group.keys, None, None)?),
            TIME => drop(column.typed::<Int32Type>().write_batch(&group.times, None, None)?),
            REMOVED => drop(column.typed::<BoolType>().write_batch(&group.removed, None, None)?),
            EMBEDDING | STATE => {
                let Some((values, width)) = lists.next() else { continue };
                let (definitions, repetitions) = levels(layout, &group.removed, width);
                column.typed::<FloatType>().write_batch(values, Some(&definitions), Some(&repetitions))?;
            }
            _ => {
                let present: Vec<i16> = group.removed.iter().map(|gone| i16::from(!gone)).collect();
                let definitions = layout.removed.then_some(&present[..]);
                column.typed::<FixedLenByteArrayType>().write_batch(&group.encoded, definitions, None)?;
            }
        }
        column.close()?;
    }
    writer.close().map(drop)
}

/// The name of the field that a column belongs to.
fn column_name(writer: &parquet::column::writer::ColumnWriter<'_>) -> String {
    use parquet::column::writer::ColumnWriter;
    let descr = match writer {
        ColumnWriter::BoolColumnWriter(column) => column.get_descriptor(),
        ColumnWriter::Int32ColumnWriter(column) => column.get_descriptor(),
        ColumnWriter::Int64ColumnWriter(column) => column.get_descriptor(),
        ColumnWriter::FloatColumnWriter(column) => column.get_descriptor(),
        ColumnWriter::FixedLenByteArrayColumnWriter(column) => column.get_descriptor(),
        _ => return String::new(),
    };
    descr.path().parts().first().cloned().unwrap_or_default()
}
