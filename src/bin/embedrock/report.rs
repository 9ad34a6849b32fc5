//! `embedrock report`: what runs left behind, on one page.
#![forbid(unsafe_code)]

use std::path::PathBuf;

use embedrock::Error;
use embedrock::train::runs::{gather, html};

use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where `experiment --out` and `train --record` wrote: .json and .jsonl files
    dir: PathBuf,
    /// The page; by default report.html in that directory
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let runs = gather(&args.dir)?;
    let page = html(&runs)?;
    let out = args.out.clone().unwrap_or_else(|| args.dir.join("report.html"));
    std::fs::write(&out, &page).map_err(|source| Error::Io { action: "write", path: out.clone(), source })?;
    if args.json {
        let titles: Vec<&str> = runs.iter().map(|run| run.title.as_str()).collect();
        output::json(&serde_json::json!({"page": out, "bytes": page.len(), "runs": titles}))?;
    } else {
        say!("{}: {} runs, {}", out.display(), runs.len(), output::bytes(page.len() as u64));
    }
    output::done()
}
