//! Rows that expired leave memory, whether or not room is needed.
#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use super::{Env, Shard};
use crate::index::TOMBSTONE_BIT;
use crate::plant::{Bug, planted};
use crate::slab::{ANY_UNCOMMITTED, LEAVING, NEWER_THAN_COLD, PINNED};
use crate::types::UnixSeconds;

impl Shard {
    /// Frees the rows of the next `buckets` buckets from `bucket` on that are expired at `clock`; returns where to go on, if there are
    /// more. Their places are used again, and chunks at the end that hold none are given back.
    ///
    /// Nothing is written: for whoever reads at this clock or later they were gone before, from memory, cold tier and log alike. Those
    /// that a delta needs, as they were alive at its cut, stay until it is written.
    pub(crate) fn sweep_expired(&mut self, env: &Env<'_>, clock: UnixSeconds, bucket: usize, buckets: usize) -> Option<usize> {
        self.catch_up(env.context);
        let lifetimes = env.schema.lifetimes();
        let end = bucket.saturating_add(buckets).min(self.index.buckets());
        let mut expired = Vec::new();
        for at in bucket.min(end)..end {
            if at + 1 < end {
                self.index.bucket(at + 1).for_each(|raw| self.slab.prefetch(raw & !TOMBSTONE_BIT, 0));
            }
            for raw in self.index.bucket(at).filter(|raw| raw & TOMBSTONE_BIT == 0) {
                let meta = self.slab.meta(raw);
                let needed = meta.has(PINNED | LEAVING) || meta.has(ANY_UNCOMMITTED) && !planted(Bug::OwedRowSwept);
                if !needed && lifetimes.expired(meta.key, meta.time, clock) {
                    expired.push((meta.key, raw, meta.has(NEWER_THAN_COLD)));
                }
            }
        }
        env.counters.expired.fetch_add(expired.len() as u64, Relaxed);
        for (key, raw, only_here) in expired {
            self.forget(key, raw);
            // One with a copy in the cold tier goes on counting until that is gone.
            env.counters.rows.fetch_sub(i64::from(only_here), Relaxed);
        }
        if end < self.index.buckets() {
            return Some(end);
        }
        self.give_back(env.context, self.index.buckets());
        None
    }
}
