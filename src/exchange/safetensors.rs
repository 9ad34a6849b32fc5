//! safetensors: a header in JSON, then the tensors one after the other.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::arrays::{Array, Arrays, Number, part_of};
use super::layout::{EMBEDDING, KEY, Layout, REMOVED, Row, STATE, Sink, TIME, put_f32s};
use super::refused;
use super::sections::Sections;
use crate::error::{Error, Result};
use crate::quantize::Quantization;

/// The longest header that is read.
const MAX_HEADER_BYTES: u64 = 1 << 20;
const METADATA: &str = "__metadata__";
const OPTIMIZER: &str = "optimizer";

/// What is written for each row: name, type, numbers of a row, bytes of a row.
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) dtype: &'static str,
    pub(super) width: Option<usize>,
    pub(super) bytes: usize,
}

/// The tensors of a layout; embeddings in 16 bits have types of their own.
pub(super) fn tensors(layout: &Layout) -> Vec<Tensor> {
    let tensor = |name: &str, dtype, width, bytes| Tensor { name: name.to_owned(), dtype, width, bytes };
    let mut tensors = vec![tensor(KEY, "U64", None, 8)];
    if layout.times {
        tensors.push(tensor(TIME, "U32", None, 4));
    }
    let bytes = layout.embedding_bytes();
    tensors.push(match layout.codec {
        None => tensor(EMBEDDING, "F32", Some(layout.dim), bytes),
        Some(Quantization::F16) => tensor(EMBEDDING, "F16", Some(layout.dim), bytes),
        Some(Quantization::Bf16) => tensor(EMBEDDING, "BF16", Some(layout.dim), bytes),
        Some(_) => tensor(&layout.embedding_name(), "U8", Some(bytes), bytes),
    });
    if layout.state > 0 {
        tensors.push(tensor(STATE, "F32", Some(layout.state), layout.state * 4));
    }
    if layout.removed {
        tensors.push(tensor(REMOVED, "U8", None, 1));
    }
    tensors
}

/// Appends a row to the parts of a file, one a tensor, in the order of [`tensors`].
pub(super) fn append_row(sections: &mut Sections, layout: &Layout, row: &Row<'_>) -> Result<()> {
    let mut part = 0;
    let mut append = |put: &dyn Fn(&mut Vec<u8>)| {
        part += 1;
        sections.append(part - 1, put)
    };
    append(&|out| out.extend_from_slice(&row.key.to_le_bytes()))?;
    if layout.times {
        append(&|out| out.extend_from_slice(&row.time.to_le_bytes()))?;
    }
    append(&|out| match row.is_removed() {
        true => out.resize(out.len() + layout.embedding_bytes(), 0),
        false => layout.put_embedding(row.embedding, out),
    })?;
    if layout.state > 0 {
        append(&|out| match row.is_removed() {
            true => out.resize(out.len() + layout.state * 4, 0),
            false => put_f32s(row.state, out),
        })?;
    }
    if layout.removed {
        append(&|out| out.push(u8::from(row.is_removed())))?;
    }
    Ok(())
}

/// Writes tensors side by side.
pub(super) struct SafetensorsWriter {
    layout: Layout,
    sections: Sections,
}

impl SafetensorsWriter {
    pub(super) fn create(path: &Path, layout: &Layout) -> Result<SafetensorsWriter> {
        let too_many = || refused(path, "there are too many rows");
        let (mut header, mut ends, mut end) = (Map::new(), Vec::new(), 0u64);
        if let Some(optimizer) = &layout.optimizer {
            header.insert(METADATA.into(), json!({OPTIMIZER: optimizer}));
        }
        for tensor in tensors(layout) {
            let bytes = layout.rows.checked_mul(tensor.bytes as u64).ok_or_else(too_many)?;
            let next = end.checked_add(bytes).ok_or_else(too_many)?;
            let shape: Vec<u64> = std::iter::once(layout.rows).chain(tensor.width.map(|width| width as u64)).collect();
            header.insert(tensor.name, json!({"dtype": tensor.dtype, "shape": shape, "data_offsets": [end, next]}));
            ends.push((end, bytes));
            end = next;
        }
        let mut text = Value::Object(header).to_string();
        // The tensors begin at a multiple of 8.
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let mut sections = Sections::create(path)?;
        sections.new.file.append(&(text.len() as u64).to_le_bytes())?;
        sections.new.file.append(text.as_bytes())?;
        ends.into_iter().for_each(|(at, bytes)| sections.add(8 + text.len() as u64 + at, bytes));
        Ok(SafetensorsWriter { layout: layout.clone(), sections })
    }
}

impl Sink for SafetensorsWriter {
    fn write(&mut self, row: &Row<'_>) -> Result<()> {
        append_row(&mut self.sections, &self.layout, row)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.sections.flush()?;
        self.sections.new.finish()
    }
}

/// Opens the tensors of a file.
pub(super) fn open(path: &Path) -> Result<Arrays> {
    let failed = |source| Error::Io { action: "read", path: path.to_path_buf(), source };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    let mut reader = part_of(path, 0, u64::MAX)?;
    let mut bytes = [0; 8];
    reader.read_exact(&mut bytes).map_err(failed)?;
    let header = u64::from_le_bytes(bytes);
    if header > MAX_HEADER_BYTES {
        return Err(refused(path, format!("its header has {header} bytes, at most {MAX_HEADER_BYTES} were expected")));
    }
    let mut text = vec![0; header as usize];
    reader.read_exact(&mut text).map_err(failed)?;
    let odd = |what: String| refused(path, what);
    let header: BTreeMap<String, Value> =
        serde_json::from_slice(&text).map_err(|error| odd(format!("its header is not the JSON of one: {error}")))?;
    let begin = 8 + text.len() as u64;
    let (mut arrays, mut places) = (Vec::new(), BTreeMap::new());
    for (name, value) in header.iter().filter(|(name, _)| *name != METADATA) {
        let Some((array, at)) = tensor(value, begin, length) else {
            // Of other tensors nothing is needed.
            if [KEY, TIME, EMBEDDING, STATE, REMOVED].iter().any(|wanted| name.starts_with(wanted)) {
                return Err(odd(format!("tensor '{name}' is of a type that is not read, or its offsets do not fit the file")));
            }
            continue;
        };
        places.insert(name.clone(), (begin + at, array.bytes().unwrap_or(0)));
        arrays.push((name.clone(), array));
    }
    let optimizer = header.get(METADATA).and_then(|metadata| Some(metadata.get(OPTIMIZER)?.as_str()?.to_owned()));
    Arrays::open(path, &arrays, optimizer, |name| {
        let (at, bytes) = places.get(name).copied().unwrap_or((0, 0));
        part_of(path, at, bytes)
    })
}

/// A tensor and its offset behind the header.
fn tensor(value: &Value, begin: u64, length: u64) -> Option<(Array, u64)> {
    let number = match value.get("dtype")?.as_str()? {
        "F16" => Number::F16,
        "BF16" => Number::Bf16,
        "F32" => Number::F32,
        "F64" => Number::F64,
        "U8" => Number::U8,
        "BOOL" => Number::Bool,
        "U32" => Number::U32,
        "U64" => Number::U64,
        "I32" => Number::I32,
        "I64" => Number::I64,
        _ => return None,
    };
    let shape = value.get("shape")?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>()?;
    let offsets = value.get("data_offsets")?.as_array()?.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>()?;
    let [from, to] = offsets[..] else { return None };
    let array = Array { number, shape };
    let fits = begin.checked_add(to).is_some_and(|end| end <= length) && array.bytes() == to.checked_sub(from);
    fits.then_some((array, from))
}
