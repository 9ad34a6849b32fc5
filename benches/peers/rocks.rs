//! RocksDB alone, all its rows in its cache: batched reads, write batches, no write-ahead log.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Instant;

use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DEFAULT_COLUMN_FAMILY_NAME, DataBlockIndexType, Options, WriteBatch,
    WriteOptions,
};

use crate::bench::candidate::{Built, Candidate, Failure};
use crate::bench::workload::{Batch, Site, adagrad, all_rows, initial_state, value_of};

struct Rocks {
    db: Option<DB>,
    dim: usize,
    lanes: usize,
    dir: PathBuf,
}

impl Drop for Rocks {
    fn drop(&mut self) {
        self.db = None;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn options(bytes: usize) -> Options {
    let cache = Cache::new_hyper_clock_cache(bytes * 2 + (64 << 20), 4 << 10);
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&cache);
    blocks.set_block_size(4 << 10);
    blocks.set_format_version(6);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_data_block_index_type(DataBlockIndexType::BinaryAndHash);
    blocks.set_data_block_hash_ratio(0.75);
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_block_based_table_factory(&blocks);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(128 << 20);
    options.set_max_write_buffer_number(4);
    options.set_min_write_buffer_number_to_merge(2);
    options.set_memtable_whole_key_filtering(true);
    options.set_memtable_prefix_bloom_ratio(0.02);
    options.set_max_background_jobs(2);
    options.set_target_file_size_base(256 << 20);
    options
}

pub(crate) fn build(site: &Site) -> Built {
    let lanes = site.lanes();
    let dir = site.dir.join(format!("embedrock-bench-rocksdb-{}", std::process::id()));
    let options = options(site.rows as usize * lanes * 4);
    // By name, as batched reads want a handle of the family.
    let db = DB::open_cf_with_opts(&options, &dir, [(DEFAULT_COLUMN_FAMILY_NAME, options.clone())])?;
    let rocks = Rocks { db: Some(db), dim: site.dim, lanes, dir };
    let mut seconds = 0.0;
    for thread in 0..site.threads {
        for (batch, rows) in all_rows(site, thread) {
            let begun = Instant::now();
            let mut writes = WriteBatch::default();
            let mut row = vec![initial_state(); lanes];
            for (&key, &number) in batch.keys.iter().zip(&rows) {
                row[..site.dim].fill(value_of(number));
                writes.put(key.to_be_bytes(), bytemuck::cast_slice(&row));
            }
            rocks.write(writes)?;
            seconds += begun.elapsed().as_secs_f64();
        }
    }
    let db = rocks.db()?;
    db.flush()?;
    db.compact_range(None::<&[u8]>, None::<&[u8]>);
    Ok(Some((Box::new(rocks), seconds)))
}

impl Rocks {
    fn db(&self) -> Result<&DB, Failure> {
        self.db.as_ref().ok_or_else(|| "closed".into())
    }

    fn write(&self, batch: WriteBatch) -> Result<(), Failure> {
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        Ok(self.db()?.write_opt(batch, &options)?)
    }

    /// Visits each found row with its position, in the order of keys.
    fn read(&self, keys: &[u64], visit: &mut dyn FnMut(usize, &[u8])) -> Result<(), Failure> {
        let mut order: Vec<(u64, u32)> = keys.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let sorted: Vec<[u8; 8]> = order.iter().map(|(key, _)| key.to_be_bytes()).collect();
        let db = self.db()?;
        let family = db.cf_handle(DEFAULT_COLUMN_FAMILY_NAME).ok_or("no default column family")?;
        for (value, &(_, at)) in db.batched_multi_get_cf(&family, &sorted, true).into_iter().zip(&order) {
            if let Some(value) = value? {
                visit(at as usize, &value);
            }
        }
        Ok(())
    }
}

impl Candidate for Rocks {
    fn name(&self) -> &'static str {
        "RocksDB, all in its cache"
    }

    fn sums_duplicates(&self) -> bool {
        true
    }

    fn lookup(&self, _: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure> {
        out.fill(0.0);
        let (dim, lanes) = (self.dim, self.lanes);
        self.read(&batch.keys, &mut |at, value| {
            if value.len() == lanes * 4 {
                bytemuck::cast_slice_mut::<f32, u8>(&mut out[at * dim..(at + 1) * dim]).copy_from_slice(&value[..dim * 4]);
            }
        })
    }

    fn update(&self, _: usize, batch: &Batch, gradients: &[f32]) -> Result<(), Failure> {
        let (dim, lanes) = (self.dim, self.lanes);
        let mut writes = WriteBatch::default();
        let mut row = vec![0.0f32; lanes];
        let mut gradient = vec![0.0f32; dim];
        let mut last: Option<u64> = None;
        let mut finish = |key: u64, row: &mut [f32], gradient: &mut [f32]| {
            let (weights, sums) = row.split_at_mut(dim);
            adagrad(weights, sums, gradient);
            writes.put(key.to_be_bytes(), bytemuck::cast_slice(row));
            gradient.fill(0.0);
        };
        self.read(&batch.keys, &mut |at, value| {
            let key = batch.keys[at];
            if let Some(before) = last.filter(|before| *before != key) {
                finish(before, &mut row, &mut gradient);
            }
            if last != Some(key) && value.len() == lanes * 4 {
                bytemuck::cast_slice_mut::<f32, u8>(&mut row).copy_from_slice(value);
            }
            gradient.iter_mut().zip(&gradients[at * dim..(at + 1) * dim]).for_each(|(sum, g)| *sum += g);
            last = Some(key);
        })?;
        if let Some(key) = last {
            finish(key, &mut row, &mut gradient);
        }
        self.write(writes)
    }
}
