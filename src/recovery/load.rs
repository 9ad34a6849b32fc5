//! Rebuilding tables: a base's hot rows, then the deltas after it, through the same frames and the same code.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::Arc;

use super::chain::Chain;
use super::survey::{Placed, Survey};
use crate::catalog::{Catalog, LoadError};
use crate::cold::ColdTier;
use crate::error::{Error, Result};
use crate::fs::{Fs, names};
use crate::log::{CommitRecord, Event, Frame, LogReader};
use crate::manifest::Manifest;
use crate::plant::{Bug, planted};
use crate::shard::{misfit, split_cold};
use crate::table::Loader;
use crate::types::unmix;

/// The commit that was rebuilt and its trainer state.
#[derive(Debug, Default)]
pub(crate) struct Rebuild {
    pub(crate) record: CommitRecord,
    pub(crate) state: Arc<[u8]>,
}

/// What frames are loaded into.
pub(crate) struct Into<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) loader: Loader,
    /// The base loaded reaches into the delta in hand.
    reached: bool,
    meter: Meter<'a>,
}

/// Is told how many bytes of hot rows and deltas were read, of how many.
pub(crate) type Told<'a> = &'a dyn Fn(u64, u64);

#[derive(Default)]
struct Meter<'a> {
    read: u64,
    of: u64,
    told: Option<Told<'a>>,
}

impl Meter<'_> {
    fn add(&mut self, bytes: u64) {
        self.read += bytes;
        if let Some(told) = self.told {
            told(self.read.min(self.of), self.of);
        }
    }
}

impl<'a> Into<'a> {
    /// For the history of `chain` after `base`.
    pub(crate) fn new(
        fs: &dyn Fs,
        dir: &Path,
        catalog: &'a Catalog,
        (chain, base): (&Chain, Option<&Manifest>),
        told: Option<Told<'a>>,
    ) -> Into<'a> {
        let rows = chain.commits.last().map(|(_, placed)| placed.record.rows.clone()).unwrap_or_default();
        let hot_rows =
            |base: &Manifest| fs.open_read(&names::base(dir, base.number).join(names::HOT_ROWS)).map(|file| file.len());
        let log: u64 = chain.after(base).iter().map(|(_, placed)| placed.end - placed.start).sum();
        // That a file is missing is found when it is read.
        let bytes = log.saturating_add(base.and_then(|base| hot_rows(base).ok()).unwrap_or(0));
        Into { catalog, loader: Loader::expecting(rows, bytes), reached: false, meter: Meter { read: 0, of: bytes, told } }
    }

    /// For one delta.
    pub(crate) fn delta(catalog: &'a Catalog) -> Into<'a> {
        Into { catalog, loader: Loader::expecting(Vec::new(), 0), reached: false, meter: Meter::default() }
    }
}

/// Loads a base's hot rows; its cold ones are already under the catalog's cold tier.
pub(crate) fn load_base(fs: &dyn Fs, dir: &Path, base: &Manifest, into: &mut Into<'_>) -> Result<Rebuild> {
    let path = names::base(dir, base.number).join(names::HOT_ROWS);
    let mut reader = LogReader::open(fs, &path)?;
    let start = reader.position();
    let rebuild = load_until_commit(&mut reader, &path, start, into)?;
    into.loader.finish()?;
    match rebuild {
        Some((rebuild, _)) if rebuild.record.id == base.begin => Ok(rebuild),
        _ => Err(Error::corrupt(&path, reader.position(), format!("the file does not end in commit {}", base.begin))),
    }
}

/// Loads a base's cold rows, which a catalog that serves cannot take over as they are, from a cold tier opened on them.
pub(crate) fn load_cold(fs: &dyn Fs, dir: &Path, base: &Manifest, cold: &dyn ColdTier, into: &mut Into<'_>) -> Result<()> {
    let path = names::base(dir, base.number).join(names::HOT_ROWS);
    let mut reader = LogReader::open(fs, &path)?;
    while let Event::Frame { offset, frame, .. } = reader.next()? {
        if let Frame::CreateTable { .. } = frame {
            load_frame(&frame, &path, offset, into)?;
        }
    }
    for table in into.catalog.tables() {
        let Some(layout) = into.catalog.layout(table.id) else { continue };
        let (logged, mut image) = (layout.logged.lanes(), Vec::new());
        let mut rows = cold.rows(table.id, 0..=u64::MAX)?;
        while let Some((mixed, value)) = rows.next()? {
            let key = unmix(mixed);
            let (time, lanes) = split_cold(value, logged).ok_or_else(|| misfit(key, value.len(), logged))?;
            image.clear();
            layout.push((key, time), lanes, &mut image);
            into.loader.rows(&table, &image)?;
        }
    }
    into.loader.finish()
}

