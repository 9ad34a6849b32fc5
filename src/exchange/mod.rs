//! Rows to and from files of other programs: Parquet, NumPy, safetensors. In memory that does not grow with the file.
//!
//! | file | what |
//! |---|---|
//! | `export.rs`, `import.rs` | the two directions, whatever the format |
//! | `events.rs` | what a joiner takes |
//! | `layout.rs` | what a file holds of each row, and batches of rows |
//! | `sections.rs`, `arrays.rs` | files of arrays, written side by side and read in step |
//! | `numpy.rs`, `npy.rs`, `npz.rs`, `safetensors.rs`, `parquet/` | the formats |
#![forbid(unsafe_code)]

mod arrays;
mod events;
mod export;
mod import;
mod layout;
mod npy;
mod npz;
mod numpy;
mod parquet;
mod safetensors;
mod sections;

use std::path::Path;

pub use events::{EventFile, EventRow};
pub use export::{Export, ExportReport};
pub use import::{Import, ImportReport};

use crate::error::{Error, Result};
use crate::schema::TableSchema;

/// What a file of rows is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FileFormat {
    /// Apache Parquet (`.parquet`): `key`, `time`, and lists of f32 `embedding` and `state`.
    Parquet,
    /// NumPy (`.npy`): an array of records with fields of these names; to be read also a matrix, whose row numbers are the keys.
    Npy,
    /// NumPy (`.npz`): arrays of these names.
    Npz,
    /// safetensors (`.safetensors`): tensors of these names.
    Safetensors,
}

impl FileFormat {
    /// The format that a file's name ends in.
    ///
    /// # Errors
    /// [`Error::File`]: none of these.
    pub fn of(path: &Path) -> Result<FileFormat> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => Ok(FileFormat::Parquet),
            Some("npy") => Ok(FileFormat::Npy),
            Some("npz") => Ok(FileFormat::Npz),
            Some("safetensors") => Ok(FileFormat::Safetensors),
            _ => Err(refused(path, "its name ends in none of .parquet, .npy, .npz, .safetensors")),
        }
    }
}

/// Whose state a row has: the optimizer of each segment, and its values. Their settings may change; what the state means does not.
fn learners(schema: &TableSchema) -> String {
    let names: Vec<String> = match schema.segments_ref() {
        [only] => vec![only.optimizer.name().to_owned()],
        segments => segments.iter().map(|segment| format!("{} of {}", segment.optimizer.name(), segment.dim)).collect(),
    };
    names.join(", ")
}

/// What is wrong with a file.
fn refused(path: &Path, what: impl Into<String>) -> Error {
    Error::File { path: path.to_path_buf(), what: what.into() }
}
