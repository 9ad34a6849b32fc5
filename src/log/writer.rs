//! Appends frames to a segment. A write that failed may be tried again; a sync may not: what it lost is unknown.
#![forbid(unsafe_code)]

use std::path::Path;

use super::frame::FrameBuf;
use super::segment::SegmentHeader;
use crate::codec::{BlockSums, crc};
use crate::error::Result;
use crate::fs::{Fs, SyncFile, WriteFile};
use crate::kill_point::{KillPoint, reach};
use crate::plant::{Bug, planted};

/// Bytes before a frame's payload: length, kind and three zero bytes, checksum.
pub(super) const FRAME_HEADER_BYTES: usize = 12;
/// The longest payload.
pub(super) const MAX_PAYLOAD_BYTES: usize = 64 << 20;
/// Bytes gathered before they are handed to the file.
const BUFFER_BYTES: usize = 1 << 20;

/// See the module.
pub(crate) struct LogWriter {
    file: Box<dyn WriteFile>,
    /// Frames from `written` on, not yet in the file.
    buffer: Vec<u8>,
    written: u64,
    chain: u32,
    sums: Option<BlockSums>,
}

impl LogWriter {
    /// Creates a segment whose header and name are durable when it returns.
    pub(crate) fn create(fs: &dyn Fs, path: &Path, header: &SegmentHeader) -> Result<LogWriter> {
        let bytes = header.encode();
        let chain = bytes.last_chunk::<4>().map_or(0, |sum| u32::from_le_bytes(*sum));
        let mut file = fs.create(path)?;
        file.append(&bytes)?;
        file.sync()?;
        reach(KillPoint::SegmentHeaderSynced);
        if !planted(Bug::SegmentNameNotSynced) {
            fs.sync_dir(path.parent().unwrap_or(path))?;
        }
        reach(KillPoint::SegmentNamed);
        Ok(LogWriter { file, buffer: Vec::new(), written: bytes.len() as u64, chain, sums: None })
    }

    /// As [`LogWriter::create`], for a file that is written once, wholly, and summed on the way: a checksum of every `block_bytes`.
    pub(crate) fn create_summed(fs: &dyn Fs, path: &Path, header: &SegmentHeader, block_bytes: usize) -> Result<LogWriter> {
        let mut sums = BlockSums::new(block_bytes);
        sums.add(&header.encode());
        Ok(LogWriter { sums: Some(sums), ..LogWriter::create(fs, path, header)? })
    }

    /// Bytes of the segment so far, those in the buffer included.
    pub(crate) fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// The checksum of the last frame.
    pub(crate) fn chain(&self) -> u32 {
        self.chain
    }

    /// Adds a frame. If that fails the frame is not part of the segment, and all before it still are: call again when it is mended.
    pub(crate) fn append(&mut self, frame: &FrameBuf<'_>) -> Result<()> {
        let (length, chain) = (self.buffer.len(), self.chain);
        let mut head = [0; 8];
        head[..4].copy_from_slice(&(frame.payload_bytes() as u32).to_le_bytes());
        (head[4], head[5]) = (frame.kind, u8::from(frame.early));
        // The seed makes a frame out of its place fail; the checksum covers length and kind too.
        self.chain = crc(crc(crc(self.chain, &head), frame.head()), &frame.body);
        self.buffer.extend_from_slice(&head);
        self.buffer.extend_from_slice(&self.chain.to_le_bytes());
        self.buffer.extend_from_slice(frame.head());
        self.buffer.extend_from_slice(&frame.body);
        reach(KillPoint::FrameBuffered);
        let is_full = self.buffer.len() >= BUFFER_BYTES;
        let result = if is_full || frame.is_commit() { self.flush() } else { Ok(()) };
        if result.is_err() && !planted(Bug::FailedFrameKept) {
            self.buffer.truncate(length);
            self.chain = chain;
        }
        result
    }

    /// Hands the buffer to the file. What a failure left there is written over by the next attempt.
    fn flush(&mut self) -> Result<()> {
        self.file.write_at(self.written, &self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.sums.iter_mut().for_each(|sums| sums.add(&self.buffer));
        self.buffer.clear();
        reach(KillPoint::BufferWritten);
        Ok(())
    }

    /// A handle that makes what is in the file durable, while others go on appending.
    pub(crate) fn syncer(&self) -> Result<Box<dyn SyncFile>> {
        self.file.syncer()
    }

    /// Makes all frames durable, and returns the sums that were asked for.
    pub(crate) fn finish(mut self) -> Result<Option<BlockSums>> {
        self.flush()?;
        self.file.sync()?;
        Ok(self.sums)
    }
}
