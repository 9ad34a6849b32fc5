//! What a file holds of each row, and the batches in which rows go in and out.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::quantize::Quantization;

/// The names of what a file holds of a row.
pub(super) const KEY: &str = "key";
pub(super) const TIME: &str = "time";
pub(super) const EMBEDDING: &str = "embedding";
pub(super) const STATE: &str = "state";
pub(super) const REMOVED: &str = "removed";
/// The most values of an embedding, or of a state, that a file may have.
pub(super) const MAX_VALUES: usize = 1 << 20;

/// What a file holds of each row besides its key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) rows: u64,
    /// f32s of an embedding.
    pub(super) dim: usize,
    /// f32s of optimizer state; 0 for none.
    pub(super) state: usize,
    pub(super) times: bool,
    /// Whether rows may be marked as removed.
    pub(super) removed: bool,
    /// How embeddings are encoded.
    pub(super) codec: Option<Quantization>,
    /// The optimizer whose state it is, where the file says so.
    pub(super) optimizer: Option<String>,
}

impl Layout {
    /// f32s of a row in memory.
    pub(super) fn width(&self) -> usize {
        self.dim + self.state
    }

    /// What the embeddings are called: an encoding that no reader would guess is in the name.
    pub(super) fn embedding_name(&self) -> String {
        self.codec.map_or(EMBEDDING.to_owned(), |codec| encoded_name(EMBEDDING, codec))
    }

    /// Bytes of an embedding in a file.
    pub(super) fn embedding_bytes(&self) -> usize {
        self.codec.map_or(self.dim * 4, |codec| codec.encoded_bytes(self.dim))
    }

    /// Appends an embedding as a file has it.
    pub(super) fn put_embedding(&self, embedding: &[f32], out: &mut Vec<u8>) {
        match self.codec {
            Some(codec) => codec.encode(embedding, out),
            None => put_f32s(embedding, out),
        }
    }
}

/// The name of encoded embeddings.
pub(super) fn encoded_name(name: &str, codec: Quantization) -> String {
    format!("{name}_{codec}")
}

/// The codecs of files: from the bytes of a row the values can be told.
pub(super) const FILE_CODECS: [Quantization; 3] = [Quantization::F16, Quantization::Bf16, Quantization::Int8];

/// How many values a row of so many encoded bytes has.
pub(super) fn encoded_values(codec: Quantization, bytes: usize) -> Option<usize> {
    let values = match codec {
        Quantization::Int8 => bytes.checked_sub(8)?,
        _ => bytes / 2,
    };
    (codec.encoded_bytes(values) == bytes).then_some(values)
}

pub(super) fn put_f32s(values: &[f32], out: &mut Vec<u8>) {
    out.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// Rows read from a file.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) keys: Vec<u64>,
    /// Empty where the file has none.
    pub(super) times: Vec<u64>,
    /// `width` f32s a row: embedding, then state.
    pub(super) lanes: Vec<f32>,
    /// Empty where the file has none.
    pub(super) removed: Vec<bool>,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.keys.clear();
        self.times.clear();
        self.lanes.clear();
        self.removed.clear();
    }
}

/// A file to be read, row by row.
pub(super) trait Source {
    fn layout(&self) -> &Layout;

    /// Reads the next rows, at most so many, into a batch that is empty; none at the end.
    fn read(&mut self, rows: usize, batch: &mut Batch) -> Result<()>;
}

/// A row to be written.
pub(super) struct Row<'a> {
    pub(super) key: u64,
    pub(super) time: u32,
    /// Empty for a row that was removed.
    pub(super) embedding: &'a [f32],
    pub(super) state: &'a [f32],
}

impl Row<'_> {
    pub(super) fn is_removed(&self) -> bool {
        self.embedding.is_empty()
    }
}

/// A file to be written, row by row; it has its name once it is finished.
pub(super) trait Sink {
    fn write(&mut self, row: &Row<'_>) -> Result<()>;

    fn finish(self: Box<Self>) -> Result<()>;
}
