//! A store's figures under the names by which monitoring knows them (docs/metrics.md), as Prometheus writes them, and for the facade of
//! the crate `metrics`.
#![forbid(unsafe_code)]

use std::fmt::Write;

use super::stats::{StoreStats, TableStats};
use crate::codec::crc;
use crate::cold::ColdTraffic;
use crate::waits::Wait;

/// Whether a figure only grows while a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A figure with its name and labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// As in docs/metrics.md.
    pub name: &'static str,
    /// What tells it from others of the same name.
    pub labels: Vec<(&'static str, String)>,
    /// Whether it only grows.
    pub kind: MetricKind,
    /// What it says, for people.
    pub help: &'static str,
    /// The figure.
    pub value: f64,
}

/// Name, kind and meaning of a figure of the whole store.
type OfStore = (&'static str, MetricKind, &'static str, fn(&StoreStats) -> f64);
/// Of each table.
type OfTable = (&'static str, MetricKind, &'static str, fn(&TableStats) -> f64);
/// Of each kind of wait.
type OfWait = (&'static str, MetricKind, &'static str, fn(&Wait) -> f64);

use MetricKind::{Counter, Gauge};

const OF_STORE: &[OfStore] = &[
    ("embedrock_memory_bytes", Gauge, "bytes accounted under the budget", |s| s.memory_bytes as f64),
    ("embedrock_memory_budget_bytes", Gauge, "the budget", |s| s.memory_budget as f64),
    ("embedrock_cold_memory_bytes", Gauge, "of the budget, what the cold tier holds", |s| s.cold_memory_bytes as f64),
    ("embedrock_kept_image_bytes", Gauge, "images kept for the commit being written", |s| s.kept_image_bytes as f64),
    ("embedrock_cold_disk_bytes", Gauge, "files of the live cold tier", |s| s.cold_disk_bytes as f64),
    ("embedrock_log_bytes", Gauge, "files of the log", |s| s.log_bytes as f64),
    ("embedrock_uncommitted_rows", Gauge, "rows whose last update no commit holds", |s| s.uncommitted_rows as f64),
    ("embedrock_clock_seconds", Gauge, "the largest event time seen", |s| f64::from(s.clock)),
    ("embedrock_batches_total", Counter, "batches applied since the store was made", |s| s.batches as f64),
    ("embedrock_queued_commits", Gauge, "commits cut and not yet durable", |s| s.queued_commits as f64),
    ("embedrock_commits_total", Counter, "commits written", |s| s.commits.times as f64),
    ("embedrock_commit_seconds_total", Counter, "time it took to write them", |s| s.commits.total.as_secs_f64()),
    ("embedrock_commit_longest_seconds", Gauge, "the longest", |s| s.commits.longest.as_secs_f64()),
    ("embedrock_commit_bytes_total", Counter, "bytes written to the log", |s| s.commit_bytes as f64),
    ("embedrock_checkpoints_total", Counter, "bases written", |s| s.checkpoints.times as f64),
    ("embedrock_checkpoint_seconds_total", Counter, "time it took to write them", |s| s.checkpoints.total.as_secs_f64()),
    ("embedrock_checkpoint_longest_seconds", Gauge, "the longest", |s| s.checkpoints.longest.as_secs_f64()),
    ("embedrock_checkpoint_bytes_total", Counter, "bytes of bases, linked files not counted", |s| s.checkpoint_bytes as f64),
    ("embedrock_write_amplification", Gauge, "bytes given to log, bases and cold tier for each of updated rows", |s| {
        let updated: f64 = s.tables.iter().map(|t| (t.updated.saturating_sub(t.refused) * t.row_bytes as u64) as f64).sum();
        let demoted: f64 = s.tables.iter().map(demoted_bytes).sum();
        ratio(s.commit_bytes as f64 + s.checkpoint_bytes as f64 + demoted, updated)
    }),
    ("embedrock_space_amplification", Gauge, "bytes of the cold tier's files for each of rows in it", |s| {
        ratio(s.cold_disk_bytes as f64, s.tables.iter().map(|t| (t.cold_keys * t.row_bytes as u64) as f64).sum())
    }),
];

/// Counters of the cold tier's traffic.
type OfTraffic = (&'static str, &'static str, fn(&ColdTraffic) -> u64);

