//! `embedrock checkpoint`: a new base, so that recovery begins there.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::{Store, StoreOptions};

use crate::output::{self, Outcome};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store
    store: PathBuf,
    /// Memory to open the store in
    #[arg(long, value_parser = output::size, default_value = "1GiB")]
    memory_budget: usize,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let store = Store::open(&args.store, StoreOptions::default().create(false).memory_budget(args.memory_budget))?;
    let base = store.checkpoint()?;
    println!("{}: base {base} at commit {}", args.store.display(), store.recovery().at);
    output::done()
}
