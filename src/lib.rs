//! Embedrock: an embedded, persistent storage engine for embeddings.

mod error;
mod index;
mod slab;
mod types;

pub use error::{Error, Result};
pub use types::{At, CommitHash, CommitId, Key, UnixSeconds};
