//! Apache Parquet. The only files that name `parquet`.
//!
//! A row is `key: UINT64`, `time: UINT32`, `embedding: list<float>`, `state: list<float>`, `removed: boolean`; of these `key` and
//! `embedding` must be there. Encoded embeddings are byte arrays of fixed length.
#![forbid(unsafe_code)]

mod columns;
mod events;
mod pages;
mod read;
mod write;

pub(super) use events::EventReader;
pub(super) use read::ParquetReader;
pub(super) use write::ParquetWriter;

/// The key of the optimizer's name among a file's metadata.
const OPTIMIZER: &str = "embedrock.optimizer";
