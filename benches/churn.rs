//! Event-days of traffic in which ids come and go: what the store's memory, disk and rate do over hours.
//! `cargo bench --features cli,testing --bench churn -- --minutes 60 --out DIR`.
//!
//! New ids arrive all the time, are wanted much while they are new and less and less then; a part of the traffic is ids that are seen
//! once. A sliding filter admits, two feature slots have rules of their own, rows expire, the budget is a tenth of the live data, commits
//! and bases come by policy. At the end it is checked that the budget was never exceeded, that the cold tier did not grow in the
//! second half, nor disk and files more than the traffic, and that the rows are those of the same batches in a store with memory for
//! all. Under `cargo test` it runs for an instant.

#[path = "churn/chart.rs"]
mod chart;
#[path = "churn/samples.rs"]
mod samples;
#[path = "churn/traffic.rs"]
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use embedrock::{CommitPolicy, Store, StoreOptions};
use serde_json::json;

use samples::{Sample, growth, traffic_growth};
use traffic::Traffic;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// What all rows in memory take beside their lanes: key, time, flags and index.
const HOT_ROW_EXTRA: usize = 24;
const MIN_BUDGET: usize = 24 << 20;
/// The most that the cold tier may grow over the second half, of its mean; disk and files by as much more as the traffic grows.
const MOST_GROWTH: f64 = 0.1;

#[derive(Parser)]
#[command(about = "Hours of traffic in which ids come and go")]
struct Cli {
    /// Minutes of traffic
    #[arg(long, default_value_t = 5.0)]
    minutes: f64,
    /// Ids that are wanted at one time
    #[arg(long, default_value_t = 600_000)]
    ids: u64,
    /// f32s of an embedding; the optimizer keeps as many again
    #[arg(long, default_value_t = 32)]
    dim: usize,
    /// Keys a batch
    #[arg(long, default_value_t = 4096)]
    batch: usize,
    /// Batches an event-day
    #[arg(long, default_value_t = 400)]
    day: u64,
    /// Seconds between commits
    #[arg(long, default_value_t = 5.0)]
    commit: f64,
    /// Where the store goes: the disk that is used
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Where figures (CSV, JSON) and charts (SVG) go
    #[arg(long)]
    out: Option<PathBuf>,
    /// A few ids for an instant, to see that everything works
    #[arg(long)]
    quick: bool,
}

