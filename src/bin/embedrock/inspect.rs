//! `embedrock inspect`: what a store holds and where.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::Store;
use serde_json::json;

use crate::memory::ColdMemory;
use crate::output::{self, Outcome, say};
use crate::watch;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store
    store: PathBuf,
    /// Also print the digest of all rows: keys, vectors, optimizer state and times, whatever their tier
    #[arg(long)]
    digest: bool,
    /// Also list the commits that can be restored
    #[arg(long)]
    commits: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Memory to open the store in
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "1GiB")]
    memory_budget: usize,
    #[command(flatten)]
    cold_memory: ColdMemory,
    /// Follow a store that another process has open and publishes the status of: a line every second
    #[arg(long, conflicts_with_all = ["digest", "commits"])]
    watch: bool,
    /// With --watch: seconds between two lines
    #[arg(long, requires = "watch", default_value_t = 1.0, value_name = "SECONDS")]
    every: f64,
    /// With --watch: stop after so many lines
    #[arg(long, requires = "watch")]
    lines: Option<u64>,
}

pub(crate) fn run(args: &Args) -> Outcome {
    if args.watch {
        return watch::run(&args.store, args.every, args.lines, args.json);
    }
    let store = Store::open(&args.store, args.cold_memory.options(args.memory_budget).create(false))?;
    let stats = store.stats();
    let digest = args.digest.then(|| store.digest()).transpose()?.map(|digest| digest.to_string());
    let commits = args.commits.then(|| store.commits()).transpose()?;
    let last = store.last_commit();
    if args.json {
        let table = |t: &embedrock::TableStats| json!({"name": t.name, "dim": t.dim, "rows": t.rows, "hot_rows": t.hot_rows, "memory_bytes": t.memory_bytes});
        let tables: Vec<_> = stats.tables.iter().map(table).collect();
        let commits = commits.map(|ids| ids.iter().map(ToString::to_string).collect::<Vec<_>>());
        output::json(&json!({
            "tables": tables, "last_commit": last.as_ref().map(|c| c.id.to_string()), "clock": stats.clock,
            "state_bytes": last.as_ref().map_or(0, |c| c.state.len()), "memory_bytes": stats.memory_bytes,
            "cold_disk_bytes": stats.cold_disk_bytes, "log_bytes": stats.log_bytes, "digest": digest, "commits": commits,
            "bytes_cut": store.recovery().bytes_cut,
        }))?;
        return output::done();
    }
    say!("{}: {}", args.store.display(), store.recovery());
    for table in &stats.tables {
        say!(
            "table '{}': dim {}, {} rows ({} hot, {} cold as opened in {})",
            table.name,
            table.dim,
            output::count(table.rows),
            output::count(table.hot_rows),
            output::count(table.rows.saturating_sub(table.hot_rows)),
            output::bytes(args.memory_budget as u64),
        );
    }
    say!("clock {}, trainer state {}", stats.clock, output::bytes(last.map_or(0, |c| c.state.len() as u64)));
    say!("disk: log {}, cold tier {}", output::bytes(stats.log_bytes), output::bytes(stats.cold_disk_bytes));
    if let Some(digest) = digest {
        say!("digest {digest}");
    }
    for id in commits.unwrap_or_default() {
        say!("commit {id}");
    }
    output::done()
}
