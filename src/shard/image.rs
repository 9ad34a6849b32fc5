//! The after-image of a row: its key, time and lanes, as they stand in a log and, without the key, in the cold tier.
#![forbid(unsafe_code)]

use crate::error::Error;
use crate::types::{Key, UnixSeconds};

/// Bytes of an image before its lanes: key, time, four zero bytes.
pub(crate) const IMAGE_HEADER_BYTES: usize = 16;
/// Bytes of a cold value before its lanes: the time.
pub(super) const COLD_HEADER_BYTES: usize = 4;

/// Appends a row's image.
pub(crate) fn push_image(out: &mut Vec<u8>, key: Key, time: UnixSeconds, lanes: &[f32]) {
    out.extend_from_slice(&key.to_le_bytes());
    out.extend_from_slice(&time.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    push_lanes(out, lanes);
}

/// A row's key, time and the bytes of its lanes; `None` when there are too few.
pub(super) fn split_image(image: &[u8]) -> Option<(Key, UnixSeconds, &[u8])> {
    let (key, rest) = image.split_first_chunk()?;
    let (time, rest) = rest.split_first_chunk()?;
    Some((Key::from_le_bytes(*key), UnixSeconds::from_le_bytes(*time), rest.get(4..)?))
}

pub(super) fn push_lanes(out: &mut Vec<u8>, lanes: &[f32]) {
    if cfg!(target_endian = "little") {
        out.extend_from_slice(bytemuck::cast_slice(lanes));
    } else {
        lanes.iter().for_each(|lane| out.extend_from_slice(&lane.to_le_bytes()));
    }
}

/// Fills `lanes` from little-endian bytes of the same number of f32s.
pub(crate) fn read_lanes(bytes: &[u8], lanes: &mut [f32]) {
    let own: &mut [u8] = bytemuck::cast_slice_mut(lanes);
    if cfg!(target_endian = "little") && own.len() == bytes.len() {
        return own.copy_from_slice(bytes);
    }
    for (lane, bytes) in lanes.iter_mut().zip(bytes.chunks_exact(4)) {
        *lane = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
}

/// Splits a cold value; `None` when it has not the expected size.
pub(crate) fn split_cold(value: &[u8], lanes: usize) -> Option<(UnixSeconds, &[u8])> {
    let (time, lane_bytes) = value.split_first_chunk::<COLD_HEADER_BYTES>()?;
    (lane_bytes.len() == lanes * 4).then(|| (u32::from_le_bytes(*time), lane_bytes))
}

/// What a cold value is that [`split_cold`] refuses: never a row that is not there.
pub(crate) fn misfit(key: Key, bytes: usize, lanes: usize) -> Error {
    let message = format!("key {key} has {bytes} bytes, expected {}", COLD_HEADER_BYTES + lanes * 4);
    Error::Cold { action: "read a row", message }
}
