//! A store as one sees it who does not hold it: up to what is published as durable, its files pinned, nothing in it changed.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::error::{Error, Result};
use crate::fs::{Fs, names};
use crate::pins::Pins;
use crate::recovery::{Chain, Identity, Survey, choose, glance};
use crate::types::{At, CommitId};

/// See the module.
pub(crate) struct View {
    pub(crate) identity: Identity,
    pub(crate) survey: Survey,
    pub(crate) chain: Chain,
    /// What the chain is rebuilt from.
    pub(crate) pins: Pins,
}

impl View {
    /// Looks at the store in `dir`, which another process may hold and write to.
    ///
    /// The newest commit is the one that DURABLE names; where that says nothing, the newest whole one in the log.
    ///
    /// # Errors
    /// No store; damage; a commit that is not there, or not durable yet.
    pub(crate) fn new(fs: &dyn Fs, dir: &Path, at: At) -> Result<View> {
        if !fs.exists(&names::identity(dir))? {
            return Err(Error::NotAStore { path: dir.to_path_buf(), why: "it has no IDENTITY file".into() });
        }
        let identity = Identity::read(fs, dir)?;
        let mut pins = Pins::all(fs, dir)?;
        // Whoever rebuilds from it checks the frames that it needs then.
        let survey = glance(fs, dir, identity.uuid)?;
        let chain = choose(&survey, dir, durable(&survey, at)?)?;
        let first = chain.commits.first().map(|(segment, _)| survey.segments[*segment].number);
        let bases: Vec<u64> = chain.bases(&survey).iter().map(|base| base.number).collect();
        // All of it is pinned already, so it is there.
        pins.keep(fs, dir, first, &bases)?;
        Ok(View { identity, survey, chain, pins })
    }
}

/// The commit to read: what lies behind the mark is written, but may be gone after a power cut.
fn durable(survey: &Survey, at: At) -> Result<At> {
    let Some(mark) = survey.mark.as_ref().filter(|mark| mark.id.sequence > 0) else { return Ok(at) };
    let behind = |id: CommitId| id.timeline == mark.id.timeline && id.sequence > mark.id.sequence;
    match at {
        At::Commit(id) if behind(id) => {
            Err(Error::UnknownCommit { id, why: format!("the last durable commit is {}; wait until it is durable", mark.id) })
        }
        At::Commit(_) => Ok(at),
        At::Latest => {
            let placed = survey.segments.iter().flat_map(|segment| &segment.commits);
            let found = placed.map(|placed| (placed.record.id, placed.record.hash)).any(|named| named == (mark.id, mark.hash));
            Ok(if found { At::Commit(mark.id) } else { At::Latest })
        }
    }
}
