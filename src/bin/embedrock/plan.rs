//! `embedrock plan`: memory and disk for a table that is not there yet.
#![forbid(unsafe_code)]

use embedrock::Optimizer;
use serde_json::json;

use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rows of the table
    #[arg(long)]
    rows: u64,
    /// f32s of an embedding
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    dim: u32,
    /// Its name, as in docs/optimizers.md with `-` for `_`
    #[arg(long, value_parser = output::optimizer, default_value = "adagrad")]
    optimizer: Optimizer,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let plan = embedrock::plan(args.rows, args.dim as usize, &args.optimizer);
    if args.json {
        output::json(&json!({
            "row_bytes": plan.row_bytes, "hot_row_bytes": plan.hot_row_bytes, "memory_bytes": plan.memory_bytes,
            "cold_bytes": plan.cold_bytes, "cold_memory_bytes": plan.cold_memory_bytes, "base_bytes": plan.base_bytes,
        }))?;
        return output::done();
    }
    say!("{} rows of dim {} with {}", output::count(args.rows), args.dim, args.optimizer);
    say!("a row         {} B, hot {} B", plan.row_bytes, plan.hot_row_bytes);
    say!("all in memory {}", output::bytes(plan.memory_bytes));
    say!(
        "all cold      {} of disk, filters in a cold memory of {}",
        output::bytes(plan.cold_bytes),
        output::bytes(plan.cold_memory_bytes)
    );
    say!("a base        at most {}", output::bytes(plan.base_bytes));
    output::done()
}
