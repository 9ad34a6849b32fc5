//! `embedrock checkpoint`: a new base, so that recovery begins there; or a copy elsewhere.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::{Remote, Store, StoreOptions};

use serde_json::json;

use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store
    store: PathBuf,
    /// Send a copy of the last commit here instead, a directory or a URL: what lies there already is not sent again
    #[arg(long, value_name = "DIR_OR_URL")]
    to: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Memory to open the store in
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "1GiB")]
    memory_budget: usize,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let store = Store::open(&args.store, StoreOptions::default().create(false).memory_budget(args.memory_budget))?;
    let at = store.recovery().at;
    if let Some(place) = &args.to {
        let bar = output::transfer_bar();
        let sent = store.upload(&Remote::open(place)?, &mut |transfer| output::show_transfer(&bar, transfer))?;
        bar.finish_and_clear();
        if args.json {
            output::json(&json!({"commit": at.to_string(), "bytes": sent.total, "bytes_sent": sent.moved}))?;
        } else {
            let (sent, total) = (output::bytes(sent.moved), output::bytes(sent.total));
            say!("{place}: commit {at} of {}, {sent} sent of {total}", args.store.display());
        }
        return output::done();
    }
    let base = store.checkpoint()?;
    if args.json {
        output::json(&json!({"base": base, "commit": at.to_string()}))?;
    } else {
        say!("{}: base {base} at commit {at}", args.store.display());
    }
    output::done()
}
