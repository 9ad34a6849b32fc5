//! What durability costs: stalls of training, deltas, recovery, memory; each beside the disk's own rate in the same run.
//! `cargo bench --features cli,testing --bench durability -- --rows 1000000 --seconds 40 --json`.
//!
//! What is computed is checked: stores opened again, recovered and restored have the digest that they had, and training with
//! commits beside it has the digest of the same training without. Under `cargo test` it runs for an instant.

#[path = "durability/deltas.rs"]
mod deltas;
#[path = "durability/disk.rs"]
mod disk;
#[path = "durability/recovery.rs"]
mod recovery;
#[path = "durability/resident.rs"]
mod resident;
#[path = "durability/site.rs"]
mod site;
#[path = "durability/stalls.rs"]
mod stalls;
#[path = "../src/bin/embedrock/bench/workload.rs"]
#[allow(dead_code, reason = "shared with the benches of lookups and updates, which need more of it")]
mod workload;

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use serde_json::{Map, Value};

use site::{Failure, Site};

#[derive(Parser)]
#[command(about = "What durability costs, beside the disk's own rates in the same run")]
struct Cli {
    /// Rows
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// f32s of an embedding; the optimizer keeps as many again
    #[arg(long, default_value_t = 64)]
    dim: usize,
    /// Keys a batch
    #[arg(long, default_value_t = 4096)]
    batch: usize,
    /// Seconds of training for each tier, half of them with commits and checkpoints
    #[arg(long, default_value_t = 40.0)]
    seconds: f64,
    /// Turns of each kind
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// Threads that train; with one a core is left for what commits and checkpoints do
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "stalls,stalls-cold,deltas,recovery")]
    part: Vec<Part>,
    /// Where temporary stores go: the disk that is measured
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Figures for programs
    #[arg(long)]
    json: bool,
    /// A few rows for an instant, to see that everything works
    #[arg(long)]
    quick: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Part {
    Stalls,
    StallsCold,
    Deltas,
    Recovery,
}

fn main() -> Result<(), Failure> {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let given = std::env::args().filter(|arg| arg != "--bench");
    let quick = if measured { None } else { Some("--quick".to_owned()) };
    let mut cli = Cli::parse_from(given.chain(quick));
    if cli.quick {
        (cli.rows, cli.seconds, cli.turns, cli.batch) = (4000, 0.2, 1, 256);
    }
    let dir = cli.dir.join(format!("embedrock-durability-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let Cli { rows, dim, batch, threads, seconds, .. } = cli;
    let site = Site { dir, rows, dim, batch, threads, seconds, turns: cli.turns.max(1) };
    let result = run(&cli, &site);
    std::fs::remove_dir_all(&site.dir)?;
    result
}

fn run(cli: &Cli, site: &Site) -> Result<(), Failure> {
    let mut all = Map::new();
    for part in &cli.part {
        let (name, figures) = match part {
            Part::Stalls => ("stalls, rows in memory", stalls::run(site, false)?),
            Part::StallsCold => ("stalls, a quarter of the rows in memory", stalls::run(site, true)?),
            Part::Deltas => ("deltas", deltas::run(site)?),
            Part::Recovery => ("recovery, page cache dropped", recovery::run(site)?),
        };
        if !cli.json {
            println!("{name}");
            print(&figures, 1);
        }
        all.insert(name.to_owned(), figures);
    }
    if cli.json {
        println!("{}", Value::Object(all));
    }
    Ok(())
}

/// Figures as lines, those of one place on one line.
fn print(figures: &Value, depth: usize) {
    let indent = "  ".repeat(depth);
    match figures {
        Value::Array(lines) => lines.iter().for_each(|line| print(line, depth)),
        Value::Object(fields) => {
            let flat = fields.iter().filter(|(_, value)| !value.is_object());
            let text: Vec<String> = flat.map(|(name, value)| format!("{name} {}", short(value))).collect();
            if !text.is_empty() {
                println!("{indent}{}", text.join(", "));
            }
            for (name, value) in fields.iter().filter(|(_, value)| value.is_object()) {
                println!("{indent}{name}");
                print(value, depth + 1);
            }
        }
        other => println!("{indent}{}", short(other)),
    }
}

fn short(value: &Value) -> String {
    match value.as_f64() {
        Some(number) if value.is_f64() && number.abs() >= 100.0 => format!("{number:.0}"),
        Some(number) if value.is_f64() => format!("{number:.4}"),
        _ => value.to_string(),
    }
}
