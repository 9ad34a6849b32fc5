//! Replays the frames of bases and of the log's history, in order, without their rows.
#![forbid(unsafe_code)]

use std::path::Path;

use super::VerifyReport;
use super::rehearsal::Rehearsal;
use crate::error::{Error, Result};
use crate::fs::{Fs, names};
use crate::log::{CommitRecord, Event, Frame, LogReader};
use crate::manifest::Manifest;
use crate::recovery::{Chain, OpenSegment, Placed, Survey, reader_at};

/// Reads the hot rows of each base that serves, and the log from its beginning or from the oldest of them on; what does not apply is damage.
pub(super) fn replay(fs: &dyn Fs, dir: &Path, (survey, chain): (&Survey, &Chain), report: &mut VerifyReport) -> Result<()> {
    let mut oldest = None;
    for base in chain.bases(survey) {
        let path = names::base(dir, base.number).join(names::HOT_ROWS);
        // Where its sums do not fit, its frames need not be looked at.
        let is_summed = !report.damage.iter().any(|damage| damage.path == path);
        let rehearsed = if is_summed { report.take(rehearse_base(fs, &path, base))? } else { None };
        oldest = rehearsed.map(|tables| (base, tables)).or(oldest);
    }
    let whole = chain.root.0.sequence == 0;
    let mut tables = Rehearsal::default();
    tables.midway = !whole;
    let mut open: Option<OpenSegment> = None;
    // As at recovery, frames of the next delta are looked at before it, where it takes them.
    let mut early: Option<(usize, &Placed)> = None;
    for (at, placed) in &chain.commits {
        if let Some((before, holder)) = early.take()
            && (before == *at || survey.segments[*at].header.continues)
        {
            let mut reader = reader_at(fs, survey, &mut open, (before, holder))?;
            let path = &survey.segments[before].path;
            report.take(rehearse_delta(&mut reader, path, (holder.end, true), &mut tables))?;
            open = Some((before, reader));
        }
        let path = &survey.segments[*at].path;
        let mut reader = reader_at(fs, survey, &mut open, (*at, placed))?;
        let has_early = report.take(rehearse_delta(&mut reader, path, (placed.end, false), &mut tables))?;
        early = has_early.unwrap_or(false).then_some((*at, placed));
        open = Some((*at, reader));
        tables.reached &= oldest.as_ref().is_some_and(|(base, _)| base.number != placed.record.base);
        if let Some((base, known)) = &oldest
            && !whole
            && placed.record.hash == base.begin_hash
        {
            tables = known.clone();
            tables.reached = !base.still;
            // What stands early in that delta had left memory before the base began.
            early = None;
        }
    }
    Ok(())
}

/// The early frames, or the others, up to `end`, where a commit ends; returns whether there are any early ones. Behind the first frame that
/// does not apply the others are looked at all the same.
fn rehearse_delta(reader: &mut LogReader, path: &Path, (end, early): (u64, bool), tables: &mut Rehearsal) -> Result<bool> {
    let (mut first, mut has_early) = (None, false);
    while reader.position() < end {
        match reader.next()? {
            Event::Frame { offset, frame, early: is_early, .. } => {
                has_early |= is_early;
                if is_early == early
                    && let Err(what) = tables.apply(&frame)
                {
                    first.get_or_insert(Error::corrupt(path, offset, what));
                }
            }
            // It was read before, so it changed meanwhile.
            Event::End { offset } => return Err(Error::corrupt(path, offset, "the file became shorter")),
            Event::Torn { offset, what } => return Err(Error::corrupt(path, offset, what)),
        }
    }
    first.map_or(Ok(has_early), Err)
}

/// The tables of a base.
fn rehearse_base(fs: &dyn Fs, path: &Path, base: &Manifest) -> Result<Rehearsal> {
    let (mut reader, mut tables) = (LogReader::open(fs, path)?, Rehearsal::default());
    loop {
        match reader.next()? {
            Event::Frame { offset, frame: Frame::Commit(record), .. } => {
                let CommitRecord { id, hash, .. } = record;
                if (id, hash) != (base.begin, base.begin_hash) {
                    return Err(Error::corrupt(
                        path,
                        offset,
                        format!("commit {id}, expected {} as the manifest has it", base.begin),
                    ));
                }
                return tables.begin(&record).map(|()| tables).map_err(|what| Error::corrupt(path, offset, what));
            }
            Event::Frame { offset, frame, .. } => tables.apply(&frame).map_err(|what| Error::corrupt(path, offset, what))?,
            Event::End { offset } => return Err(Error::corrupt(path, offset, format!("no commit {} at the end", base.begin))),
            Event::Torn { offset, what } => return Err(Error::corrupt(path, offset, what)),
        }
    }
}
