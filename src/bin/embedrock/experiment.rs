//! `embedrock experiment`: Monolith's experiments, each as a table, JSON, comma-separated figures of all runs and a plot.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use embedrock::Error;
use embedrock::train::experiment::{self, Outcome, Setup};

use crate::memory::ColdMemory;
use crate::output::{self, Outcome as Ended, say};

/// The experiments.
#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Name {
    /// Collisionless rows against rows that hashed ids share, and against sums of a quotient's and a remainder's row
    Collisions,
    /// Online against batch training, by the interval of syncs, and with a control for the number of rows
    Online,
    /// AUC lost when one of ten servers is restored from a snapshot that is some intervals old
    Faults,
    /// Thresholds of occurrences and times to live against rows, memory and AUC
    Admission,
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which
    #[arg(value_enum)]
    name: Name,
    /// MovieLens or Criteo data, plain, gzip or zstd, or a directory with it; without it a synthetic stream is generated
    #[arg(long, value_name = "FILE_OR_DIR")]
    data: Option<PathBuf>,
    /// Where NAME-DATA.json, .csv (every run's figures) and .svg are written
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Runs, of the seeds from 1 on
    #[arg(long, default_value_t = 5)]
    seeds: u64,
    /// Runs at the same time; by default one a core
    #[arg(long)]
    jobs: Option<usize>,
    /// Passes over the samples, where there are several
    #[arg(long)]
    epochs: Option<usize>,
    /// Samples of the synthetic stream
    #[arg(long)]
    samples: Option<u64>,
    /// Users of the synthetic stream
    #[arg(long)]
    users: Option<u64>,
    /// Items of the synthetic stream
    #[arg(long)]
    items: Option<u64>,
    /// Latent factors of a key
    #[arg(long)]
    factors: Option<usize>,
    /// Samples a batch
    #[arg(long)]
    batch_size: Option<usize>,
    /// Learning rate of the rows
    #[arg(long)]
    learning_rate: Option<f32>,
    /// Memory of each store
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "128MiB")]
    memory_budget: usize,
    #[command(flatten)]
    cold_memory: ColdMemory,
    /// Cap on the rows in memory of each store; figures do not depend on it
    #[arg(long)]
    hot_rows: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Ended {
    let setup = setup(args);
    let bar = crate::train::bar(Some(setup.seeds));
    let done = |done: u64, of: u64| {
        bar.set_length(of);
        bar.set_position(done);
    };
    let found = match args.name {
        Name::Collisions => experiment::collisions(&setup, &done),
        Name::Online => experiment::online(&setup, &done),
        Name::Faults => experiment::faults(&setup, &done),
        Name::Admission => experiment::admission(&setup, &done),
    }?;
    bar.finish_and_clear();
    if let Some(dir) = &args.out {
        write(&found, dir)?;
    }
    if args.json {
        output::json(&found)?;
    } else {
        say!("{found}");
    }
    output::done()
}

fn setup(args: &Args) -> Setup {
    let mut setup = match args.name {
        Name::Collisions => experiment::collisions_setup(args.data.is_some()),
        Name::Online => experiment::online_setup(args.data.is_some()),
        Name::Faults => experiment::faults_setup(args.data.is_some()),
        Name::Admission => experiment::admission_setup(args.data.is_some()),
    };
    let store = args.cold_memory.options(args.memory_budget);
    setup.store = args.hot_rows.map_or(store.clone(), |rows| store.hot_rows(rows));
    setup.data.clone_from(&args.data);
    setup.seeds = args.seeds;
    setup.jobs = args.jobs.unwrap_or(setup.jobs);
    setup.epochs = args.epochs.unwrap_or(setup.epochs);
    setup.clicks.samples = args.samples.unwrap_or(setup.clicks.samples);
    setup.clicks.users = args.users.unwrap_or(setup.clicks.users);
    setup.clicks.items = args.items.unwrap_or(setup.clicks.items);
    setup.model.factors = args.factors.unwrap_or(setup.model.factors);
    setup.model.batch_size = args.batch_size.unwrap_or(setup.model.batch_size);
    setup.model.learning_rate = args.learning_rate.or(setup.model.learning_rate);
    setup
}

fn write(found: &Outcome, dir: &Path) -> Result<(), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(dir).map_err(|error| failed("create", dir, error))?;
    let stem = format!("{}-{}", found.experiment, found.data);
    let json = serde_json::to_string_pretty(found)? + "\n";
    for (ending, text) in [("json", json), ("csv", found.csv()), ("svg", found.figure.svg()?)] {
        let path = dir.join(format!("{stem}.{ending}"));
        std::fs::write(&path, text).map_err(|error| failed("write", &path, error))?;
    }
    Ok(())
}

fn failed(action: &'static str, path: &Path, source: std::io::Error) -> Error {
    Error::Io { action, path: path.to_path_buf(), source }
}
