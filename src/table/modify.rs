//! Read, change, write: rows that callers change by code of their own, with no other update in between.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use super::update::Given;
use super::{Table, Update};
use crate::context::lock;
use crate::error::Result;
use crate::shard::{IMAGE_HEADER_BYTES, Op, Values};
use crate::types::Key;

impl Table {
    /// Changes the embeddings of `keys` by code of the caller's: `change` is called once for each position of `keys`, in order, with the
    /// position and what [`Table::lookup`] gives for its key, and leaves there what the embedding becomes. Of equal keys, each call
    /// sees what the one before left. No other update comes between reading and writing; all or nothing, as any batch.
    ///
    /// Returns how many distinct keys were written: those that admission refuses are not. The optimizer state of existing rows stays.
    ///
    /// Meanwhile other updates of the table wait, so `change` must not update it. Cost: a lookup and an [`assign`](Table::assign).
    ///
    /// ```
    /// use embedrock::{Store, StoreOptions, TableSchema, Update};
    /// # let dir = std::env::temp_dir().join(format!("embedrock-doc-modify-{}", std::process::id()));
    /// let store = Store::open(&dir, StoreOptions::default())?;
    /// let visits = store.create_table(TableSchema::new("visits", 2))?;
    /// let (keys, amounts) = ([7, 8, 7], [3.0, 4.0, 5.0]);
    /// visits.modify(&keys, &Update::at(1_700_000_000), |at, row| {
    ///     row[0] += 1.0;
    ///     row[1] = row[1].max(amounts[at]);
    ///     Ok(())
    /// })?;
    /// let mut rows = [0.0; 4];
    /// visits.lookup(&[7, 8], &mut rows)?;
    /// assert_eq!(rows, [2.0, 5.0, 1.0, 4.0]);
    /// # drop((visits, store)); std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), embedrock::Error>(())
    /// ```
    ///
    /// # Errors
    /// The first error of `change`; a failing lookup; as [`Table::assign`]. Nothing was changed then.
    pub fn modify(
        &self,
        keys: &[Key],
        update: &Update,
        mut change: impl FnMut(usize, &mut [f32]) -> Result<()>,
    ) -> Result<usize> {
        let inner = &self.inner;
        inner.check()?;
        inner.context.check_writable()?;
        let schema = inner.schema();
        let dim = schema.dim();
        inner.context.captures.wait_for(keys.len().saturating_mul(IMAGE_HEADER_BYTES + schema.row_bytes()))?;
        let plans = lock(&inner.updates);
        let mut rows = vec![0.0; keys.len().saturating_mul(dim)];
        self.lookup(keys, &mut rows)?;
        // The last position of each key that comes again: where its row stands by now.
        let mut last: HashMap<Key, usize> = HashMap::with_capacity(keys.len());
        for (position, &key) in keys.iter().enumerate() {
            match last.entry(key) {
                Entry::Occupied(mut before) => {
                    let before = before.insert(position) * dim;
                    rows.copy_within(before..before + dim, position * dim);
                }
                Entry::Vacant(first) => drop(first.insert(position)),
            }
            change(position, &mut rows[position * dim..(position + 1) * dim])?;
        }
        let given = Given { keys, values: Values::of_each(&rows) };
        inner.check_update(Op::Assign, given)?;
        inner.update_alone(plans, || Ok(()), Op::Assign, given, update)
    }
}
