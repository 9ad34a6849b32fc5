//! Embedrock: an embedded, persistent storage engine for embeddings.

mod admission;
mod clock;
mod error;
mod expiry;
mod initializer;
mod optimizer;
mod types;

pub use admission::Admission;
pub use error::{Error, Result};
pub use expiry::Expiry;
pub use initializer::Initializer;
pub use optimizer::Optimizer;
pub use types::{At, CommitHash, CommitId, Key, TableId, UnixSeconds};
