//! fjall: a log-structured merge tree. One write batch a batch, its journal not synced; all in its cache, compacted once filled.
#![forbid(unsafe_code)]

use fjall::{Database, Keyspace, KeyspaceCreateOptions};

use crate::bench::candidate::{Built, Failure};
use crate::bench::workload::Site;
use crate::on_disk::{ByteStore, changed, fill};

struct Fjall {
    rows: Keyspace,
    db: Database,
}

pub(crate) fn build(site: &Site) -> Built {
    fill(site, |dir, bytes| {
        let cache = bytes as u64 * 2 + (64 << 20);
        let db = Database::builder(dir).cache_size(cache).manual_journal_persist(true).open()?;
        let rows = db.keyspace("rows", || KeyspaceCreateOptions::default().max_memtable_size(128 << 20))?;
        Ok(Fjall { rows, db })
    })
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
