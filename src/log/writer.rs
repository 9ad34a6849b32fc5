//! Appends frames to a segment. What it does after a failure is nothing.
#![forbid(unsafe_code)]

use std::path::Path;

use super::frame::FrameBuf;
use super::segment::SegmentHeader;
use crate::codec::crc;
use crate::error::{Error, Result};
use crate::fs::{Fs, WriteFile};

/// Bytes before a frame's payload: length, kind and three zero bytes, checksum.
pub(super) const FRAME_HEADER_BYTES: usize = 12;
/// The longest payload.
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 << 20;
/// Bytes gathered before they are handed to the file.
const BUFFER_BYTES: usize = 1 << 20;

/// See the module.
pub(crate) struct LogWriter {
    file: Box<dyn WriteFile>,
    buffer: Vec<u8>,
    position: u64,
    chain: u32,
    failed: bool,
}

impl LogWriter {
    /// Creates a segment whose header and name are durable when it returns.
    pub(crate) fn create(fs: &dyn Fs, path: &Path, header: &SegmentHeader) -> Result<LogWriter> {
        let bytes = header.encode();
        let chain = bytes.last_chunk::<4>().map_or(0, |sum| u32::from_le_bytes(*sum));
        let mut file = fs.create(path)?;
        file.append(&bytes)?;
        file.sync()?;
        fs.sync_dir(path.parent().unwrap_or(path))?;
        Ok(LogWriter { file, buffer: Vec::new(), position: bytes.len() as u64, chain, failed: false })
    }

    /// Bytes of the segment so far, those in the buffer included.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// The checksum of the last frame.
    pub(crate) fn chain(&self) -> u32 {
        self.chain
    }

    pub(crate) fn append(&mut self, frame: &FrameBuf) -> Result<()> {
        let mut head = [0; 8];
        head[..4].copy_from_slice(&(frame.payload.len() as u32).to_le_bytes());
        head[4] = frame.kind;
        // The seed makes a frame out of its place fail; the checksum covers length and kind too.
        self.chain = crc(crc(self.chain, &head), &frame.payload);
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(&self.chain.to_le_bytes());
        self.buffer.extend_from_slice(&frame.payload);
        self.position += (FRAME_HEADER_BYTES + frame.payload.len()) as u64;
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    /// Hands the buffer to the file.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.guard(|writer| writer.file.append(&writer.buffer))?;
        self.buffer.clear();
        Ok(())
    }

    /// Makes what was flushed durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        self.guard(|writer| writer.file.sync())
    }

    /// After a failure it is unknown what the file holds: a second try could hide a loss.
    fn guard(&mut self, act: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if self.failed {
            return Err(Error::Poisoned { reason: "an earlier write to the log failed".into() });
        }
        let result = act(self);
        self.failed = result.is_err();
        result
    }
}
