//! Where examples go: a file of lines, or a broker's topic.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::Path;

use super::Failure;

/// Takes examples, lines of JSON.
pub(super) trait Sink {
    fn write(&mut self, request: u64, line: Vec<u8>) -> Result<(), Failure>;

    /// What was written is durable when this returns.
    fn sync(&mut self) -> Result<(), Failure>;

    /// What a commit says was written: bytes of a file, messages of a topic.
    fn written(&self) -> u64;
}

/// Opens a place of which a commit knows `written`.
pub(super) fn open(place: &Path, written: u64) -> Result<Box<dyn Sink>, Failure> {
    match place.to_str().filter(|place| place.starts_with(super::KAFKA)) {
        Some(url) => topic(url, written),
        None => Ok(Box::new(Lines::open(place, written)?)),
    }
}

struct Lines {
    file: BufWriter<File>,
    written: u64,
}

impl Lines {
    fn open(place: &Path, written: u64) -> Result<Lines, Failure> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(place);
        let mut file = file.map_err(|error| format!("cannot open {}: {error}", place.display()))?;
        if file.metadata()?.len() < written {
            let place = place.display();
            return Err(format!("{place} has lost examples that were committed: it should have {written} bytes").into());
        }
        // What no commit knows comes again.
        file.set_len(written)?;
        file.seek(SeekFrom::Start(written))?;
        Ok(Lines { file: BufWriter::new(file), written })
    }
}

impl Sink for Lines {
    fn write(&mut self, _: u64, mut line: Vec<u8>) -> Result<(), Failure> {
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.written += line.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Failure> {
        self.file.flush()?;
        Ok(self.file.get_ref().sync_data()?)
    }

    fn written(&self) -> u64 {
        self.written
    }
}

#[cfg(feature = "kafka")]
fn topic(url: &str, written: u64) -> Result<Box<dyn Sink>, Failure> {
    Ok(Box::new(Messages { topic: embedrock::kafka::Topic::open(url)?, written, waiting: Vec::new() }))
}

#[cfg(not(feature = "kafka"))]
fn topic(_: &str, _: u64) -> Result<Box<dyn Sink>, Failure> {
    Err(super::WITHOUT_KAFKA.into())
}

/// A message an example, its key the request: one that no commit knew comes again after a crash, with the same key and the same words.
#[cfg(feature = "kafka")]
struct Messages {
    topic: embedrock::kafka::Topic,
    written: u64,
    waiting: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

#[cfg(feature = "kafka")]
impl Sink for Messages {
    fn write(&mut self, request: u64, line: Vec<u8>) -> Result<(), Failure> {
        self.waiting.push((request.to_string().into_bytes(), Some(line)));
        if self.waiting.len() == super::BATCH { self.sync() } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<(), Failure> {
        if !self.waiting.is_empty() {
            self.topic.write(&self.waiting)?;
            self.written += self.waiting.len() as u64;
            self.waiting.clear();
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        self.written
    }
}
