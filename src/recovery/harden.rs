//! Before a store goes on from a commit, the commit must be on the disk and not only in the memory of the operating system.
//!
//! A sync that failed leaves pages that read well, count as written and vanish at a power cut. A process that died in between
//! left such bytes behind the published mark: they are written once more, and synced.
#![forbid(unsafe_code)]

use std::path::Path;

use super::chain::Chain;
use super::survey::{Placed, Segment, Survey};
use crate::error::{Error, Result};
use crate::fs::{Fs, names, read_exact_at};
use crate::log::{Mark, MarkRecord};

/// Bytes rewritten at once.
const CHUNK_BYTES: u64 = 1 << 20;

/// Makes the chain durable up to its target, as far as the mark does not say that it is; and then has the mark say so, as replicas and
/// other readers would wait for the next commit otherwise.
pub(crate) fn harden(fs: &dyn Fs, dir: &Path, survey: &Survey, chain: &Chain) -> Result<()> {
    let marked = survey.mark.as_ref().map_or((0, 0), |mark| (mark.segment, mark.offset));
    let mut ends: Vec<(usize, u64)> = Vec::new();
    for (at, placed) in &chain.commits {
        match ends.last_mut() {
            Some((last, end)) if last == at => *end = placed.end,
            _ => ends.push((*at, placed.end)),
        }
    }
    for (at, end) in ends {
        let segment = &survey.segments[at];
        if (segment.number, end) > marked {
            let from = if segment.number == marked.0 { marked.1 } else { 0 };
            rewrite(fs, &segment.path, from, end)?;
            fs.sync_dir(&names::logs(dir))?;
        }
    }
    // Names too: a process may have died between a base's or the store's own creation and the sync of the directory above.
    let above = dir.parent().map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above });
    fs.sync_dir(&names::bases(dir))?;
    fs.sync_dir(dir)?;
    above.map_or(Ok(()), |above| fs.sync_dir(above))?;
    if let Some((at, placed)) = chain.commits.last()
        && (survey.segments[*at].number, placed.end) > marked
        && let Err(error) = publish(fs, dir, &survey.segments[*at], placed)
    {
        tracing::warn!(%error, "the last commit is durable, but its mark could not be published");
    }
    Ok(())
}

fn publish(fs: &dyn Fs, dir: &Path, segment: &Segment, placed: &Placed) -> Result<()> {
    let mark = MarkRecord { segment: segment.number, offset: placed.end, id: placed.record.id, hash: placed.record.hash };
    Mark::open_or_create(fs, &names::durable(dir))?.publish(mark)
}

fn rewrite(fs: &dyn Fs, path: &Path, from: u64, end: u64) -> Result<()> {
    let (reader, mut writer) = (fs.open_read(path)?, fs.open_write(path)?);
    let mut at = from;
    while at < end {
        let length =
            usize::try_from(CHUNK_BYTES.min(end - at)).map_err(|_| Error::corrupt(path, at, "the segment is too long"))?;
        let mut bytes = vec![0; length];
        read_exact_at(&*reader, path, at, &mut bytes)?;
        writer.write_at(at, &bytes)?;
        at += bytes.len() as u64;
    }
    writer.sync()
}
