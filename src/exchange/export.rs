//! Rows of a table to a file.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::path::Path;

use super::layout::{Layout, Row, Sink};
use super::npy::NpyWriter;
use super::npz::NpzWriter;
use super::parquet::ParquetWriter;
use super::safetensors::SafetensorsWriter;
use super::{FileFormat, learners, refused};
use crate::error::Result;
use crate::quantize::Quantization;
use crate::store::Store;
use crate::table::Table;
use crate::types::{CommitId, Key};

/// Rows between two calls of who wants to know how far it is.
const ROWS_A_REPORT: u64 = 4096;

/// What of a table goes to a file, and how.
///
/// ```
/// use embedrock::{Export, Import, Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-export-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir).unwrap();
/// let store = Store::open(dir.join("a"), StoreOptions::default())?;
/// let users = store.create_table(TableSchema::new("user", 2))?;
/// users.assign(&[7], &[1.0, 2.0], &Update::at(1_700_000_000))?;
/// let file = dir.join("users.parquet");
/// assert_eq!(Export::of("user").to(&store, &file, &mut |_, _| ())?.rows, 1);
///
/// let other = Store::open(dir.join("b"), StoreOptions::default())?;
/// Import::new("user").from(&other, &file, &mut |_, _| ())?;
/// let mut row = [0.0; 2];
/// other.table("user")?.lookup(&[7], &mut row)?;
/// assert_eq!(row, [1.0, 2.0]);
/// # drop((users, store, other)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "it begins with `to`"]
pub struct Export {
    table: String,
    format: Option<FileFormat>,
    state: bool,
    since: Option<CommitId>,
    quantization: Option<Quantization>,
}

/// What an export wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportReport {
    /// Rows.
    pub rows: u64,
    /// Keys marked as removed; only of an export since a commit.
    pub removed: u64,
}

impl Export {
    /// All rows of this table: keys, times, embeddings.
    pub fn of(table: impl Into<String>) -> Export {
        Export { table: table.into(), format: None, state: false, since: None, quantization: None }
    }

    /// In this format, whatever the file is called.
    pub fn format(self, format: FileFormat) -> Export {
        Export { format: Some(format), ..self }
    }

    /// The optimizer's state too. Default no.
    pub fn state(self, state: bool) -> Export {
        Export { state, ..self }
    }

    /// Only rows that may have changed since this commit, and marks for those removed since.
    pub fn since(self, commit: CommitId) -> Export {
        Export { since: Some(commit), ..self }
    }

    /// Embeddings in fewer bytes; the optimizer's state stays as it is. Files can hold f16, bf16 (not NumPy's archives) and int8.
    pub fn quantize(self, quantization: Quantization) -> Export {
        Export { quantization: Some(quantization), ..self }
    }

    /// Writes the file, which must not exist; it has its name once it is whole. `progress` hears of the rows that are done and of how
    /// many there are.
    ///
    /// The rows are those that the store has, those that no commit holds yet included: open it at a commit, with
    /// [`StoreOptions::read_only`](crate::StoreOptions::read_only), for the rows of one. Nobody may change them meanwhile. Cost: rows are
    /// read twice, once to count them (Parquet's once); `since` reads the log and keeps the keys that it names in memory, 16 bytes each.
    ///
    /// # Errors
    /// No such table; a commit that is not in this history; a quantisation that the format cannot hold; the file exists, or cannot be
    /// written; rows that changed meanwhile.
    pub fn to(&self, store: &Store, path: impl AsRef<Path>, progress: &mut dyn FnMut(u64, u64)) -> Result<ExportReport> {
        let (path, table) = (path.as_ref(), store.table(&self.table)?);
        let format = self.format.map_or_else(|| FileFormat::of(path), Ok)?;
        if self.quantization == Some(Quantization::OneBit) {
            return Err(refused(path, "one bit a value is not written to files: choose f16, bf16 or int8"));
        }
        let schema = table.schema();
        let changed = self.since.map(|commit| store.changed_since(commit, &table)).transpose()?;
        let mut report = ExportReport { rows: 0, removed: 0 };
        if format != FileFormat::Parquet || changed.is_some() {
            report = count(&table, changed.as_ref())?;
        }
        let layout = Layout {
            rows: report.rows + report.removed,
            dim: schema.dim(),
            state: if self.state { schema.lanes() - schema.embedding_lanes() } else { 0 },
            times: true,
            removed: changed.is_some(),
            codec: self.quantization,
            optimizer: self.state.then(|| learners(&schema)),
        };
        let mut sink: Box<dyn Sink> = match format {
            FileFormat::Parquet => Box::new(ParquetWriter::create(path, &layout)?),
            FileFormat::Npy => Box::new(NpyWriter::create(path, &layout)?),
            FileFormat::Npz => Box::new(NpzWriter::create(path, &layout)?),
            FileFormat::Safetensors => Box::new(SafetensorsWriter::create(path, &layout)?),
        };
        let total = layout.rows.max(table.len());
        let written = write(&table, &layout, changed, &mut *sink, &mut |done| progress(done, total))?;
        sink.finish()?;
        Ok(written)
    }
}

fn count(table: &Table, changed: Option<&HashSet<Key>>) -> Result<ExportReport> {
    let mut rows = 0;
    table.for_each_row(|key, _, _, _| {
        rows += u64::from(changed.is_none_or(|changed| changed.contains(&key)));
        Ok(())
    })?;
    Ok(ExportReport { rows, removed: changed.map_or(0, |changed| changed.len() as u64 - rows) })
}

fn write(
    table: &Table,
    layout: &Layout,
    mut changed: Option<HashSet<Key>>,
    sink: &mut dyn Sink,
    progress: &mut dyn FnMut(u64),
) -> Result<ExportReport> {
    let (mut rows, mut seen) = (0, 0u64);
    table.for_each_row(|key, time, embedding, state| {
        seen += 1;
        if seen.is_multiple_of(ROWS_A_REPORT) {
            progress(seen);
        }
        // Those that are left are the ones without a row.
        if changed.as_mut().is_some_and(|changed| !changed.remove(&key)) {
            return Ok(());
        }
        rows += 1;
        sink.write(&Row { key, time, embedding, state: if layout.state > 0 { state } else { &[] } })
    })?;
    let mut removed: Vec<Key> = changed.into_iter().flatten().collect();
    removed.sort_unstable();
    for &key in &removed {
        sink.write(&Row { key, time: 0, embedding: &[], state: &[] })?;
    }
    progress(seen);
    Ok(ExportReport { rows, removed: removed.len() as u64 })
}
