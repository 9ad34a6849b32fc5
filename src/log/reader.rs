//! Reads a segment frame by frame, and says where the first one lies that does not check.
#![forbid(unsafe_code)]

use std::path::Path;

use super::frame::{COMMIT, Frame};
use super::segment::{HEADER_BYTES, SegmentHeader};
use super::writer::{FRAME_HEADER_BYTES, MAX_PAYLOAD_BYTES};
use crate::codec::{Reader, crc};
use crate::error::Result;
use crate::fs::{Fs, ReadFile};
use crate::plant::{Bug, planted};

/// Bytes read at once. With less the system's read-ahead does not keep a disk busy.
const CHUNK_BYTES: usize = 4 << 20;
/// The same where only the heads of frames are looked at: those of small frames lie together, those of large ones do not.
const HEADS_BYTES: usize = 256 << 10;
const HEAD_BYTES: usize = 4 << 10;

/// See the module.
pub(crate) struct LogReader {
    file: Box<dyn ReadFile>,
    header: SegmentHeader,
    buffer: Vec<u8>,
    /// Where the buffer begins in the file, how much of it was consumed, and how much was read.
    base: u64,
    used: usize,
    filled: usize,
    chain: u32,
    /// Bytes to read at once.
    ahead: usize,
}

/// The head of a frame.
struct Head {
    length: usize,
    kind: u8,
    early: u8,
    reserved: [u8; 2],
    sum: u32,
}

impl Head {
    fn of(bytes: &[u8]) -> Option<Head> {
        let mut reader = Reader::new(bytes);
        let length = reader.u32()? as usize;
        let (kind, early, reserved) = (reader.u8()?, reader.u8()?, [reader.u8()?, reader.u8()?]);
        Some(Head { length, kind, early, reserved, sum: reader.u32()? })
    }

    fn whole(&self) -> usize {
        FRAME_HEADER_BYTES + self.length
    }
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
        Ok(LogReader {
            file,
            header,
            buffer: Vec::new(),
            base: HEADER_BYTES as u64,
            used: 0,
            filled: 0,
            chain,
            ahead: CHUNK_BYTES,
        })
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
        match offset.checked_sub(self.base).and_then(|used| usize::try_from(used).ok()) {
            Some(used) if used <= self.filled => self.used = used,
            _ => (self.base, self.used, self.filled) = (offset, 0, 0),
        }
        self.chain = chain;
    }

    /// The next event; after `End` or `Torn` the same again.
    pub(crate) fn next(&mut self) -> Result<Event<'_>> {
        self.ahead = CHUNK_BYTES;
        let offset = self.position();
        let torn = |what: String| Ok(Event::Torn { offset, what });
        let have = self.fill(FRAME_HEADER_BYTES)?;
        if have == 0 {
            return Ok(Event::End { offset });
        }
        let Some(head) = Head::of(&self.buffer[self.used..self.used + have]) else {
            return torn(format!("the file ends {have} bytes into a frame"));
        };
        let left = self.file.len().saturating_sub(offset + FRAME_HEADER_BYTES as u64);
        if head.length > MAX_PAYLOAD_BYTES || head.length as u64 > left {
            return torn(format!("a frame of {} bytes where {left} are left", head.length));
        }
        let whole = head.whole();
        if self.fill(whole)? < whole {
            return torn("the file became shorter".into());
        }
        let bytes = &self.buffer[self.used..self.used + whole];
        let (found, sum) = (crc(crc(self.chain, &bytes[..8]), &bytes[FRAME_HEADER_BYTES..]), head.sum);
        if found != sum && !planted(Bug::ChecksumNotCompared) {
            return torn(format!("the frame's checksum is {found:08x}, expected {sum:08x}"));
        }
        let sound = |frame: &Frame<'_>| head.reserved == [0; 2] && (head.early == 0 || head.early == 1 && frame.may_be_early());
        let Some(frame) = Frame::decode(head.kind, &bytes[FRAME_HEADER_BYTES..]).filter(sound) else {
            return torn(format!("a frame of kind {} that does not decode", head.kind));
        };
        self.used += whole;
        self.chain = sum;
        Ok(Event::Frame { offset, end: offset + whole as u64, early: head.early == 1, frame })
    }

    /// Goes past the next frame without reading what it holds, if it ends at or before `until` and is no commit; else stays where
    /// it is, for [`LogReader::next`]. What the head says is not checked: not whether the frame is sound, only where it ends.
    pub(crate) fn pass(&mut self, until: u64) -> Result<bool> {
        let have = self.fill(FRAME_HEADER_BYTES)?;
        let Some(head) = Head::of(&self.buffer[self.used..self.used + have]) else { return Ok(false) };
        let end = self.position() + head.whole() as u64;
        if head.kind == COMMIT || head.kind == 0 || head.length > MAX_PAYLOAD_BYTES || end > until.min(self.file.len()) {
            return Ok(false);
        }
        self.ahead = if head.length < HEAD_BYTES { HEADS_BYTES } else { HEAD_BYTES };
        self.seek(end, head.sum);
        Ok(true)
    }

    /// Makes `want` bytes from the position on available; returns how many there are, at most `want`.
    fn fill(&mut self, want: usize) -> Result<usize> {
        let have = self.filled - self.used;
        if have < want {
            self.buffer.copy_within(self.used..self.filled, 0);
            self.base += self.used as u64;
            (self.used, self.filled) = (0, have);
            let end = self.base + have as u64;
            // No more than the file has: a length from the file never decides how much is allocated.
            let more = self.file.len().saturating_sub(end).min((want - have).max(self.ahead) as u64) as usize;
            // Bytes that were filled before are not cleared again.
            if self.buffer.len() < have + more {
                self.buffer.resize(have + more, 0);
            }
            self.filled += self.file.read_at(end, &mut self.buffer[have..have + more])?;
        }
        Ok((self.filled - self.used).min(want))
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
