//! Which history leads to a commit: from the newest segment back through the parents, and the base to begin from.
#![forbid(unsafe_code)]

use std::path::Path;

use super::survey::{Placed, Segment, Survey};
use crate::error::{Error, Result};
use crate::fs::names;
use crate::log::CommitRecord;
use crate::manifest::Manifest;
use crate::plant::{Bug, planted};
use crate::types::{At, CommitHash, CommitId};

/// The commits up to the wanted one, oldest first, each with the index of its segment.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) commits: Vec<(usize, Placed)>,
    /// What the first of them follows.
    pub(crate) root: (CommitId, CommitHash),
    /// Bytes after the last commit that a crash left unfinished.
    pub(crate) bytes_cut: u64,
    /// Whether the next commit begins a new timeline.
    pub(crate) new_timeline: bool,
}

impl Chain {
    /// The commit that the chain leads to.
    pub(crate) fn target(&self) -> (CommitId, CommitHash) {
        self.commits.last().map_or(self.root, |(_, placed)| (placed.record.id, placed.record.hash))
    }

    /// The commits that can be had, oldest first: from the first on for which there is a base, or all of a log from its beginning.
    pub(crate) fn restorable(&self, survey: &Survey) -> Vec<CommitId> {
        let first = match self.root.0.sequence {
            0 => Some(1),
            _ => survey.bases.iter().filter_map(|base| self.valid_from(base)).min(),
        };
        let ids = std::iter::once(self.root.0).chain(self.commits.iter().map(|(_, placed)| placed.record.id));
        ids.filter(|id| first.is_some_and(|first| id.sequence >= first)).collect()
    }

    /// The bases that are valid for the chain's target, the best first.
    ///
    /// A base is valid when its begin lies on the chain and either nothing changed while it was written, or a commit that
    /// names it, and so was cut after its last byte, lies on the chain too.
    pub(crate) fn bases<'a>(&self, survey: &'a Survey) -> Vec<&'a Manifest> {
        let mut bases: Vec<_> = survey.bases.iter().filter(|base| self.valid_from(base).is_some()).collect();
        bases.sort_by_key(|base| std::cmp::Reverse((base.begin.sequence, base.number)));
        bases
    }

    /// The sequence number of the first commit that can be rebuilt from a base.
    fn valid_from(&self, base: &Manifest) -> Option<u64> {
        let begin = (base.begin, base.begin_hash);
        let on_chain = begin == self.root || self.commits.iter().any(|(_, p)| (p.record.id, p.record.hash) == begin);
        let names = |record: &CommitRecord| record.base == base.number && record.id.sequence > base.begin.sequence;
        let named = self.commits.iter().find(|(_, p)| names(&p.record)).map(|(_, p)| p.record.id.sequence);
        let valid_from = if base.still || planted(Bug::BaseValidTooEarly) { Some(base.begin.sequence) } else { named };
        valid_from.filter(|_| on_chain)
    }

    /// The commits after a base's begin, or all when there is none.
    pub(crate) fn after(&self, base: Option<&Manifest>) -> &[(usize, Placed)] {
        let begin = base.map_or(0, |base| base.begin.sequence);
        let first = self.commits.partition_point(|(_, placed)| placed.record.id.sequence <= begin);
        &self.commits[first..]
    }
}

/// Chooses the chain to `at`.
pub(crate) fn choose(survey: &Survey, dir: &Path, at: At) -> Result<Chain> {
    let newest = check_mark(survey, dir).and_then(|()| latest(survey, dir));
    let At::Commit(id) = at else { return newest };
    // A commit that is whole can be had although newer ones are damaged; one that is not there may be among those.
    let chain = match (to_commit(survey, dir, id), &newest) {
        (Err(Error::UnknownCommit { .. }), Err(_)) => return newest,
        (chain, _) => chain?,
    };
    match newest {
        Ok(newest) if newest.target() == chain.target() => Ok(newest),
        _ => Ok(Chain { new_timeline: true, ..chain }),
    }
}

/// What was published as durable must be there: anything shorter is damage, not a crash's tail.
fn check_mark(survey: &Survey, dir: &Path) -> Result<()> {
    let Some(mark) = &survey.mark else { return Ok(()) };
    if let Some(lost) = survey.stillborn.iter().find(|lost| lost.number == mark.segment) {
        return Err(Error::corrupt(&lost.path, lost.offset, format!("{}, but commit {} in it was durable", lost.what, mark.id)));
    }
    if mark.segment > survey.last_segment {
        let path = names::segment(dir, mark.segment);
        return Err(Error::corrupt(&path, 0, format!("the segment is missing, but commit {} in it was durable", mark.id)));
    }
    let Some(segment) = survey.segments.iter().find(|segment| segment.number == mark.segment) else { return Ok(()) };
    let end = segment.commits.last().map_or(0, |placed| placed.end);
    if end < mark.offset {
        let (offset, what) = segment.torn.clone().unwrap_or((segment.bytes, "the file ends".into()));
        let what = format!("{what}, but commit {} up to byte {} was durable", mark.id, mark.offset);
        return Err(Error::corrupt(&segment.path, offset, what));
    }
    Ok(())
}

