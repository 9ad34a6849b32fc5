//! Rows that do not fit in memory: lookups and read-modify-writes of this store, of RocksDB alone and of a plain mapping in the same
//! memory, beside the device's own random reads in the same run. `benches/peer-stores` has redb and fjall in the same way.
//! `cargo bench --features cli,testing --bench larger_than_memory -- --dim 64 --bytes 2000000000`.
//!
//! Every row read is checked against what it must be after all updates so far. Nothing is hidden by the page cache: reads go past
//! it, and where they cannot (the mapping) a memory cgroup holds both. Under `cargo test` it runs for an instant.

#[path = "larger_than_memory/cgroup.rs"]
mod cgroup;
#[path = "larger_than_memory/device.rs"]
mod device;
#[path = "durability/disk.rs"]
#[allow(dead_code, reason = "shared with the bench of durability, which needs more of it")]
mod disk;
#[path = "larger_than_memory/draw.rs"]
mod draw;
#[path = "larger_than_memory/drive.rs"]
mod drive;
#[path = "larger_than_memory/in_store.rs"]
mod in_store;
#[path = "larger_than_memory/mapped.rs"]
mod mapped;
#[path = "larger_than_memory/report.rs"]
mod report;
#[path = "larger_than_memory/rocks.rs"]
mod rocks;
#[path = "larger_than_memory/run.rs"]
mod run;
#[path = "../src/bin/embedrock/bench/workload.rs"]
#[allow(dead_code, reason = "shared with the benches of lookups and updates, which need more of it")]
mod workload;

use clap::{Parser, ValueEnum};

use drive::{Candidate, Failure};

#[derive(Parser)]
#[command(
    args_override_self = true,
    about = "Rows beyond memory: this store, RocksDB alone and a plain mapping beside the device's own random reads"
)]
struct Cli {
    #[command(flatten)]
    args: run::Args,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "memory,store,rocks,rocks-deep,mapped,mapped-deep")]
    only: Vec<Kind>,
}

/// The candidates; the deep ones divide a batch over 32 threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// This store with a tenth of the rows, all in memory
    Memory,
    /// This store
    Store,
    Rocks,
    RocksDeep,
    Mapped,
    MappedDeep,
}

fn main() -> Result<(), Failure> {
    let Cli { args, only } = run::parse();
    let share = if only.last() == Some(&Kind::Memory) { args.ratio() } else { 1.0 };
    run::run(args, &only, share, |kind, site| {
        Ok(match kind {
            Kind::Memory => Some(Box::new(in_store::in_memory(site)?) as Box<dyn Candidate>),
            Kind::Store => Some(Box::new(in_store::beyond_memory(site)?)),
            Kind::Rocks => Some(Box::new(rocks::build(site, 1)?)),
            Kind::RocksDeep => Some(Box::new(rocks::build(site, 32)?)),
            Kind::Mapped => mapped::build(site, 1)?.map(|mapped| Box::new(mapped) as Box<dyn Candidate>),
            Kind::MappedDeep => mapped::build(site, 32)?.map(|mapped| Box::new(mapped) as Box<dyn Candidate>),
        })
    })
}
