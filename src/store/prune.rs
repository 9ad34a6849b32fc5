//! Retention: what no restorable commit needs any more is removed, once newer bases are durable.
#![forbid(unsafe_code)]

use super::engine::Engine;
use crate::error::Result;
use crate::fs::names;
use crate::log::CommitRecord;
use crate::recovery::{choose, survey};
use crate::types::At;

/// Valid bases that are kept, so that losing the newest is survived.
const KEPT_BASES: usize = 2;

impl Engine {
    /// After a commit that made a base valid. A failure costs disk space, not data: it is logged, and the next one tries again.
    pub(super) fn prune(&self, record: &CommitRecord) {
        if record.base == 0 {
            return;
        }
        if let Err(error) = self.try_prune(record) {
            tracing::warn!(%error, "old bases and segments could not be removed");
        }
    }

    fn try_prune(&self, record: &CommitRecord) -> Result<()> {
        let fs = &*self.fs;
        let bases = fs.list(&names::bases(&self.dir))?;
        if bases.iter().filter(|entry| names::parse_base(&entry.name).is_some()).count() <= KEPT_BASES {
            return Ok(());
        }
        let survey = survey(fs, &self.dir, self.identity.uuid)?;
        let chain = choose(&survey, &self.dir, if record.id.sequence == 0 { At::Latest } else { At::Commit(record.id) })?;
        let valid = chain.bases(&survey);
        let Some(oldest_kept) = valid.get(KEPT_BASES - 1) else { return Ok(()) };
        let (number, begin) = (oldest_kept.number, oldest_kept.begin);
        // The segment that holds the base's commit stays: the history must be seen to begin there.
        let held_by =
            chain.commits.iter().find(|(_, placed)| placed.record.id == begin).map(|(at, _)| survey.segments[*at].number);
        let first_segment = held_by.unwrap_or(oldest_kept.first_segment);
        for base in survey.bases.iter().filter(|base| base.number < number) {
            let trash = names::trash(&self.dir, &format!("base-{}", base.number));
            fs.rename(&names::base(&self.dir, base.number), &trash)?;
            fs.sync_dir(&names::bases(&self.dir))?;
            fs.remove_dir_all(&trash)?;
        }
        let segments = survey.segments.iter().map(|segment| (segment.number, &segment.path));
        let stillborn = survey.stillborn.iter().map(|lost| (lost.number, &lost.path));
        for (_, path) in segments.chain(stillborn).filter(|(number, _)| *number < first_segment) {
            fs.remove_file(path)?;
        }
        fs.sync_dir(&names::logs(&self.dir))
    }
}
