//! Little-endian reading that never panics, checksums, compression. The only file that names `crc32fast` and `zstd`.
#![forbid(unsafe_code)]

/// A cursor over bytes of unknown origin: every read says whether there was enough.
#[derive(Clone, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The bytes not read yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*bytes)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn f32(&mut self) -> Option<f32> {
        self.array().map(f32::from_le_bytes)
    }
}

/// CRC-32 (IEEE 802.3) of `bytes`, going on from `seed`: chained, a unit out of its place does not check.
pub(crate) fn crc(seed: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(bytes);
    hasher.finalize()
}

/// How bytes are packed: the first byte says.
#[cfg(feature = "remote")]
mod packing {
    pub(super) const AS_THEY_ARE: u8 = 0;
    pub(super) const COMPRESSED: u8 = 1;
    /// Of each four bytes first the first ones, then the second ones: those of a float's exponent are much alike.
    pub(super) const SHUFFLED: u8 = 2;
    /// Bytes on which the two ways are tried.
    pub(super) const SAMPLE: usize = 256 << 10;
}

/// Bytes made fewer by Zstandard, shuffled first where a sample says that this helps; a byte more where nothing does.
#[cfg(feature = "remote")]
pub(crate) fn pack(bytes: &[u8], level: i32) -> std::io::Result<Vec<u8>> {
    use packing::{AS_THEY_ARE, COMPRESSED, SAMPLE, SHUFFLED};
    let middle = bytes.len().saturating_sub(SAMPLE) / 2;
    let sample = &bytes[middle..(middle + SAMPLE).min(bytes.len())];
    let (plain, shuffled) = (zstd::bulk::compress(sample, level)?, zstd::bulk::compress(&shuffle(sample), level)?);
    let method = if shuffled.len() < plain.len() { SHUFFLED } else { COMPRESSED };
    let whole =
        if method == SHUFFLED { zstd::bulk::compress(&shuffle(bytes), level) } else { zstd::bulk::compress(bytes, level) }?;
    let (method, content) = if whole.len() < bytes.len() { (method, &whole[..]) } else { (AS_THEY_ARE, bytes) };
    Ok([&[method], content].concat())
}

/// The `length` bytes that were packed; `None` if these are not they. No more is allocated than `length`, and twice that to shuffle.
#[cfg(feature = "remote")]
pub(crate) fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
    let (method, content) = packed.split_first()?;
    let bytes = match *method {
        packing::AS_THEY_ARE => content.to_vec(),
        packing::COMPRESSED => zstd::bulk::decompress(content, length).ok()?,
        packing::SHUFFLED => unshuffle(&zstd::bulk::decompress(content, length).ok()?),
        _ => return None,
    };
    (bytes.len() == length).then_some(bytes)
}

#[cfg(feature = "remote")]
fn shuffle(bytes: &[u8]) -> Vec<u8> {
    let (fours, rest) = bytes.as_chunks::<4>();
    let mut out = Vec::with_capacity(bytes.len());
    (0..4).for_each(|at| out.extend(fours.iter().map(|four| four[at])));
    out.extend_from_slice(rest);
    out
}

#[cfg(feature = "remote")]
fn unshuffle(bytes: &[u8]) -> Vec<u8> {
    let quarter = bytes.len() / 4;
    let mut out = vec![0; bytes.len()];
    for (at, plane) in bytes.chunks(quarter.max(1)).take(if quarter > 0 { 4 } else { 0 }).enumerate() {
        out[at..quarter * 4].iter_mut().step_by(4).zip(plane).for_each(|(out, byte)| *out = *byte);
    }
    out[quarter * 4..].copy_from_slice(&bytes[quarter * 4..]);
    out
}

/// A checksum of every so many bytes of what comes piece by piece; each is seeded by its number.
#[derive(Debug)]
pub(crate) struct BlockSums {
    block_bytes: usize,
    sums: Vec<u32>,
    bytes: u64,
    /// Of the block begun last, and its bytes so far.
    open: u32,
    filled: usize,
}

impl BlockSums {
    pub(crate) fn new(block_bytes: usize) -> BlockSums {
        BlockSums { block_bytes, sums: Vec::new(), bytes: 0, open: 0, filled: 0 }
    }

    pub(crate) fn add(&mut self, mut bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.block_bytes - self.filled));
            self.open = crc(self.open, now);
            self.filled += now.len();
            if self.filled == self.block_bytes {
                self.close();
            }
            bytes = later;
        }
    }

    fn close(&mut self) {
        self.sums.push(self.open);
        (self.open, self.filled) = (self.sums.len() as u32, 0);
    }

    /// All bytes, and their sums.
    pub(crate) fn finish(mut self) -> (u64, Vec<u32>) {
        if self.filled > 0 {
            self.close();
        }
        (self.bytes, self.sums)
    }
}

/// Decompresses a Zstandard stream as it is read, for the trainer's input files.
#[cfg(feature = "train")]
pub(crate) fn zstd_reader<'a>(reader: impl std::io::Read + Send + 'a) -> std::io::Result<Box<dyn std::io::Read + Send + 'a>> {
    Ok(Box::new(zstd::Decoder::new(reader)?))
}

#[cfg(test)]
#[cfg(feature = "remote")]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_and_other_bytes_do_not() {
        let floats: Vec<u8> =
            (0..5000u32).flat_map(|i| (1.0 + (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 1e9).to_le_bytes()).collect();
        let noise: Vec<u8> = floats.chunks(3).map(|three| blake3::hash(three).as_bytes()[0]).collect();
        let text: Vec<u8> = b"the same again and ".repeat(900);
        for (bytes, method) in
            [(&floats, 2), (&noise, 0), (&text, 1), (&Vec::new(), 0), (&vec![7], 0), (&floats[..4003].to_vec(), 2)]
        {
            let packed = pack(bytes, 3).unwrap();
            assert_eq!(packed[0], method, "{} bytes", bytes.len());
            assert!(packed.len() <= bytes.len() + 1);
            assert_eq!(unpack(&packed, bytes.len()).as_ref(), Some(bytes));
            assert_eq!(unpack(&packed, bytes.len() + 1), None);
            assert!(bytes.is_empty() || unpack(&packed, bytes.len() - 1).is_none());
            for at in 0..packed.len().min(50) {
                let mut other = packed.clone();
                other[at] ^= 0x41;
                let _any = unpack(&other, bytes.len());
                let _cut = unpack(&packed[..at], bytes.len());
            }
        }
        assert_eq!(unpack(&[], 0), None);
        assert_eq!(unpack(&[9, 1], 1), None);
    }
}
