//! Events of a joiner from files of other programs.
#![forbid(unsafe_code)]

use std::path::Path;

use super::parquet::EventReader;
use crate::error::Result;
use crate::types::{Key, UnixSeconds};

/// Features that a request was answered with, or an action.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct EventRow {
    /// Which request.
    pub request: u64,
    /// When.
    pub time: UnixSeconds,
    /// Of features.
    pub keys: Option<Vec<Key>>,
    /// Of features; empty if the file has none.
    pub dense: Vec<f32>,
    /// Of an action.
    pub label: Option<f32>,
}

/// Reads a Parquet file's columns `request`, `time` (seconds, or a timestamp), `keys` (a list of whole numbers), `dense` (a list of floats)
/// and `label`; of the last three those that the file has. A row whose list is null, or empty, has none.
///
/// ```no_run
/// let mut events = embedrock::EventFile::open("events.parquet")?;
/// loop {
///     let rows = events.read(1024)?; // in the order of the file
///     if rows.is_empty() { break }
/// }
/// # Ok::<(), embedrock::Error>(())
/// ```
pub struct EventFile(EventReader);

impl EventFile {
    /// Opens a file.
    ///
    /// # Errors
    /// It cannot be read, is no Parquet file, lacks `request` or `time`, or has columns of these names of other types.
    pub fn open(path: impl AsRef<Path>) -> Result<EventFile> {
        EventReader::open(path.as_ref()).map(EventFile)
    }

    /// Reads up to `most` rows, at least one; none at the end.
    ///
    /// # Errors
    /// The file is damaged, or a row has no request or time.
    pub fn read(&mut self, most: usize) -> Result<Vec<EventRow>> {
        self.0.read(most.max(1))
    }
}

impl std::fmt::Debug for EventFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventFile").finish_non_exhaustive()
    }
}
