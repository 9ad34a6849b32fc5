//! `embedrock train`: a model whose embeddings live in a store.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Subcommand;
use embedrock::train::data::synthetic::{Clicks, Synthetic};
use embedrock::train::data::{self, Source};
use embedrock::train::{DeepFmOptions, Progress, train_deepfm};
use embedrock::{Store, StoreOptions};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::exporter::published;
use crate::output::{self, Outcome, say};

#[derive(Subcommand)]
pub(crate) enum Model {
    /// DeepFM on clicks or ratings: first order, factorization machine and a small network
    Deepfm(Args),
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// MovieLens or Criteo data, plain, gzip or zstd, or a directory with it; without it a synthetic stream is generated
    #[arg(long, value_name = "FILE_OR_DIR")]
    data: Option<PathBuf>,
    /// The store; a run that was stopped goes on from its last commit
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// Memory that rows, indexes and caches may take
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "256MiB")]
    memory_budget: usize,
    /// Cap on the rows in memory, for trying out what happens beyond it
    #[arg(long)]
    hot_rows: Option<usize>,
    /// Worker threads of the store; 0 for one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Batches between two commits; 0 for one at the end
    #[arg(long, default_value_t = 2000)]
    commit_every: u64,
    /// Commits between two bases; 0 for none
    #[arg(long, default_value_t = 10)]
    checkpoint_every: u64,
    /// Samples a batch: small ones learn more from each, large ones are faster. 8, or 1024 for the synthetic stream
    #[arg(long)]
    batch_size: Option<usize>,
    /// Learning rate of the rows; by default it follows the number of keys of a sample
    #[arg(long)]
    learning_rate: Option<f32>,
    /// Latent factors of a key
    #[arg(long, default_value_t = 16)]
    factors: usize,
    /// Seed of the model and, where none is given, of the data
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Stop after so many samples
    #[arg(long)]
    max_samples: Option<u64>,
    /// Samples of the synthetic stream
    #[arg(long, default_value_t = 2_000_000)]
    samples: u64,
    /// Users of the synthetic stream
    #[arg(long)]
    users: Option<u64>,
    /// Items of the synthetic stream
    #[arg(long)]
    items: Option<u64>,
    /// Answer Prometheus here, e.g. 127.0.0.1:9090
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(model: Model) -> Outcome {
    let Model::Deepfm(args) = model;
    let source = source(&args)?;
    // Real logs have gaps of weeks, and their times are trusted.
    let options =
        StoreOptions::default().memory_budget(args.memory_budget).threads(args.threads).seed(args.seed).max_clock_step(u32::MAX);
    let store = Store::open(&args.store, args.hot_rows.map_or(options.clone(), |rows| options.hot_rows(rows)))?;
    let default_batch = if args.data.is_some() { DeepFmOptions::default().batch_size } else { 1024 };
    let options = DeepFmOptions {
        factors: args.factors,
        batch_size: args.batch_size.unwrap_or(default_batch),
        learning_rate: args.learning_rate,
        seed: args.seed,
        commit_every: args.commit_every,
        checkpoint_every: args.checkpoint_every,
        max_samples: args.max_samples,
        ..DeepFmOptions::default()
    };
    if !args.json {
        if source.description().synthetic {
            say!("no --data: learning a synthetic click stream");
        }
        say!("{}: {}", args.store.display(), store.recovery());
    }
    let bar = bar(source.description().samples);
    let report =
        published(&store, args.metrics, || train_deepfm(&store, source, &options, &mut |progress| show(&bar, progress)))??;
    bar.finish_and_clear();
    if args.json {
        output::json(&report)?;
    } else {
        say!("{report}");
    }
    output::done()
}

fn source(args: &Args) -> Result<Box<dyn Source>, embedrock::Error> {
    if let Some(path) = &args.data {
        return data::open(path);
    }
    let default = Clicks::default();
    let clicks = Clicks {
        seed: args.seed,
        samples: args.samples,
        users: args.users.unwrap_or(default.users),
        items: args.items.unwrap_or(default.items),
        ..default
    };
    Ok(Box::new(Synthetic::new(clicks)?))
}

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}% {pos} {msg} eta {eta}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_position(progress.samples);
    bar.set_message(format!(
        "{:.0}/s AUC {:.4} rows {} hot {} cold, memory {}",
        progress.rate,
        progress.auc.unwrap_or(0.5),
        output::count(progress.rows.hot),
        output::count(progress.rows.cold),
        output::bytes(progress.rows.memory_bytes),
    ));
}
