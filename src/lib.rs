//! Embedrock: an embedded, persistent storage engine for embeddings.

#[cfg(feature = "train")]
mod codec;
mod error;
#[cfg(feature = "train")]
pub mod standin;
#[cfg(feature = "train")]
pub mod train;
mod types;

pub use error::{Error, Result};
#[cfg(feature = "train")]
pub use standin::{Commit, Initializer, Optimizer, Store, StoreStats, Table, TableSchema, Update};
pub use types::{At, CommitHash, CommitId, Key, TableId, UnixSeconds};
