//! Dynamic customer embeddings: sessions become vectors, a customer's sessions become one vector that is kept up to date, and small
//! heads read it (Chitsazan et al. 2021, arXiv 2106.11880).
//!
//! | module | what it holds |
//! |---|---|
//! | [`bank`] | a seeded simulator of a bank's customers: **synthetic** sessions, finances, calls, account takeovers |
//! | [`data`] | sessions, tasks and labels; readers of public files |
//! | `gru`, `autoencoder` | recurrent layers; sessions to vectors |
//! | `customer` | sessions' vectors and contexts to a customer's vector |
//! | `moment`, `roll`, `decay` | what was known at each login and logout, customers rolled through time, baselines |
//! | `heads`, `scores` | logistic and softmax regressions on frozen moments, and their figures |
//! | `plan`, `run`, `state`, `conclude` | orders, the job's stages, what a commit holds, the report |
#![forbid(unsafe_code)]

mod autoencoder;
pub mod bank;
mod conclude;
mod customer;
pub mod data;
mod decay;
mod gru;
mod heads;
mod moment;
mod options;
mod plan;
mod report;
mod roll;
mod run;
mod scores;
mod state;

pub use options::{CUSTOMER_TABLE, DceOptions, EVENT_TABLE, MOMENT_TABLE, OUTCOME_TABLE, PAST_TABLE, SESSION_TABLE};
pub use report::{DceProgress, DceReport, Reconstruction, TaskReport};
pub use run::train_dce;
pub use scores::Figures;
pub use state::Stage;

#[cfg(test)]
mod tests;
