//! `embedrock generate`: a seeded synthetic click stream, or a simulated bank, as a file.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use embedrock::train::data::synthetic::{Clicks, FileLayout};

use serde_json::json;

use crate::bank;
use crate::output::{self, Outcome, say};

#[derive(Clone, Copy, ValueEnum)]
enum Layout {
    /// userId,movieId,rating,timestamp
    Movielens,
    /// label, 13 integers, 26 categories
    Criteo,
}

#[derive(Subcommand)]
enum What {
    Bank(bank::Args),
}

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// The file to make: clicks, unless another data set is named
    #[arg(long, value_name = "FILE", required = true)]
    to: Option<PathBuf>,
    /// Samples
    #[arg(long, default_value_t = 100_000)]
    samples: u64,
    /// Users alive at any time
    #[arg(long, default_value_t = Clicks::default().users)]
    users: u64,
    /// Items alive at any time
    #[arg(long, default_value_t = Clicks::default().items)]
    items: u64,
    /// Seed: the same one makes the same file
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Its layout
    #[arg(long, value_enum, default_value_t = Layout::Movielens)]
    layout: Layout,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let to = match (&args.what, &args.to) {
        (Some(What::Bank(args)), _) => return bank::run(args),
        (None, Some(to)) => to,
        (None, None) => return Err("--to names no file".into()),
    };
    let Args { seed, samples, users, items, .. } = *args;
    let clicks = Clicks { seed, samples, users, items, ..Clicks::default() };
    clicks.validate()?;
    let layout = match args.layout {
        Layout::Movielens => FileLayout::MovieLens,
        Layout::Criteo => FileLayout::Criteo,
    };
    let file = File::create_new(to).map_err(|e| format!("cannot create {}: {e}", to.display()))?;
    let mut out = BufWriter::new(file);
    let bar = crate::train::bar(Some(args.samples));
    clicks.write(&mut out, layout, &mut |done| bar.set_position(done))?;
    out.flush()?;
    bar.finish_and_clear();
    if args.json {
        let best_auc = clicks.best_auc();
        output::json(&json!({"file": to, "samples": samples, "seed": seed, "synthetic": true, "best_auc": best_auc}))?;
    } else {
        say!("{}: {} synthetic samples, seed {seed}", to.display(), output::count(samples));
    }
    output::done()
}
