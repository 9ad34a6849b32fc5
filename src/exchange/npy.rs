//! NumPy's single arrays: records of key, time, embedding and state; to be read also a plain matrix.
#![forbid(unsafe_code)]

use std::io::Read;
use std::path::{Path, PathBuf};

use super::arrays::{Number, part_of};
use super::layout::{
    Batch, EMBEDDING, FILE_CODECS, KEY, Layout, MAX_VALUES, REMOVED, Row, STATE, Sink, Source, TIME, encoded_name,
    encoded_values, put_f32s,
};
use super::numpy::{Element, header, read_header};
use super::refused;
use super::sections::Sections;
use crate::error::{Error, Result};
use crate::quantize::Quantization;

/// Writes records.
pub(super) struct NpyWriter {
    layout: Layout,
    sections: Sections,
}

impl NpyWriter {
    pub(super) fn create(path: &Path, layout: &Layout) -> Result<NpyWriter> {
        let mut fields = vec![format!("('{KEY}', '<u8')")];
        if layout.times {
            fields.push(format!("('{TIME}', '<u4')"));
        }
        fields.push(match layout.codec {
            None => format!("('{EMBEDDING}', '<f4', ({},))", layout.dim),
            Some(_) => format!("('{}', '|u1', ({},))", layout.embedding_name(), layout.embedding_bytes()),
        });
        if layout.state > 0 {
            fields.push(format!("('{STATE}', '<f4', ({},))", layout.state));
        }
        if layout.removed {
            fields.push(format!("('{REMOVED}', '|b1')"));
        }
        let head = header(&format!("[{}]", fields.join(", ")), &[layout.rows]);
        let mut sections = Sections::create(path)?;
        sections.new.file.write_at(0, &head)?;
        let of_a_row =
            8 + if layout.times { 4 } else { 0 } + layout.embedding_bytes() + layout.state * 4 + usize::from(layout.removed);
        let bytes = layout.rows.checked_mul(of_a_row as u64).ok_or_else(|| refused(path, "there are too many rows"))?;
        sections.add(head.len() as u64, bytes);
        Ok(NpyWriter { layout: layout.clone(), sections })
    }
}

impl Sink for NpyWriter {
    fn write(&mut self, row: &Row<'_>) -> Result<()> {
        let NpyWriter { layout, sections } = self;
        sections.append(0, |out| {
            out.extend_from_slice(&row.key.to_le_bytes());
            if layout.times {
                out.extend_from_slice(&row.time.to_le_bytes());
            }
            if row.is_removed() {
                out.resize(out.len() + layout.embedding_bytes() + layout.state * 4, 0);
            } else {
                layout.put_embedding(row.embedding, out);
                put_f32s(row.state, out);
            }
            if layout.removed {
                out.push(u8::from(row.is_removed()));
            }
        })
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.sections.flush()?;
        self.sections.new.finish()
    }
}

/// Where a field lies in a record.
#[derive(Clone, Copy)]
struct Field {
    at: usize,
    number: Number,
    count: usize,
}

impl Field {
    fn of<'a>(&self, record: &'a [u8]) -> &'a [u8] {
        &record[self.at..self.at + self.number.bytes() * self.count]
    }
}

/// Reads records, or the rows of a matrix.
pub(super) struct NpyReader {
    path: PathBuf,
    layout: Layout,
    reader: Box<dyn Read>,
    done: u64,
    record_bytes: usize,
    key: Option<Field>,
    time: Option<Field>,
    embedding: Field,
    state: Option<Field>,
    removed: Option<Field>,
    bytes: Vec<u8>,
}

