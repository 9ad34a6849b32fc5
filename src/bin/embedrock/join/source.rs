//! Where events come from: lines of JSON, a Parquet file, or a broker's topic. Each is read on from what a commit says was taken of it.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use embedrock::join::Event;
use embedrock::{EventFile, EventRow};
use serde::Deserialize;

use super::Failure;

/// The longest line.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Events in their order.
pub(super) trait Source {
    /// Appends up to `most` events to `events`; returns whether there are no more now.
    fn take(&mut self, most: usize, events: &mut Vec<Event>) -> Result<bool, Failure>;

    /// What a commit says was taken: bytes of a file of lines, rows of a Parquet file, the offset of the next message.
    fn position(&self) -> u64;
}

/// Opens a place from `position` on.
pub(super) fn open(place: &Path, position: u64) -> Result<Box<dyn Source>, Failure> {
    if let Some(url) = place.to_str().filter(|place| place.starts_with(super::KAFKA)) {
        return topic(url, position);
    }
    if place.extension().is_some_and(|extension| extension == "parquet") {
        return Ok(Box::new(Rows::open(place, position)?));
    }
    Ok(Box::new(Lines::open(place, position)?))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    request: u64,
    time: u32,
    keys: Option<Vec<u64>>,
    #[serde(default)]
    dense: Vec<f32>,
    label: Option<f32>,
}

impl Line {
    fn event(self) -> Result<Event, &'static str> {
        let Line { request, time, keys, dense, label } = self;
        match (keys, label) {
            (Some(keys), None) => Ok(Event::Features { request, time, keys, dense }),
            (None, Some(label)) if dense.is_empty() => Ok(Event::Action { request, time, label }),
            _ => Err("either keys (and dense) of features, or the label of an action"),
        }
    }
}

fn parse(line: &[u8]) -> Result<Event, String> {
    let line: Line = serde_json::from_slice(line).map_err(|error| error.to_string())?;
    line.event().map_err(str::to_owned)
}

struct Lines {
    place: PathBuf,
    file: BufReader<File>,
    read: u64,
    line: Vec<u8>,
}

impl Lines {
    fn open(place: &Path, read: u64) -> Result<Lines, Failure> {
        let mut file = File::open(place).map_err(|error| format!("cannot open {}: {error}", place.display()))?;
        if file.metadata()?.len() < read {
            return Err(format!("{} is shorter than what was read of it, {read} bytes", place.display()).into());
        }
        file.seek(SeekFrom::Start(read))?;
        Ok(Lines { place: place.to_path_buf(), file: BufReader::new(file), read, line: Vec::new() })
    }

    fn at(&self, what: &str) -> String {
        format!("{} at byte {}: {what}", self.place.display(), self.read)
    }
}

impl Source for Lines {
    fn take(&mut self, most: usize, events: &mut Vec<Event>) -> Result<bool, Failure> {
        for _ in 0..most {
            self.line.clear();
            let length = Read::take(&mut self.file, MAX_LINE_BYTES).read_until(b'\n', &mut self.line)? as u64;
            // A last line without an end may still be written.
            if self.line.last() != Some(&b'\n') {
                return match length {
                    MAX_LINE_BYTES => Err(self.at(&format!("a line longer than {MAX_LINE_BYTES} bytes")).into()),
                    _ => Ok(true),
                };
            }
            events.push(parse(&self.line).map_err(|what| self.at(&what))?);
            self.read += length;
        }
        Ok(false)
    }

    fn position(&self) -> u64 {
        self.read
    }
}

struct Rows {
    place: PathBuf,
    file: EventFile,
    read: u64,
}

impl Rows {
    fn open(place: &Path, read: u64) -> Result<Rows, Failure> {
        let mut rows = Rows { place: place.to_path_buf(), file: EventFile::open(place)?, read: 0 };
        while rows.read < read {
            let skipped = rows.file.read(usize::try_from(read - rows.read)?.min(super::BATCH))?.len() as u64;
            if skipped == 0 {
                return Err(format!("{} is shorter than what was read of it, {read} rows", place.display()).into());
            }
            rows.read += skipped;
        }
        Ok(rows)
    }
}

impl Source for Rows {
    fn take(&mut self, most: usize, events: &mut Vec<Event>) -> Result<bool, Failure> {
        let rows = self.file.read(most)?;
        let ended = rows.is_empty();
        for row in rows {
            let EventRow { request, time, keys, dense, label, .. } = row;
            let event = Line { request, time, keys, dense, label }.event();
            events.push(event.map_err(|what| format!("{} at row {}: {what}", self.place.display(), self.read + 1))?);
            self.read += 1;
        }
        Ok(ended)
    }

    fn position(&self) -> u64 {
        self.read
    }
}

#[cfg(feature = "kafka")]
fn topic(url: &str, position: u64) -> Result<Box<dyn Source>, Failure> {
    Ok(Box::new(Messages { place: url.to_owned(), topic: embedrock::kafka::Topic::open(url)?, next: position }))
}

#[cfg(not(feature = "kafka"))]
fn topic(_: &str, _: u64) -> Result<Box<dyn Source>, Failure> {
    Err(super::WITHOUT_KAFKA.into())
}

/// A line of JSON a message.
#[cfg(feature = "kafka")]
struct Messages {
    place: String,
    topic: embedrock::kafka::Topic,
    next: u64,
}

#[cfg(feature = "kafka")]
impl Source for Messages {
    fn take(&mut self, most: usize, events: &mut Vec<Event>) -> Result<bool, Failure> {
        let found = self.topic.read(self.next, most)?;
        for record in found.records {
            let event = parse(&record.value.unwrap_or_default());
            events.push(event.map_err(|what| format!("{} at offset {}: {what}", self.place, record.offset))?);
        }
        self.next = found.next;
        Ok(found.ended)
    }

    fn position(&self) -> u64 {
        self.next
    }
}
