//! The frames of a delta: their payloads, typed, written and read. Decoding is total: any bytes give a frame or nothing.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use super::record::CommitRecord;
use crate::admission::{IMAGE_BYTES, Images, Shape};
use crate::codec::Reader;
use crate::quantize::Quantization;
use crate::types::{Key, TableId, UnixSeconds};

const CREATE_TABLE: u8 = 1;
const DROP_TABLE: u8 = 2;
const SETTINGS: u8 = 3;
const ROWS: u8 = 4;
const REMOVED: u8 = 5;
const COUNTS: u8 = 6;
const STATE: u8 = 7;
pub(super) const COMMIT: u8 = 8;
const FILTER: u8 = 9;
const QUANTIZED: u8 = 10;

const IMAGE_HEADER_BYTES: usize = 16;

/// A frame as read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame<'a> {
    /// A table begins.
    CreateTable { table: TableId, schema: &'a [u8] },
    /// A table ends.
    DropTable { table: TableId },
    /// A table's learning rate, admission or expiry changed.
    Settings { table: TableId, schema: &'a [u8] },
    /// After-images of rows of `lanes` f32s.
    Rows { table: TableId, lanes: u32, images: Rows<'a> },
    /// As `Rows`, with the embeddings, `dim` of the lanes, in fewer bytes: in copies that say so.
    Quantized { table: TableId, lanes: u32, dim: u32, codec: Quantization, images: Rows<'a> },
    /// Tombstones.
    Removed { table: TableId, keys: Keys<'a> },
    /// Admission counts; 0 means gone.
    Counts { table: TableId, counts: Counts<'a> },
    /// Lines of an admission filter.
    Filter { table: TableId, images: Images },
    /// A piece of the trainer's state.
    State(&'a [u8]),
    /// The end of a delta.
    Commit(CommitRecord),
}

/// After-images: key, time, four zero bytes, lanes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rows<'a> {
    bytes: &'a [u8],
    size: usize,
}

impl<'a> Rows<'a> {
    /// One behind the other.
    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Key, and the four bytes that are zero.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (Key, u32)> + use<'a> {
        self.bytes.chunks_exact(self.size).filter_map(|image| {
            let mut reader = Reader::new(image);
            let (key, _, reserved) = (reader.u64()?, reader.u32()?, reader.u32()?);
            Some((key, reserved))
        })
    }

    /// Key, time, and what follows them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, UnixSeconds, &'a [u8])> + use<'a> {
        self.bytes.chunks_exact(self.size).filter_map(|image| {
            let mut reader = Reader::new(image);
            let (key, time) = (reader.u64()?, reader.u32()?);
            reader.u32()?;
            Some((key, time, reader.rest()))
        })
    }
}

/// Keys, 8 bytes each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Keys<'a>(&'a [u8]);

impl<'a> Keys<'a> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = Key> + use<'a> {
        self.0.chunks_exact(8).filter_map(|bytes| Reader::new(bytes).u64())
    }
}

/// Keys and counts, 12 bytes each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Counts<'a>(&'a [u8]);

impl<'a> Counts<'a> {
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Key, u32)> + use<'a> {
        self.0.chunks_exact(12).filter_map(|bytes| {
            let mut reader = Reader::new(bytes);
            Some((reader.u64()?, reader.u32()?))
        })
    }
}

impl<'a> Frame<'a> {
    /// The table that the frame is of.
    pub(crate) fn table(&self) -> Option<TableId> {
        match self {
            Frame::CreateTable { table, .. }
            | Frame::DropTable { table }
            | Frame::Settings { table, .. }
            | Frame::Rows { table, .. }
            | Frame::Quantized { table, .. }
            | Frame::Removed { table, .. }
            | Frame::Counts { table, .. }
            | Frame::Filter { table, .. } => Some(*table),
            Frame::State(_) | Frame::Commit(_) => None,
        }
    }

    /// Whether the frame may belong to the delta after the one in which it stands.
    pub(super) fn may_be_early(&self) -> bool {
        matches!(self, Frame::Rows { .. } | Frame::Removed { .. })
    }