impl NpyReader {
    pub(super) fn open(path: &Path) -> Result<NpyReader> {
        let mut reader = part_of(path, 0, u64::MAX)?;
        let found = read_header(path, &mut *reader)?;
        let odd = |what: &str| refused(path, what.to_owned());
        let (rows, fields) = match (found.element, &found.shape[..]) {
            (Element::Record(fields), &[rows]) => (rows, fields),
            (Element::One(number), &[rows, width]) if number.is_float() => {
                let width = usize::try_from(width).ok().filter(|width| (1..=MAX_VALUES).contains(width));
                (rows, vec![(EMBEDDING.to_owned(), number, width.ok_or_else(|| odd("its rows are too long"))?)])
            }
            _ => return Err(odd("it is neither an array of records nor a matrix of floats")),
        };
        let (mut at, mut placed) = (0usize, Vec::new());
        for (name, number, count) in &fields {
            placed.push((name.as_str(), Field { at, number: *number, count: *count }));
            at = at.saturating_add(number.bytes().saturating_mul(*count));
        }
        let field = |name: &str| placed.iter().find(|(other, _)| *other == name).map(|(_, field)| *field);
        let one = |name: &str| match field(name) {
            Some(field) if field.count != 1 || field.number.is_float() => Err(odd(&format!("'{name}' is no whole number"))),
            field => Ok(field),
        };
        let encoded = || FILE_CODECS.into_iter().find_map(|codec| Some((field(&encoded_name(EMBEDDING, codec))?, codec)));
        let (embedding, codec) = match field(EMBEDDING) {
            Some(field) => (field, None),
            None => encoded().map(|(field, codec)| (field, Some(codec))).ok_or_else(|| odd("it has no 'embedding'"))?,
        };
        let values = |codec: Quantization| encoded_values(codec, embedding.count).filter(|_| embedding.number == Number::U8);
        let dim = codec.map_or(Some(embedding.count).filter(|_| embedding.number.is_float()), values);
        let dim =
            dim.filter(|dim| *dim > 0).ok_or_else(|| odd("its embeddings are not floats, or not encoded as their name says"))?;
        let (key, time, removed, state) = (one(KEY)?, one(TIME)?, one(REMOVED)?, field(STATE));
        if fields.len() > 1 && key.is_none() {
            return Err(odd("it has no 'key'"));
        }
        if state.is_some_and(|state| !state.number.is_float()) || at.saturating_mul(1) > 16 * MAX_VALUES {
            return Err(odd("its state is not floats, or its records are too long"));
        }
        let length = std::fs::metadata(path).map_err(|error| Error::io("look at", path, error))?.len();
        if rows.checked_mul(at as u64).and_then(|bytes| bytes.checked_add(found.bytes)) != Some(length) {
            return Err(refused(
                path,
                format!("it has {length} bytes, which is not the {rows} records of {at} that its header says"),
            ));
        }
        let layout = Layout {
            rows,
            dim,
            state: state.map_or(0, |state| state.count),
            times: time.is_some(),
            removed: removed.is_some(),
            codec,
            optimizer: None,
        };
        let path = path.to_path_buf();
        Ok(NpyReader { path, layout, reader, done: 0, record_bytes: at, key, time, embedding, state, removed, bytes: Vec::new() })
    }
}

impl Source for NpyReader {
    fn layout(&self) -> &Layout {
        &self.layout
    }

    fn read(&mut self, rows: usize, batch: &mut Batch) -> Result<()> {
        let NpyReader { path, layout, done, bytes, .. } = self;
        let rows = usize::try_from(layout.rows - *done).unwrap_or(usize::MAX).min(rows);
        bytes.resize(rows * self.record_bytes, 0);
        let failed = |source| Error::Io { action: "read", path: path.clone(), source };
        self.reader.read_exact(bytes).map_err(failed)?;
        for record in bytes.chunks_exact(self.record_bytes) {
            *done += 1;
            let whole = |field: Field, what: &str| {
                let number = if field.number == Number::I64 { Number::U64 } else { field.number };
                let signed = if what == KEY { number } else { field.number };
                let odd = || Error::Input { path: path.clone(), line: *done, what: format!("the {what} is negative") };
                signed.whole(field.of(record)).ok_or_else(odd)
            };
            // The rows of a matrix are numbered.
            batch.keys.push(self.key.map_or(Ok(*done - 1), |key| whole(key, KEY))?);
            if let Some(time) = self.time {
                batch.times.push(whole(time, TIME)?);
            }
            if let Some(removed) = self.removed {
                batch.removed.push(removed.of(record).iter().any(|byte| *byte != 0));
            }
            let embedding = self.embedding.of(record);
            match layout.codec {
                None => self.embedding.number.put_f32s(embedding, &mut batch.lanes),
                Some(codec) => {
                    let begin = batch.lanes.len();
                    batch.lanes.resize(begin + layout.dim, 0.0);
                    let _whole = codec.decode(embedding, &mut batch.lanes[begin..]);
                }
            }
            if let Some(state) = self.state {
                state.number.put_f32s(state.of(record), &mut batch.lanes);
            }
        }
        Ok(())
    }
}