const OF_TRAFFIC: &[OfTraffic] = &[
    ("embedrock_cold_flushed_bytes_total", "bytes that the cold tier wrote from its memory", |t| t.flushed_bytes),
    ("embedrock_cold_compacted_bytes_total", "bytes that the cold tier wrote where it merged files", |t| t.compacted_bytes),
    ("embedrock_cold_compaction_read_bytes_total", "bytes that it read for that", |t| t.compaction_read_bytes),
    ("embedrock_cold_row_blocks_total", "blocks of rows that lookups, scans and merges found in no cache", |t| t.row_blocks),
    ("embedrock_cold_index_blocks_total", "blocks of indexes and filters that it read", |t| t.index_blocks),
];

const OF_TABLE: &[OfTable] = &[
    ("embedrock_rows", Gauge, "rows, expired ones that were not reclaimed too", |t| t.rows as f64),
    ("embedrock_hot_rows", Gauge, "rows in memory", |t| t.hot_rows as f64),
    ("embedrock_cold_keys", Gauge, "keys in the cold tier, about", |t| t.cold_keys as f64),
    ("embedrock_table_memory_bytes", Gauge, "slabs, indexes, marks and filter", |t| t.memory_bytes as f64),
    ("embedrock_filter_bytes", Gauge, "the admission filter", |t| t.filter_bytes as f64),
    ("embedrock_looked_up_keys_total", Counter, "keys looked up", |t| t.looked_up as f64),
    ("embedrock_hot_hits_total", Counter, "of those, keys with a row in memory", |t| t.hot_hits as f64),
    ("embedrock_cold_hits_total", Counter, "of those, keys with a row in the cold tier", |t| t.cold_hits as f64),
    ("embedrock_updated_keys_total", Counter, "distinct keys of batches that change rows", |t| t.updated as f64),
    ("embedrock_updated_hot_keys_total", Counter, "of those, keys with a row in memory", |t| t.updated_hot as f64),
    ("embedrock_refused_keys_total", Counter, "of those, keys that admission refused", |t| t.refused as f64),
    ("embedrock_dropped_counts_total", Counter, "admission counts dropped for want of room", |t| t.dropped_counts as f64),
    ("embedrock_expired_rows_total", Counter, "rows freed from memory because they expired", |t| t.expired as f64),
    ("embedrock_cold_reads_total", Counter, "keys asked of the cold tier", |t| t.cold_reads as f64),
    ("embedrock_promoted_rows_total", Counter, "rows brought up", |t| t.promoted as f64),
    ("embedrock_promoted_bytes_total", Counter, "bytes of these", |t| (t.promoted * t.row_bytes as u64) as f64),
    ("embedrock_demoted_rows_total", Counter, "rows that left memory for the cold tier", |t| t.demoted as f64),
    ("embedrock_demoted_bytes_total", Counter, "bytes written for these", demoted_bytes),
];

const OF_WAIT: &[OfWait] = &[
    ("embedrock_waits_total", Counter, "waits of batches", |w| w.times as f64),
    ("embedrock_wait_seconds_total", Counter, "their time, threads added up", |w| w.total.as_secs_f64()),
    ("embedrock_wait_longest_seconds", Gauge, "the longest", |w| w.longest.as_secs_f64()),
];

fn demoted_bytes(table: &TableStats) -> f64 {
    (table.demoted_writes * table.row_bytes as u64) as f64
}

fn ratio(part: f64, of: f64) -> f64 {
    if of > 0.0 { part / of } else { 0.0 }
}

impl StoreStats {
    /// The figures under their names: those of the store, those of each table with the label `table`, those of waits with `for`.
    pub fn metrics(&self) -> Vec<Metric> {
        let of = |(name, kind, help): (_, _, _), labels, value| Metric { name, labels, kind, help, value };
        let mut metrics: Vec<Metric> =
            OF_STORE.iter().map(|(name, kind, help, get)| of((*name, *kind, *help), Vec::new(), get(self))).collect();
        if let Some(traffic) = &self.cold_traffic {
            let of_traffic = |(name, help, get): &OfTraffic| of((*name, Counter, *help), Vec::new(), get(traffic) as f64);
            metrics.extend(OF_TRAFFIC.iter().map(of_traffic));
        }
        let waits = &self.waits;
        let waits = [("gate", &waits.gate), ("images", &waits.images), ("shards", &waits.shards), ("log", &waits.log)];
        for (name, kind, help, get) in OF_WAIT {
            metrics
                .extend(waits.iter().map(|(what, wait)| of((*name, *kind, *help), vec![("for", (*what).to_owned())], get(wait))));
        }
        for (name, kind, help, get) in OF_TABLE {
            let of_table = |table: &TableStats| of((*name, *kind, *help), vec![("table", table.name.clone())], get(table));
            metrics.extend(self.tables.iter().map(of_table));
        }
        metrics
    }

