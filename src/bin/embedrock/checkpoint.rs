//! `embedrock checkpoint`: a new base, so that recovery begins there.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::{Store, StoreOptions};

use serde_json::json;

use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store
    store: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Memory to open the store in
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "1GiB")]
    memory_budget: usize,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let store = Store::open(&args.store, StoreOptions::default().create(false).memory_budget(args.memory_budget))?;
    let base = store.checkpoint()?;
    let at = store.recovery().at;
    if args.json {
        output::json(&json!({"base": base, "commit": at.to_string()}))?;
    } else {
        say!("{}: base {base} at commit {at}", args.store.display());
    }
    output::done()
}
