//! Reads a segment frame by frame, and says where the first one lies that does not check.
#![forbid(unsafe_code)]

use std::path::Path;

use super::frame::Frame;
use super::segment::{HEADER_BYTES, SegmentHeader};
use super::writer::{FRAME_HEADER_BYTES, MAX_PAYLOAD_BYTES};
use crate::codec::crc;
use crate::error::Result;
use crate::fs::{Fs, ReadFile};
use crate::plant::{Bug, planted};

/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 20;

/// See the module.
pub(crate) struct LogReader {
    file: Box<dyn ReadFile>,
    header: SegmentHeader,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file, and how much of it was consumed.
    base: u64,
    used: usize,
    chain: u32,
}

/// What comes next in a segment.
#[derive(Debug, PartialEq)]
pub(crate) enum Event<'a> {
    /// A sound frame between two offsets; an early one belongs to the next delta.
    Frame { offset: u64, end: u64, early: bool, frame: Frame<'a> },
    /// The file ends after a whole frame.
    End { offset: u64 },
    /// The bytes from here are no frame: a tail that a crash cut, or damage. The reader cannot know which.
    Torn { offset: u64, what: String },
}

impl LogReader {
    /// Opens a segment and checks its header.
    pub(crate) fn open(fs: &dyn Fs, path: &Path) -> Result<LogReader> {
        let file = fs.open_read(path)?;
        let mut head = [0; HEADER_BYTES];
        let read = file.read_at(0, &mut head)?;
        let (header, chain) = SegmentHeader::decode(path, &head[..read])?;
        Ok(LogReader { file, header, buffer: Vec::new(), base: HEADER_BYTES as u64, used: 0, chain })
    }

    pub(crate) fn header(&self) -> &SegmentHeader {
        &self.header
    }

    /// Where the next frame begins.
    pub(crate) fn position(&self) -> u64 {
        self.base + self.used as u64
    }

    /// The checksum of the last frame read.
    pub(crate) fn chain(&self) -> u32 {
        self.chain
    }

    /// Goes to a frame whose offset, and the checksum before it, were seen before.
    pub(crate) fn seek(&mut self, offset: u64, chain: u32) {
        if offset != self.position() {
            self.buffer.clear();
            (self.base, self.used) = (offset, 0);
        }
        self.chain = chain;
    }

    /// The next event; after `End` or `Torn` the same again.
    pub(crate) fn next(&mut self) -> Result<Event<'_>> {
        let offset = self.position();
        let torn = |what: String| Ok(Event::Torn { offset, what });
        let have = self.fill(FRAME_HEADER_BYTES)?;
        if have == 0 {
            return Ok(Event::End { offset });
        }
        if have < FRAME_HEADER_BYTES {
            return torn(format!("the file ends {have} bytes into a frame"));
        }
        let head = &self.buffer[self.used..self.used + FRAME_HEADER_BYTES];
        let length = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let (kind, early) = (head[4], head[5]);
        let reserved = [head[6], head[7]];
        let sum = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        let left = self.file.len().saturating_sub(offset + FRAME_HEADER_BYTES as u64);
        if length > MAX_PAYLOAD_BYTES || length as u64 > left {
            return torn(format!("a frame of {length} bytes where {left} are left"));
        }
        let whole = FRAME_HEADER_BYTES + length;
        if self.fill(whole)? < whole {
            return torn("the file became shorter".into());
        }
        let bytes = &self.buffer[self.used..self.used + whole];
        let found = crc(crc(self.chain, &bytes[..8]), &bytes[FRAME_HEADER_BYTES..]);
        if found != sum && !planted(Bug::ChecksumNotCompared) {
            return torn(format!("the frame's checksum is {found:08x}, expected {sum:08x}"));
        }
        let sound = |frame: &Frame<'_>| reserved == [0; 2] && (early == 0 || early == 1 && frame.may_be_early());
        let Some(frame) = Frame::decode(kind, &bytes[FRAME_HEADER_BYTES..]).filter(sound) else {
            return torn(format!("a frame of kind {kind} that does not decode"));
        };
        self.used += whole;
        self.chain = sum;
        Ok(Event::Frame { offset, end: offset + whole as u64, early: early == 1, frame })
    }

    /// Makes `want` bytes from the position on available; returns how many there are, at most `want`.
    fn fill(&mut self, want: usize) -> Result<usize> {
        let have = self.buffer.len() - self.used;
        if have < want {
            self.buffer.drain(..self.used);
            self.base += self.used as u64;
            self.used = 0;
            let end = self.base + self.buffer.len() as u64;
            // No more than the file has: a length from the file never decides how much is allocated.
            let more = self.file.len().saturating_sub(end).min((want - have).max(CHUNK_BYTES) as u64) as usize;
            let old = self.buffer.len();
            self.buffer.resize(old + more, 0);
            let read = self.file.read_at(end, &mut self.buffer[old..])?;
            self.buffer.truncate(old + read);
        }
        Ok((self.buffer.len() - self.used).min(want))
    }
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader")
            .field("segment", &self.header.segment)
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}