    /// The frame of a kind and payload; `None` when they don't make one.
    pub(crate) fn decode(kind: u8, payload: &'a [u8]) -> Option<Frame<'a>> {
        let mut reader = Reader::new(payload);
        match kind {
            STATE => return Some(Frame::State(payload)),
            COMMIT => return CommitRecord::decode(payload).map(Frame::Commit),
            _ => {}
        }
        let table = TableId(reader.u32()?);
        match kind {
            CREATE_TABLE => Some(Frame::CreateTable { table, schema: reader.rest() }),
            SETTINGS => Some(Frame::Settings { table, schema: reader.rest() }),
            DROP_TABLE => reader.is_empty().then_some(Frame::DropTable { table }),
            ROWS => {
                let lanes = reader.u32()?;
                let size = (lanes as usize).checked_mul(4)?.checked_add(IMAGE_HEADER_BYTES)?;
                let bytes = reader.rest();
                (lanes > 0 && bytes.len().is_multiple_of(size)).then_some(Frame::Rows {
                    table,
                    lanes,
                    images: Rows { bytes, size },
                })
            }
            QUANTIZED => {
                let (lanes, dim, code) = (reader.u32()?, reader.u32()?, reader.u32()?);
                let codec = Quantization::from_code(u8::try_from(code).ok()?)?;
                let state = (lanes.checked_sub(dim)? as usize).checked_mul(4)?;
                let size = codec.encoded_bytes(dim as usize).checked_add(state)?.checked_add(IMAGE_HEADER_BYTES)?;
                let bytes = reader.rest();
                let images = Rows { bytes, size };
                (dim > 0 && bytes.len().is_multiple_of(size)).then_some(Frame::Quantized { table, lanes, dim, codec, images })
            }
            REMOVED => reader.rest().len().is_multiple_of(8).then_some(Frame::Removed { table, keys: Keys(reader.rest()) }),
            COUNTS => reader.rest().len().is_multiple_of(12).then_some(Frame::Counts { table, counts: Counts(reader.rest()) }),
            FILTER => {
                let shape = Shape { window: reader.u32()?, lines: reader.u32()? };
                let (partition, generation, lines) = (reader.u32()?, reader.u32()?, reader.rest().to_vec());
                let images = Images { shape, partition, generation, lines };
                images.lines.len().is_multiple_of(IMAGE_BYTES).then_some(Frame::Filter { table, images })
            }
            _ => None,
        }
    }
}

/// A frame to write: its payload is the head and then the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FrameBuf<'a> {
    pub(super) kind: u8,
    /// Belongs to the delta after the one in which it stands.
    pub(super) early: bool,
    head: [u8; 8],
    head_bytes: usize,
    pub(super) body: Cow<'a, [u8]>,
}

