//! Every row of both tiers once, while batches go on and rows move.
#![forbid(unsafe_code)]

use super::{Table, TableInner};
use crate::context::read;
use crate::error::Result;
use crate::shard::{misfit, range_of, read_lanes, split_cold};
use crate::slab::TOMBSTONE;
use crate::types::{Key, UnixSeconds, mix, unmix};

/// Takes a row's key, time and lanes.
type RowVisitor<'a> = dyn FnMut(Key, UnixSeconds, &[f32]) -> Result<()> + 'a;

impl TableInner {
    /// Visits every live row of both tiers once: key, time, lanes.
    pub(crate) fn for_each(&self, visit: &mut RowVisitor<'_>) -> Result<()> {
        let schema = self.schema();
        let (clock, logged) = (self.context.now(), schema.lanes());
        let mut lanes = vec![0f32; logged];
        let mut hot = Vec::new();
        for (at, shard) in self.shards.iter().enumerate() {
            let locked = read(shard);
            // Of the moment of the hot rows: a row that moves before or after is seen in one tier, and covered in the other.
            let cold = self.env(&schema).may_be_cold().then(|| self.context.cold.rows(self.id, range_of(at, self.shards.len())));
            hot.clear();
            for (key, meta, lanes) in locked.iter() {
                if cold.is_some() {
                    hot.push(mix(key));
                }
                if !meta.has(TOMBSTONE) && !schema.lifetimes().expired(key, meta.time, clock) {
                    visit(key, meta.time, lanes)?;
                }
            }
            drop(locked);
            let Some(mut cold) = cold.transpose()? else { continue };
            hot.sort_unstable();
            while let Some((mixed, value)) = cold.next()? {
                let key = unmix(mixed);
                let (time, bytes) = split_cold(value, logged).ok_or_else(|| misfit(key, value.len(), logged))?;
                if !schema.lifetimes().expired(key, time, clock) && hot.binary_search(&mixed).is_err() {
                    read_lanes(bytes, &mut lanes);
                    visit(key, time, &lanes)?;
                }
            }
        }
        Ok(())
    }
}

impl Table {
    /// Visits every live row once, hot and cold, in no particular order: key, event time, embedding, optimizer state.
    ///
    /// Rows that other threads change meanwhile are visited in one of their states, moved between the tiers or not; those that they
    /// add or remove meanwhile, perhaps. Cost: reads every row. A shard's hot rows are visited under its lock, so the visitor must not call the
    /// table; for its cold ones it keeps 8 bytes for each hot one.
    ///
    /// ```
    /// use embedrock::{Optimizer, Store, StoreOptions, TableSchema, Update};
    /// # let dir = std::env::temp_dir().join(format!("embedrock-doc-rows-{}", std::process::id()));
    /// let store = Store::open(&dir, StoreOptions::default())?;
    /// let users = store.create_table(TableSchema::new("user", 2).optimizer(Optimizer::adagrad(0.1).initial_accumulator(0.5)))?;
    /// users.assign(&[7], &[1.0, 2.0], &Update::at(1_700_000_000))?;
    /// users.for_each_row(|key, time, embedding, state| {
    ///     assert_eq!((key, time), (7, 1_700_000_000));
    ///     assert_eq!((embedding, state), (&[1.0, 2.0][..], &[0.5, 0.5][..]));
    ///     Ok(())
    /// })?;
    /// # drop((users, store)); std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), embedrock::Error>(())
    /// ```
    ///
    /// # Errors
    /// The visitor's first error, at which it stops; a failing cold tier; [`crate::Error::TableDropped`].
    pub fn for_each_row(&self, mut visit: impl FnMut(Key, UnixSeconds, &[f32], &[f32]) -> Result<()>) -> Result<()> {
        self.inner.check()?;
        let schema = self.inner.schema();
        self.inner
            .for_each(&mut |key, time, lanes| visit(key, time, &schema.embedding(lanes), &lanes[schema.embedding_lanes()..]))
    }
}
