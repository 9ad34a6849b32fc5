//! Retention: what no restorable commit needs any more is removed, once newer bases are durable.
#![forbid(unsafe_code)]

use super::engine::Engine;
use crate::context::lock;
use crate::error::Result;
use crate::fs::names;
use crate::kill_point::{KillPoint, reach};
use crate::log::CommitRecord;
use crate::manifest::Manifest;
use crate::recovery::{choose, glance};
use crate::types::At;

impl Engine {
    /// After a commit that made a base valid. A failure costs disk space, not data: it is logged, and the next one tries again.
    pub(super) fn prune(&self, record: &CommitRecord) {
        let mut pruned = lock(&self.pruned);
        if record.base <= *pruned || self.catalog.context.is_read_only() {
            return;
        }
        match self.try_prune(record) {
            Ok(()) => *pruned = record.base,
            Err(error) => tracing::warn!(%error, "old bases and segments could not be removed"),
        }
    }

    fn try_prune(&self, record: &CommitRecord) -> Result<()> {
        let fs = &*self.fs;
        let bases = fs.list(&names::bases(&self.dir))?;
        if bases.iter().filter(|entry| names::parse_base(&entry.name).is_some()).count() <= self.retention.bases {
            return Ok(());
        }
        let survey = glance(fs, &self.dir, self.identity.uuid)?;
        let chain = choose(&survey, &self.dir, if record.id.sequence == 0 { At::Latest } else { At::Commit(record.id) })?;
        let mut valid = chain.bases(&survey);
        valid.retain(|base| !self.damaged_bases.contains(&base.number));
        let until = chain.commits.last().and_then(|(_, placed)| placed.record.clock).unwrap_or(0);
        let until = until.saturating_sub(self.retention.seconds);
        // A base whose commit is not in the log any more is older than all that are.
        let clock = |begin| chain.commits.iter().find(|(_, p)| p.record.id == begin).map_or(Some(0), |(_, p)| p.record.clock);
        let old_enough = |base: &&&Manifest| self.retention.seconds == 0 || clock(base.begin).is_none_or(|clock| clock <= until);
        let Some(oldest_kept) = valid.iter().skip(self.retention.bases - 1).find(old_enough) else { return Ok(()) };
        let (number, begin) = (oldest_kept.number, oldest_kept.begin);
        // The segment that holds the base's commit stays: the history must be seen to begin there.
        let held_by =
            chain.commits.iter().find(|(_, placed)| placed.record.id == begin).map(|(at, _)| survey.segments[*at].number);
        // Where it is not in the log, all of the history follows it; a manifest's word alone removes nothing.
        let begins = chain.commits.first().map(|(at, _)| &survey.segments[*at]).or(survey.segments.last());
        let most = begins.map_or(0, |segment| segment.number);
        let first_segment = held_by.unwrap_or(oldest_kept.first_segment.min(most));
        for base in survey.bases.iter().filter(|base| base.number < number) {
            let Some(_claim) = fs.claim(&names::base(&self.dir, base.number).join(names::MANIFEST))? else {
                tracing::info!(base = base.number, "an old base is being read and stays until a later commit");
                continue;
            };
            let trash = names::trash(&self.dir, &format!("base-{}", base.number));
            fs.rename(&names::base(&self.dir, base.number), &trash)?;
            fs.sync_dir(&names::bases(&self.dir))?;
            reach(KillPoint::BaseTrashed);
            fs.remove_dir_all(&trash)?;
            reach(KillPoint::BaseRemoved);
        }
        let segments = survey.segments.iter().map(|segment| (segment.number, &segment.path));
        let stillborn = survey.stillborn.iter().map(|lost| (lost.number, &lost.path));
        let mut old: Vec<_> = segments.chain(stillborn).filter(|(number, _)| *number < first_segment).collect();
        // From the oldest on: who has pinned one needs those after it too.
        old.sort_unstable();
        for (number, path) in old {
            let Some(_claim) = fs.claim(path)? else {
                tracing::info!(segment = number, "an old segment is being read and stays until a later commit");
                break;
            };
            fs.remove_file(path)?;
            reach(KillPoint::SegmentRemoved);
        }
        fs.sync_dir(&names::logs(&self.dir))
    }
}
