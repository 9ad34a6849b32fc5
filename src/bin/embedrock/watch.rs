//! `embedrock inspect --watch`: a line a second of what the process that has a store open says of it.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use embedrock::Status;
use serde_json::{Map, json};

use crate::output::{self, Outcome, say};

/// A status is read again so often where the file is being replaced.
const ATTEMPTS: usize = 5;
/// After this long without a new one the process is taken for gone, or stuck.
const STALE: Duration = Duration::from_secs(10);

/// Reads the status; `None` when there is none.
fn read(store: &Path) -> Result<Option<Status>, Box<dyn std::error::Error>> {
    let path = store.join("STATUS");
    for _ in 0..ATTEMPTS {
        match std::fs::read(&path) {
            Ok(bytes) => {
                if let Some(status) = Status::parse(&bytes) {
                    return Ok(Some(status));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err(format!("{}: the checksum does not fit: no process of this program wrote it", path.display()).into())
}

fn age(status: &Status) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(status.unix_millis))
}

pub(crate) fn run(store: &Path, every: f64, lines: Option<u64>, json: bool) -> Outcome {
    let every = Duration::try_from_secs_f64(every)?;
    let mut before: Option<Status> = None;
    let mut printed = 0;
    while lines.is_none_or(|lines| printed < lines) {
        let Some(status) = read(store)? else {
            let why = "no STATUS: no process publishes what it does with this store (`embedrock train` does, and Store::publish_status)";
            return Err(format!("{}: {why}", store.display()).into());
        };
        if before.as_ref().is_none_or(|before| before.unix_millis != status.unix_millis) {
            line(&status, before.as_ref(), json)?;
            printed += 1;
            before = Some(status);
        } else if age(&status) > STALE {
            return Err(format!("process {} has said nothing for {} s", status.pid, age(&status).as_secs()).into());
        }
        if lines.is_none_or(|lines| printed < lines) {
            thread::sleep(every);
        }
    }
    output::done()
}

fn line(status: &Status, before: Option<&Status>, json: bool) -> Result<(), Box<dyn std::error::Error>> {
    if json {
        let figures: Map<_, _> = status.figures.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
        say!("{}", json!({"unix_millis": status.unix_millis, "pid": status.pid, "figures": figures}));
        return Ok(());
    }
    let of = |name: &str| status.sum(&format!("embedrock_{name}"));
    // Since the line before; in the first line since the process began, without a rate.
    let since = |name: &str| of(name) - before.map_or(0.0, |before| before.sum(&format!("embedrock_{name}")));
    let seconds = before.map(|before| (status.unix_millis.saturating_sub(before.unix_millis)) as f64 / 1e3);
    let rate =
        |name: &str| seconds.filter(|seconds| *seconds > 0.0).map_or("-".to_owned(), |s| output::count((since(name) / s) as u64));
    let share = |part: f64, of: f64| if of > 0.0 { format!("{:.0} %", part / of * 100.0) } else { "-".to_owned() };
    let asked = since("looked_up_keys_total");
    say!(
        "{} lookups/s ({} hot, {} cold), {} updates/s ({} refused), {} rows hot, {} up, {} down, {} expired, memory {} of {}, disk {}, log {}, \
         {} uncommitted, {} commits queued, waited {:.2} s",
        rate("looked_up_keys_total"),
        share(since("hot_hits_total"), asked),
        share(since("cold_hits_total"), asked),
        rate("updated_keys_total"),
        share(since("refused_keys_total"), since("updated_keys_total")),
        output::count(of("hot_rows") as u64),
        output::count(since("promoted_rows_total") as u64),
        output::count(since("demoted_rows_total") as u64),
        output::count(since("expired_rows_total") as u64),
        output::bytes(of("memory_bytes") as u64),
        output::bytes(of("memory_budget_bytes") as u64),
        output::bytes(of("cold_disk_bytes") as u64),
        output::bytes(of("log_bytes") as u64),
        output::count(of("uncommitted_rows") as u64),
        of("queued_commits"),
        since("wait_seconds_total"),
    );
    Ok(())
}
