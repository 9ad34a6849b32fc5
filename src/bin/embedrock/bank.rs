//! `embedrock generate bank`: a simulated bank's sessions as a file.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::ValueEnum;
use embedrock::train::dce::bank::{Bank, FileLayout};
use serde_json::json;

use crate::output::{self, Outcome, say};

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// One JSON object a session
    Jsonl,
    /// One line a session, under a header
    Csv,
}

/// A simulated bank: sessions of pages and actions, finances at login, intents, calls, account takeovers
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The file to make
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Customers
    #[arg(long, default_value_t = Bank::default().customers)]
    customers: u64,
    /// Days
    #[arg(long, default_value_t = Bank::default().days)]
    days: u64,
    /// Seed: the same one makes the same file
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Its layout
    #[arg(long, value_enum, default_value_t = Layout::Jsonl)]
    layout: Layout,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let Args { seed, customers, days, .. } = *args;
    let bank = Bank { seed, customers, days };
    bank.validate()?;
    let layout = match args.layout {
        Layout::Jsonl => FileLayout::JsonLines,
        Layout::Csv => FileLayout::Csv,
    };
    let file = File::create_new(&args.to).map_err(|e| format!("cannot create {}: {e}", args.to.display()))?;
    let mut out = BufWriter::new(file);
    let bar = crate::train::bar(None);
    let sessions = bank.visits().write(&mut out, layout, &mut |done| bar.set_position(done))?;
    out.flush()?;
    bar.finish_and_clear();
    if args.json {
        output::json(
            &json!({"file": args.to, "sessions": sessions, "customers": customers, "days": days, "seed": seed, "synthetic": true}),
        )?;
    } else {
        say!("{}: {} synthetic sessions, {}", args.to.display(), output::count(sessions), bank.name());
    }
    output::done()
}
