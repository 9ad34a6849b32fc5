//! Rows as a serving copy would give them, for training that takes its quantisation into account.
#![forbid(unsafe_code)]

use super::Table;
use crate::error::Result;
use crate::schema::TableSchema;
use crate::serving::{Codecs, Layout};
use crate::types::Key;

impl Table {
    /// As [`Table::lookup`], with each row as a [`Replica`](crate::Replica) that keeps embeddings by `codecs` gives it, bit for bit: a forward
    /// pass sees the error that serving will have ("fake quantisation"). The table is not changed; gradients of what came out are
    /// applied to the rows as they are, as if the codec were the identity (the straight-through estimator, Bengio et al. 2013, as in
    /// Jacob et al. 2018). A key without a row yields what it does in a lookup.
    ///
    /// Cost: a lookup, and one pass over the rows that encodes and decodes them.
    ///
    /// # Errors
    /// As [`Table::lookup`].
    ///
    /// ```
    /// use embedrock::{Codecs, Quantization, Store, StoreOptions, TableSchema, Update};
    /// # let dir = std::env::temp_dir().join(format!("embedrock-doc-served-{}", std::process::id()));
    /// let store = Store::open(&dir, StoreOptions::default())?;
    /// let users = store.create_table(TableSchema::new("user", 2))?;
    /// users.assign(&[7], &[0.3, -0.1], &Update::at(1))?;
    /// let mut row = [0.0; 2];
    /// users.lookup_served(&[7], &mut row, &Codecs::all(Quantization::OneBit))?;
    /// assert!(row.iter().zip([0.2, -0.2]).all(|(served, near)| (served - near).abs() < 1e-6)); // signs times the mean magnitude
    /// users.apply_gradients(&[7], &[1.0, 0.0], &Update::at(2))?; // to 0.3, not to 0.2
    /// # drop((users, store)); std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), embedrock::Error>(())
    /// ```
    pub fn lookup_served(&self, keys: &[Key], rows: &mut [f32], codecs: &Codecs) -> Result<usize> {
        let mut found = vec![false; keys.len()];
        let hits = self.lookup_found(keys, rows, &mut found)?;
        let (layout, mut bytes) = (Layout::new(TableSchema::clone(&self.inner.schema()), codecs), Vec::new());
        if layout.is_encoded() {
            let known = rows.chunks_exact_mut(self.dim()).zip(found).filter_map(|(row, found)| found.then_some(row));
            known.for_each(|row| layout.round_trip(row, &mut bytes));
        }
        Ok(hits)
    }
}
