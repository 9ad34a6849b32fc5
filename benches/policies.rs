//! Which rows should stay hot: hit rates and costs of policies on real and drawn streams of keys, as a table.
//! `cargo bench --features cli,testing --bench policies -- --data DIR`; under `cargo test` it runs for an instant.
//!
//! `DIR` holds `movielens-1m`, `movielens-latest-small`, `criteo-60k` and `yoochoose-100k`; what is not there is left out, and said so.

#[path = "policies/caches.rs"]
mod caches;
#[path = "../src/shard/policy.rs"]
#[allow(dead_code, unused_imports, reason = "the store's own, which needs more of it")]
mod policy;
#[path = "policies/traces.rs"]
mod traces;

use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;

use caches::{Cache, Clairvoyant, Hand, LeastFrequent, Plain, Recent, S3Fifo};
use traces::{Failure, Shape, Trace, clicks, drawn, samples};

#[derive(Parser)]
#[command(about = "Hit rates and costs of demotion policies")]
struct Cli {
    /// The directory with real data
    #[arg(long, default_value = "../shared/data")]
    data: PathBuf,
    /// Keys of the drawn streams
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// Uses of the drawn streams
    #[arg(long, default_value_t = 1_500_000)]
    uses: usize,
    /// Percent of the keys that may stay
    #[arg(long, value_delimiter = ',', default_value = "1,5,10,20")]
    budget: Vec<usize>,
    /// A few keys for an instant, to see that everything works
    #[arg(long)]
    quick: bool,
}

