//! `embedrock restore`: the state of a commit as a new store.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::{At, CommitId};
use serde_json::json;

use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store to restore from
    store: PathBuf,
    /// The directory to make
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// The commit, as `inspect --commits` lists them; the newest by default
    #[arg(long, value_name = "COMMIT")]
    at: Option<CommitId>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let report = embedrock::restore(&args.store, args.at.map_or(At::Latest, At::Commit), &args.to)?;
    if args.json {
        let tables: Vec<_> = report.tables.iter().map(|(name, rows)| json!({"name": name, "rows": rows})).collect();
        output::json(&json!({"commit": report.commit.to_string(), "tables": tables, "state_bytes": report.state_bytes}))?;
    } else {
        say!("{}: commit {} of {}", args.to.display(), report.commit, args.store.display());
        for (name, rows) in &report.tables {
            say!("table '{name}': {} rows", output::count(*rows));
        }
        say!("trainer state {}", output::bytes(report.state_bytes));
    }
    output::done()
}
