//! The record of a job: a file of JSON lines, to which each run of the job appends what it does as it goes.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Run, name_of, text_of};
use crate::train::Rows;
use crate::train::data::text::input;
use crate::train::experiment::{Cell, Curve, Figure, Grid, Point};
use crate::{Error, Result};

/// The version that is written, and the newest that is read.
const VERSION: u32 = 1;
/// The least time between two moments that follow no commit.
const EVERY: Duration = Duration::from_secs(1);
/// The most points of a curve.
const POINTS: usize = 400;
/// The beginning of every record's first line.
const FIRST: &str = "{\"begun\":{";
const MIB: f64 = (1u64 << 20) as f64;

/// One line of a record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A run begins, or goes on.
    Begun(Begun),
    /// How it stands.
    At(Moment),
    /// What came of it.
    Ended(Ended),
}

/// The beginning of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begun {
    /// The version of the record's format.
    pub version: u32,
    /// What trains, e.g. "deepfm".
    pub job: String,
    /// What it learns from.
    pub data: String,
    /// Whether a generator made that up.
    pub synthetic: bool,
    /// What is counted along the way, e.g. "samples".
    pub unit: String,
    /// The commit from which the job goes on; none where it begins.
    pub resumed_from: Option<String>,
}

/// How a run stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// How far the job is, in its unit.
    pub at: u64,
    /// Seconds since the run began.
    pub seconds: f64,
    /// Measures by name.
    pub measures: BTreeMap<String, f64>,
    /// Rows by tier, memory and disk.
    pub rows: Rows,
}

/// The end of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Single figures, by name.
    pub facts: Vec<(String, String)>,
    /// Tables.
    pub tables: Vec<Grid>,
    /// Curves.
    pub figures: Vec<Figure>,
    /// Rows by tier, memory and disk.
    pub rows: Rows,
}

impl Begun {
    /// A job that begins, or goes on from a commit.
    pub fn new(job: &str, data: String, synthetic: bool, unit: &str, resumed_from: Option<String>) -> Begun {
        Begun { version: VERSION, job: job.to_string(), data, synthetic, unit: unit.to_string(), resumed_from }
    }
}

/// Appends a run to a record. What cannot be written along the way does not stop the run: [`Recorder::end`] says so.
pub struct Recorder {
    path: PathBuf,
    file: File,
    failed: Option<Error>,
    last: Option<Instant>,
}

impl Recorder {
    /// Begins a record, or goes on with one; a last line that a crash cut off is taken away.
    ///
    /// # Errors
    /// The system's; a file that is no record.
    pub fn open(path: &Path, begun: Begun) -> Result<Recorder> {
        let failed = |error| Error::io("write the record", path, error);
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(failed)?;
        let mut first = Vec::new();
        Read::by_ref(&mut file).take(FIRST.len() as u64).read_to_end(&mut first).map_err(failed)?;
        if !first.is_empty() && first != FIRST.as_bytes() {
            let what = format!("{} is there and is no record of a run; name another file", path.display());
            return Err(Error::InvalidOption { option: "record", what });
        }
        let whole = end_of_lines(&mut file).map_err(failed)?;
        file.set_len(whole).map_err(failed)?;
        let mut recorder = Recorder { path: path.to_path_buf(), file, failed: None, last: None };
        recorder.write(&Line::Begun(begun))?;
        Ok(recorder)
    }

    /// How it stands: kept if `always`, or if the last one is a second old.
    pub fn note(&mut self, moment: Moment, always: bool) {
        let due = always || self.last.is_none_or(|last| last.elapsed() >= EVERY);
        if self.failed.is_none() && due {
            self.last = Some(Instant::now());
            self.failed = self.write(&Line::At(moment)).err();
        }
    }

    /// The run is over.
    ///
    /// # Errors
    /// The first one of all that was to be written.
    pub fn end(mut self, ended: Ended) -> Result<()> {
        match self.failed.take() {
            Some(error) => Err(error),
            None => self.write(&Line::Ended(ended)),
        }
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let text = serde_json::to_string(line).map_err(std::io::Error::other);
        let written = text.and_then(|text| self.file.write_all(format!("{text}\n").as_bytes()));
        written.map_err(|error| Error::io("write the record", &self.path, error))
    }
}

