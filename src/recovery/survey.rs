//! What is on disk: the segments and where their commits end, the bases, the mark. Looking changes nothing.
#![forbid(unsafe_code)]

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{Fs, names};
use crate::log::{CommitRecord, Event, Frame, LogReader, Mark, MarkRecord, SegmentHeader};
use crate::manifest::Manifest;
use crate::plant::{Bug, planted};
use crate::types::{CommitHash, CommitId};

/// A commit and where its delta lies in its segment.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) record: CommitRecord,
    pub(crate) start: u64,
    pub(crate) end: u64,
    /// The checksum before its first frame.
    pub(crate) chain: u32,
}

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) header: SegmentHeader,
    pub(crate) commits: Vec<Placed>,
    /// Where the first frame that does not check begins, and what is wrong with it.
    pub(crate) torn: Option<(u64, String)>,
}

/// A segment without a sound header.
#[derive(Debug)]
pub(crate) struct Stillborn {
    pub(crate) number: u64,
    pub(crate) path: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) offset: u64,
    pub(crate) what: String,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) segments: Vec<Segment>,
    /// Sound manifests, ascending by number.
    pub(crate) bases: Vec<Manifest>,
    /// Manifests that do not check.
    pub(crate) bad_bases: Vec<Error>,
    pub(crate) mark: Option<MarkRecord>,
    /// Segments whose header is not whole: a crash cut their creation, and others may have followed; or they are damaged.
    pub(crate) stillborn: Vec<Stillborn>,
    /// The largest segment number in use.
    pub(crate) last_segment: u64,
}

/// Reads the whole log, checking every frame, and all manifests.
pub(crate) fn survey(fs: &dyn Fs, dir: &Path, store: [u8; 16]) -> Result<Survey> {
    look(fs, dir, store, false)
}

/// As [`survey`], but of what was published as durable only the commits are checked: whoever rebuilds from the frames between
/// them reads and checks those then, and nobody else needs them.
pub(crate) fn glance(fs: &dyn Fs, dir: &Path, store: [u8; 16]) -> Result<Survey> {
    look(fs, dir, store, true)
}

fn look(fs: &dyn Fs, dir: &Path, store: [u8; 16], trusts: bool) -> Result<Survey> {
    let mut survey = Survey {
        segments: Vec::new(),
        bases: Vec::new(),
        bad_bases: Vec::new(),
        mark: Mark::read(fs, &names::durable(dir))?,
        stillborn: Vec::new(),
        last_segment: 0,
    };
    let mut files: Vec<(u64, u64)> = Vec::new();
    for entry in fs.list(&names::logs(dir))? {
        files.extend(names::parse_segment(&entry.name).map(|number| (number, entry.len)));
    }
    files.sort_unstable();
    let marked = survey.mark.as_ref().filter(|_| trusts).map_or((0, 0), |mark| (mark.segment, mark.offset));
    for &(number, bytes) in &files {
        survey.last_segment = number;
        let path = names::segment(dir, number);
        let until = match number.cmp(&marked.0) {
            Ordering::Less => u64::MAX,
            Ordering::Equal => marked.1,
            Ordering::Greater => 0,
        };
        match read_segment(fs, &path, (number, bytes), until) {
            Ok(segment) if segment.header.store != store => {
                return Err(Error::corrupt(&path, 0, "the segment belongs to another store"));
            }
            Ok(segment) => survey.segments.push(segment),
            Err(Error::Corrupt { offset, what, .. }) => {
                survey.stillborn.push(Stillborn { number, path, bytes, offset, what });
            }
            Err(error) => return Err(error),
        }
    }
    check_tails(fs, &mut survey, marked.0)?;
    for entry in fs.list(&names::bases(dir))? {
        let Some(number) = names::parse_base(&entry.name) else { continue };
        let path = names::base(dir, number).join(names::MANIFEST);
        match Manifest::read(fs, &path) {
            Ok(manifest) if manifest.number == number => survey.bases.push(manifest),
            Ok(_) => survey.bad_bases.push(Error::corrupt(&path, 0, "the manifest is another base's")),
            Err(error @ Error::Corrupt { .. }) => survey.bad_bases.push(error),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                survey.bad_bases.push(Error::corrupt(&path, 0, "the manifest is missing"));
            }
            // Not damage: what cannot be read now, or by this version, must not be passed over.
            Err(error) => return Err(error),
        }
    }
    survey.bases.sort_by_key(|base| base.number);
    Ok(survey)
}

/// Segments before the marked one are durable up to the commit that a later one follows. What else is in them was cut once, and may
/// be anything.
fn check_tails(fs: &dyn Fs, survey: &mut Survey, marked: u64) -> Result<()> {
    for at in 0..survey.segments.len() {
        let (before, later) = survey.segments.split_at_mut(at + 1);
        let Some(segment) = before.last_mut().filter(|segment| segment.number < marked) else { continue };
        let followed = |placed: &Placed| later.iter().any(|other| other.header.parent_hash == placed.record.hash);
        let end = segment.commits.iter().rev().find(|placed| followed(placed)).map_or(0, |placed| placed.end);
        if end < segment.bytes {
            *segment = read_segment(fs, &segment.path, (segment.number, segment.bytes), end)?;
        }
    }
    Ok(())
}

/// Reads a segment; up to `until` only the commits.
pub(super) fn read_segment(fs: &dyn Fs, path: &Path, (number, bytes): (u64, u64), until: u64) -> Result<Segment> {
    let mut reader = LogReader::open(fs, path)?;
    let header = reader.header().clone();
    if header.segment != number {
        return Err(Error::corrupt(path, 0, format!("the header says segment {}", header.segment)));
    }
    let mut segment = Segment { number, path: path.to_path_buf(), bytes, header, commits: Vec::new(), torn: None };
    let parent = (segment.header.parent, segment.header.parent_hash);
    read_commits(&mut reader, &mut segment, parent, (until, u64::MAX))?;
    Ok(segment)
}

/// Reads the commits from where the reader is, the first of which follows `parent`, up to the one that ends at or behind `end`. Of
/// frames up to `until` only those of commits are checked.
pub(super) fn read_commits(
    reader: &mut LogReader,
    segment: &mut Segment,
    (mut id, mut parent): (CommitId, CommitHash),
    (until, end): (u64, u64),
) -> Result<()> {
    let (mut start, mut first_chain, mut frames) = (reader.position(), reader.chain(), 0);
    while start < end {
        while reader.pass(until)? {
            frames += 1;
        }
        let chain = reader.chain();
        match reader.next()? {
            Event::End { .. } => return Ok(()),
            Event::Torn { offset, what } => {
                segment.torn = Some((offset, what));
                return Ok(());
            }
            Event::Frame { offset, end, frame: Frame::Commit(record), .. } => {
                id = CommitId { timeline: segment.header.timeline, sequence: id.sequence.saturating_add(1) };
                let follows = record.id == id && record.parent == parent && record.frames == frames;
                if (!follows || !record.is_sealed_by(chain)) && !planted(Bug::CommitNotCompared) {
                    segment.torn = Some((offset, "a commit that does not follow from what is before it".into()));
                    return Ok(());
                }
                (parent, frames) = (record.hash, 0);
                segment.commits.push(Placed { record, start, end, chain: first_chain });
                (start, first_chain) = (end, reader.chain());
            }
            Event::Frame { .. } => frames += 1,
        }
    }
    Ok(())
}
