//! `embedrock export`: rows to files of other programs.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use embedrock::{At, CommitId, Export, ExportReport, FileFormat, Quantization, Store, Table};
use serde_json::json;

use crate::bars;
use crate::memory::ColdMemory;
use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store; it may be open elsewhere
    store: PathBuf,
    /// The table
    #[arg(long, value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    table: Option<String>,
    /// All tables, each to a file called after it in the directory --to, which is made
    #[arg(long, requires = "format")]
    all: bool,
    /// The file to make: .parquet, .npy, .npz or .safetensors
    #[arg(long, value_name = "FILE_OR_DIR")]
    to: PathBuf,
    /// parquet, npy, npz or safetensors; by default what the file's name ends in
    #[arg(long, value_name = "FORMAT", value_parser = ["parquet", "npy", "npz", "safetensors"])]
    format: Option<String>,
    /// As of this commit, as `inspect --commits` lists them; the last durable one by default
    #[arg(long, value_name = "COMMIT")]
    at: Option<CommitId>,
    /// Only rows that may have changed since this commit, and marks for those removed
    #[arg(long, value_name = "COMMIT")]
    since: Option<CommitId>,
    /// The optimizer's state too
    #[arg(long)]
    state: bool,
    /// Embeddings in fewer bytes: f16, bf16 or int8
    #[arg(long, value_name = "CODEC")]
    quantize: Option<Quantization>,
    /// Memory to open the store in
    #[arg(long, value_name = "SIZE", value_parser = output::size, default_value = "1GiB")]
    memory_budget: usize,
    #[command(flatten)]
    cold_memory: ColdMemory,
    /// A directory for cold rows meanwhile; the system's by default
    #[arg(long, value_name = "DIR")]
    scratch: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let options = args.cold_memory.options(args.memory_budget).read_only(true);
    let options = options.open_at(args.at.map_or(At::Latest, At::Commit));
    let options = args.scratch.as_ref().map_or(options.clone(), |scratch| options.scratch(scratch));
    let store = Store::open(&args.store, options)?;
    let files = files(args, &store)?;
    if args.all {
        std::fs::create_dir(&args.to).map_err(|error| format!("{} cannot be made: {error}", args.to.display()))?;
    }
    let (commit, mut written) = (store.recovery().at, Vec::new());
    for (table, file) in files {
        let report = export(args, &store, &table, &file)?;
        written.push((table, report, std::fs::metadata(&file)?.len(), file));
    }
    if args.json {
        let each = |(table, report, bytes, file): &(String, ExportReport, u64, PathBuf)| {
            json!({"table": table, "file": file, "commit": commit.to_string(), "rows": report.rows, "removed": report.removed,
                "bytes": bytes})
        };
        match &written[..] {
            [only] if !args.all => output::json(&each(only))?,
            all => output::json(&all.iter().map(each).collect::<Vec<_>>())?,
        }
        return output::done();
    }
    for (table, report, bytes, file) in written {
        let removed = if report.removed > 0 { format!(", {} removed", output::count(report.removed)) } else { String::new() };
        let (rows, bytes) = (output::count(report.rows), output::bytes(bytes));
        say!("{}: {rows} rows of table '{table}' at commit {commit}{removed}, {bytes}", file.display());
    }
    output::done()
}

/// The tables, and where each goes.
fn files(args: &Args, store: &Store) -> Result<Vec<(String, PathBuf)>, String> {
    if let Some(table) = &args.table {
        return Ok(vec![(table.clone(), args.to.clone())]);
    }
    let format = args.format.as_deref().unwrap_or_default();
    let file = |table: Table| {
        let name = table.schema().name().to_owned();
        let plain = !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\', '\0']);
        let file = args.to.join(format!("{name}.{format}"));
        plain.then_some((name.clone(), file)).ok_or(format!("no file can be called after table '{name}': export it by --table"))
    };
    store.tables().into_iter().map(file).collect()
}

fn export(args: &Args, store: &Store, table: &str, file: &Path) -> Result<ExportReport, embedrock::Error> {
    let mut export = Export::of(table).state(args.state);
    if let Some(format) = &args.format {
        export = export.format(FileFormat::of(&PathBuf::from(format!("x.{format}")))?);
    }
    if let Some(since) = args.since {
        export = export.since(since);
    }
    if let Some(codec) = args.quantize {
        export = export.quantize(codec);
    }
    let bar = bars::row_bar();
    bar.set_message(format!("of {table}"));
    let report = export.to(store, file, &mut |done, total| bars::show_rows(&bar, done, total));
    bar.finish_and_clear();
    report
}
