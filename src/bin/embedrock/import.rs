//! `embedrock import`: rows of a file of another program into a table.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::{Import, Optimizer, Store};
use serde_json::json;

use crate::bars;
use crate::memory::ColdMemory;
use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store, which is made if there is none
    store: PathBuf,
    /// The table, which is made if there is none
    #[arg(long, value_name = "NAME")]
    table: String,
    /// The file: .parquet, .npy, .npz or .safetensors, with `key` and `embedding`, and perhaps `time`, `state`, `removed`
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// How a table that is made learns: sgd, adagrad, rowwise-adagrad, adam or ftrl
    #[arg(long, value_name = "NAME", value_parser = output::optimizer, default_value = "sgd")]
    optimizer: Optimizer,
    /// The time of rows in a file without times, in unix seconds; the store's clock by default
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    time: u64,
    /// Commit after so many rows, instead of once, all or nothing
    #[arg(long, value_name = "ROWS")]
    commit_every: Option<u64>,
    /// Memory for the store
    #[arg(long, value_name = "SIZE", value_parser = output::size, default_value = "1GiB")]
    memory_budget: usize,
    #[command(flatten)]
    cold_memory: ColdMemory,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    // The times of a file may be years apart.
    let options = args.cold_memory.options(args.memory_budget).max_clock_step(u32::MAX);
    let store = Store::open(&args.store, options)?;
    let mut import = Import::new(&args.table).optimizer(args.optimizer).time(args.time);
    if let Some(rows) = args.commit_every {
        import = import.commit_every(rows);
    }
    let bar = bars::row_bar();
    let report = import.from(&store, &args.from, &mut |done, total| bars::show_rows(&bar, done, total))?;
    bar.finish_and_clear();
    store.close()?;
    if args.json {
        output::json(&json!({"commit": report.commit.to_string(), "rows": report.rows, "removed": report.removed}))?;
        return output::done();
    }
    let removed = if report.removed > 0 { format!(", {} removed", output::count(report.removed)) } else { String::new() };
    say!(
        "{}: {} rows into table '{}'{removed}, commit {}",
        args.store.display(),
        output::count(report.rows),
        args.table,
        report.commit
    );
    output::done()
}
