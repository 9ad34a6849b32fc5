//! NumPy's archives: a zip of arrays. Written without compression; read also with deflate.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use flate2::read::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::arrays::{Array, Arrays, part_of};
use super::layout::{Layout, Row, Sink};
use super::numpy::{header, read_header};
use super::refused;
use super::safetensors::{append_row, tensors};
use super::sections::Sections;
use crate::codec::crc;
use crate::error::{Error, Result};
use crate::quantize::Quantization;

/// The most arrays of an archive that are looked at.
const MAX_ARRAYS: usize = 1000;
/// Version 4.5 of the format: 64-bit lengths.
const VERSION: u16 = 45;
/// The first day that the format knows.
const DAY: u16 = 0x21;

/// An array of the archive being written.
struct Member {
    name: String,
    /// Where its local header begins.
    at: u64,
    /// Bytes of the array, with NumPy's header.
    bytes: u64,
    /// The checksum of NumPy's header.
    head: u32,
    head_bytes: u64,
}

/// Writes arrays side by side.
pub(super) struct NpzWriter {
    layout: Layout,
    sections: Sections,
    members: Vec<Member>,
    end: u64,
}

impl NpzWriter {
    pub(super) fn create(path: &Path, layout: &Layout) -> Result<NpzWriter> {
        if layout.codec == Some(Quantization::Bf16) {
            return Err(refused(path, "NumPy has no bf16: write safetensors, or f16 or int8"));
        }
        let too_many = || refused(path, "there are too many rows");
        let (mut sections, mut members, mut at) = (Sections::create(path)?, Vec::new(), 0u64);
        for tensor in tensors(layout) {
            let descr = match tensor.dtype {
                "U64" => "'<u8'",
                "U32" => "'<u4'",
                "F32" => "'<f4'",
                "F16" => "'<f2'",
                _ => "'|u1'",
            };
            let shape: Vec<u64> = std::iter::once(layout.rows).chain(tensor.width.map(|width| width as u64)).collect();
            let head = header(descr, &shape);
            let data = layout.rows.checked_mul(tensor.bytes as u64).ok_or_else(too_many)?;
            let member = Member {
                name: format!("{}.npy", tensor.name),
                at,
                bytes: data.checked_add(head.len() as u64).ok_or_else(too_many)?,
                head: crc(0, &head),
                head_bytes: head.len() as u64,
            };
            let local = local_header(&member, 0);
            let data_at = at + local.len() as u64;
            sections.new.file.write_at(data_at, &head)?;
            sections.add(data_at + head.len() as u64, data);
            at = data_at.checked_add(member.bytes).ok_or_else(too_many)?;
            members.push(member);
        }
        Ok(NpzWriter { layout: layout.clone(), sections, members, end: at })
    }
}

impl Sink for NpzWriter {
    fn write(&mut self, row: &Row<'_>) -> Result<()> {
        append_row(&mut self.sections, &self.layout, row)
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let data = self.sections.flush()?;
        let mut central = Vec::new();
        for (member, data) in self.members.iter().zip(data) {
            let sum = join_crcs(member.head, data, member.bytes - member.head_bytes);
            self.sections.new.file.write_at(member.at, &local_header(member, sum))?;
            central.extend(central_header(member, sum));
        }
        let directory = central.len() as u64;
        central.extend(end_of_directory(self.members.len() as u64, directory, self.end));
        self.sections.new.file.write_at(self.end, &central)?;
        self.sections.new.finish()
    }
}

/// The checksum of two parts one after the other, from those of each: zeros are run through the first.
fn join_crcs(first: u32, second: u32, second_bytes: u64) -> u32 {
    // A linear map over bits: one for a zero bit, squared again and again.
    let times = |map: &[u32; 32], mut bits: u32| {
        let mut sum = 0;
        for row in map {
            sum ^= if bits & 1 == 1 { *row } else { 0 };
            bits >>= 1;
        }
        sum
    };
    let square = |map: &[u32; 32]| map.map(|row| times(map, row));
    let mut map = [0; 32];
    map[0] = 0xedb8_8320;
    (1..32).for_each(|bit| map[bit] = 1 << (bit - 1));
    // From a bit to a byte.
    (0..3).for_each(|_| map = square(&map));
    let (mut sum, mut left) = (first, second_bytes);
    while left > 0 {
        sum = if left & 1 == 1 { times(&map, sum) } else { sum };
        map = square(&map);
        left >>= 1;
    }
    sum ^ second
}

fn put(out: &mut Vec<u8>, shorts: &[u16]) {
    out.extend(shorts.iter().flat_map(|short| short.to_le_bytes()));
}

/// What local and central headers have in common: from the version needed to the lengths, which stand elsewhere.
fn put_member(out: &mut Vec<u8>, member: &Member, sum: u32, extra: u16) {
    put(out, &[VERSION, 0, 0, 0, DAY]);
    out.extend_from_slice(&sum.to_le_bytes());
    out.extend_from_slice(&[0xff; 8]);
    put(out, &[member.name.len() as u16, extra]);
}

