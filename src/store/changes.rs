//! Which rows changed since a commit, from the deltas after it.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use super::Store;
use super::engine::Engine;
use crate::error::{Error, Result};
use crate::log::{Event, Frame, LogReader};
use crate::pins::Pins;
use crate::recovery::{choose, glance};
use crate::table::Table;
use crate::types::{At, CommitId, Key};

impl Store {
    /// The keys of a table that deltas after `since` name, up to the last durable commit: rows that changed or were removed, and
    /// perhaps some that did not.
    pub(crate) fn changed_since(&self, since: CommitId, table: &Table) -> Result<HashSet<Key>> {
        let Engine { fs, dir, identity, log, catalog, .. } = &*self.engine;
        catalog.context.check_process()?;
        let _pins = Pins::all(&**fs, dir)?;
        let tip = log.tip().0.id;
        let survey = glance(&**fs, dir, identity.uuid)?;
        let chain = choose(&survey, dir, if tip.sequence == 0 { At::Latest } else { At::Commit(tip) })?;
        let unknown = |why: String| Error::UnknownCommit { id: since, why };
        let after = match chain.commits.iter().position(|(_, placed)| placed.record.id == since) {
            Some(at) => at + 1,
            None if chain.root.0 == since => 0,
            None => {
                let first = chain.commits.first().map_or(chain.root.0, |_| chain.root.0);
                return Err(unknown(format!(
                    "the log has what changed since {first} at the earliest, and only on the way to {tip}"
                )));
            }
        };
        let mut keys = HashSet::new();
        // The delta before may hold early frames of the first one.
        for (at, placed) in &chain.commits[after.saturating_sub(1)..] {
            let all = placed.record.id != since;
            let path = &survey.segments[*at].path;
            let mut reader = LogReader::open(&**fs, path)?;
            reader.seek(placed.start, placed.chain);
            while reader.position() < placed.end {
                match reader.next()? {
                    Event::Frame { early, frame, .. } if all || early => take(&frame, table, &mut keys),
                    Event::Frame { .. } => {}
                    Event::End { offset } | Event::Torn { offset, .. } => {
                        return Err(Error::corrupt(path, offset, "the delta changed while it was read"));
                    }
                }
            }
        }
        Ok(keys)
    }
}

fn take(frame: &Frame<'_>, of: &Table, keys: &mut HashSet<Key>) {
    match frame {
        Frame::Rows { table, images, .. } if *table == of.inner.id => keys.extend(images.iter().map(|(key, ..)| key)),
        Frame::Removed { table, keys: removed } if *table == of.inner.id => keys.extend(removed.iter()),
        _ => {}
    }
}
