//! The command line of Embedrock: train, look at, check, save and restore stores.
//!
//! Exit codes: 0 done; 1 it failed, or a check found damage; 2 the command line asks for what cannot be.
#![deny(unsafe_code)]

mod bank;
mod bars;
mod bench;
mod checkpoint;
mod dce;
mod drift;
mod experiment;
mod export;
mod exporter;
mod follow;
mod generate;
mod import;
mod inspect;
mod job;
mod join;
mod memory;
mod output;
mod plan;
mod report;
mod restore;
mod serve;
mod text;
mod train;
mod verify;
mod watch;

use std::error::Error;
use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Of the C library's allocator: threads that read cold rows allocate little, and what each arena keeps is outside the memory budget.
const ARENAS: u16 = 2;

/// An embedded, persistent storage engine for embeddings.
#[derive(Parser)]
#[command(version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a model through a store
    #[command(subcommand)]
    Train(train::Model),
    /// Show tables, rows, bytes and the last commit of a store
    Inspect(inspect::Args),
    /// Check every checksum of a store; exit 1 with the place of each damage
    Verify(verify::Args),
    /// Write a new base, so that recovery begins there
    Checkpoint(checkpoint::Args),
    /// Write the state of a commit as a new store
    Restore(restore::Args),
    /// Write rows to files: Parquet, NumPy, safetensors
    Export(export::Args),
    /// Read a file's rows into a table
    Import(import::Args),
    /// Say how far vectors moved between two commits or stores; exit 1 beyond an alert
    Drift(drift::Args),
    /// Keep a serving copy of a store beside its trainer, and say how far it is behind
    Follow(follow::Args),
    /// Make training examples of features and the actions that answer them
    Join(join::Args),
    /// Run an experiment of Monolith's paper through stores, with tables and a plot
    Experiment(experiment::Args),
    /// Gather what experiments and training jobs wrote into one page of HTML
    Report(report::Args),
    /// Estimate memory and disk for a table
    Plan(plan::Args),
    /// Write a seeded synthetic data set
    Generate(generate::Args),
    /// Measure this store beside the machine's limit and plain maps, in one run
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    embedrock::limit_arenas(ARENAS);
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into());
    // A line that cannot be written, as on a full disk, is left out: the subscriber would panic over it.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    lines.log_internal_errors(false).init();
    let result = match cli.command {
        Command::Train(model) => train::run(model),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Checkpoint(args) => checkpoint::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Drift(args) => drift::run(&args),
        Command::Follow(args) => follow::run(&args),
        Command::Join(args) => join::run(&args),
        Command::Experiment(args) => experiment::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Bench(args) => bench::run(&args, &[]),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            let code = exit_code(error.as_ref());
            if code > 0 {
                eprintln!("error: {error}");
            }
            ExitCode::from(code)
        }
    }
}

fn exit_code(error: &(dyn Error + 'static)) -> u8 {
    use embedrock::Error::{BudgetTooSmall, InvalidOption, OtherJob};
    let closed = error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe);
    match error.downcast_ref::<embedrock::Error>() {
        // Who reads the output has read enough.
        _ if closed => 0,
        Some(InvalidOption { .. } | BudgetTooSmall { .. } | OtherJob(_)) => 2,
        _ => 1,
    }
}
