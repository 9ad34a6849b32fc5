//! What became durable after a commit, read from that commit on and not from the oldest base.
#![forbid(unsafe_code)]

use std::path::Path;

use super::chain::find;
use super::survey::{Placed, Segment, Survey, read_commits, read_segment};
use crate::error::{Error, Result};
use crate::fs::{Fs, LockGuard, names};
use crate::log::{LogReader, MarkRecord};
use crate::types::CommitId;

/// A commit, and where it lies in the log.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) segment: u64,
    pub(crate) placed: Placed,
}

/// See the module.
pub(crate) struct Ahead {
    /// Of segments alone: from the one that holds the known commit on.
    pub(crate) survey: Survey,
    /// The known commit, then those after it, oldest first, each with the index of its segment.
    pub(crate) commits: Vec<(usize, Placed)>,
    /// Keeps the segments until they are read.
    pub(crate) _pin: Box<dyn LockGuard>,
}

/// The commits from `known` to the marked one. `None` if the log does not show that the one leads to the other: the store went back, or
/// retention has passed; [`choose`](super::choose) then says what is there.
pub(crate) fn ahead(fs: &dyn Fs, dir: &Path, known: &Place, mark: &MarkRecord) -> Result<Option<Ahead>> {
    let first = names::segment(dir, known.segment);
    let Some(pin) = fs.pin(&first)? else { return Ok(None) };
    let mut numbers: Vec<u64> =
        fs.list(&names::logs(dir))?.iter().filter_map(|entry| names::parse_segment(&entry.name)).collect();
    numbers.retain(|number| (known.segment..=mark.segment).contains(number));
    numbers.sort_unstable();
    let mut segments = Vec::new();
    for number in numbers {
        // Behind the mark the trainer writes.
        let end = if number == mark.segment { mark.offset } else { u64::MAX };
        let segment = if number == known.segment { read_from(fs, &first, known, end) } else { read(fs, dir, number, end) };
        match segment {
            Ok(segment) => segments.push(segment),
            // Of a creation that was cut, or damaged: who looks at all of it says which.
            Err(Error::Corrupt { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let commits = walk_back(&segments, known, mark);
    Ok(commits.map(|commits| {
        let survey = Survey {
            segments,
            bases: Vec::new(),
            bad_bases: Vec::new(),
            mark: Some(*mark),
            stillborn: Vec::new(),
            last_segment: mark.segment,
        };
        Ahead { survey, commits, _pin: pin }
    }))
}

/// The known commit and those after it in its segment, up to `end`.
fn read_from(fs: &dyn Fs, path: &Path, known: &Place, end: u64) -> Result<Segment> {
    let mut reader = LogReader::open(fs, path)?;
    let header = reader.header().clone();
    let mut segment =
        Segment { number: known.segment, path: path.to_path_buf(), bytes: end, header, commits: Vec::new(), torn: None };
    let Placed { record, start, chain, .. } = &known.placed;
    reader.seek(*start, *chain);
    let parent = CommitId { sequence: record.id.sequence.saturating_sub(1), ..record.id };
    read_commits(&mut reader, &mut segment, (parent, record.parent), (end, end))?;
    Ok(segment)
}

fn read(fs: &dyn Fs, dir: &Path, number: u64, end: u64) -> Result<Segment> {
    read_segment(fs, &names::segment(dir, number), (number, end), end)
}

/// From the marked commit back to the known one.
fn walk_back(segments: &[Segment], known: &Place, mark: &MarkRecord) -> Option<Vec<(usize, Placed)>> {
    let is_known = |placed: &Placed| placed.record.hash == known.placed.record.hash;
    segments.first()?.commits.first().filter(|placed| is_known(placed))?;
    let (mut at, mut place) = find(segments, (mark.id, mark.hash))?;
    let mut commits = Vec::new();
    loop {
        let segment = &segments[at];
        commits.extend(segment.commits[..=place].iter().rev().map(|placed| (at, placed.clone())));
        if at == 0 {
            commits.reverse();
            return Some(commits);
        }
        (at, place) = find(&segments[..at], (segment.header.parent, segment.header.parent_hash))?;
    }
}