type Candidate = (&'static str, fn(&Trace, usize) -> Box<dyn Cache>);

const CANDIDATES: [Candidate; 13] = [
    ("CLOCK", |trace, most| Box::new(Hand::plain(Plain::Clock, false, false, most, trace.ttl))),
    ("CLOCK, first use counts", |trace, most| Box::new(Hand::plain(Plain::Clock, true, false, most, trace.ttl))),
    ("counts to 3", |trace, most| Box::new(Hand::plain(Plain::Capped, false, false, most, trace.ttl))),
    ("halving, first use counts", |trace, most| Box::new(Hand::plain(Plain::Halving, true, false, most, trace.ttl))),
    ("halving", |trace, most| Box::new(Hand::plain(Plain::Halving, false, false, most, trace.ttl))),
    ("halving, expired first", |trace, most| Box::new(Hand::plain(Plain::Halving, false, true, most, trace.ttl))),
    ("S3-FIFO on a hand", |trace, most| Box::new(Hand::new(false, most, trace.ttl))),
    ("the store", |trace, most| Box::new(Hand::new(true, most, trace.ttl))),
    ("LFU with decay", |_, most| Box::new(LeastFrequent::new(most))),
    ("S3-FIFO", |_, most| Box::new(S3Fifo::new(most))),
    ("LRU", |_, most| Box::new(Recent::new(most))),
    ("clairvoyant", |trace, most| Box::new(Clairvoyant::new(most, trace))),
    ("none leaves", |trace, _| Box::new(Recent::new(trace.keys))),
];
/// Those that know of expiry, and what differs only there.
const EXPIRING: std::ops::Range<usize> = 3..8;
const ONLY_EXPIRING: [usize; 2] = [5, 6];

fn main() -> Result<(), Failure> {
    let measured = std::env::args().any(|arg| arg == "--bench");
    let given = std::env::args().filter(|arg| arg != "--bench");
    let mut cli = Cli::parse_from(given.chain((!measured).then(|| "--quick".to_owned())));
    if cli.quick {
        (cli.keys, cli.uses, cli.budget) = (1000, 20_000, vec![10]);
        cli.data = PathBuf::from("none");
    }
    let traces = traces(&cli)?;
    for trace in &traces {
        play(trace, &cli.budget);
    }
    if cli.quick { check(&traces) } else { Ok(()) }
}

fn traces(cli: &Cli) -> Result<Vec<Trace>, Failure> {
    let mut traces = Vec::new();
    for name in ["movielens-1m", "movielens-latest-small", "criteo-60k", "yoochoose-100k"] {
        let path = cli.data.join(name);
        if !path.exists() {
            eprintln!("SKIPPED: {name}: {} is not there", path.display());
            continue;
        }
        let trace = if name.starts_with("yoochoose") { clicks(name, &path.join("train.tsv"))? } else { samples(name, &path)? };
        match name {
            "movielens-latest-small" => traces.push(trace.expiring(30 * 86_400)),
            "yoochoose-100k" => traces.push(trace.expiring(3600)),
            _ => {}
        }
        traces.push(trace);
    }
    for exponent in [1.05, 1.15] {
        for shape in [Shape::Plain, Shape::Scans, Shape::Drift] {
            traces.push(drawn(cli.keys, cli.uses, exponent, shape));
        }
    }
    traces.push(drawn(cli.keys, cli.uses, 0.0, Shape::Plain));
    Ok(traces)
}

/// Hits of the uses that count, rows looked at for each that left, nanoseconds a use.
fn hits(trace: &Trace, candidate: &Candidate, most: usize) -> (f64, f64, f64) {
    let mut cache = candidate.1(trace, most);
    let begun = Instant::now();
    let (mut hits, mut counted) = (0u64, 0u64);
    for (at, used) in trace.uses.iter().enumerate() {
        let hit = cache.access(at, used.key, used.time);
        counted += u64::from(used.counts);
        hits += u64::from(used.counts && hit);
    }
    let (looked_at, left) = cache.cost();
    let nanos = begun.elapsed().as_nanos() as f64 / trace.uses.len().max(1) as f64;
    (hits as f64 / counted.max(1) as f64, looked_at as f64 / left.max(1) as f64, nanos)
}

fn play(trace: &Trace, budgets: &[usize]) {
    println!("\n{}: {} keys, {} uses", trace.name, trace.keys, trace.uses.len());
    let head: Vec<String> = budgets.iter().map(|percent| format!("{percent:>13} %")).collect();
    println!("{:<27}{}", "hit rate (rows looked at)", head.join(""));
    let expires = trace.ttl < u32::MAX;
    for (at, candidate) in CANDIDATES.iter().enumerate() {
        if expires && !EXPIRING.contains(&at) || !expires && ONLY_EXPIRING.contains(&at) {
            continue;
        }
        let columns: Vec<String> = budgets
            .iter()
            .map(|percent| {
                let (rate, looked_at, _) = hits(trace, candidate, (trace.keys * percent / 100).max(8));
                format!("{rate:>9.4} ({looked_at:>3.1})")
            })
            .collect();
        println!("{:<27}{}", candidate.0, columns.join(""));
    }
}

/// What must hold of any such figures: nobody beats the future, and frequency is worth something where keys are skewed.
fn check(traces: &[Trace]) -> Result<(), Failure> {
    let find = |name: &str| CANDIDATES.iter().find(|candidate| candidate.0 == name).ok_or("no such candidate");
    for trace in traces.iter().filter(|trace| !trace.name.contains("scans")) {
        let most = trace.keys / 10;
        let best = hits(trace, find("clairvoyant")?, most).0;
        for candidate in &CANDIDATES[..11] {
            let rate = hits(trace, candidate, most).0;
            if rate > best + 1e-9 {
                return Err(format!("{}: {} has {rate}, the future {best}", trace.name, candidate.0).into());
            }
        }
    }
    let scans = traces.iter().find(|trace| trace.name.contains("scans")).ok_or("no scans")?;
    let (own, recent) = (hits(scans, find("the store")?, scans.keys / 10).0, hits(scans, find("LRU")?, scans.keys / 10).0);
    if own <= recent {
        return Err(format!("the store has {own}: it should stand scans better than LRU with {recent}").into());
    }
    Ok(())
}
