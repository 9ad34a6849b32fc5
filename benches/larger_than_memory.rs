//! Rows that do not fit in memory: lookups and read-modify-writes of this store, of RocksDB alone and of a plain mapping in the same
//! memory, beside the device's own random reads in the same run.
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
#[path = "../src/bin/embedrock/bench/workload.rs"]
#[allow(dead_code, reason = "shared with the benches of lookups and updates, which need more of it")]
mod workload;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{Parser, ValueEnum};
use serde_json::Value;

use drive::{Candidate, Failure, Site};
use workload::Distribution;

#[derive(Parser)]
#[command(
    args_override_self = true,
    about = "Rows beyond memory: this store, RocksDB alone and a plain mapping beside the device's own random reads"
)]
struct Cli {
    /// f32s of a row: an embedding without optimizer state, so that updates can be followed exactly
    #[arg(long, value_delimiter = ',', default_value = "64")]
    dim: Vec<usize>,
    /// Bytes of all rows
    #[arg(long, default_value_t = 2_000_000_000)]
    bytes: u64,
    /// How many times the memory budget that is
    #[arg(long, default_value_t = 10.0)]
    ratio: f64,
    /// Keys a batch
    #[arg(long, default_value_t = 4096)]
    batch: usize,
    /// Threads that call a candidate at once, each with batches of its own
    #[arg(long, default_value_t = 1)]
    callers: usize,
    /// How keys are drawn: uniform, or zipf:EXPONENT
    #[arg(long, value_delimiter = ',', default_value = "uniform,zipf:1.05,zipf:1.15")]
    distribution: Vec<Distribution>,
    #[arg(long, value_delimiter = ',', default_value = "lookup,update")]
    operation: Vec<Operation>,
    /// Batches that keys are named ahead of their use; 0 for not at all
    #[arg(long, value_delimiter = ',', default_value = "0,8")]
    ahead: Vec<usize>,
    /// Seconds of each figure, after as many times WARM of the same before
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of warming, in times of SECONDS
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "memory,store,rocks,rocks-deep,mapped,mapped-deep")]
    only: Vec<Kind>,
    /// Where rows go: the disk that is measured
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Keep this store's files there, and use what an earlier run kept
    #[arg(long)]
    keep: bool,
    /// Figures for programs, a line each
    #[arg(long)]
    json: bool,
    /// A few rows for an instant, to see that everything works
    #[arg(long)]
    quick: bool,
    /// This process measures one candidate for another
    #[arg(long, hide = true)]
    child: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Operation {
    Lookup,
    Update,
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
    // As the command line does.
    embedrock::limit_arenas(2);
    let measured = std::env::args().any(|arg| arg == "--bench");
    let given: Vec<String> = std::env::args().filter(|arg| arg != "--bench").collect();
    let quick = if measured { None } else { Some("--quick".to_owned()) };
    let mut cli = Cli::parse_from(given.iter().cloned().chain(quick));
    if cli.quick {
        (cli.bytes, cli.seconds, cli.batch, cli.ratio) = (40_000_000, 0.1, 512, 2.0);
        cli.ahead = vec![0, 2];
    }
    if cli.child {
        return child(&cli);
    }
    let dir = cli.dir.join(format!("embedrock-beyond-memory-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let device = device::measure(&dir, cli.bytes.clamp(64 << 20, 4 << 30), if cli.quick { 0.05 } else { 1.0 });
    std::fs::remove_dir_all(&dir)?;
    let device = device?;
    let mut report = report::Report::new(device, cli.json);
    for &dim in &cli.dim {
        for kind in &cli.only {
            let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            let mut command = Command::new(std::env::current_exe()?);
            command.args(&given[1..]).args(["--child", "--only", &name, "--dim", &dim.to_string()]);
            if cli.quick {
                command.arg("--quick");
            }
            let said = command.arg("--bench").stderr(Stdio::inherit()).output()?;
            if !said.status.success() {
                return Err(format!("{name}, dim {dim}: {}", said.status).into());
            }
            for line in String::from_utf8(said.stdout)?.lines() {
                report.add(serde_json::from_str::<Value>(line)?);
            }
        }
    }
    Ok(())
}

/// Measures one candidate and prints a line for each figure. A process each, as a cgroup takes processes, and memory that one
/// candidate freed is no longer there for the next.
fn child(cli: &Cli) -> Result<(), Failure> {
    let (Some(&kind), Some(&dim)) = (cli.only.last(), cli.dim.last()) else { return Err("nothing to measure".into()) };
    let rows = cli.bytes / (dim as u64 * 4);
    let site = Site {
        dir: cli.dir.clone(),
        rows: if kind == Kind::Memory { (rows as f64 / cli.ratio) as u64 } else { rows },
        dim,
        budget: (cli.bytes as f64 / cli.ratio) as usize,
        callers: cli.callers,
        keep: cli.keep,
    };
    let candidate: Option<Box<dyn Candidate>> = match kind {
        Kind::Memory => Some(Box::new(in_store::in_memory(&site)?)),
        Kind::Store => Some(Box::new(in_store::beyond_memory(&site)?)),
        Kind::Rocks => Some(Box::new(rocks::build(&site, 1)?)),
        Kind::RocksDeep => Some(Box::new(rocks::build(&site, 32)?)),
        Kind::Mapped => mapped::build(&site, 1)?.map(|mapped| Box::new(mapped) as Box<dyn Candidate>),
        Kind::MappedDeep => mapped::build(&site, 32)?.map(|mapped| Box::new(mapped) as Box<dyn Candidate>),
    };
    let Some(candidate) = candidate else { return Ok(()) };
    if !cli.quick {
        drive::settle()?;
    }
    let mut drive = drive::Drive::new(&site, &*candidate, cli.batch);
    for &distribution in &cli.distribution {
        for &operation in &cli.operation {
            for &ahead in cli.ahead.iter().filter(|&&ahead| ahead == 0 || candidate.looks_ahead()) {
                println!("{}", drive.figure(distribution, operation, ahead, cli.seconds, cli.warm)?);
            }
        }
    }
    Ok(())
}
