//! Each figure beside its bound: what memory and the device allow, whichever is less.
#![allow(clippy::cast_precision_loss, reason = "figures")]

use serde_json::{Value, json};

pub(crate) struct Report {
    device: f64,
    json: bool,
    figures: Vec<Value>,
}

fn number(figure: &Value, name: &str) -> f64 {
    figure[name].as_f64().unwrap_or(0.0)
}

fn same(one: &Value, other: &Value, fields: &[&str]) -> bool {
    fields.iter().all(|field| one[field] == other[field])
}

impl Report {
    pub(crate) fn new(device: Vec<(usize, f64)>, json: bool) -> Report {
        let best = device.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let rates: Vec<String> = device.iter().map(|(depth, rate)| format!("{depth}: {:.1}", rate / 1e3)).collect();
        if json {
            println!("{}", json!({ "device_reads_per_second": device }));
        } else {
            println!("the device, thousand random 4 KiB reads a second at depth {}", rates.join(", "));
            println!(
                "M rows/s; bytes that the device read and wrote for a row; share of the keys that missed memory; cores busy"
            );
        }
        Report { device: best, json, figures: Vec::new() }
    }

    /// Prints a figure, this store's beside its bound.
    pub(crate) fn add(&mut self, mut figure: Value) {
        let like = ["dim", "distribution", "operation"];
        let memory =
            self.figures.iter().find(|other| other["candidate"] == "embedrock, in memory" && same(other, &figure, &like));
        let missed = figure["missed"].as_f64().filter(|&missed| missed > 0.0);
        if let (Some(memory), Some(missed)) = (memory.map(|memory| number(memory, "rows_per_second")), missed) {
            let bound = memory.min(self.device / missed);
            figure["bound"] = json!(bound);
            figure["of_bound"] = json!(number(&figure, "rows_per_second") / bound);
        }
        if self.json {
            println!("{figure}");
        } else {
            print(&figure);
        }
        self.figures.push(figure);
    }
}

fn print(figure: &Value) {
    let text = |name: &str| figure[name].as_str().unwrap_or("").to_owned();
    let ahead = match figure["ahead"].as_u64() {
        None | Some(0) => String::new(),
        Some(batches) => format!(", {batches} batches ahead"),
    };
    let title = format!("{}, dim {}, {}, {}{ahead}", text("operation"), figure["dim"], text("distribution"), text("candidate"));
    let mut line = format!(
        "{title:<66} {:>8.4}  read {:>6.0}  wrote {:>6.0}  cores {:.2}  resident {:.0} MB",
        number(figure, "rows_per_second") / 1e6,
        number(figure, "read_bytes_a_row"),
        number(figure, "written_bytes_a_row"),
        number(figure, "cores"),
        number(figure, "resident_bytes") / 1e6,
    );
    if let Some(missed) = figure["missed"].as_f64() {
        line += &format!("  missed {missed:.3}");
    }
    if let Some(of_bound) = figure["of_bound"].as_f64() {
        line += &format!("  bound {:.4}: {of_bound:.2} of it", number(figure, "bound") / 1e6);
    }
    println!("{line}");
}
