//! Replays the frames of bases and of the log's history, in order, without their rows.
#![forbid(unsafe_code)]

use std::path::Path;

use super::VerifyReport;
use super::rehearsal::Rehearsal;
use crate::error::{Error, Result};
use crate::fs::{Fs, names};
use crate::log::{CommitRecord, Event, Frame, LogReader};
use crate::manifest::Manifest;
use crate::recovery::{Chain, Survey};

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
    let mut open: Option<(usize, LogReader)> = None;
    for (at, placed) in &chain.commits {
        let path = &survey.segments[*at].path;
        let mut reader = match open.take() {
            Some((same, reader)) if same == *at => reader,
            _ => LogReader::open(fs, path)?,
        };
        reader.seek(placed.start, placed.chain);
        report.take(rehearse_delta(&mut reader, path, placed.end, &mut tables))?;
        open = Some((*at, reader));
        tables.reached &= oldest.as_ref().is_some_and(|(base, _)| base.number != placed.record.base);
        if let Some((base, known)) = &oldest
            && !whole
            && placed.record.hash == base.begin_hash
        {
            tables = known.clone();
            tables.reached = !base.still;
        }
    }
    Ok(())
}

/// Up to `end`, where a commit ends. Behind the first frame that does not apply the others are looked at all the same.
fn rehearse_delta(reader: &mut LogReader, path: &Path, end: u64, tables: &mut Rehearsal) -> Result<()> {
    let mut first = None;
    while reader.position() < end {
        match reader.next()? {
            Event::Frame { offset, frame, .. } => {
                if let Err(what) = tables.apply(&frame) {
                    first.get_or_insert(Error::corrupt(path, offset, what));
                }
            }
            // It was read before, so it changed meanwhile.
            Event::End { offset } => return Err(Error::corrupt(path, offset, "the file became shorter")),
            Event::Torn { offset, what } => return Err(Error::corrupt(path, offset, what)),
        }
    }
    first.map_or(Ok(()), Err)
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
