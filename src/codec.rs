//! A stub of the engine's codec: only what the trainer's readers need.
#![forbid(unsafe_code)]
use std::io::Read;

/// Decompresses a zstd stream as it is read.
pub(crate) fn zstd_reader(reader: impl Read + Send + 'static) -> std::io::Result<Box<dyn Read + Send>> {
    Ok(Box::new(zstd::stream::read::Decoder::new(reader)?))
}
