//! The table of a run's figures, in place of the one before.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

const BEGIN: &str = "<!-- peers: made by benches/peer-stores, not by hand -->\n";
const END: &str = "<!-- peers: end -->\n";
/// The candidate that the others are compared with.
pub(crate) const OWN: &str = "embedrock";

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Figure {
    pub(crate) operation: String,
    pub(crate) dim: u32,
    rows: u64,
    pub(crate) threads: u32,
    pub(crate) batch: Option<u32>,
    pub(crate) distribution: Option<String>,
    pub(crate) candidate: String,
    pub(crate) rows_per_second: f64,
}

pub(crate) fn figures(results: &Value) -> Result<Vec<Figure>, Box<dyn Error>> {
    Ok(Vec::deserialize(&results["figures"])?)
}

/// The name of a candidate, short.
pub(crate) fn short(candidate: &str) -> &str {
    match candidate {
        "limit: known addresses" => "limit",
        "limit: with a line of an index" => "limit with index",
        "HashMap<u64, u32> and a Vec<f32>" => "flat map",
        "HashMap<u64, Box<[f32]>>" => "boxed map",
        "DashMap<u64, Box<[f32]>>" => "dashmap",
        "RocksDB, all in its cache" => "RocksDB",
        other => other,
    }
}

/// The candidates in their order.
pub(crate) fn candidates(figures: &[Figure]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for figure in figures {
        if !names.contains(&&*figure.candidate) {
            names.push(&figure.candidate);
        }
    }
    names
}

impl Figure {
    fn case(&self) -> (&str, u32, u32, Option<u32>, Option<&str>) {
        (&self.operation, self.dim, self.threads, self.batch, self.distribution.as_deref())
    }

    fn line(&self) -> String {
        let threads = if self.threads == 1 { "1 thread" } else { "2 threads" };
        let keys = self.distribution.as_deref().map_or(String::new(), |keys| format!(", {keys}"));
        let batch = self.batch.map_or(String::new(), |batch| format!(", {batch}"));
        format!("{}, dim {}{keys}{batch}, {threads}", self.operation, self.dim)
    }
}

/// Rates of all candidates, a line for each case; in brackets how many times that rate this store does.
fn table(figures: &[Figure]) -> String {
    let names = candidates(figures);
    let mut table = String::from("| |");
    names.iter().for_each(|name| table += &format!(" {} |", short(name)));
    table += &format!("\n|---|{}\n", "---|".repeat(names.len()));
    let mut rest = figures;
    while let Some(first) = rest.first() {
        let (case, other) = rest.split_at(rest.iter().take_while(|figure| figure.case() == first.case()).count());
        rest = other;
        let rate = |name: &str| case.iter().find(|figure| figure.candidate == name).map(|figure| figure.rows_per_second);
        table += &format!("| {} |", first.line());
        for name in &names {
            table += &match (rate(name), rate(OWN)) {
                (None, _) => " - |".to_owned(),
                (Some(rate), Some(own)) if *name != OWN => format!(" {} ({:.2}) |", millions(rate), own / rate),
                (Some(rate), _) => format!(" **{}** |", millions(rate)),
            };
        }
        table.push('\n');
    }
    table
}

fn millions(rate: f64) -> String {
    if rate < 1e6 { format!("{:.3}", rate / 1e6) } else { format!("{:.2}", rate / 1e6) }
}

/// Writes the section between the marks of a page.
pub(crate) fn write(page: &Path, results: &Value, figures: &[Figure]) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read_to_string(page)?;
    let (before, rest) = text.split_once(BEGIN).ok_or("the page has no place for the table: a comment 'peers' marks it")?;
    let (_, after) = rest.split_once(END).ok_or("the place for the table has no end")?;
    let said = |name: &str| results[name].as_str().unwrap_or("?").to_owned();
    let mut section = String::new();
    let rows: Vec<String> = figures.iter().map(|figure| format!("{} of dim {}", figure.rows, figure.dim)).collect();
    let mut sizes = rows.clone();
    sizes.dedup();
    sizes.sort();
    sizes.dedup();
    write!(
        section,
        "{}, {}; load of the machine at the end: {}; medians of {} turns of {:.2} s; rows: {}. Arguments: `{}`.\n\n\
         M rows/s; in brackets how many times that rate this store does.\n\n{}\n![Rates of all candidates](peers.svg)\n",
        said("date"),
        said("machine"),
        said("load"),
        results["turns"],
        results["seconds"].as_f64().unwrap_or(0.0) / results["turns"].as_f64().unwrap_or(1.0),
        sizes.join(", "),
        said("arguments"),
        table(figures),
    )?;
    Ok(std::fs::write(page, format!("{before}{BEGIN}{section}{END}{after}"))?)
}