fn main() -> Result<(), Failure> {
    // As the command line does.
    embedrock::limit_arenas(2);
    let measured = std::env::args().any(|arg| arg == "--bench");
    let given = std::env::args().filter(|arg| arg != "--bench");
    let quick = if measured { None } else { Some("--quick".to_owned()) };
    let mut cli = Cli::parse_from(given.chain(quick));
    if cli.quick {
        (cli.minutes, cli.ids, cli.batch, cli.day, cli.commit) = (0.05, 3000, 256, 12, 0.2);
    }
    let dir = cli.dir.join(format!("embedrock-churn-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let result = run(&cli, &dir);
    fs::remove_dir_all(&dir)?;
    result
}

fn budget(cli: &Cli) -> usize {
    let row = cli.dim * 8 + HOT_ROW_EXTRA;
    (cli.ids as usize * row / 10).max(MIN_BUDGET)
}

fn run(cli: &Cli, dir: &Path) -> Result<(), Failure> {
    let path = dir.join("store");
    let budget = budget(cli);
    let policy = CommitPolicy::default().every(Duration::from_secs_f64(cli.commit));
    let options = || StoreOptions::default().memory_budget(budget).threads(2).commit_policy(policy).checkpoint_ratio(1.0);
    let traffic = Traffic::new(cli.ids, cli.dim, cli.batch, cli.day);
    let store = Store::open(&path, options())?;
    let table = store.create_table(traffic.schema())?;
    let mut samples: Vec<Sample> = Vec::new();
    let (begun, mut batches) = (Instant::now(), 0);
    let every = if cli.quick { 0.1 } else { 1.0 };
    let mut batch = traffic.batches();
    while begun.elapsed().as_secs_f64() < cli.minutes * 60.0 {
        let keys = batch.next_keys(batches);
        batch.train(&table, &keys, batches)?;
        batches += 1;
        store.commit_if_due(|| batches.to_le_bytes().to_vec())?;
        let now = begun.elapsed().as_secs_f64();
        if now >= samples.len() as f64 * every {
            samples.push(Sample::take(&store, now, batches)?);
        }
    }
    let found = store.digest()?;
    store.commit(&batches.to_le_bytes())?;
    let stats = store.stats();
    drop((table, store));
    let reopened = {
        let store = Store::open(&path, options())?;
        store.create_table(traffic.schema())?;
        store.digest()?
    };
    if let Some(out) = &cli.out {
        write_series(out, &samples)?;
    }
    let (expected, live) = unlimited(cli, dir, &traffic, batches)?;
    let figures = json!({
        "date": date(), "minutes": cli.minutes, "ids": cli.ids, "dim": cli.dim, "batch": cli.batch, "batches_a_day": cli.day,
        "batches": batches, "event_days": batches as f64 / cli.day as f64, "budget": budget, "live_rows": live,
        "budget_of_live": budget as f64 / (live as f64 * (cli.dim * 8 + HOT_ROW_EXTRA) as f64),
        "refused": stats.tables[0].refused, "expired_hot": stats.tables[0].expired, "dropped_counts": stats.tables[0].dropped_counts,
        "filter_bytes": stats.tables[0].filter_bytes, "digest": found.to_string(),
        "summary": samples::summary(&samples),
    });
    if let Some(out) = &cli.out {
        fs::write(out.join("churn.json"), format!("{figures:#}\n"))?;
    }
    println!("{figures:#}");
    check(cli, &samples, budget, &[("the store opened again", reopened == found), ("with memory for all", expected == found)])
}

/// The same batches in a store with memory for all rows, with a commit an event-day, as rows that no commit has are not freed when they
/// expire: the digest and the number of live rows.
fn unlimited(cli: &Cli, dir: &Path, traffic: &Traffic, batches: u64) -> Result<(embedrock::Digest, u64), Failure> {
    let memory = budget(cli) * 40 + (256 << 20);
    let store = Store::open(dir.join("unlimited"), StoreOptions::default().memory_budget(memory).threads(2))?;
    let table = store.create_table(traffic.schema())?;
    let mut batch = traffic.batches();
    for number in 0..batches {
        let keys = batch.next_keys(number);
        batch.train(&table, &keys, number)?;
        if number % cli.day == 0 {
            store.commit(b"")?;
        }
    }
    let mut live = 0;
    table.for_each_row(|_, _, _, _| {
        live += 1;
        Ok(())
    })?;
    Ok((store.digest()?, live))
}

fn check(cli: &Cli, samples: &[Sample], budget: usize, same: &[(&str, bool)]) -> Result<(), Failure> {
    for (what, same) in same {
        if !same {
            return Err(format!("other rows: {what}").into());
        }
    }
    if let Some(over) = samples.iter().find(|sample| sample.accounted > budget) {
        return Err(format!("at {:.0} s {} bytes were accounted, the budget is {budget}", over.seconds, over.accounted).into());
    }
    if cli.minutes < 1.0 {
        return Ok(());
    }
    // The log and the bases are of the last minutes: where more comes in these, they have more.
    let more = traffic_growth(samples).max(0.0);
    println!("traffic: {:+.1} % over the second half", traffic_growth(samples) * 100.0);
    let figures = [
        ("cold tier", growth(samples, |s| s.cold_bytes as f64), MOST_GROWTH),
        ("disk", growth(samples, |s| s.disk_bytes as f64), MOST_GROWTH + more),
        ("files", growth(samples, |s| s.files as f64), MOST_GROWTH + more),
    ];
    for (what, growth, most) in figures {
        println!("{what}: {:+.1} % over the second half", growth * 100.0);
        if growth > most {
            return Err(format!("{what} grew by {:.1} % of the mean over the second half", growth * 100.0).into());
        }
    }
    Ok(())
}

fn write_series(out: &Path, samples: &[Sample]) -> Result<(), Failure> {
    fs::create_dir_all(out)?;
    fs::write(out.join("churn.csv"), samples::csv(samples))?;
    for chart in chart::charts(samples) {
        fs::write(out.join(format!("churn-{}.svg", chart.name)), chart.svg())?;
    }
    Ok(())
}

fn date() -> String {
    let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // Days to a date: Howard Hinnant's "civil_from_days".
    let days = (seconds / 86_400) as i64 + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let rest = day - (365 * year + year / 4 - year / 100);
    let month = (5 * rest + 2) / 153;
    let (d, m) = (rest - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    format!("{:04}-{m:02}-{d:02}", year + era * 400 + i64::from(m <= 2))
}
