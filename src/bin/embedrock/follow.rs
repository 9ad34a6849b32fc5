//! `embedrock follow`: a serving copy of a store beside its trainer, and how far it is behind.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use embedrock::{CatchUp, Codecs, Lag, Quantization, Remote, Replica};
use serde_json::json;

use crate::memory::ColdMemory;
use crate::output::{self, Outcome, say};
use crate::serve::{count, serve};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store, which another process may have open
    #[arg(required_unless_present = "from")]
    store: Option<PathBuf>,
    /// Follow the copies in a directory or at a URL instead, as `checkpoint --to` sends them
    #[arg(long, value_name = "DIR_OR_URL", conflicts_with = "store")]
    from: Option<String>,
    /// Of the copies of several stores, those of the one whose id begins so
    #[arg(long, value_name = "ID", requires = "from")]
    store_id: Option<String>,
    /// A directory for the copy's own files; made if it is not there
    #[arg(long, value_name = "DIR")]
    replica: PathBuf,
    /// Time between two looks at the store, e.g. 10s, 500ms or 1m
    #[arg(long, value_name = "TIME", value_parser = output::duration, default_value = "10s")]
    interval: Duration,
    /// Keep embeddings in fewer bytes: f32, f16, bf16, int8 or one-bit, for all, or TABLE=CODEC, or TABLE/SEGMENT=CODEC
    #[arg(long = "codec", value_name = "CODEC", value_parser = rule)]
    codecs: Vec<Rule>,
    /// Memory that the copy's rows, indexes and caches may take
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "1GiB")]
    memory_budget: usize,
    #[command(flatten)]
    cold_memory: ColdMemory,
    /// Answer lookups and Prometheus here, e.g. 127.0.0.1:8080
    #[arg(long, value_name = "ADDR", conflicts_with = "once")]
    http: Option<SocketAddr>,
    /// Catch up, say so, and end
    #[arg(long)]
    once: bool,
    /// End after so many looks that found something new, and sum up
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    syncs: Option<u64>,
    /// Print a line of JSON each time
    #[arg(long)]
    json: bool,
}

/// For what, and which codec.
#[derive(Clone)]
struct Rule {
    table: Option<String>,
    segment: Option<usize>,
    codec: Option<Quantization>,
}

fn rule(text: &str) -> Result<Rule, String> {
    let (place, codec) = text.rsplit_once('=').map_or((None, text), |(place, codec)| (Some(place), codec));
    let codec = if codec == "f32" { None } else { Some(codec.parse()?) };
    let Some(place) = place else { return Ok(Rule { table: None, segment: None, codec }) };
    let segment = place.rsplit_once('/').and_then(|(table, segment)| Some((table, segment.parse().ok()?)));
    let (table, segment) = segment.map_or((place, None), |(table, segment)| (table, Some(segment)));
    Ok(Rule { table: Some(table.to_owned()), segment, codec })
}

fn codecs(rules: &[Rule]) -> Codecs {
    let all = rules.iter().rfind(|rule| rule.table.is_none()).and_then(|rule| rule.codec);
    rules.iter().fold(Codecs::all(all), |codecs, rule| match (&rule.table, rule.segment) {
        (None, _) => codecs,
        (Some(table), None) => codecs.table(table, rule.codec),
        (Some(table), Some(segment)) => codecs.segment(table, segment, rule.codec),
    })
}

fn open(args: &Args) -> Result<Replica, Box<dyn std::error::Error>> {
    let options = args.cold_memory.options(args.memory_budget).codecs(codecs(&args.codecs));
    let replica = match (&args.from, &args.store) {
        (Some(place), _) => {
            let remote = Remote::open(place)?;
            let of_store = args.store_id.as_ref().map(|id| remote.of_store(id));
            Replica::open_copies(of_store.unwrap_or(remote), &args.replica, options)
        }
        (None, Some(store)) => Replica::open(store, &args.replica, options),
        (None, None) => return Err("neither a store nor --from is given".into()),
    };
    Ok(replica?)
}

pub(crate) fn run(args: &Args) -> Outcome {
    let replica = Arc::new(open(args)?);
    if let Some(address) = args.http {
        serve(Arc::clone(&replica), address)?;
    }
    let (mut warned, mut sum) = (String::new(), Sum::default());
    loop {
        let (lag, began) = (replica.lag(), Instant::now());
        match lag.and_then(|lag| Ok((lag, replica.catch_up()?))) {
            Ok((lag, report)) => {
                warned.clear();
                let took = began.elapsed();
                count(&report);
                sum.add(&lag, &report, took);
                show(&lag, &report, took, args.json)?;
            }
            Err(error) if args.once => return Err(error.into()),
            // The store may be between a crash and the recovery from it: what was served is served on.
            Err(error) => warn(&format!("commit {} is served on: {error}", replica.at()), &mut warned),
        }
        if args.once {
            return output::done();
        }
        if args.syncs.is_some_and(|most| sum.syncs >= most) {
            sum.show(&replica, args.json)?;
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
                "bytes": report.bytes, "restarted": report.restarted, "seconds": took.as_secs_f64()})
        );
        return Ok(());
    }
    let behind = lag.commits.map_or("an unknown number of".to_owned(), output::count);
    let bytes = output::bytes(report.bytes);
    say!(
        "commit {}: was {behind} commits and {:.1} s behind, applied {} ({bytes}) in {took:.1?}",
        report.at,
        lag.seconds,
        report.commits
    );
    if let Some(why) = &report.restarted {
        say!("began anew from a base: {why}");
    }
    Ok(())
}

/// Of the looks that found something new.
#[derive(Default)]
struct Sum {
    syncs: u64,
    commits: u64,
    bytes: u64,
    lag: f64,
    longest_lag: f64,
    took: Duration,
}

impl Sum {
    fn add(&mut self, lag: &Lag, report: &CatchUp, took: Duration) {
        if report.commits == 0 && report.restarted.is_none() {
            return;
        }
        self.syncs += 1;
        self.commits += report.commits;
        self.bytes += report.bytes;
        self.took += took;
        // What was new is served only now.
        let lag = lag.seconds + took.as_secs_f64();
        self.lag += lag;
        self.longest_lag = self.longest_lag.max(lag);
    }

    fn show(&self, replica: &Replica, json: bool) -> Result<(), Box<dyn std::error::Error>> {
        let (count, full) = (self.syncs.max(1), replica.full_bytes());
        let rows: u64 = replica.rows().iter().map(|(_, rows)| rows).sum();
        let (lag, bytes, took) = (self.lag / count as f64, self.bytes / count, self.took / count as u32);
        if json {
            say!(
                "{}",
                json!({"syncs": self.syncs, "commits": self.commits, "mean_lag_seconds": lag, "longest_lag_seconds": self.longest_lag,
                    "mean_seconds": took.as_secs_f64(), "mean_bytes": bytes, "full_bytes": full, "rows": rows,
                    "memory_bytes": replica.memory_bytes()})
            );
            return Ok(());
        }
        say!(
            "{} syncs of {} commits: at most {:.2} s behind, {lag:.2} s on average; {} a sync in {took:.1?}, {:.1} % of a full copy ({}, {} rows), \
             in {} of memory",
            self.syncs,
            self.commits,
            self.longest_lag,
            output::bytes(bytes),
            100.0 * bytes as f64 / full.max(1) as f64,
            output::bytes(full),
            output::count(rows),
            output::bytes(replica.memory_bytes()),
        );
        Ok(())
    }
}
