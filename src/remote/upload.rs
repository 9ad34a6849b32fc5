//! How a copy is sent.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use crate::quantize::Quantization;

/// The memory in which a commit is rebuilt so that it can be quantised, where nothing is said.
const DEFAULT_MEMORY_BUDGET: usize = 256 << 20;

/// How [`Store::upload_as`](crate::Store::upload_as) sends a copy. By default the store's own files, as they are.
///
/// ```
/// use embedrock::{Quantization, Upload};
/// let nightly = Upload::default().compress(3);
/// let for_serving = Upload::default().compress(9).quantize(Quantization::Bf16);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub(crate) level: Option<i32>,
    pub(crate) quantization: Option<Quantization>,
    pub(crate) recheck: bool,
    pub(crate) memory_budget: usize,
    pub(crate) scratch: Option<PathBuf>,
}

impl Default for Upload {
    fn default() -> Self {
        Upload { level: None, quantization: None, recheck: false, memory_budget: DEFAULT_MEMORY_BUDGET, scratch: None }
    }
}

impl Upload {
    /// Compresses chunks by Zstandard at this level (1 to 22; 3 is a good one), their bytes shuffled first where a sample of the chunk
    /// says that this helps. Compressed and plain chunks are not shared between copies.
    #[must_use]
    pub fn compress(self, level: i32) -> Upload {
        Upload { level: Some(level.clamp(1, 22)), ..self }
    }

    /// Sends the newest commit alone, its embeddings in fewer bytes; optimizer state, times, counts and the trainer's state stay as they
    /// are. What is restored from it has the rows that [`Quantization`] says, another digest than the commit, and says so.
    ///
    /// Cost: the commit is rebuilt in [`Upload::memory_budget`], beside the store, and written to a temporary directory once.
    #[must_use]
    pub fn quantize(self, quantization: Quantization) -> Upload {
        Upload { quantization: Some(quantization), ..self }
    }

    /// Reads what is there already, and sends it again where it is not what its name says. Default no: names and lengths are believed.
    #[must_use]
    pub fn recheck(self, recheck: bool) -> Upload {
        Upload { recheck, ..self }
    }

    /// Memory in which a commit is rebuilt so that it can be quantised. Default 256 MiB.
    #[must_use]
    pub fn memory_budget(self, bytes: usize) -> Upload {
        Upload { memory_budget: bytes, ..self }
    }

    /// The directory, which must exist, for the quantised rows until they are sent. Default: the system's.
    #[must_use]
    pub fn scratch(self, dir: impl Into<PathBuf>) -> Upload {
        Upload { scratch: Some(dir.into()), ..self }
    }
}