fn local_header(member: &Member, sum: u32) -> Vec<u8> {
    let mut out = b"PK\x03\x04".to_vec();
    put_member(&mut out, member, sum, 20);
    out.extend_from_slice(member.name.as_bytes());
    put(&mut out, &[1, 16]);
    (0..2).for_each(|_| out.extend_from_slice(&member.bytes.to_le_bytes()));
    out
}

fn central_header(member: &Member, sum: u32) -> Vec<u8> {
    let mut out = b"PK\x01\x02".to_vec();
    put(&mut out, &[VERSION]);
    put_member(&mut out, member, sum, 28);
    put(&mut out, &[0, 0, 0, 0, 0]);
    out.extend_from_slice(&[0xff; 4]);
    out.extend_from_slice(member.name.as_bytes());
    put(&mut out, &[1, 24]);
    [member.bytes, member.bytes, member.at].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out
}

fn end_of_directory(members: u64, bytes: u64, at: u64) -> Vec<u8> {
    let mut out = b"PK\x06\x06".to_vec();
    out.extend_from_slice(&44u64.to_le_bytes());
    put(&mut out, &[VERSION, VERSION, 0, 0, 0, 0]);
    [members, members, bytes, at].iter().for_each(|number| out.extend_from_slice(&number.to_le_bytes()));
    out.extend_from_slice(b"PK\x06\x07\0\0\0\0");
    out.extend_from_slice(&(at + bytes).to_le_bytes());
    out.extend_from_slice(&[1, 0, 0, 0]);
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    put(&mut out, &[members as u16, members as u16]);
    out.extend_from_slice(&[0xff; 8]);
    put(&mut out, &[0]);
    out
}

/// Where an array lies in an archive.
struct Place {
    name: String,
    at: u64,
    packed: u64,
    bytes: u64,
    deflated: bool,
    sum: u32,
}

impl Place {
    fn open(&self, path: &Path) -> Result<Box<dyn Read>> {
        let part = part_of(path, self.at, self.packed)?;
        let plain: Box<dyn Read> = if self.deflated { Box::new(DeflateDecoder::new(part)) } else { part };
        Ok(Box::new(Checked { inner: plain.take(self.bytes), left: self.bytes, sum: 0, expected: self.sum }))
    }
}

/// Compares the checksum once all was read.
struct Checked<R> {
    inner: R,
    left: u64,
    sum: u32,
    expected: u32,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buf)?;
        self.sum = crc(self.sum, &buf[..read]);
        self.left -= read as u64;
        if self.left == 0 && self.sum != self.expected {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an array of the archive has another checksum than it says"));
        }
        Ok(read)
    }
}

/// Opens the arrays of an archive.
pub(super) fn open(path: &Path) -> Result<Arrays> {
    let file = File::open(path).map_err(|source| Error::Io { action: "open", path: path.to_path_buf(), source })?;
    let odd = |what: String| refused(path, what);
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|error| odd(format!("it is no zip archive: {error}")))?;
    let (mut places, mut arrays): (Vec<Place>, Vec<(String, Array)>) = Default::default();
    for at in 0..archive.len().min(MAX_ARRAYS) {
        let member = archive.by_index_raw(at).map_err(|error| odd(format!("member {at} cannot be read: {error}")))?;
        let name = member.name().map_err(|error| odd(format!("member {at} cannot be read: {error}")))?;
        let Some(name) = name.strip_suffix(".npy").map(str::to_owned) else { continue };
        let deflated = match member.compression() {
            CompressionMethod::Stored => false,
            method if method == CompressionMethod::DEFLATE => true,
            other => return Err(odd(format!("array '{name}' is compressed by {other:?}, which is not read"))),
        };
        let Some(at) = member.data_start().filter(|_| !member.encrypted()) else {
            return Err(odd(format!("array '{name}' is encrypted, or nowhere")));
        };
        places.push(Place { name, at, packed: member.compressed_size(), bytes: member.size(), deflated, sum: member.crc32() });
    }
    for place in &places {
        let found = read_header(path, &mut *place.open(path)?)?;
        let fits = |array: &Array| array.bytes().and_then(|bytes| bytes.checked_add(found.bytes)) == Some(place.bytes);
        if let Some(array) = found.array() {
            if !fits(&array) {
                return Err(odd(format!("array '{}' has not as many bytes as its shape says", place.name)));
            }
            arrays.push((place.name.clone(), array));
        }
    }
    Arrays::open(path, &arrays, None, |name| {
        let place = places.iter().find(|place| place.name == name).ok_or_else(|| odd(format!("it has no array '{name}'")))?;
        let mut reader = place.open(path)?;
        read_header(path, &mut *reader)?;
        Ok(reader)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_of_parts_join() {
        let bytes: Vec<u8> = (0..1000u32).map(|i| (i * i / 7) as u8).collect();
        for at in [0, 1, 2, 77, 512, 999, 1000] {
            let (first, second) = bytes.split_at(at);
            assert_eq!(join_crcs(crc(0, first), crc(0, second), second.len() as u64), crc(0, &bytes), "{at}");
        }
    }
}
