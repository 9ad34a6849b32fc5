//! Rows of a file into a table.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use super::layout::{Batch, Layout, Source};
use super::npy::NpyReader;
use super::parquet::ParquetReader;
use super::{FileFormat, learners, npz, safetensors};
use crate::error::{Error, Result};
use crate::optimizer::Optimizer;
use crate::schema::TableSchema;
use crate::store::Store;
use crate::table::{Table, Update};
use crate::types::{CommitId, Key};

/// Rows of a batch, and their bytes in memory.
const BATCH_ROWS: usize = 8192;
const BATCH_BYTES: usize = 8 << 20;
/// How far beyond this machine's clock the time of a row may be.
const FUTURE_SECS: u64 = 86_400;

/// How rows of a file become rows of a table.
///
/// A file has keys and embeddings; it may have times, the optimizer's state, and marks for rows to be removed. Every row is admitted. A row
/// that is there already gets the file's embedding, and its state if the file has one; its time does not go back. Of rows with one key
/// the last counts.
#[derive(Clone, Debug)]
#[must_use = "it begins with `from`"]
pub struct Import {
    table: String,
    format: Option<FileFormat>,
    schema: Option<TableSchema>,
    optimizer: Optimizer,
    time: u64,
    commit_every: Option<u64>,
}

/// What an import did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImportReport {
    /// Rows written; of rows with one key in a batch, one.
    pub rows: u64,
    /// Rows removed.
    pub removed: u64,
    /// The commit that holds them all.
    pub commit: CommitId,
}

impl Import {
    /// Into the table of this name. Where there is none, one is made by [`TableSchema::new`] with the file's dim.
    pub fn new(table: impl Into<String>) -> Import {
        Import { table: table.into(), format: None, schema: None, optimizer: Optimizer::sgd(0.01), time: 0, commit_every: None }
    }

    /// Into the table of this schema, which is opened or made.
    pub fn schema(self, schema: TableSchema) -> Import {
        Import { table: schema.name().to_owned(), schema: Some(schema), ..self }
    }

    /// Where a table is made that has no schema given, it learns by this optimizer. Default: SGD at 0.01.
    pub fn optimizer(self, optimizer: Optimizer) -> Import {
        Import { optimizer, ..self }
    }

    /// From a file in this format, whatever it is called.
    pub fn format(self, format: FileFormat) -> Import {
        Import { format: Some(format), ..self }
    }

    /// The event time, in unix seconds, of the rows of a file without times. Default 0: that of the last batch.
    pub fn time(self, unix_secs: u64) -> Import {
        Import { time: unix_secs, ..self }
    }

    /// Commits after so many rows, so that a failure costs no more than those after the last commit. Default: one commit, all or nothing.
    pub fn commit_every(self, rows: u64) -> Import {
        Import { commit_every: Some(rows.max(1)), ..self }
    }

    /// Reads the file and commits its rows; the trainer's state of the last commit stays as it is. `progress` hears of the rows that are
    /// done and of how many the file has.
    ///
    /// Memory: a batch of some MiB; of Parquet the pages that hold it. Open the store with a
    /// [`max_clock_step`](crate::StoreOptions::max_clock_step) as long as the file's times are apart.
    ///
    /// # Errors
    /// [`Error::File`] or [`Error::Input`] with the row for what is wrong with the file; [`Error::SchemaMismatch`] where its rows are
    /// not as long as the table's, or their state is another optimizer's; what an update or a commit fails with. Rows after the last
    /// commit are in the tables of this handle then, and gone when it is closed.
    pub fn from(&self, store: &Store, path: impl AsRef<Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<ImportReport> {
        let path = path.as_ref();
        let mut source: Box<dyn Source> = match self.format.map_or_else(|| FileFormat::of(path), Ok)? {
            FileFormat::Parquet => Box::new(ParquetReader::open(path)?),
            FileFormat::Npy => Box::new(NpyReader::open(path)?),
            FileFormat::Npz => Box::new(npz::open(path)?),
            FileFormat::Safetensors => Box::new(safetensors::open(path)?),
        };
        let layout = source.layout().clone();
        let table = self.table(store, &layout)?;
        let latest = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs() + FUTURE_SECS);
        let rows_a_batch = (BATCH_BYTES / (4 * layout.width().max(1))).clamp(1, BATCH_ROWS);
        let (mut done, mut since_commit, mut batch) = (0u64, 0u64, Batch::default());
        let (mut rows, mut removed) = (0, 0);
        loop {
            batch.clear();
            source.read(rows_a_batch, &mut batch)?;
            if batch.keys.is_empty() {
                break;
            }
            if let Some(row) = batch.times.iter().position(|time| *time > latest) {
                let what = format!("its time, {}, is in the future: times are unix seconds", batch.times[row]);
                return Err(Error::Input { path: path.to_path_buf(), line: done + row as u64 + 1, what });
            }
            let (written, gone) = self.apply(&table, &layout, &batch)?;
            (rows, removed) = (rows + written, removed + gone);
            done += batch.keys.len() as u64;
            since_commit += batch.keys.len() as u64;
            if self.commit_every.is_some_and(|limit| since_commit >= limit) {
                commit(store)?;
                since_commit = 0;
            }
            progress(done, layout.rows.max(done));
        }
        Ok(ImportReport { rows, removed, commit: commit(store)? })
    }

