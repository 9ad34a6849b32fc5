//! This store beside the machine's limit, maps, and stores of the field, in one run; and the table and chart of its figures.
//!
//! `cargo run --release` measures a selection and rewrites what `docs/benchmarks.md` says of it. See there.

#[path = "../../../src/bin/embedrock/bench/mod.rs"]
#[allow(dead_code, reason = "shared with the command line, which needs more of it")]
mod bench;
mod byte_store;
mod chart;
mod in_dashmap;
mod in_fjall;
mod in_redb;
mod on_disk;
#[path = "../../../src/bin/embedrock/output.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the command line, which needs more of it")]
mod output;
mod report;
#[cfg(feature = "rocksdb")]
#[path = "../../peers/rocks.rs"]
mod rocks;
#[path = "../../../src/bin/embedrock/text.rs"]
#[allow(dead_code, reason = "shared with the command line, which needs more of it")]
mod text;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Parser;
use serde_json::Value;

/// Bytes of embeddings where the number of rows is not given: more than the caches hold, little enough for the slowest.
const BYTES: u64 = 128_000_000;

#[derive(Parser)]
#[command(about = "This store beside the machine's limit, maps, and stores of the field, in one run")]
struct Cli {
    /// Measure all: dims 16 to 128, three distributions, three sizes of batches, 1 and 2 threads. Takes an hour or more
    #[arg(long)]
    all: bool,
    /// Do not measure: make the table and the chart of the results of an earlier run anew
    #[arg(long)]
    from_results: bool,
    /// Where results, table and chart go
    #[arg(long, default_value_os_t = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs"))]
    docs: PathBuf,
    #[command(flatten)]
    args: bench::Args,
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    let path = cli.docs.join("peers.json");
    if !cli.from_results {
        let results = measure(&cli)?;
        if cli.args.quick {
            return Ok(());
        }
        std::fs::write(&path, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    let results: Value = serde_json::from_str(&std::fs::read_to_string(&path)?)?;
    let figures = report::figures(&results)?;
    report::write(&cli.docs.join("benchmarks.md"), &results, &figures)?;
    chart::draw(&cli.docs.join("peers.svg"), &results, &figures)
}

fn measure(cli: &Cli) -> Result<Value, Box<dyn Error>> {
    let mut args = cli.args.clone();
    if cli.all {
        args.dim = vec![16, 32, 64, 128];
        args.batch = vec![256, 4096, 65_536];
        args.threads = vec![1, 2];
        args.distribution = ["uniform", "zipf:1.05", "zipf:1.15"].into_iter().map(str::parse).collect::<Result<_, _>>()?;
    }
    let peers: &[bench::Builder] = &[
        in_dashmap::build,
        #[cfg(feature = "rocksdb")]
        rocks::build,
        on_disk::redb,
        on_disk::fjall,
    ];
    let mut figures = Vec::new();
    let mut results = Value::Null;
    // One dimension after the other, so that all have the same bytes.
    for dim in std::mem::take(&mut args.dim) {
        let rows = cli.args.rows.or(Some(BYTES / (u64::from(dim) * 4)));
        results = bench::results(&bench::Args { dim: vec![dim], rows, ..args.clone() }, peers, bench::print)?;
        figures.extend(results["figures"].as_array().cloned().unwrap_or_default());
    }
    results["figures"] = Value::from(figures);
    results["date"] = Value::from(said_by("date", &["-u", "+%F"])?);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    results["load"] = Value::from(load.split(' ').take(3).collect::<Vec<_>>().join(" "));
    let given: Vec<String> = std::env::args().skip(1).collect();
    results["arguments"] = Value::from(given.join(" "));
    Ok(results)
}

fn said_by(program: &str, arguments: &[&str]) -> Result<String, Box<dyn Error>> {
    Ok(String::from_utf8(Command::new(program).args(arguments).output()?.stdout)?.trim().to_owned())
}
