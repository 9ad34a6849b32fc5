//! The trainer: data sources, a DeepFM whose embeddings live in the store, and progressive metrics.
#![forbid(unsafe_code)]

mod affine;
mod bytes;
mod commits;
pub mod data;
pub mod dce;
pub mod deepfm;
mod dense;
pub mod drift;
pub mod experiment;
pub mod metrics;
pub mod online;
mod options;
mod report;
mod run;
pub mod runs;
mod state;

pub use options::{DeepFmOptions, FEATURE_TABLE};
pub use report::{Progress, Report, Rows};
pub use run::train_deepfm;
