//! Rows as a serving copy keeps them: the embedding alone, each segment as it is or by a codec.
//!
//! An encoded embedding is a row of lanes that mean nothing to the table: the segments' bytes one after another, then zeros up to a whole lane.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::context::lock;
use crate::quantize::Quantization;
use crate::schema::{Missing, TableSchema};
use crate::segments::{fill_initial, ranges};
use crate::sync::Mutex;
use crate::types::{Key, TableId, UnixSeconds};

/// In how many bytes a [`Replica`](crate::Replica) keeps embeddings: by default as the store does. What a segment is told counts before what
/// its table is told, and that before what all are told; `None` is as the store does.
///
/// ```
/// use embedrock::{Codecs, Quantization};
/// let codecs = Codecs::all(Quantization::Int8).segment("user", 0, None).table("page", Quantization::F16);
/// # drop(codecs);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Codecs {
    all: Option<Quantization>,
    tables: BTreeMap<String, Option<Quantization>>,
    segments: BTreeMap<(String, usize), Option<Quantization>>,
}

impl Codecs {
    /// The same for all tables.
    pub fn all(codec: impl Into<Option<Quantization>>) -> Codecs {
        Codecs { all: codec.into(), ..Codecs::default() }
    }

    /// For one table, there now or later.
    #[must_use]
    pub fn table(mut self, name: impl Into<String>, codec: impl Into<Option<Quantization>>) -> Codecs {
        self.tables.insert(name.into(), codec.into());
        self
    }

    /// For one segment of a table, counted from 0.
    #[must_use]
    pub fn segment(mut self, table: impl Into<String>, segment: usize, codec: impl Into<Option<Quantization>>) -> Codecs {
        self.segments.insert((table.into(), segment), codec.into());
        self
    }

    fn of(&self, table: &str, segment: usize) -> Option<Quantization> {
        let own = self.segments.get(&(table.to_owned(), segment)).or_else(|| self.tables.get(table));
        own.copied().unwrap_or(self.all)
    }
}

/// The layouts of all tables of a serving copy.
pub(crate) struct Serving {
    codecs: Codecs,
    layouts: Mutex<BTreeMap<TableId, Arc<Layout>>>,
}

impl Serving {
    pub(crate) fn new(codecs: Codecs) -> Serving {
        Serving { codecs, layouts: Mutex::default() }
    }

    /// The layout of a table that the store has so.
    pub(crate) fn layout(&self, logged: TableSchema) -> Layout {
        Layout::new(logged, &self.codecs)
    }

    pub(crate) fn insert(&self, id: TableId, layout: Layout) {
        lock(&self.layouts).insert(id, Arc::new(layout));
    }

    pub(crate) fn get(&self, id: TableId) -> Option<Arc<Layout>> {
        lock(&self.layouts).get(&id).cloned()
    }
}

/// A segment of an encoded embedding.
struct Piece {
    values: Range<usize>,
    codec: Option<Quantization>,
    bytes: Range<usize>,
}

/// How a table's rows lie in the log, and in the serving copy.
pub(crate) struct Layout {
    pub(crate) logged: TableSchema,
    pub(crate) served: TableSchema,
    /// Empty where embeddings are kept as the store does.
    pieces: Vec<Piece>,
}

impl Layout {
    pub(crate) fn new(logged: TableSchema, codecs: &Codecs) -> Layout {
        let (mut pieces, mut end) = (Vec::new(), 0);
        for (at, values) in ranges(logged.segments_ref()).enumerate() {
            let codec = codecs.of(logged.name(), at);
            let begin = end;
            end += codec.map_or(4 * values.len(), |codec| codec.encoded_bytes(values.len()));
            pieces.push(Piece { values, codec, bytes: begin..end });
        }
        if pieces.iter().all(|piece| piece.codec.is_none()) {
            pieces.clear();
        }
        let served = if pieces.is_empty() { logged.for_serving() } else { logged.for_encoded(end.div_ceil(4)) };
        Layout { logged, served, pieces }
    }

