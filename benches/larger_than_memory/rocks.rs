//! RocksDB alone within the budget: direct reads, the rest of the memory a cache of blocks, filters on all levels.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DEFAULT_COLUMN_FAMILY_NAME, Options, WriteBatch, WriteBufferManager,
    WriteOptions,
};

use crate::drive::{Candidate, Failure, Site, fill};

pub(crate) struct Rocks {
    db: Option<DB>,
    dim: usize,
    threads: usize,
    dir: PathBuf,
}

impl Drop for Rocks {
    fn drop(&mut self) {
        self.db = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Memtables within a fifth of the budget; index, filters and blocks in what is left, in this order.
fn options(budget: usize) -> Options {
    let cache = Cache::new_lru_cache(budget);
    let buffers = WriteBufferManager::new_write_buffer_manager_with_cache(budget / 5, false, cache.clone());
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    blocks.set_block_size(4 << 10);
    blocks.set_format_version(6);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_write_buffer_manager(&buffers);
    options.set_write_buffer_size(budget / 15);
    options.set_max_write_buffer_number(3);
    options.set_compression_type(DBCompressionType::None);
    options.set_use_direct_reads(true);
    options.set_use_direct_io_for_flush_and_compaction(true);
    options.set_compaction_readahead_size(2 << 20);
    options.set_max_background_jobs(2);
    options.set_target_file_size_base(64 << 20);
    options.set_max_bytes_for_level_base(256 << 20);
    options
}

pub(crate) fn build(site: &Site, threads: usize) -> Result<Rocks, Failure> {
    let dir = site.dir.join(format!("embedrock-rocksdb-{}", std::process::id()));
    let options = options(site.budget);
    // By name, as batched reads want a handle of the family.
    let db = DB::open_cf_with_opts(&options, &dir, [(DEFAULT_COLUMN_FAMILY_NAME, options.clone())])?;
    let rocks = Rocks { db: Some(db), dim: site.dim, threads, dir };
    fill(site, |keys, rows| {
        let mut writes = WriteBatch::default();
        for (key, row) in keys.iter().zip(rows.chunks_exact(site.dim)) {
            writes.put(key.to_be_bytes(), bytemuck::cast_slice(row));
        }
        rocks.write(writes)
    })?;
    rocks.db()?.flush()?;
    rocks.db()?.compact_range(None::<&[u8]>, None::<&[u8]>);
    Ok(rocks)
}

/// Takes the place of a key and its row.
type Visit<'a> = dyn FnMut(usize, &[f32]) + Send + 'a;

impl Rocks {
    fn db(&self) -> Result<&DB, Failure> {
        self.db.as_ref().ok_or_else(|| "closed".into())
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Failure> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        Ok(self.db()?.write_opt(batch, &options)?)
    }

    fn read_part(&self, keys: &[(u64, u32)], visit: &mut Visit<'_>) -> Result<(), Failure> {
        let db = self.db()?;
        let family = db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME).ok_or("no default column family")?;
        let sorted: Vec<[u8; 8]> = keys.iter().map(|(key, _)| key.to_be_bytes()).collect();
        let mut row = vec![0.0f32; self.dim];
        for (value, &(_, at)) in db.batched_multi_get_cf(&family, &sorted, true).into_iter().zip(keys) {
            let value = value?.ok_or("a row is missing")?;
            bytemuck::cast_slice_mut::<f32, u8>(&mut row).copy_from_slice(&value);
            visit(at as usize, &row);
        }
        Ok(())
    }

    /// The rows of keys, sorted, over all threads.
    fn read(&self, keys: &[(u64, u32)], visit: &mut Visit<'_>) -> Result<(), Failure> {
        if self.threads == 1 {
            return self.read_part(keys, visit);
        }
        let visit = std::sync::Mutex::new(visit);
        std::thread::scope(|scope| {
            let part = |keys| {
                self.read_part(keys, &mut |at, row| {
                    if let Ok(mut visit) = visit.lock() {
                        visit(at, row);
                    }
                })
            };
            let parts = keys.chunks(keys.len().div_ceil(self.threads));
            let readers: Vec<_> = parts.map(|keys| scope.spawn(move || part(keys))).collect();
            readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|_| Err("a reader panicked".into())))
        })
    }
}

fn sorted(keys: &[u64]) -> Vec<(u64, u32)> {
    let mut order: Vec<(u64, u32)> = keys.iter().copied().zip(0..).collect();
    order.sort_unstable();
    order
}

impl Candidate for Rocks {
    fn name(&self) -> &str {
        if self.threads == 1 { "RocksDB" } else { "RocksDB, 32 threads" }
    }

    fn lookup(&self, keys: &[u64], out: &mut [f32]) -> Result<(), Failure> {
        let dim = self.dim;
        self.read(&sorted(keys), &mut |at, row| out[at * dim..(at + 1) * dim].copy_from_slice(row))
    }

    fn update(&self, keys: &[u64]) -> Result<(), Failure> {
        let mut distinct: Vec<(u64, u32)> = Vec::new();
        for (key, _) in sorted(keys) {
            match distinct.last_mut() {
                Some((last, times)) if *last == key => *times += 1,
                _ => distinct.push((key, 1)),
            }
        }
        let order: Vec<(u64, u32)> = distinct.iter().map(|(key, _)| *key).zip(0..).collect();
        let mut writes = WriteBatch::default();
        let mut changed = vec![0.0f32; self.dim];
        self.read(&order, &mut |at, row| {
            let (key, times) = distinct[at];
            changed.iter_mut().zip(row).for_each(|(to, from)| *to = from + times as f32);
            writes.put(key.to_be_bytes(), bytemuck::cast_slice(&changed));
        })?;
        self.write(writes)
    }
}
