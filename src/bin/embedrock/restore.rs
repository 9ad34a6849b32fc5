//! `embedrock restore`: the state of a commit as a new store.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::{At, CommitId, Remote, Restore, RestoreReport};
use indicatif::ProgressBar;
use serde_json::json;

use crate::bars;
use crate::memory::ColdMemory;
use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store to restore from
    #[arg(required_unless_present = "from")]
    store: Option<PathBuf>,
    /// Restore from a copy instead, in a directory or at a URL, as `checkpoint --to` sent it
    #[arg(long, value_name = "DIR_OR_URL", conflicts_with = "store")]
    from: Option<String>,
    /// The directory to make. A restore that is interrupted goes on when it is called again: until it is whole, what is finished
    /// stays beside it
    #[arg(long, value_name = "DIR", required_unless_present_any = ["dry_run", "list"])]
    to: Option<PathBuf>,
    /// The commit, as `inspect --commits` or --list lists them; the newest by default
    #[arg(long, value_name = "COMMIT")]
    at: Option<CommitId>,
    /// Only these tables
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tables: Option<Vec<String>>,
    /// Of the copies of several stores, those of the one whose id begins so, as --list shows it
    #[arg(long, value_name = "ID", requires = "from")]
    store_id: Option<String>,
    /// Shards to divide a table into, for the work
    #[arg(long)]
    shards: Option<usize>,
    /// Keep rows in files of this directory meanwhile, not in anonymous memory
    #[arg(long, value_name = "DIR")]
    file_slabs: Option<PathBuf>,
    /// A directory for the temporary files of a dry run; the system's by default
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Memory for the work
    #[arg(long, value_name = "SIZE", value_parser = output::size, default_value = "1GiB")]
    memory_budget: usize,
    #[command(flatten)]
    cold_memory: ColdMemory,
    /// Rebuild the commit, say what would be written, write nothing
    #[arg(long)]
    dry_run: bool,
    /// Only list the copies
    #[arg(long, requires = "from")]
    list: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    if let (Some(place), true) = (&args.from, args.list) {
        return list(&open(args, place)?, place, args.json);
    }
    let (report, source) = match (&args.from, &args.store) {
        (Some(place), _) => (from_copy(args, place)?, place.clone()),
        (None, Some(store)) => (from_store(args, store.clone())?, store.display().to_string()),
        (None, None) => return Err("neither a store nor --from is given".into()),
    };
    let written = |target: &PathBuf| if args.dry_run { "nothing written".into() } else { target.display().to_string() };
    let target = args.to.as_ref().map_or("nothing written".into(), written);
    if args.json {
        let tables: Vec<_> = report.tables.iter().map(|(name, rows)| json!({"name": name, "rows": rows})).collect();
        output::json(&json!({"commit": report.commit.to_string(), "tables": tables, "state_bytes": report.state_bytes,
            "quantization": report.quantization.map(|codec| codec.to_string())}))?;
    } else {
        say!("{target}: commit {} of {source}", report.commit);
        for (name, rows) in &report.tables {
            say!("table '{name}': {} rows", output::count(*rows));
        }
        say!("trainer state {}", output::bytes(report.state_bytes));
        if let Some(codec) = report.quantization {
            say!("the copy is quantised: embeddings are those of the commit as {codec} keeps them, and the digest is another");
        }
    }
    output::done()
}

fn at(args: &Args) -> At {
    args.at.map_or(At::Latest, At::Commit)
}

fn with(args: &Args, restore: Restore, bar: &ProgressBar) -> Restore {
    let mut options = args.cold_memory.options(args.memory_budget);
    if let Some(shards) = args.shards {
        options = options.shards(shards);
    }
    if let Some(dir) = &args.file_slabs {
        options = options.file_slabs(dir);
    }
    if let Some(dir) = &args.scratch {
        options = options.scratch(dir);
    }
    let bar = bar.clone();
    let restore = restore.options(options).progress(move |progress| bars::show_restore(&bar, progress));
    args.tables.as_ref().map_or(restore.clone(), |tables| restore.tables(tables))
}

fn from_store(args: &Args, store: PathBuf) -> Result<RestoreReport, embedrock::Error> {
    let bar = bars::transfer_bar();
    let restore = with(args, Restore::of(store).at(at(args)), &bar);
    let report = match &args.to {
        Some(target) if !args.dry_run => restore.to(target),
        _ => restore.dry_run(),
    };
    bar.finish_and_clear();
    report
}

fn from_copy(args: &Args, place: &str) -> Result<RestoreReport, embedrock::Error> {
    let (remote, bar) = (open(args, place)?, bars::transfer_bar());
    let mut progress = |transfer| bars::show_transfer(&bar, transfer);
    let target = args.to.clone().unwrap_or_else(|| std::env::temp_dir().join(format!("embedrock-copy-{}", std::process::id())));
    let report = if args.dry_run || args.to.is_none() {
        remote.dry_run(at(args), &target, |restore| with(args, restore, &bar), &mut progress)
    } else {
        remote.restore(at(args), &target, |restore| with(args, restore, &bar), &mut progress)
    };
    bar.finish_and_clear();
    report
}

fn open(args: &Args, place: &str) -> Result<Remote, embedrock::Error> {
    let remote = Remote::open(place)?;
    Ok(args.store_id.as_ref().map_or_else(|| remote.of_store(""), |id| remote.of_store(id)))
}

fn list(remote: &Remote, place: &str, as_json: bool) -> Outcome {
    let (copies, unreadable) = (remote.copies()?, remote.unreadable()?);
    for (name, error) in &unreadable {
        eprintln!("warning: copy {name} cannot be read: {error}");
    }
    if as_json {
        let commits = |copy: &embedrock::Copy| copy.commits.iter().map(ToString::to_string).collect::<Vec<_>>();
        let copy = |copy: &embedrock::Copy| {
            json!({
                "name": copy.name, "store": copy.store_id(), "commit": copy.commit.to_string(), "bytes": copy.bytes(),
                "compressed": copy.compressed, "quantization": copy.quantization.map(|codec| codec.to_string()),
                "commits": commits(copy)
            })
        };
        output::json(&copies.iter().map(copy).collect::<Vec<_>>())?;
        return output::done();
    }
    for copy in &copies {
        let first = copy.commits.first().map_or(String::new(), ToString::to_string);
        let count = output::count(copy.commits.len() as u64);
        let packed = if copy.compressed { ", compressed" } else { "" };
        let codec = copy.quantization.map_or(String::new(), |codec| format!(", quantised to {codec}"));
        let (bytes, store) = (output::bytes(copy.bytes()), copy.store_id());
        say!("commit {} of store {store} ({bytes}{packed}{codec}), {count} commits from {first} on can be restored", copy.commit);
    }
    if copies.is_empty() {
        say!("{place} holds no copy");
    }
    output::done()
}