    pub(crate) fn is_encoded(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// Appends the image of a row whose lanes, as the log has them, are these.
    pub(crate) fn push(&self, (key, time): (Key, UnixSeconds), lanes: &[u8], out: &mut Vec<u8>) {
        push_head((key, time), out);
        if !self.is_encoded() {
            return out.extend_from_slice(&lanes[..self.served.row_bytes()]);
        }
        let lanes: Vec<f32> = lanes.as_chunks().0.iter().map(|lane| f32::from_le_bytes(*lane)).collect();
        self.encode(&self.logged.embedding(&lanes), out);
    }

    /// Appends the image of a row with this embedding.
    pub(crate) fn push_values(&self, (key, time): (Key, UnixSeconds), values: &[f32], out: &mut Vec<u8>) {
        push_head((key, time), out);
        match self.is_encoded() {
            true => self.encode(values, out),
            false => out.extend(self.logged.packed(values).iter().flat_map(|value| value.to_le_bytes())),
        }
    }

    /// Makes of an embedding what a lookup in the serving copy gives. `bytes` is room for one segment.
    pub(crate) fn round_trip(&self, values: &mut [f32], bytes: &mut Vec<u8>) {
        for piece in &self.pieces {
            if let Some(codec) = piece.codec {
                let values = &mut values[piece.values.clone()];
                bytes.clear();
                codec.encode(values, bytes);
                let fits = codec.decode(bytes, values);
                debug_assert!(fits, "as many bytes as were encoded");
            }
        }
    }

    fn encode(&self, values: &[f32], out: &mut Vec<u8>) {
        let whole = out.len() + self.served.row_bytes();
        for piece in &self.pieces {
            let values = &values[piece.values.clone()];
            match piece.codec {
                Some(codec) => codec.encode(values, out),
                None => out.extend(values.iter().flat_map(|value| value.to_le_bytes())),
            }
        }
        out.resize(whole, 0);
    }

    /// Gives the embedding of an encoded row.
    pub(crate) fn decode(&self, lanes: &[f32], bytes: &mut Vec<u8>, row: &mut [f32]) {
        bytes.clear();
        bytes.extend(lanes.iter().flat_map(|lane| lane.to_le_bytes()));
        for piece in &self.pieces {
            let (bytes, row) = (&bytes[piece.bytes.clone()], &mut row[piece.values.clone()]);
            let decoded = match piece.codec {
                Some(codec) => codec.decode(bytes, row),
                None => {
                    row.iter_mut().zip(bytes.as_chunks().0).for_each(|(value, bytes)| *value = f32::from_le_bytes(*bytes));
                    true
                }
            };
            debug_assert!(decoded, "a piece has the bytes of its codec");
        }
    }

    /// What a key without a row yields, as the store says.
    pub(crate) fn fill_missing(&self, (seed, table): (u64, TableId), key: Key, row: &mut [f32]) {
        match self.logged.missing_value() {
            Missing::Initial => {
                fill_initial(self.logged.segments_ref(), seed, table.0, key, row);
                self.logged.round(row);
            }
            Missing::Zeros => row.fill(0.0),
        }
    }
}

/// As `shard::push_image` does.
fn push_head((key, time): (Key, UnixSeconds), out: &mut Vec<u8>) {
    out.extend_from_slice(&key.to_le_bytes());
    out.extend_from_slice(&time.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segments::Segment;

    #[test]
    fn each_segment_goes_by_the_nearest_rule_and_comes_back_as_its_codec_says() {
        let schema = TableSchema::new("t", 10).segments([Segment::new(3), Segment::new(5), Segment::new(2)]);
        let codecs = Codecs::all(Quantization::OneBit).table("t", Quantization::Int8).segment("t", 1, None);
        let layout = Layout::new(schema, &codecs);
        // 3 + 8 bytes, 5 * 4, 2 + 8, and 3 to fill the last lane.
        assert_eq!((layout.served.dim(), layout.served.row_bytes()), (11, 44));
        let values = [1.0, -2.0, 0.5, 1e-9, 7.0, f32::MIN, 3.0, -0.0, 9.0, 9.5];
        let mut image = Vec::new();
        layout.push_values((7, 9), &values, &mut image);
        assert_eq!(image.len(), 16 + 44);
        let lanes: Vec<f32> = image[16..].as_chunks().0.iter().map(|lane| f32::from_le_bytes(*lane)).collect();
        let mut row = [0.0; 10];
        layout.decode(&lanes, &mut Vec::new(), &mut row);
        assert_eq!(row[3..8], values[3..8]);
        for part in [0..3, 8..10] {
            let (mut bytes, mut back) = (Vec::new(), vec![0.0; part.len()]);
            Quantization::Int8.encode(&values[part.clone()], &mut bytes);
            assert!(Quantization::Int8.decode(&bytes, &mut back));
            assert_eq!(row[part], back);
        }
        let mut again = Vec::new();
        let logged: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        layout.push((7, 9), &logged, &mut again);
        assert_eq!(again, image);
        assert!(!Layout::new(TableSchema::new("other", 4), &Codecs::all(None)).is_encoded());
    }
}
