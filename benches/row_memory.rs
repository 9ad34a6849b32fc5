//! Bytes that a row in memory takes beside its embedding and optimizer state, while a table grows:
//! `cargo bench --features cli,testing --bench row_memory -- --rows 4000000 --dim 16,64`.
//!
//! Keys, times and flags, the index, marks of uncommitted rows, padding and capacity that is not in use: all that the store accounts, and
//! beside it what the process got from the system. A commit follows each step. Under `cargo test` it runs with few rows.

use std::fs;

use clap::Parser;
use embedrock::{Key, Optimizer, Store, StoreOptions, TableSchema, Update};

type Failure = Box<dyn std::error::Error>;

/// Points at which memory is looked at.
const STEPS: u64 = 64;
/// Before so many steps nearly all is the first chunks.
const FIRST_STEP: u64 = 4;
const BATCH: usize = 4096;

/// What the budget leaves a row beside its lanes, and the store beside its rows: more than either takes, so that all stay in memory.
const ROOM_A_ROW: usize = 256;
const ROOM: usize = 1 << 30;

#[derive(Parser)]
#[command(about = "Bytes of a row beside its embedding and state")]
struct Cli {
    /// Rows at the end
    #[arg(long, default_value_t = 4_000_000)]
    rows: u64,
    /// f32s of an embedding; Adagrad keeps as many again
    #[arg(long, value_delimiter = ',', default_value = "16,64")]
    dim: Vec<usize>,
    /// Shards; the store's own number where none is given
    #[arg(long)]
    shards: Option<usize>,
    #[arg(long, hide = true)]
    bench: bool,
}

/// Bytes beside the lanes at a number of rows: accounted before and after the commit, and resident.
struct Point {
    rows: u64,
    uncommitted: f64,
    committed: f64,
    resident: f64,
}

/// What is said of a column of points.
type Summary = (&'static str, fn(&[f64]) -> f64);

fn resident_bytes() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).ok_or("no RssAnon in /proc/self/status")?;
    let kib: u64 = line.split_whitespace().nth(1).ok_or("RssAnon has no number")?.parse()?;
    Ok(kib * 1024)
}

fn grow(rows: u64, dim: usize, shards: Option<usize>) -> Result<Vec<Point>, Failure> {
    let dir = tempfile::tempdir()?;
    let before = resident_bytes()?;
    let budget = usize::try_from(rows)?.saturating_mul(dim * 8 + ROOM_A_ROW).saturating_add(ROOM);
    let mut options = StoreOptions::default().memory_budget(budget);
    options = shards.into_iter().fold(options, StoreOptions::shards);
    let store = Store::open(dir.path(), options)?;
    let table = store.create_table(TableSchema::new("rows", dim).optimizer(Optimizer::adagrad(0.05)))?;
    let lanes_bytes = table.schema().row_bytes() as f64;
    let values = vec![0.5; BATCH * dim];
    let beside = |bytes: u64, rows: u64| bytes as f64 / rows as f64 - lanes_bytes;
    let mut points = Vec::new();
    let mut filled = 0;
    for step in 1..=STEPS {
        while filled < rows * step / STEPS {
            let next = (filled + BATCH as u64).min(rows * step / STEPS);
            let keys: Vec<Key> = (filled..next).collect();
            table.assign(&keys, &values[..keys.len() * dim], &Update::at(1))?;
            filled = next;
        }
        let accounted = || store.stats().tables[0].memory_bytes as u64;
        let uncommitted = accounted();
        store.commit(&[])?;
        let (committed, resident) = (accounted(), resident_bytes()?.saturating_sub(before));
        if step >= FIRST_STEP {
            let [uncommitted, committed, resident] = [uncommitted, committed, resident].map(|bytes| beside(bytes, filled));
            points.push(Point { rows: filled, uncommitted, committed, resident });
        }
    }
    let mut found = vec![0.0; dim];
    if table.lookup(&[rows - 1], &mut found)? != 1 || store.stats().tables[0].hot_rows != rows {
        return Err("not all rows are in memory".into());
    }
    Ok(points)
}

fn main() -> Result<(), Failure> {
    let mut cli = Cli::parse();
    if !cli.bench {
        (cli.rows, cli.dim) = (100_000, vec![16]);
    }
    println!("| dim | rows | | committed, accounted | uncommitted, accounted | resident |");
    println!("|---|---|---|---|---|---|");
    for &dim in &cli.dim {
        let points = grow(cli.rows, dim, cli.shards)?;
        let first = points.first().map_or(0, |point| point.rows);
        let columns = [|point: &Point| point.committed, |point: &Point| point.uncommitted, |point: &Point| point.resident];
        let summaries: [Summary; 3] = [
            ("mean", |values| values.iter().sum::<f64>() / values.len() as f64),
            ("worst", |values| values.iter().copied().fold(f64::MIN, f64::max)),
            ("at the end", |values| values.last().copied().unwrap_or(0.0)),
        ];
        for (what, of) in summaries {
            let of_column = |column: fn(&Point) -> f64| of(&points.iter().map(column).collect::<Vec<f64>>());
            let [committed, uncommitted, resident] = columns.map(of_column);
            println!("| {dim} | {first}-{} | {what} | {committed:.1} | {uncommitted:.1} | {resident:.1} |", cli.rows);
        }
    }
    Ok(())
}
