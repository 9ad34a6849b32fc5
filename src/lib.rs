//! Embedrock: an embedded, persistent storage engine for embeddings. Start at [`Store`].

mod admission;
mod catalog;
mod checkpoint;
mod clock;
mod codec;
mod cold;
mod context;
mod crew;
mod delta;
mod error;
#[cfg(feature = "exchange")]
mod exchange;
mod expiry;
mod fs;
mod index;
mod initializer;
pub mod join;
#[cfg(feature = "kafka")]
pub mod kafka;
mod kill_point;
mod log;
mod manifest;
mod memory;
mod optimizer;
mod options;
mod pins;
mod plan;
mod plant;
mod precision;
mod quantize;
#[cfg(feature = "remote")]
mod quantized;
mod queue;
mod recovery;
#[cfg(feature = "remote")]
mod remote;
mod replica;
mod restore;
mod schema;
mod segments;
mod serving;
mod shard;
mod simd;
mod slab;
mod store;
mod sync;
mod table;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "train")]
pub mod train;
mod types;
mod verify;
mod view;
mod waits;

pub use admission::Admission;
pub use cold::ColdTraffic;
pub use delta::Commit;
pub use error::{Error, Result};
#[cfg(feature = "exchange")]
pub use exchange::{EventFile, EventRow, Export, ExportReport, FileFormat, Import, ImportReport};
pub use expiry::Expiry;
pub use initializer::Initializer;
pub use memory::limit_arenas;
pub use optimizer::{Optimizer, Schedule};
pub use options::{CommitPolicy, Retention, StoreOptions};
pub use plan::{Plan, plan};
pub use precision::Precision;
pub use quantize::Quantization;
#[cfg(feature = "remote")]
pub use remote::{Copy, Remote, Transfer, Upload};
pub use replica::{CatchUp, Lag, Replica};
pub use restore::{Restore, RestoreProgress, RestoreReport, RestoreStage, restore, restore_with};
pub use schema::{Missing, TableSchema};
pub use segments::Segment;
pub use serving::Codecs;
pub use store::{Digest, Metric, MetricKind, RecoveryReport, Status, Store, StoreStats, TableStats, Ticket};
pub use table::{GradientRequest, LookupRequest, Pooling, Table, Update};
pub use types::{At, CommitHash, CommitId, Key, UnixSeconds, slot_of};
pub use verify::{Damage, VerifyReport, verify};
pub use waits::{Wait, Waits};