    /// Sets the figures in the recorder of the crate `metrics`, to be called at an interval; without a recorder it does nothing.
    #[cfg(feature = "metrics")]
    pub fn record(&self) {
        for Metric { name, labels, kind, help, value } in self.metrics() {
            let labels: Vec<metrics::Label> = labels.into_iter().map(|(name, value)| metrics::Label::new(name, value)).collect();
            match kind {
                MetricKind::Counter => {
                    metrics::describe_counter!(name, help);
                    metrics::counter!(name, labels).absolute(value as u64);
                }
                MetricKind::Gauge => {
                    metrics::describe_gauge!(name, help);
                    metrics::gauge!(name, labels).set(value);
                }
            }
        }
    }
}

/// The text format of Prometheus.
fn render(metrics: &[Metric]) -> String {
    let mut out = String::new();
    let mut last = "";
    for Metric { name, labels, kind, help, value } in metrics {
        // Writing to a string cannot fail.
        if *name != last {
            let kind = if *kind == MetricKind::Counter { "counter" } else { "gauge" };
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            last = name;
        }
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(out, "{name}{labels} {value}");
    }
    out
}

/// A STATUS file: the figures as text, when they were taken, and a checksum.
pub(super) fn status(stats: &StoreStats, unix_millis: u64) -> Vec<u8> {
    let mut text = render(&stats.metrics());
    let _ = writeln!(text, "# at {unix_millis} pid {}", std::process::id());
    let sum = crc(0, text.as_bytes());
    let _ = writeln!(text, "# crc {sum:08x}");
    text.into_bytes()
}

/// What a STATUS file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// When it was written, in milliseconds of unix time.
    pub unix_millis: u64,
    /// By which process.
    pub pid: u32,
    /// The figures: name with labels, and value.
    pub figures: Vec<(String, f64)>,
}

impl Status {
    /// Reads the content of a STATUS file; `None` when it is not whole.
    pub fn parse(bytes: &[u8]) -> Option<Status> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (content, sum) = text.rsplit_once("# crc ")?;
        let sum = sum.strip_suffix('\n').filter(|sum| sum.len() == 8)?;
        if u32::from_str_radix(sum, 16).ok()? != crc(0, content.as_bytes()) {
            return None;
        }
        let mut status = Status::default();
        for line in content.lines() {
            if let Some(said) = line.strip_prefix("# at ") {
                let (at, pid) = said.split_once(" pid ")?;
                (status.unix_millis, status.pid) = (at.parse().ok()?, pid.parse().ok()?);
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ')?;
                status.figures.push((name.to_owned(), value.parse().ok()?));
            }
        }
        Some(status)
    }

    /// The sum of a figure over its labels.
    pub fn sum(&self, name: &str) -> f64 {
        let its = |key: &str| key.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'));
        self.figures.iter().filter(|(key, _)| its(key)).map(|(_, value)| value).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats() -> StoreStats {
        let table = |name: &str, hot_rows| TableStats { name: name.into(), hot_rows, ..TableStats::default() };
        StoreStats {
            clock: 7,
            cold_traffic: Some(ColdTraffic::default()),
            tables: vec![table("a", 3), table("b \"\\\" {x} y", 4)],
            ..StoreStats::default()
        }
    }

    #[test]
    fn a_status_is_read_back_or_refused() {
        let bytes = status(&stats(), 1234);
        let read = Status::parse(&bytes).unwrap();
        assert_eq!((read.unix_millis, read.pid), (1234, std::process::id()));
        assert_eq!(
            (read.sum("embedrock_hot_rows"), read.sum("embedrock_clock_seconds"), read.sum("embedrock_hot")),
            (7.0, 7.0, 0.0)
        );
        assert_eq!(read.figures.len(), stats().metrics().len());
        for at in 0..bytes.len() {
            assert_eq!(Status::parse(&bytes[..at]), None, "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert_ne!(Status::parse(&flipped), Some(read.clone()), "flipped at {at}");
        }
    }

    /// One spelling: the table in the documentation names each figure, and no other.
    #[test]
    fn the_documentation_names_them_all() {
        let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md")).unwrap();
        let mut named: Vec<String> =
            page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once("` | ")?.0.to_owned())).collect();
        named.retain(|name| name.starts_with("embedrock_"));
        let mut known: Vec<String> = stats().metrics().iter().map(|metric| metric.name.to_owned()).collect();
        named.sort_unstable();
        known.sort_unstable();
        known.dedup();
        assert_eq!(named, known);
        for Metric { name, help, .. } in stats().metrics() {
            assert!(page.contains(&format!("`{name}`")) && page.contains(help), "{name}: {help}");
        }
    }
}
