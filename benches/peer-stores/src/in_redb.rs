//! redb: a copy-on-write B-tree. One transaction a batch, not synced.
#![forbid(unsafe_code)]

use std::path::Path;

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use crate::byte_store::{ByteStore, Failure, changed};

const ROWS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("rows");

pub(crate) struct Redb(Database);

impl Redb {
    /// Opens or makes a database with a cache of so many bytes.
    pub(crate) fn open(dir: &Path, cache: usize) -> Result<Redb, Failure> {
        Ok(Redb(Database::builder().set_cache_size(cache).create(dir.join("rows.redb"))?))
    }

    fn write(&self) -> Result<WriteTransaction, Failure> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(Durability::None)?;
        Ok(transaction)
    }
}

impl ByteStore for Redb {
    const NAME: &'static str = "redb";

    fn put(&self, keys: &[u64], rows: &[f32], lanes: usize) -> Result<(), Failure> {
        let transaction = self.write()?;
        let mut table = transaction.open_table(ROWS)?;
        for (key, row) in keys.iter().zip(rows.chunks_exact(lanes)) {
            table.insert(key, bytemuck::cast_slice(row))?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }

    fn get(&self, keys: &[u64], visit: &mut dyn FnMut(usize, &[u8])) -> Result<(), Failure> {
        let table = self.0.begin_read()?.open_table(ROWS)?;
        for (at, key) in keys.iter().enumerate() {
            if let Some(row) = table.get(key)? {
                visit(at, row.value());
            }
        }
        Ok(())
    }

    fn change(&self, keys: &[u64], lanes: usize, change: &mut dyn FnMut(usize, &mut [f32])) -> Result<(), Failure> {
        let transaction = self.write()?;
        let mut table = transaction.open_table(ROWS)?;
        let mut row = vec![0.0; lanes];
        for (at, key) in keys.iter().enumerate() {
            let bytes = changed(table.get(key)?.ok_or("a row is missing")?.value(), &mut row, |row| change(at, row));
            table.insert(key, &*bytes)?;
        }
        drop(table);
        Ok(transaction.commit()?)
    }

    fn settle(&mut self) -> Result<(), Failure> {
        Ok(self.0.begin_write()?.commit()?)
    }
}