    fn table(&self, store: &Store, layout: &Layout) -> Result<Table> {
        let table = match (&self.schema, store.table(&self.table)) {
            (Some(schema), _) => store.create_table(schema.clone())?,
            (None, Ok(table)) => table,
            // A file without rows may not say how long they would be.
            (None, Err(_)) => store.create_table(TableSchema::new(&self.table, layout.dim.max(1)).optimizer(self.optimizer))?,
        };
        let schema = table.schema();
        let mismatch = |what: String| Err(Error::SchemaMismatch { table: self.table.clone(), what });
        let (dim, state) = (schema.dim(), schema.lanes() - schema.embedding_lanes());
        if layout.rows == 0 {
            return Ok(table);
        }
        if layout.dim != dim {
            return mismatch(format!("dim is {dim}, not {} as in the file", layout.dim));
        }
        if layout.state > 0 && layout.state != state {
            return mismatch(format!("its optimizer has {state} values of state a row, not {} as in the file", layout.state));
        }
        match &layout.optimizer {
            Some(optimizer) if layout.state > 0 && *optimizer != learners(&schema) => {
                mismatch(format!("the optimizer is {}, not {optimizer} as in the file", learners(&schema)))
            }
            _ => Ok(table),
        }
    }

    /// Writes a batch's rows, in the order of the file as far as that matters: all of one time at once. Returns how many rows were
    /// written and removed.
    fn apply(&self, table: &Table, layout: &Layout, batch: &Batch) -> Result<(u64, u64)> {
        let is_removed = |row: usize| batch.removed.get(row).copied().unwrap_or(false);
        // The last row of each key, as rows of one key may have different times.
        let mut last: Vec<usize> = (0..batch.keys.len()).collect();
        last.sort_by_key(|&row| (batch.keys[row], std::cmp::Reverse(row)));
        last.dedup_by_key(|row| batch.keys[*row]);
        let gone: Vec<Key> = last.iter().filter(|row| is_removed(**row)).map(|row| batch.keys[*row]).collect();
        last.retain(|row| !is_removed(*row));
        last.sort_by_key(|&row| (batch.times.get(row).copied().unwrap_or(self.time), row));
        let mut written = 0;
        for rows in last.chunk_by(|a, b| batch.times.get(*a) == batch.times.get(*b)) {
            let time = batch.times.get(rows[0]).copied().unwrap_or(self.time);
            let keys: Vec<Key> = rows.iter().map(|row| batch.keys[*row]).collect();
            let width = layout.width();
            let lanes: Vec<f32> = rows.iter().flat_map(|row| &batch.lanes[row * width..(row + 1) * width]).copied().collect();
            written += table.put_rows(&keys, &lanes, width, &Update::at(time))? as u64;
        }
        let removed = if gone.is_empty() { 0 } else { table.remove(&gone)? as u64 };
        Ok((written, removed))
    }
}

fn commit(store: &Store) -> Result<CommitId> {
    let state = store.last_commit().map(|commit| commit.state);
    store.commit(state.as_deref().unwrap_or_default())
}
