//! `embedrock bench`: this store beside the machine's limit and beside what one would write without it, in one run.
//!
//! Candidates take turns within a run and every figure is a median over the turns, so what else the machine does hits all alike.
//! All of them check what they read, and the rows that updates lead to.

pub(crate) mod candidate;
#[allow(unsafe_code, reason = "prefetches, and kernels for the processor at hand")]
pub(crate) mod limit;
mod maps;
mod measure;
#[allow(unsafe_code, reason = "a system call")]
mod pin;
mod store;
pub(crate) mod workload;

use std::path::PathBuf;

use serde_json::json;

use candidate::Built;

use crate::output::{self, Outcome, say};
pub(crate) use measure::Figure;
use measure::measure;
use workload::{Distribution, Site};

/// Builds a candidate with all its rows in place.
pub(crate) type Builder = fn(&Site) -> Built;

#[derive(clap::Args, Clone)]
pub(crate) struct Args {
    /// Rows; 2.5 GB of them by default, so that caches hold few
    #[arg(long)]
    pub(crate) rows: Option<u64>,
    /// f32s of an embedding
    #[arg(long, value_delimiter = ',', default_value = "64", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(crate) dim: Vec<u32>,
    /// Keys a batch
    #[arg(long, value_delimiter = ',', default_value = "4096", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) batch: Vec<u32>,
    /// Threads
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: Vec<u16>,
    /// How keys are drawn: `uniform`, or `zipf:1.05`
    #[arg(long, value_delimiter = ',', default_value = "uniform")]
    pub(crate) distribution: Vec<Distribution>,
    /// What is measured: `lookup`, `miss`, `update`, `mixed`, `insert`
    #[arg(long, value_delimiter = ',', default_value = "lookup,miss,update,mixed,insert")]
    pub(crate) operation: Vec<Operation>,
    /// Seconds for each figure, shared by the turns
    #[arg(long, default_value_t = 2.0)]
    pub(crate) seconds: f64,
    /// Turns of each candidate
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) turns: u16,
    /// Where a temporary store goes
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    pub(crate) dir: PathBuf,
    /// A few rows for an instant, to see that everything works
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a candidate is asked to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Operation {
    Lookup,
    Miss,
    Update,
    Mixed,
    Insert,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Operation::Lookup => "lookup",
            Operation::Miss => "miss",
            Operation::Update => "update",
            Operation::Mixed => "mixed",
            Operation::Insert => "insert",
        }
    }

    /// Whether the rows carry optimizer state.
    fn trains(self) -> bool {
        matches!(self, Operation::Update | Operation::Mixed | Operation::Insert)
    }
}

/// Bytes of embeddings where the number of rows is not given.
const DEFAULT_BYTES: u64 = 2_500_000_000;
/// The number of rows, and the seconds, to see that everything works.
const QUICK: (u64, f64) = (20_000, 0.02);

/// With `peers` beside the candidates of this crate.
pub(crate) fn run(args: &Args, peers: &[Builder]) -> Outcome {
    let show = |figures: &[Figure]| if args.json { Ok(()) } else { print(figures) };
    let results = results(args, peers, show)?;
    if args.json {
        output::json(&results)?;
    }
    output::done()
}

/// Measures all that is asked for and shows each operation's figures as they come.
pub(crate) fn results(
    args: &Args,
    peers: &[Builder],
    show: impl Fn(&[Figure]) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<serde_json::Value, Box<dyn std::error::Error>> {
    let args = &if args.quick { quick(args) } else { args.clone() };
    let mut builders: Vec<Builder> = vec![limit::bare, limit::with_index, store::build, maps::flat, maps::boxed];
    builders.extend(peers);
    let mut figures = Vec::new();
    if !args.json {
        say!("{}; medians of {} turns; a ratio is the median of those within each turn", machine(), args.turns);
    }
    for (&dim, &threads) in args.dim.iter().flat_map(|dim| args.threads.iter().map(move |threads| (dim, threads))) {
        for trains in [false, true] {
            let operations: Vec<Operation> = args.operation.iter().copied().filter(|op| op.trains() == trains).collect();
            if operations.is_empty() {
                continue;
            }
            let rows = args.rows.unwrap_or(DEFAULT_BYTES / (u64::from(dim) * 4));
            let site = Site { dir: args.dir.clone(), rows, dim: dim as usize, trains, threads: threads.into() };
            let of_site = measure(args, &site, &builders, &operations).map_err(|failure| failure.to_string())?;
            of_site.iter().try_for_each(|figures| show(figures))?;
            figures.extend(of_site.iter().flatten().map(Figure::to_json));
        }
    }
    Ok(json!({ "machine": machine(), "turns": args.turns, "seconds": args.seconds, "figures": figures }))
}

fn quick(args: &Args) -> Args {
    let (rows, seconds) = QUICK;
    Args { rows: Some(rows), seconds, turns: 2, batch: vec![256, 2_500], threads: vec![1, 2], ..args.clone() }
}

/// The figures of one operation.
pub(crate) fn print(figures: &[Figure]) -> Result<(), Box<dyn std::error::Error>> {
    let Some(first) = figures.first() else { return Ok(()) };
    say!("\n{}", first.heading());
    for figure in figures {
        say!("{}", figure.line());
    }
    Ok(())
}

fn machine() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    format!("{} ({cores} cores)", model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()))
}
