//! The proof: every way to lose or to mistake a row that we know of, tried as often as there is time for, and told in one table.
//!
//! `cargo test --release --features cli,testing --test proof` takes a minute or two; `-- --minutes 30` goes on for longer,
//! `-- --seed 7` takes other draws, `-- flips hostile` runs these rows alone. A row that finds a loss fails and says how to repeat it.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[cfg(feature = "cli")]
#[path = "../command/mod.rs"]
mod command;
#[path = "../driver/mod.rs"]
mod driver;
#[path = "../hostile/mod.rs"]
mod hostile;
#[path = "../map/mod.rs"]
mod map;

mod checkpoints;
mod failing_calls;
mod flips;
#[cfg(feature = "cli")]
mod kill_points;
#[cfg(feature = "cli")]
mod kills;
#[cfg(feature = "cli")]
mod kit;
mod lying_syncs;
mod planted;
mod power_cuts;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// What a row is given: draws, and the time that it may go on beyond its least number of rounds.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    until: Instant,
}

impl Plan {
    /// Numbers of rounds: `least` of them, and more while there is time.
    pub(crate) fn rounds(&self, least: u64) -> impl Iterator<Item = u64> + '_ {
        let least = if cfg!(debug_assertions) { least.div_ceil(8) } else { least };
        (0..).take_while(move |round| *round < least || Instant::now() < self.until)
    }
}

/// The figures of a row, or what was lost and how to see it again.
pub(crate) type Figures = Result<String, String>;

/// A name, the share of the time, and the row itself.
type Row = (&'static str, f64, fn(&Plan) -> Figures);

const ROWS: &[Row] = &[
    ("power-cuts", 0.24, power_cuts::run),
    ("failing-calls", 0.1, failing_calls::run),
    ("lying-syncs", 0.06, lying_syncs::run),
    ("flips", 0.14, flips::run),
    #[cfg(feature = "cli")]
    ("hostile", 0.0, kit::run),
    #[cfg(feature = "cli")]
    ("kills", 0.16, kills::run),
    #[cfg(feature = "cli")]
    ("kill-points", 0.14, kill_points::run),
    ("checkpoints", 0.14, checkpoints::run),
    ("planted-bugs", 0.0, planted::run),
];

struct Arguments {
    minutes: f64,
    seed: u64,
    rows: Vec<String>,
}

impl Arguments {
    fn parse() -> Result<Arguments, String> {
        let mut parsed = Arguments { minutes: 0.0, seed: 1, rows: Vec::new() };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut number =
                || words.next().and_then(|number| number.parse::<f64>().ok()).ok_or(format!("{word} needs a number"));
            match word.as_str() {
                "--minutes" => parsed.minutes = number()?,
                "--seed" => parsed.seed = number()? as u64,
                // What `cargo test` passes on to all tests.
                "--nocapture" | "--quiet" => {}
                row if ROWS.iter().any(|(name, ..)| *name == row) => parsed.rows.push(word),
                _ => {
                    let names: Vec<_> = ROWS.iter().map(|(name, ..)| *name).collect();
                    return Err(format!("'{word}' is none of --minutes N, --seed N, {}", names.join(", ")));
                }
            }
        }
        Ok(parsed)
    }

    fn wants(&self, name: &str) -> bool {
        self.rows.is_empty() || self.rows.iter().any(|row| row == name)
    }
}

/// The commit of the source, as far as it can be told.
fn source() -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git").args(words).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    match (git(&["rev-parse", "--short", "HEAD"]), git(&["status", "--porcelain"])) {
        (Some(commit), Some(changes)) if changes.is_empty() => format!("commit {commit}"),
        (Some(commit), _) => format!("commit {commit} with changes"),
        _ => "a source without history".into(),
    }
}

fn attempt(run: fn(&Plan) -> Figures, plan: &Plan) -> Figures {
    catch_unwind(AssertUnwindSafe(|| run(plan))).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
        Err(said.unwrap_or("a panic").to_owned())
    })
}

fn main() -> ExitCode {
    let arguments = match Arguments::parse() {
        Ok(arguments) => arguments,
        Err(what) => {
            eprintln!("{what}");
            return ExitCode::from(2);
        }
    };
    let build = if cfg!(debug_assertions) { "with debug assertions" } else { "optimised" };
    println!("proof: seed {}, {}, {build}, {} minutes", arguments.seed, source(), arguments.minutes);
    if !cfg!(feature = "cli") {
        println!("{:14} without the feature cli: kills, kill points and the hostile kit are left out", "SKIPPED");
    }
    let mut failed = 0;
    for (name, share, run) in ROWS.iter().filter(|(name, ..)| arguments.wants(name)) {
        let begun = Instant::now();
        let share = if arguments.rows.is_empty() { *share } else { 1.0 / arguments.rows.len() as f64 };
        let plan = Plan { seed: arguments.seed, until: begun + Duration::from_secs_f64(arguments.minutes * 60.0 * share) };
        let result = attempt(*run, &plan);
        failed += u32::from(result.is_err());
        let (verdict, figures) = result.map_or_else(|what| ("FAILED: ", what), |figures| ("", figures));
        println!("{name:14} {verdict}{figures}; {:.0} s", begun.elapsed().as_secs_f64());
    }
    ExitCode::from(u8::from(failed > 0))
}
