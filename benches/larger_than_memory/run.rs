//! The arguments of a run, and its processes: one measures the device and reports, one for each candidate fills and measures it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde_json::Value;

use crate::drive::{Candidate, Counts, Course, Drive, Failure, Site, settle};
use crate::workload::Distribution;
use crate::{device, report};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// f32s of a row: an embedding without optimizer state, so that updates can be followed exactly
    #[arg(long, value_delimiter = ',', default_value = "64")]
    dim: Vec<usize>,
    /// Bytes of all rows
    #[arg(long, default_value_t = 2_000_000_000)]
    bytes: u64,
    /// How many times the memory budget that is
    #[arg(long, default_value_t = 10.0)]
    ratio: f64,
    /// MiB of the memory budget that are this store's cold memory; as by default where nothing is said
    #[arg(long)]
    cold_memory: Option<usize>,
    /// Keys a batch
    #[arg(long, default_value_t = 4096)]
    batch: usize,
    /// Threads that call a candidate at once, each with batches of its own
    #[arg(long, default_value_t = 1)]
    callers: usize,
    /// How keys are drawn: uniform, or zipf:EXPONENT
    #[arg(long, value_delimiter = ',', default_value = "uniform,zipf:1.05,zipf:1.15")]
    distribution: Vec<Distribution>,
    #[arg(long, value_delimiter = ',', default_value = "lookup,update")]
    operation: Vec<Operation>,
    /// Batches that keys are named ahead of their use; 0 for not at all
    #[arg(long, value_delimiter = ',', default_value = "0,8")]
    ahead: Vec<usize>,
    /// Seconds of each figure, after as many times WARM of the same before
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Seconds of warming, in times of SECONDS
    #[arg(long, default_value_t = 1.0)]
    warm: f64,
    /// Where rows go: the disk that is measured
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Keep this store's files there, and use what an earlier run kept
    #[arg(long)]
    keep: bool,
    /// Figures for programs, a line each
    #[arg(long)]
    json: bool,
    /// A few rows for an instant, to see that everything works
    #[arg(long)]
    quick: bool,
    /// This process measures one candidate for another
    #[arg(long, hide = true)]
    child: bool,
    /// This process fills this directory for another and measures nothing
    #[arg(long, hide = true)]
    fill: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Operation {
    Lookup,
    Update,
    /// Lookups of keys that no row ever had; this store only
    Absent,
    /// Updates that insert their rows; this store only
    New,
}

impl Operation {
    fn fits(self, candidate: &dyn Candidate) -> bool {
        matches!(self, Operation::Lookup | Operation::Update) || candidate.takes_any_key()
    }
}

/// The arguments of this process without what only Cargo wants.
fn given() -> Vec<String> {
    std::env::args().filter(|arg| arg != "--bench").collect()
}

pub(crate) fn parse<C: Parser>() -> C {
    let measured = std::env::args().any(|arg| arg == "--bench");
    C::parse_from(given().into_iter().chain(if measured { None } else { Some("--quick".to_owned()) }))
}

/// Runs this child's process once more to fill a directory. Memory that filling frees stays with that process: reused after joining
/// a cgroup, it would not count there.
#[allow(dead_code, reason = "the peers fill so")]
pub(crate) fn filled(dir: &Path) -> Result<(), Failure> {
    let status = Command::new(std::env::current_exe()?).args(std::env::args_os().skip(1)).arg("--fill").arg(dir).status()?;
    if status.success() { Ok(()) } else { Err(format!("filling {}: {status}", dir.display()).into()) }
}

impl Args {
    /// How many times the memory budget all rows have.
    pub(crate) fn ratio(&self) -> f64 {
        if self.quick { 2.0 } else { self.ratio }
    }
}

/// Measures each of `only`, one dimension after the other. `build` makes a candidate, filled, or says why it cannot; rows are
/// divided by `share`.
pub(crate) fn run<K: ValueEnum>(
    mut args: Args,
    only: &[K],
    share: f64,
    build: impl Fn(&K, &Site) -> Result<Option<Box<dyn Candidate>>, Failure>,
) -> Result<(), Failure> {
    if args.quick {
        (args.bytes, args.seconds, args.batch, args.ratio) = (40_000_000, 0.1, 512, args.ratio());
        args.ahead = vec![0, 2];
    }
    if args.child {
        let kind = only.last().ok_or("nothing to measure")?;
        return child(&args, share, |site| build(kind, site));
    }
    let dir = args.dir.join(format!("embedrock-beyond-memory-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let device = device::measure(&dir, args.bytes.clamp(64 << 20, 4 << 30), if args.quick { 0.05 } else { 1.0 });
    std::fs::remove_dir_all(&dir)?;
    let device = device?;
    let mut report = report::Report::new(device, args.json);
    for &dim in &args.dim {
        for kind in only {
            let name = kind.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
            let mut command = Command::new(std::env::current_exe()?);
            command.args(&given()[1..]).args(["--child", "--only", &name, "--dim", &dim.to_string()]);
            if args.quick {
                command.arg("--quick");
            }
            let said = command.arg("--bench").stderr(Stdio::inherit()).output()?;
            // RocksDB says there where the kernel does not take many reads at once.
            for line in String::from_utf8(said.stdout)?.lines().filter(|line| line.starts_with('{')) {
                report.add(serde_json::from_str::<Value>(line)?);
            }
            if !said.status.success() {
                return Err(format!("{name}, dim {dim}: {}", said.status).into());
            }
        }
    }
    Ok(())
}

/// Measures one candidate and prints a line for each figure. A process each, as a cgroup takes processes, and memory that one
/// candidate freed is no longer there for the next.
fn child(
    args: &Args,
    share: f64,
    build: impl FnOnce(&Site) -> Result<Option<Box<dyn Candidate>>, Failure>,
) -> Result<(), Failure> {
    let Some(&dim) = args.dim.last() else { return Err("nothing to measure".into()) };
    let rows = args.bytes / (dim as u64 * 4);
    let site = Site {
        dir: args.dir.clone(),
        rows: (rows as f64 / share) as u64,
        dim,
        budget: (args.bytes as f64 / args.ratio) as usize,
        cold_memory: args.cold_memory.map(|mib| mib << 20),
        callers: args.callers,
        keep: args.keep,
        fill: args.fill.clone(),
    };
    // Before a candidate joins a cgroup, whose memory is for the candidate.
    let counts = Counts::new(&site);
    let Some(candidate) = build(&site)? else { return Ok(()) };
    if !args.quick {
        settle()?;
    }
    let mut drive = Drive::new(&site, &*candidate, args.batch, counts);
    for &distribution in &args.distribution {
        for &operation in args.operation.iter().filter(|operation| operation.fits(&*candidate)) {
            // Keys that wait to be used at the end would be new rows that are missing.
            let named = candidate.looks_ahead() && operation != Operation::New;
            for &ahead in args.ahead.iter().filter(|&&ahead| ahead == 0 || named) {
                let (warm, measured) = (Duration::from_secs_f64(args.seconds * args.warm), Duration::from_secs_f64(args.seconds));
                println!("{}", drive.figure(&Course { distribution, operation, ahead, warm, measured })?);
            }
        }
    }
    Ok(())
}
