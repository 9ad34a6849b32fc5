//! Rebuilding tables: a base's hot rows, then the deltas after it, through the same frames and the same code.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use super::chain::Chain;
use super::survey::{Placed, Survey};
use crate::catalog::{Catalog, LoadError};
use crate::error::{Error, Result};
use crate::fs::{Fs, names};
use crate::log::{CommitRecord, Event, Frame, LogReader};
use crate::manifest::Manifest;
use crate::plant::{Bug, planted};

/// The commit that was rebuilt and its trainer state.
#[derive(Debug, Default)]
pub(crate) struct Rebuild {
    pub(crate) record: CommitRecord,
    pub(crate) state: Arc<[u8]>,
}

/// Loads a base's hot rows; its cold ones are already under the catalog's cold tier.
pub(crate) fn load_base(fs: &dyn Fs, dir: &Path, base: &Manifest, catalog: &Catalog) -> Result<Rebuild> {
    let path = names::base(dir, base.number).join(names::HOT_ROWS);
    let mut reader = LogReader::open(fs, &path)?;
    let start = reader.position();
    match load_until_commit(&mut reader, &path, start, catalog)? {
        Some(rebuild) if rebuild.record.id == base.begin => Ok(rebuild),
        _ => Err(Error::corrupt(&path, reader.position(), format!("the file does not end in commit {}", base.begin))),
    }
}

/// Applies the deltas of a chain after `base`; `rebuilt` is what the base gave.
pub(crate) fn replay(
    fs: &dyn Fs,
    survey: &Survey,
    chain: &Chain,
    base: Option<&Manifest>,
    (catalog, rebuilt): (&Catalog, Rebuild),
) -> Result<Rebuild> {
    let mut rebuilt = rebuilt;
    let mut open: Option<(usize, LogReader)> = None;
    let first = chain.commits.len() - chain.after(base).len();
    for (place, (at, placed)) in chain.commits.iter().enumerate().skip(first) {
        if let Some((before, early)) = place.checked_sub(1).and_then(|before| chain.commits.get(before))
            && early.has_early
            && !planted(Bug::EarlyFramesIgnored)
            && (before == at || survey.segments[*at].header.continues)
        {
            load_early(&mut reader_at(fs, survey, &mut open, (*before, early))?, survey, (*before, early), catalog)?;
        }
        let path = &survey.segments[*at].path;
        let mut reader = reader_at(fs, survey, &mut open, (*at, placed))?;
        match load_until_commit(&mut reader, path, placed.start, catalog)? {
            Some(next) if next.record.hash == placed.record.hash => rebuilt = next,
            _ => return Err(Error::corrupt(path, placed.start, "the delta changed while it was read")),
        }
        open = Some((*at, reader));
    }
    Ok(rebuilt)
}

/// A reader at the first frame of a delta; `open` is taken if it is of the same segment.
fn reader_at(
    fs: &dyn Fs,
    survey: &Survey,
    open: &mut Option<(usize, LogReader)>,
    (at, placed): (usize, &Placed),
) -> Result<LogReader> {
    let mut reader = match open.take() {
        Some((same, reader)) if same == at => reader,
        _ => LogReader::open(fs, &survey.segments[at].path)?,
    };
    reader.seek(placed.start, placed.chain);
    Ok(reader)
}

/// Loads what a delta holds of the one after it.
fn load_early(reader: &mut LogReader, survey: &Survey, (at, placed): (usize, &Placed), catalog: &Catalog) -> Result<()> {
    let path = &survey.segments[at].path;
    while reader.position() < placed.end {
        match reader.next()? {
            Event::Frame { early: false, .. } => {}
            Event::Frame { offset, frame, .. } => load_frame(&frame, path, offset, catalog)?,
            Event::End { offset } | Event::Torn { offset, .. } => {
                return Err(Error::corrupt(path, offset, "the delta changed while it was read"));
            }
        }
    }
    Ok(())
}

fn load_frame(frame: &Frame<'_>, path: &Path, offset: u64, catalog: &Catalog) -> Result<()> {
    catalog.load(frame).map_err(|error| match error {
        LoadError::Invalid(what) => Error::corrupt(path, offset, what),
        LoadError::Failed(error) => error,
    })
}

fn load_until_commit(reader: &mut LogReader, path: &Path, start: u64, catalog: &Catalog) -> Result<Option<Rebuild>> {
    let mut state = Vec::new();
    loop {
        match reader.next()? {
            Event::End { .. } => return Ok(None),
            Event::Torn { offset, what } => return Err(Error::corrupt(path, offset, what)),
            Event::Frame { frame: Frame::State(chunk), .. } => state.extend_from_slice(chunk),
            Event::Frame { offset, frame: Frame::Commit(record), .. } => {
                if record.state_bytes != state.len() as u64 {
                    let what = format!("the commit's state has {} bytes, expected {}", state.len(), record.state_bytes);
                    return Err(Error::corrupt(path, offset, what));
                }
                catalog.load_commit(&record);
                return Ok(Some(Rebuild { record, state: state.into() }));
            }
            Event::Frame { early: true, .. } if !planted(Bug::EarlyFramesInPlace) => {}
            Event::Frame { offset, frame, .. } => load_frame(&frame, path, offset.max(start), catalog)?,
        }
    }
}
