//! fjall: a log-structured merge tree. One write batch a batch, its journal not synced; compacted once filled.
#![forbid(unsafe_code)]

use std::path::Path;

use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use crate::byte_store::{ByteStore, Failure, changed};

pub(crate) struct Fjall {
    rows: Keyspace,
    db: Database,
}

impl Fjall {
    /// Opens a database with a cache of so many bytes, or makes it with these options, which stay with it.
    pub(crate) fn open(dir: &Path, cache: usize, options: KeyspaceCreateOptions) -> Result<Fjall, Failure> {
        let db = Database::builder(dir).cache_size(cache as u64).manual_journal_persist(true).open()?;
        let rows = db.keyspace("rows", || options)?;
        Ok(Fjall { rows, db })
    }
}

impl ByteStore for Fjall {
    const NAME: &'static str = "fjall";

    fn put(&self, keys: &[u64], rows: &[f32], lanes: usize) -> Result<(), Failure> {
        let mut batch = self.db.batch();
        for (key, row) in keys.iter().zip(rows.chunks_exact(lanes)) {
            batch.insert(&self.rows, key.to_be_bytes(), bytemuck::cast_slice::<f32, u8>(row));
        }
        Ok(batch.commit()?)
    }

    fn get(&self, keys: &[u64], visit: &mut dyn FnMut(usize, &[u8])) -> Result<(), Failure> {
        for (at, key) in keys.iter().enumerate() {
            if let Some(row) = self.rows.get(key.to_be_bytes())? {
                visit(at, &row);
            }
        }
        Ok(())
    }

    fn change(&self, keys: &[u64], lanes: usize, change: &mut dyn FnMut(usize, &mut [f32])) -> Result<(), Failure> {
        let mut batch = self.db.batch();
        let mut row = vec![0.0; lanes];
        for (at, key) in keys.iter().enumerate() {
            let old = self.rows.get(key.to_be_bytes())?.ok_or("a row is missing")?;
            batch.insert(&self.rows, key.to_be_bytes(), changed(&old, &mut row, |row| change(at, row)));
        }
        Ok(batch.commit()?)
    }

    fn settle(&mut self) -> Result<(), Failure> {
        self.rows.rotate_memtable_and_wait()?;
        Ok(self.rows.major_compact()?)
    }
}