/// Applies the deltas of a chain after `base`; `rebuilt` is what the base gave.
pub(crate) fn replay(
    fs: &dyn Fs,
    survey: &Survey,
    chain: &Chain,
    base: Option<&Manifest>,
    (into, rebuilt): (&mut Into<'_>, Rebuild),
) -> Result<Rebuild> {
    let mut rebuilt = rebuilt;
    let mut open: Option<(usize, LogReader)> = None;
    // Frames of the next delta in the one before it. What stood in that of the base's own commit had left memory before the base
    // began, so the base has it, or what came of it.
    let mut early: Option<(usize, &Placed)> = None;
    // Up to the commit that makes it valid, which was cut after its last byte.
    into.reached = base.is_some_and(|base| !base.still);
    for (at, placed) in chain.after(base) {
        let has_early;
        (rebuilt, has_early) = replay_one(fs, survey, (*at, placed), (&mut open, early), into)?;
        early = has_early.then_some((*at, placed));
        into.reached &= base.is_some_and(|base| base.number != placed.record.base);
    }
    into.loader.finish()?;
    Ok(rebuilt)
}

/// A segment's number in the survey, and its reader where the last use left it.
pub(crate) type OpenSegment = (usize, LogReader);

/// Applies one delta to what the ones before it gave, and returns whether frames of the next one stand in it. `open` is the reader that the
/// last one left, `early` the delta before, if frames of this one may stand in it.
pub(crate) fn replay_one(
    fs: &dyn Fs,
    survey: &Survey,
    (at, placed): (usize, &Placed),
    (open, early): (&mut Option<OpenSegment>, Option<(usize, &Placed)>),
    into: &mut Into<'_>,
) -> Result<(Rebuild, bool)> {
    if let Some((before, holder)) = early
        && !planted(Bug::EarlyFramesIgnored)
        && (before == at || survey.segments[at].header.continues)
    {
        load_early(&mut reader_at(fs, survey, open, (before, holder))?, survey, (before, holder), into)?;
    }
    let path = &survey.segments[at].path;
    let mut reader = reader_at(fs, survey, open, (at, placed))?;
    let next = load_until_commit(&mut reader, path, placed.start, into)?;
    *open = Some((at, reader));
    let same = next.filter(|(next, _)| next.record.hash == placed.record.hash);
    same.ok_or_else(|| Error::corrupt(path, placed.start, "the delta changed while it was read"))
}

/// A reader at the first frame of a delta; `open` is taken if it is of the same segment.
pub(crate) fn reader_at(
    fs: &dyn Fs,
    survey: &Survey,
    open: &mut Option<OpenSegment>,
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
fn load_early(reader: &mut LogReader, survey: &Survey, (at, placed): (usize, &Placed), into: &mut Into<'_>) -> Result<()> {
    let path = &survey.segments[at].path;
    while reader.position() < placed.end {
        match reader.next()? {
            Event::Frame { early: false, .. } => {}
            Event::Frame { offset, frame, .. } => load_frame(&frame, path, offset, into)?,
            Event::End { offset } | Event::Torn { offset, .. } => {
                return Err(Error::corrupt(path, offset, "the delta changed while it was read"));
            }
        }
    }
    Ok(())
}

fn load_frame(frame: &Frame<'_>, path: &Path, offset: u64, into: &mut Into<'_>) -> Result<()> {
    let is_behind = if into.reached { into.catalog.is_behind(frame) } else { Ok(false) };
    let loaded = is_behind.and_then(|is_behind| if is_behind { Ok(()) } else { into.catalog.load(&mut into.loader, frame) });
    loaded.map_err(|error| match error {
        LoadError::Invalid(what) => Error::corrupt(path, offset, what),
        LoadError::Failed(error) => error,
    })
}

/// Loads a delta, or a base, and returns its commit and whether frames of the next delta stand in it; or nothing if it has no end.
fn load_until_commit(reader: &mut LogReader, path: &Path, start: u64, into: &mut Into<'_>) -> Result<Option<(Rebuild, bool)>> {
    let (mut state, mut has_early) = (Vec::new(), false);
    loop {
        let event = reader.next()?;
        if let Event::Frame { offset, end, .. } = &event {
            into.meter.add(end - offset);
        }
        match event {
            Event::End { .. } => return Ok(None),
            Event::Torn { offset, what } => return Err(Error::corrupt(path, offset, what)),
            Event::Frame { frame: Frame::State(chunk), .. } => state.extend_from_slice(chunk),
            Event::Frame { offset, frame: Frame::Commit(record), .. } => {
                if record.state_bytes != state.len() as u64 {
                    let what = format!("the commit's state has {} bytes, expected {}", state.len(), record.state_bytes);
                    return Err(Error::corrupt(path, offset, what));
                }
                into.catalog.load_commit(&record);
                return Ok(Some((Rebuild { record, state: state.into() }, has_early)));
            }
            Event::Frame { early: true, .. } if !planted(Bug::EarlyFramesInPlace) => has_early = true,
            Event::Frame { offset, frame, .. } => load_frame(&frame, path, offset.max(start), into)?,
        }
    }
}