fn latest(survey: &Survey, dir: &Path) -> Result<Chain> {
    let last = survey.segments.last().map_or(0, |segment| segment.number);
    let stillborn: u64 = survey.stillborn.iter().filter(|lost| lost.number > last).map(|lost| lost.bytes).sum();
    let Some(tip) = survey.segments.last() else {
        // Only a restored store has a base and no log: it goes on in a timeline of its own.
        let root = survey.bases.iter().filter(|base| base.still).max_by_key(|base| base.begin.sequence);
        if root.is_none()
            && let Some(error) = lost_root(survey, dir)
        {
            return Err(error);
        }
        let root_commit = root.map_or((CommitId::EMPTY, CommitHash::default()), |base| (base.begin, base.begin_hash));
        return Ok(Chain {
            commits: Vec::new(),
            root: root_commit,
            bytes_cut: stillborn,
            new_timeline: root.is_some() || stillborn > 0,
        });
    };
    let mut chain = build(survey, survey.segments.len() - 1, tip.commits.len())?;
    let end = tip.commits.last().map_or(crate::log::HEADER_BYTES as u64, |placed| placed.end);
    chain.bytes_cut = tip.bytes.saturating_sub(end) + stillborn;
    chain.new_timeline = chain.bytes_cut > 0;
    Ok(chain)
}

/// Without a log a store is new and empty, unless something says that it held a commit.
fn lost_root(survey: &Survey, dir: &Path) -> Option<Error> {
    if let Some(Error::Corrupt { path, offset, what }) = survey.bad_bases.first() {
        return Some(Error::corrupt(path, *offset, what.clone()));
    }
    let mark = survey.mark.as_ref().filter(|mark| mark.id.sequence > 0)?;
    Some(Error::corrupt(&names::bases(dir), 0, format!("no base holds commit {}, which was durable", mark.id)))
}

fn to_commit(survey: &Survey, dir: &Path, id: CommitId) -> Result<Chain> {
    for (at, segment) in survey.segments.iter().enumerate() {
        if let Some(place) = segment.commits.iter().position(|placed| placed.record.id == id) {
            return build(survey, at, place + 1);
        }
    }
    let chain = latest(survey, dir)?;
    if chain.root.0 == id {
        return Ok(Chain { commits: Vec::new(), ..chain });
    }
    Err(Error::UnknownCommit {
        id,
        why: "the log does not hold it; `embedrock inspect --commits` lists what can be restored".into(),
    })
}

/// Walks back from the first `count` commits of segment `at` through the parents.
fn build(survey: &Survey, at: usize, count: usize) -> Result<Chain> {
    let mut commits: Vec<(usize, Placed)> = Vec::new();
    let (mut at, mut count) = (at, count);
    loop {
        let segment = &survey.segments[at];
        commits.extend(segment.commits[..count].iter().rev().map(|placed| (at, placed.clone())));
        let parent = (segment.header.parent, segment.header.parent_hash);
        match find(&survey.segments[..at], parent) {
            Some((earlier, place)) => (at, count) = (earlier, place + 1),
            None => {
                commits.reverse();
                let chain = Chain { commits, root: parent, bytes_cut: 0, new_timeline: false };
                // Older segments go once a base makes them needless; without one they are missed.
                let begins = parent.0.sequence == 0 || !chain.bases(survey).is_empty();
                return if begins { Ok(chain) } else { Err(hole(survey, at, parent.0)) };
            }
        }
    }
}

/// A segment may follow another without a commit in between, so the parent may lie several segments back.
pub(super) fn find(segments: &[Segment], parent: (CommitId, CommitHash)) -> Option<(usize, usize)> {
    segments.iter().enumerate().rev().find_map(|(at, segment)| {
        let is_parent = |record: &CommitRecord| match planted(Bug::TimelineIgnored) {
            true => record.id.sequence == parent.0.sequence,
            false => (record.id, record.hash) == parent,
        };
        let place = segment.commits.iter().position(|placed| is_parent(&placed.record))?;
        Some((at, place))
    })
}

fn hole(survey: &Survey, at: usize, parent: CommitId) -> Error {
    let segment = &survey.segments[at];
    if let Some(lost) = survey.stillborn.iter().rev().find(|lost| lost.number < segment.number) {
        let what = format!("{}; commit {parent}, which {} follows, may lie in it", lost.what, segment.path.display());
        return Error::corrupt(&lost.path, lost.offset, what);
    }
    match survey.segments[..at].iter().rev().find_map(|s| s.torn.as_ref().map(|torn| (s, torn))) {
        Some((damaged, (offset, what))) => {
            let what = format!("{what}; commit {parent}, which {} follows, lay behind it", segment.path.display());
            Error::corrupt(&damaged.path, *offset, what)
        }
        None if let Some(Error::Corrupt { path, offset, what }) = survey.bad_bases.first() => {
            Error::corrupt(path, *offset, format!("{what}; the log before commit {parent} is gone"))
        }
        None => Error::corrupt(&segment.path, 0, format!("commit {parent}, which the segment follows, is missing")),
    }
}
