//! Checks a checkpoint of RocksDB without changing it.
#![forbid(unsafe_code)]

use std::path::Path;

use crate::cold::ColdTier;
use crate::cold::rocks::RocksCold;
use crate::error::{Error, Result};

/// Reads every row of a checkpoint, checking every data block. `scratch` must not be in use: it is made and removed.
/// Filters, and blocks that no row lies in, are not read.
pub(crate) fn verify_files(dir: &Path, scratch: &Path, memory: usize) -> Result<u64> {
    let mut rows = 0;
    let checked = RocksCold::open(scratch, Some(dir), memory).and_then(|cold| {
        cold.tables().into_iter().try_for_each(|table| {
            cold.scan(table, &mut |_, _| {
                rows += 1;
                Ok(())
            })
        })
    });
    let removed = std::fs::remove_dir_all(scratch).map_err(|error| Error::io("remove", scratch, error));
    // The live directory's files are links to the checkpoint's: name those.
    let checked = checked.map_err(|error| match error {
        Error::Corrupt { path, offset, what } if path.parent() == Some(scratch) => {
            Error::Corrupt { path: path.file_name().map_or_else(|| dir.to_path_buf(), |name| dir.join(name)), offset, what }
        }
        Error::Corrupt { path, offset, what } if path == scratch => Error::Corrupt { path: dir.to_path_buf(), offset, what },
        other => other,
    });
    checked.and(removed).map(|()| rows)
}
