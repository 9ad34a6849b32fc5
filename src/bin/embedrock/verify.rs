//! `embedrock verify`: every checksum of every file, and the place of each damage.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store, not open anywhere
    store: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let report = embedrock::verify(&args.store)?;
    if args.json {
        let damage: Vec<_> = report
            .damage
            .iter()
            .map(|d| json!({"path": d.path.display().to_string(), "offset": d.offset, "what": d.what}))
            .collect();
        output::json(&json!({"files": report.files, "bytes": report.bytes, "damage": damage, "notes": report.notes}))?;
    } else {
        for note in &report.notes {
            say!("note: {note}");
        }
        for damage in &report.damage {
            say!("DAMAGED {} at byte {}: {}", damage.path.display(), damage.offset, damage.what);
        }
        let verdict = if report.damage.is_empty() { "sound" } else { "damaged" };
        say!("{}: {verdict}, {} files, {} read", args.store.display(), report.files, output::bytes(report.bytes));
    }
    Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
