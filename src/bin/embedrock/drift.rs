//! `embedrock drift`: how far a table's vectors moved.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use embedrock::train::drift::{Drift, drift};
use embedrock::{At, CommitId, Store};
use plotters::prelude::*;
use serde_json::json;

use crate::memory::ColdMemory;
use crate::output::{self, Outcome, say};

/// Bars of the plot and the JSON.
const BARS: usize = 40;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The store with the new vectors; it may be open elsewhere
    store: PathBuf,
    /// The table
    #[arg(long, value_name = "NAME")]
    table: String,
    /// The old vectors: those of this commit of the store, as `inspect --commits` lists them
    #[arg(long, value_name = "COMMIT", required_unless_present = "against")]
    since: Option<CommitId>,
    /// The old vectors: those of another store
    #[arg(long, value_name = "STORE", conflicts_with = "since")]
    against: Option<PathBuf>,
    /// The new vectors as of this commit; the last durable one by default
    #[arg(long, value_name = "COMMIT")]
    at: Option<CommitId>,
    /// Compare this segment of the rows only, from 0
    #[arg(long, value_name = "N")]
    segment: Option<usize>,
    /// Exit with 1 if more keys than the quantile allows moved further than this (0 to 2)
    #[arg(long, value_name = "DISTANCE", value_parser = distance)]
    alert: Option<f64>,
    /// The share of the keys that may not pass the alert's distance
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "0.9")]
    quantile: f64,
    /// Also draw the distribution
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Memory to open each of the two in
    #[arg(long, value_name = "SIZE", value_parser = output::size, default_value = "1GiB")]
    memory_budget: usize,
    #[command(flatten)]
    cold_memory: ColdMemory,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn within(text: &str, most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("'{text}' is no number"))?;
    if (0.0..=most).contains(&number) { Ok(number) } else { Err(format!("must be 0 to {most}")) }
}

fn distance(text: &str) -> Result<f64, String> {
    within(text, 2.0)
}

fn share(text: &str) -> Result<f64, String> {
    within(text, 1.0)
}

pub(crate) fn run(args: &Args) -> Outcome {
    let open = |store: &Path, at: Option<CommitId>| {
        let options = args.cold_memory.options(args.memory_budget).read_only(true);
        Store::open(store, options.open_at(at.map_or(At::Latest, At::Commit)))
    };
    let old = open(args.against.as_deref().unwrap_or(&args.store), args.since)?;
    let new = open(&args.store, args.at)?;
    let found = drift(&old, &new, &args.table, args.segment)?;
    let (from, to) = (old.recovery().at, new.recovery().at);
    let reached = found.quantile(args.quantile);
    let alert = args.alert.is_some_and(|alert| reached > alert);
    if let Some(file) = &args.svg {
        draw(&found, args, file).map_err(|error| format!("cannot draw {}: {error}", file.display()))?;
    }
    let quantiles = [0.5, 0.9, 0.99].map(|share| found.quantile(share));
    if args.json {
        let [p50, p90, p99] = quantiles;
        output::json(&json!({
            "from": from.to_string(), "to": to.to_string(), "drift": found, "p50": p50, "p90": p90, "p99": p99,
            "quantile": args.quantile, "distance": reached, "alert_above": args.alert, "alert": alert,
            "histogram": found.histogram(BARS), "histogram_width": 2.0 / BARS as f64,
        }))?;
    } else {
        let count = output::count;
        say!("table '{}': commit {from} to {to}", found.table);
        let Drift { compared, added, gone, unchanged, mean, largest, .. } = &found;
        say!("{} keys in both ({} unchanged), {} new, {} gone", count(*compared), count(*unchanged), count(*added), count(*gone));
        let [p50, p90, p99] = quantiles;
        say!("cosine distance: mean {mean:.4}, half within {p50:.4}, 90 % {p90:.4}, 99 % {p99:.4}, largest {largest:.4}");
        for (at, keys) in found.histogram(BARS).iter().enumerate().filter(|(_, keys)| **keys > 0) {
            let bar = "#".repeat((50 * keys).div_ceil((*compared).max(1)) as usize);
            let width = 2.0 / BARS as f64;
            say!("  {:.2} to {:.2} {:>10}  {bar}", at as f64 * width, (at + 1) as f64 * width, count(*keys));
        }
        if alert {
            let limit = args.alert.unwrap_or_default();
            say!("ALERT: {:.4} is passed by more than {} of the keys, allowed is {limit:.4}", limit, 1.0 - args.quantile);
        }
    }
    Ok(if alert { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Bars of the keys by distance, and a line where the alert is.
fn draw(found: &Drift, args: &Args, file: &Path) -> Result<(), Box<dyn Error>> {
    let bars = found.histogram(BARS);
    let most = bars.iter().copied().max().unwrap_or(0).max(1);
    let width = 2.0 / BARS as f64;
    let area = SVGBackend::new(file, (720, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let caption = format!("{}: cosine distance of {} keys", found.table, found.compared);
    let mut chart = ChartBuilder::on(&area)
        .caption(caption, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..2.0f64, 0u64..most + most / 20 + 1)?;
    chart.configure_mesh().disable_x_mesh().x_desc("cosine distance of old and new vector").y_desc("keys").draw()?;
    let bar = |(at, keys): (usize, &u64)| {
        let from = at as f64 * width;
        Rectangle::new([(from, 0), (from + 0.9 * width, *keys)], BLUE.mix(0.7).filled())
    };
    chart.draw_series(bars.iter().enumerate().map(bar))?;
    if let Some(alert) = args.alert {
        chart.draw_series([PathElement::new([(alert, 0), (alert, most)], RED.stroke_width(2))])?;
    }
    area.present()?;
    Ok(())
}
