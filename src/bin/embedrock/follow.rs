//! `embedrock follow`: a serving copy of a store beside its trainer, and how far it is behind.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use embedrock::{CatchUp, Lag, Replica, StoreOptions};
use serde_json::json;

use crate::output::{self, Outcome, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store, which another process may have open
    store: PathBuf,
    /// A directory for the copy's own files; made if it is not there
    #[arg(long, value_name = "DIR")]
    replica: PathBuf,
    /// Time between two looks at the store, e.g. 10s, 500ms or 1m
    #[arg(long, value_name = "TIME", value_parser = output::duration, default_value = "10s")]
    interval: Duration,
    /// Memory that the copy's rows, indexes and caches may take
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "1GiB")]
    memory_budget: usize,
    /// Catch up, say so, and end
    #[arg(long)]
    once: bool,
    /// Print a line of JSON each time
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let replica = Replica::open(&args.store, &args.replica, StoreOptions::default().memory_budget(args.memory_budget))?;
    let mut warned = String::new();
    loop {
        let (lag, began) = (replica.lag(), Instant::now());
        match lag.and_then(|lag| Ok((lag, replica.catch_up()?))) {
            Ok((lag, report)) => {
                warned.clear();
                show(&lag, &report, began.elapsed(), args.json)?;
            }
            Err(error) if args.once => return Err(error.into()),
            // The store may be between a crash and the recovery from it: what was served is served on.
            Err(error) => warn(&format!("commit {} is served on: {error}", replica.at()), &mut warned),
        }
        if args.once {
            return output::done();
        }
        thread::sleep(args.interval.saturating_sub(began.elapsed()));
    }
}

/// Says once what is wrong as long as it is the same.
fn warn(what: &str, warned: &mut String) {
    if what != warned {
        eprintln!("warning: {what}");
        what.clone_into(warned);
    }
}

/// What the lag was before catching up, and what that did.
fn show(lag: &Lag, report: &CatchUp, took: Duration, json: bool) -> Result<(), Box<dyn std::error::Error>> {
    if json {
        say!(
            "{}",
            json!({"commit": report.at.to_string(), "lag_commits": lag.commits, "lag_seconds": lag.seconds, "applied": report.commits,
                "restarted": report.restarted, "seconds": took.as_secs_f64()})
        );
        return Ok(());
    }
    let behind = lag.commits.map_or("an unknown number of".to_owned(), output::count);
    say!("commit {}: was {behind} commits and {:.1} s behind, applied {} in {took:.1?}", report.at, lag.seconds, report.commits);
    if let Some(why) = &report.restarted {
        say!("began anew from a base: {why}");
    }
    Ok(())
}
