//! Embedrock: an embedded, persistent storage engine for embeddings.

mod codec;
mod cold;
mod error;
mod fs;
mod types;

pub use error::{Error, Result};
pub use types::{At, CommitHash, CommitId, Key, TableId, UnixSeconds};
