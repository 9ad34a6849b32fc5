//! `embedrock restore`: the state of a commit as a new store.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::{At, CommitId, Restore, StoreOptions};
use serde_json::json;

use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store to restore from
    store: PathBuf,
    /// The directory to make
    #[arg(long, value_name = "DIR", required_unless_present = "dry_run")]
    to: Option<PathBuf>,
    /// The commit, as `inspect --commits` lists them; the newest by default
    #[arg(long, value_name = "COMMIT")]
    at: Option<CommitId>,
    /// Only these tables
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tables: Option<Vec<String>>,
    /// Memory for the work
    #[arg(long, value_name = "SIZE", value_parser = output::size, default_value = "1GiB")]
    memory_budget: usize,
    /// Rebuild the commit, say what would be written, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let options = StoreOptions::default().memory_budget(args.memory_budget);
    let mut restore = Restore::of(&args.store).at(args.at.map_or(At::Latest, At::Commit)).options(options);
    if let Some(tables) = &args.tables {
        restore = restore.tables(tables);
    }
    let (report, target) = match &args.to {
        Some(target) if !args.dry_run => (restore.to(target)?, target.display().to_string()),
        _ => (restore.dry_run()?, "nothing written".to_owned()),
    };
    if args.json {
        let tables: Vec<_> = report.tables.iter().map(|(name, rows)| json!({"name": name, "rows": rows})).collect();
        output::json(&json!({"commit": report.commit.to_string(), "tables": tables, "state_bytes": report.state_bytes}))?;
    } else {
        say!("{target}: commit {} of {}", report.commit, args.store.display());
        for (name, rows) in &report.tables {
            say!("table '{name}': {} rows", output::count(*rows));
        }
        say!("trainer state {}", output::bytes(report.state_bytes));
    }
    output::done()
}
