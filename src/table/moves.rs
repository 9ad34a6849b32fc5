//! Rows on their way between the tiers while batches go on.
#![forbid(unsafe_code)]

use super::TableInner;
use crate::context::{lock, read, write};
use crate::error::Result;
use crate::shard::{Env, Shard};
use crate::sync::RwLock;

impl TableInner {
    /// Lets rows leave every shard that is short of room.
    pub(crate) fn make_room(&self) -> Result<()> {
        let schema = self.schema();
        for shard in &self.shards {
            let leave = |_moving| self.let_leave(&self.env(&schema), shard, &[]);
            while !self.context.room.is_stopped() && leave(read(&self.moves))? {}
        }
        Ok(())
    }

    /// Lets some rows of a shard leave if it is short of room, also for those rows that are about to be read ahead; returns whether it
    /// was. To be called while rows may move.
    pub(super) fn let_leave(&self, env: &Env<'_>, shard: &RwLock<Shard>, ahead: &[u64]) -> Result<bool> {
        let Some(leaving) = write(shard).begin_leaving(env, ahead)? else { return Ok(false) };
        let result = leaving.write(env);
        write(shard).end_leaving(env, leaving, result.is_ok());
        result.map(|()| true)
    }

    /// Rows that there is memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).capacity()).sum()
    }

    /// Bytes of its shards.
    pub(crate) fn shard_bytes(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).memory_bytes()).sum()
    }

    /// Gives about `share` of the memory of its rows back, as far as rows can leave. No batch changes rows meanwhile, and none is on its way.
    pub(crate) fn shrink_by(&self, share: f64) -> Result<()> {
        let _no_batch = lock(&self.updates);
        let _still = write(&self.moves);
        self.shrink_all(share)
    }

    /// As [`TableInner::shrink_by`], with both locks.
    pub(super) fn shrink_all(&self, share: f64) -> Result<()> {
        let schema = self.schema();
        for shard in &self.shards {
            let mut shard = write(shard);
            let rows = (shard.capacity() as f64 * (1.0 - share)) as usize;
            shard.shrink_to(&self.env(&schema), rows)?;
        }
        Ok(())
    }

    /// Waits until no row is on its way.
    pub(super) fn settle_moves(&self) {
        drop(write(&self.moves));
    }
}

#[cfg(feature = "testing")]
impl super::Table {
    /// Sends so many rows of each shard on their way out, as the store's thread does, for tests that change them meanwhile.
    #[doc(hidden)]
    pub fn begin_leaving(&self, rows: usize) -> Result<()> {
        let schema = self.inner.schema();
        for (at, shard) in self.inner.shards.iter().enumerate() {
            let leaving = write(shard).begin_leaving_of(&self.inner.env(&schema), rows)?;
            crate::context::lock(&self.inner.leaving).extend(leaving.map(|leaving| (at, leaving)));
        }
        Ok(())
    }

    /// How many they are.
    #[doc(hidden)]
    pub fn leaving_rows(&self) -> usize {
        crate::context::lock(&self.inner.leaving).iter().map(|(_, leaving)| leaving.rows()).sum()
    }

    /// Writes them, or fails to, and lets them go.
    #[doc(hidden)]
    pub fn end_leaving(&self, succeeds: bool) -> Result<()> {
        let schema = self.inner.schema();
        let env = self.inner.env(&schema);
        for (at, leaving) in std::mem::take(&mut *crate::context::lock(&self.inner.leaving)) {
            let written = succeeds && leaving.write(&env).is_ok();
            write(&self.inner.shards[at]).end_leaving(&env, leaving, written);
        }
        Ok(())
    }
}