/// Where the last whole line ends.
fn end_of_lines(file: &mut File) -> std::io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = [0; 4096];
    while end > 0 {
        let from = end.saturating_sub(block.len() as u64);
        let block = &mut block[..(end - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(block)?;
        if let Some(at) = block.iter().rposition(|byte| *byte == b'\n') {
            return Ok(from + at as u64 + 1);
        }
        end = from;
    }
    Ok(0)
}

/// A job, put together from the runs that went on from one another.
struct Job {
    begun: Begun,
    resumed: Vec<String>,
    moments: Vec<Moment>,
    ended: Option<Ended>,
    /// Whether the run that now speaks has said how it stands.
    spoke: bool,
}

/// The jobs of a record.
pub(super) fn read(path: &Path) -> Result<Vec<Run>> {
    let text = text_of(path)?;
    let mut jobs: Vec<Job> = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let refused = |what: String| input(path, number as u64 + 1, what);
        let parsed = match serde_json::from_str(line) {
            Ok(parsed) => parsed,
            // The run was killed as it wrote it, or is writing it.
            Err(_) if !line.ends_with('\n') && number > 0 => break,
            Err(error) => return Err(refused(format!("it is not a line of what `train --record` writes: {error}"))),
        };
        match (parsed, jobs.last_mut()) {
            (Line::Begun(begun), _) if begun.version > VERSION => {
                let version = begun.version;
                return Err(refused(format!("the record has version {version}, this program reads up to {VERSION}")));
            }
            (Line::Begun(Begun { resumed_from: Some(commit), .. }), Some(job)) => {
                job.resumed.push(commit);
                job.spoke = false;
            }
            (Line::Begun(begun), _) => {
                let resumed = begun.resumed_from.iter().cloned().collect();
                jobs.push(Job { begun, resumed, moments: Vec::new(), ended: None, spoke: false });
            }
            (Line::At(moment), Some(job)) => job.at(moment),
            (Line::Ended(ended), Some(job)) => job.ended = Some(ended),
            (_, None) => return Err(refused("no run has begun before it".into())),
        }
    }
    if jobs.is_empty() {
        return Err(input(path, 1, "it holds no run"));
    }
    Ok(jobs.into_iter().map(|job| job.run(name_of(path))).collect())
}

impl Job {
    fn at(&mut self, moment: Moment) {
        if !self.spoke {
            // What a run lost in a crash is done anew by the next one.
            self.moments.retain(|earlier| earlier.at < moment.at);
            self.spoke = true;
        }
        self.moments.push(moment);
    }

    fn run(self, file: String) -> Run {
        let Begun { job, data, synthetic, unit, .. } = &self.begun;
        let mut facts: Vec<(String, String)> =
            self.resumed.iter().map(|commit| ("resumed from".into(), commit.clone())).collect();
        let mut figures = self.measures(unit);
        let rows = self.ended.as_ref().map(|ended| ended.rows).or(self.moments.last().map(|moment| moment.rows));
        figures.extend(self.tiers(unit));
        let mut tables: Vec<Grid> = rows.iter().map(store).collect();
        match self.ended {
            None => facts.push(("state".into(), "not ended: running still, or killed".into())),
            Some(ended) => {
                facts.extend(ended.facts);
                tables.splice(0..0, ended.tables);
                figures.splice(0..0, ended.figures);
            }
        }
        Run { title: format!("train {job}, {data}"), file, synthetic: *synthetic, facts, tables, figures }
    }

    /// A curve of something along the way.
    fn curve(&self, name: &str, of: impl Fn(&Moment) -> Option<f64>) -> Curve {
        let all: Vec<&Moment> = self.moments.iter().filter(|moment| of(moment).is_some()).collect();
        let every = all.len().div_ceil(POINTS).max(1);
        let chosen = all.iter().enumerate().filter(|(at, _)| at % every == 0 || at + 1 == all.len());
        let points = chosen.filter_map(|(_, moment)| Some(Point { x: moment.at as f64, y: of(moment)?, half_width: None }));
        Curve { name: name.to_string(), points: points.collect() }
    }

    /// A figure for each measure.
    fn measures(&self, unit: &str) -> Vec<Figure> {
        let names: std::collections::BTreeSet<&String> = self.moments.iter().flat_map(|moment| moment.measures.keys()).collect();
        let figure = |name: &String| {
            let curves = vec![self.curve(name, |moment| moment.measures.get(name).copied())];
            Figure { title: format!("{name} so far"), x: unit.to_string(), y: name.clone(), curves }
        };
        names.into_iter().take(32).map(figure).collect()
    }

    fn tiers(&self, unit: &str) -> Vec<Figure> {
        if self.moments.is_empty() {
            return Vec::new();
        }
        let figure =
            |title: &str, y: &str, curves: Vec<Curve>| Figure { title: title.into(), x: unit.into(), y: y.into(), curves };
        let rows = |name, of: fn(&Rows) -> u64| self.curve(name, |moment| Some(of(&moment.rows) as f64));
        let bytes = |name, of: fn(&Rows) -> u64| self.curve(name, |moment| Some(of(&moment.rows) as f64 / MIB));
        let tiers = vec![rows("all", |rows| rows.total), rows("hot", |rows| rows.hot), rows("cold", |rows| rows.cold)];
        let places = vec![
            bytes("memory", |rows| rows.memory_bytes),
            bytes("cold rows on disk", |rows| rows.cold_disk_bytes),
            bytes("log", |rows| rows.log_bytes),
        ];
        vec![figure("Rows by tier", "rows", tiers), figure("Memory and disk", "MiB", places)]
    }
}

/// The store's statistics.
fn store(rows: &Rows) -> Grid {
    let heads = ["rows", "hot", "cold", "MiB of memory", "of a budget of", "MiB of cold rows on disk", "MiB of log"];
    let mib = |bytes: u64| Cell::Text(format!("{:.1}", bytes as f64 / MIB));
    let cells = vec![
        Cell::Count(rows.total),
        Cell::Count(rows.hot),
        Cell::Count(rows.cold),
        mib(rows.memory_bytes),
        mib(rows.memory_budget),
        mib(rows.cold_disk_bytes),
        mib(rows.log_bytes),
    ];
    Grid { title: "The store".into(), columns: heads.map(str::to_string).to_vec(), rows: vec![cells] }
}
