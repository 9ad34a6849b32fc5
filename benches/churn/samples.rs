//! What is noted each second, and what becomes of it.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use embedrock::Store;
use serde_json::{Value, json};

use crate::Failure;

#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    pub(crate) seconds: f64,
    pub(crate) batches: u64,
    pub(crate) keys: u64,
    pub(crate) accounted: usize,
    pub(crate) rss_anon: u64,
    pub(crate) rss_file: u64,
    pub(crate) disk_bytes: u64,
    pub(crate) cold_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) base_bytes: u64,
    pub(crate) files: u64,
    pub(crate) hot_rows: u64,
    pub(crate) cold_keys: u64,
    pub(crate) hot_hits: u64,
    pub(crate) cold_hits: u64,
    pub(crate) refused: u64,
    pub(crate) expired: u64,
    pub(crate) waited: f64,
    pub(crate) written: u64,
    pub(crate) read: u64,
}

/// Bytes and number of the files under a directory; each file once, however many names it has.
fn files(dir: &Path, seen: &mut Vec<u64>) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut count) = (0, 0);
    // What is removed meanwhile does not count.
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            let below = files(&entry.path(), seen);
            (bytes, count) = (bytes + below.0, count + below.1);
        } else {
            count += 1;
            if metadata.nlink() < 2 || !seen.contains(&metadata.ino()) {
                bytes += metadata.len();
                seen.push(metadata.ino());
            }
        }
    }
    (bytes, count)
}

/// A number of a file in `/proc/self`, after its name.
fn own(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim_start_matches(':').split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

impl Sample {
    pub(crate) fn take(store: &Store, seconds: f64, batches: u64) -> Result<Sample, Failure> {
        let stats = store.stats();
        let table = stats.tables.first().ok_or("the store has no table")?;
        let (disk_bytes, count) = files(store.dir(), &mut Vec::new());
        let waits = &stats.waits;
        let waited = [waits.gate, waits.images, waits.shards, waits.log].iter().map(|wait| wait.total.as_secs_f64()).sum();
        Ok(Sample {
            seconds,
            batches,
            keys: table.looked_up,
            accounted: stats.memory_bytes,
            rss_anon: own("status", "RssAnon") << 10,
            rss_file: own("status", "RssFile") << 10,
            disk_bytes,
            cold_bytes: stats.cold_disk_bytes,
            log_bytes: stats.log_bytes,
            base_bytes: files(&store.dir().join("base"), &mut Vec::new()).0,
            files: count,
            hot_rows: table.hot_rows,
            cold_keys: table.cold_keys,
            hot_hits: table.hot_hits,
            cold_hits: table.cold_hits,
            refused: table.refused,
            expired: table.expired,
            waited,
            written: own("io", "write_bytes"),
            read: own("io", "read_bytes"),
        })
    }
}

/// By how much a figure grows over the second half, of its mean there: by the line that fits best.
pub(crate) fn growth(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    growth_of(samples[samples.len() / 2..].iter().map(of))
}

/// The same of the keys that come from one sample to the next: what is kept of some traffic is more where that is more.
pub(crate) fn traffic_growth(samples: &[Sample]) -> f64 {
    growth_of(samples[samples.len() / 2..].windows(2).map(|pair| (pair[1].keys - pair[0].keys) as f64))
}

fn growth_of(values: impl Iterator<Item = f64>) -> f64 {
    let (mut n, mut sx, mut sy, mut sxx, mut sxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for y in values {
        (sx, sy, sxx, sxy) = (sx + n, sy + y, sxx + n * n, sxy + n * y);
        n += 1.0;
    }
    let slope = (n * sxy - sx * sy) / (n * sxx - sx * sx);
    if n < 3.0 || sy == 0.0 { 0.0 } else { slope * n / (sy / n) }
}

fn largest(samples: &[Sample], of: impl Fn(&Sample) -> f64) -> f64 {
    samples.iter().map(of).fold(0.0, f64::max)
}

/// Over the second half, when the store has filled; peaks over all.
pub(crate) fn summary(samples: &[Sample]) -> Value {
    let (Some(middle), Some(last)) = (samples.get(samples.len() / 2), samples.last()) else { return Value::Null };
    let seconds = last.seconds - middle.seconds;
    let keys = (last.keys - middle.keys) as f64;
    let share = |of: fn(&Sample) -> u64| (of(last) - of(middle)) as f64 / keys;
    let mean = |of: fn(&Sample) -> u64| {
        let half = &samples[samples.len() / 2..];
        half.iter().map(|sample| of(sample) as f64).sum::<f64>() / half.len() as f64
    };
    json!({
        "keys_a_second": keys / seconds, "hot_hits": share(|s| s.hot_hits), "cold_hits": share(|s| s.cold_hits),
        "waited": (last.waited - middle.waited) / seconds,
        "written_mb_s": (last.written - middle.written) as f64 / seconds / 1e6, "read_mb_s": (last.read - middle.read) as f64 / seconds / 1e6,
        "accounted_most": largest(samples, |s| s.accounted as f64), "rss_anon_most": largest(samples, |s| s.rss_anon as f64),
        "rss_file_most": largest(samples, |s| s.rss_file as f64), "disk_bytes_mean": mean(|s| s.disk_bytes),
        "disk_bytes_most": largest(samples, |s| s.disk_bytes as f64), "cold_bytes_mean": mean(|s| s.cold_bytes),
        "files_mean": mean(|s| s.files), "files_most": largest(samples, |s| s.files as f64),
        "disk_growth": growth(samples, |s| s.disk_bytes as f64), "files_growth": growth(samples, |s| s.files as f64),
        "cold_growth": growth(samples, |s| s.cold_bytes as f64), "traffic_growth": traffic_growth(samples),
        "cold_keys_mean": mean(|s| s.cold_keys), "hot_rows_mean": mean(|s| s.hot_rows),
    })
}

pub(crate) fn csv(samples: &[Sample]) -> String {
    let mut out = String::from(
        "seconds,batches,keys,accounted,rss_anon,rss_file,disk_bytes,cold_bytes,log_bytes,base_bytes,files,hot_rows,cold_keys,\
         hot_hits,cold_hits,refused,expired,waited,written,read\n",
    );
    for s in samples {
        let counts = [
            s.batches,
            s.keys,
            s.accounted as u64,
            s.rss_anon,
            s.rss_file,
            s.disk_bytes,
            s.cold_bytes,
            s.log_bytes,
            s.base_bytes,
            s.files,
            s.hot_rows,
            s.cold_keys,
            s.hot_hits,
            s.cold_hits,
            s.refused,
            s.expired,
        ];
        let counts: Vec<String> = counts.iter().map(ToString::to_string).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{:.1},{},{:.2},{},{}", s.seconds, counts.join(","), s.waited, s.written, s.read);
    }
    out
}