impl<'a> FrameBuf<'a> {
    fn new(kind: u8, body: impl Into<Cow<'a, [u8]>>) -> FrameBuf<'a> {
        FrameBuf { kind, early: false, head: [0; 8], head_bytes: 0, body: body.into() }
    }

    fn of_table(kind: u8, table: TableId, rest: impl Into<Cow<'a, [u8]>>) -> FrameBuf<'a> {
        let mut frame = FrameBuf::new(kind, rest);
        frame.head[..4].copy_from_slice(&table.0.to_le_bytes());
        frame.head_bytes = 4;
        frame
    }

    pub(super) fn head(&self) -> &[u8] {
        &self.head[..self.head_bytes]
    }

    pub(super) fn payload_bytes(&self) -> usize {
        self.head_bytes + self.body.len()
    }

    /// The frame as one of the delta after the one that it is written into: a row changed after the cut left memory before the
    /// commit frame was written.
    pub(crate) fn early(self) -> FrameBuf<'a> {
        FrameBuf { early: true, ..self }
    }

    pub(super) fn is_commit(&self) -> bool {
        self.kind == COMMIT
    }

    pub(crate) fn create_table(table: TableId, schema: &'a [u8]) -> FrameBuf<'a> {
        FrameBuf::of_table(CREATE_TABLE, table, schema)
    }

    pub(crate) fn settings(table: TableId, schema: &'a [u8]) -> FrameBuf<'a> {
        FrameBuf::of_table(SETTINGS, table, schema)
    }

    pub(crate) fn drop_table(table: TableId) -> FrameBuf<'a> {
        FrameBuf::of_table(DROP_TABLE, table, Vec::new())
    }

    /// `images` as `shard::push_image` makes them, each of `lanes` f32s.
    pub(crate) fn rows(table: TableId, lanes: u32, images: &'a [u8]) -> FrameBuf<'a> {
        let mut frame = FrameBuf::of_table(ROWS, table, images);
        frame.head[4..].copy_from_slice(&lanes.to_le_bytes());
        frame.head_bytes = 8;
        frame
    }

    /// Images whose embeddings, of `dim` f32s, are encoded; the rest of their `lanes` is not.
    #[cfg(feature = "remote")]
    pub(crate) fn quantized(table: TableId, (lanes, dim): (usize, usize), codec: Quantization, images: &[u8]) -> FrameBuf<'a> {
        let mut head = Vec::with_capacity(images.len() + 12);
        for number in [lanes as u32, dim as u32, u32::from(codec.code())] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        head.extend_from_slice(images);
        FrameBuf::of_table(QUANTIZED, table, head)
    }

    pub(crate) fn removed(table: TableId, keys: &[Key]) -> FrameBuf<'a> {
        let bytes: Vec<u8> = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        FrameBuf::of_table(REMOVED, table, bytes)
    }

    pub(crate) fn counts(table: TableId, counts: &[(Key, u32)]) -> FrameBuf<'a> {
        let mut bytes = Vec::with_capacity(counts.len() * 12);
        for (key, count) in counts {
            bytes.extend_from_slice(&key.to_le_bytes());
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        FrameBuf::of_table(COUNTS, table, bytes)
    }

    /// Of `images` these lines.
    pub(crate) fn filter(table: TableId, images: &Images, lines: &[u8]) -> FrameBuf<'a> {
        let Images { shape, partition, generation, .. } = images;
        let numbers = [shape.window, shape.lines, *partition, *generation];
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend_from_slice(lines);
        FrameBuf::of_table(FILTER, table, bytes)
    }

    pub(crate) fn state(chunk: &'a [u8]) -> FrameBuf<'a> {
        FrameBuf::new(STATE, chunk)
    }

    pub(crate) fn commit(record: &CommitRecord) -> FrameBuf<'a> {
        FrameBuf::new(COMMIT, record.encode())
    }
}

#[cfg(all(test, feature = "remote"))]
mod tests {
    use super::*;

    /// Bytes that may lie on a disk: they are these for ever.
    #[test]
    fn quantised_rows_are_those_of_the_format() {
        let mut images = Vec::new();
        images.extend_from_slice(&9u64.to_le_bytes());
        images.extend_from_slice(&[5, 0, 0, 0, 0, 0, 0, 0]);
        Quantization::Bf16.encode(&[1.0, -0.5], &mut images);
        images.extend_from_slice(&3f32.to_le_bytes());
        let frame = FrameBuf::quantized(TableId(7), (3, 2), Quantization::Bf16, &images);
        let head = [7, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0];
        let image = [9, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3f, 0x00, 0xbf, 0, 0, 0x40, 0x40];
        let payload = [frame.head(), &frame.body].concat();
        assert_eq!((frame.kind, payload.clone()), (10, [&head[..], &image].concat()));
        let Some(Frame::Quantized { table: TableId(7), lanes: 3, dim: 2, codec: Quantization::Bf16, images }) =
            Frame::decode(10, &payload)
        else {
            panic!("another frame");
        };
        assert_eq!(images.iter().collect::<Vec<_>>(), [(9, 5, &image[16..])]);
        for (at, byte) in [(4, 1), (8, 0), (8, 9), (12, 0), (12, 5), (13, 1), (7, 0xff)] {
            let mut other = payload.clone();
            other[at] = byte;
            assert_eq!(Frame::decode(10, &other), None, "byte {at}");
        }
        assert_eq!(Frame::decode(10, &payload[..payload.len() - 1]), None);
    }
}
