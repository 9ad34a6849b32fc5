//! Embedrock: an embedded, persistent storage engine for embeddings.

mod admission;
mod catalog;
mod checkpoint;
mod clock;
mod codec;
mod cold;
mod context;
mod delta;
mod error;
mod expiry;
mod fs;
mod index;
mod initializer;
mod log;
mod manifest;
mod optimizer;
mod recovery;
mod schema;
mod shard;
mod slab;
mod store;
mod table;
mod types;

pub use admission::Admission;
pub use error::{Error, Result};
pub use expiry::Expiry;
pub use initializer::Initializer;
pub use optimizer::Optimizer;
pub use types::{At, CommitHash, CommitId, Key, UnixSeconds};
