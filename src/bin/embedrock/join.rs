//! `embedrock join`: features and actions of a file become training examples, each once, whatever happens meanwhile.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::PathBuf;

use embedrock::join::{Event, JoinOptions, Joiner, training_offset};
use embedrock::{Store, StoreOptions};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::output::{self, Outcome, say};

/// Before the joiner's own state: bytes read of the events, bytes written of the examples.
const POSITIONS_BYTES: usize = 16;
/// Events handed over at once.
const BATCH: usize = 1024;
/// The longest line.
const MAX_LINE_BYTES: u64 = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Lines of JSON: {"request": 1, "time": 1700000000, "keys": [7, 8], "dense": [0.5]} of features, {"request": 1, "time":
    /// 1700000030, "label": 1} of an action
    events: PathBuf,
    /// The store in which events wait; a run that was stopped goes on from its last commit
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The file that examples are appended to, lines of JSON
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Keys of the features of a request
    #[arg(long)]
    keys: usize,
    /// Dense numbers of the features of a request
    #[arg(long, default_value_t = 0)]
    dense: usize,
    /// How long features wait for their action, and actions for their features, e.g. 30m
    #[arg(long, value_name = "TIME", value_parser = output::duration, default_value = "60m")]
    wait: std::time::Duration,
    /// How long a request that is done is remembered, so that what comes of it again is dropped
    #[arg(long, value_name = "TIME", value_parser = output::duration, default_value = "60m")]
    remember: std::time::Duration,
    /// The share of negative examples that is kept
    #[arg(long, value_name = "RATE", default_value_t = 1.0)]
    negatives: f64,
    /// Decides which
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Events between two commits
    #[arg(long, value_name = "EVENTS", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    commit_every: u64,
    /// Commits between two bases
    #[arg(long, value_name = "COMMITS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    checkpoint_every: u64,
    /// Memory for what waits; the rest waits on the disk
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "256MiB")]
    memory_budget: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    request: u64,
    time: u32,
    keys: Option<Vec<u64>>,
    #[serde(default)]
    dense: Vec<f32>,
    label: Option<f32>,
}

impl Line {
    fn event(self) -> Result<Event, &'static str> {
        let Line { request, time, keys, dense, label } = self;
        match (keys, label) {
            (Some(keys), None) => Ok(Event::Features { request, time, keys, dense }),
            (None, Some(label)) if dense.is_empty() => Ok(Event::Action { request, time, label }),
            _ => Err("either keys (and dense) of features, or the label of an action"),
        }
    }
}

#[derive(Serialize)]
struct Output<'a> {
    request: u64,
    time: u32,
    label: f32,
    /// To be added to the log-odds in training, not in serving.
    offset: f32,
    keys: &'a [u64],
    dense: &'a [f32],
}

fn joiner_options(args: &Args) -> Result<JoinOptions, Box<dyn std::error::Error>> {
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs());
    let options = JoinOptions::new(args.keys, args.dense).wait(seconds(args.wait)?).remember(seconds(args.remember)?);
    Ok(options.negatives(args.negatives).seed(args.seed))
}

pub(crate) fn run(args: &Args) -> Outcome {
    // Times of a log are trusted.
    let store = Store::open(&args.store, StoreOptions::default().memory_budget(args.memory_budget).max_clock_step(u32::MAX))?;
    let commit = store.last_commit().filter(|commit| !commit.state.is_empty());
    let state =
        commit.as_ref().map(|commit| commit.state.split_at_checked(POSITIONS_BYTES).ok_or("the store is not that of a join"));
    let state = state.transpose()?;
    let position = |at: usize| state.and_then(|(head, _)| head[at..at + 8].try_into().ok()).map_or(0, u64::from_le_bytes);
    let (read, written) = (position(0), position(8));
    let joiner = Joiner::open(&store, joiner_options(args)?, state.map(|(_, own)| own))?;
    let mut events = File::open(&args.events).map_err(|error| format!("cannot open {}: {error}", args.events.display()))?;
    if events.metadata()?.len() < read {
        return Err(format!("{} is shorter than what was read of it, {read} bytes", args.events.display()).into());
    }
    events.seek(SeekFrom::Start(read))?;
    let out = OpenOptions::new().create(true).truncate(false).write(true).open(&args.out);
    let mut out = out.map_err(|error| format!("cannot open {}: {error}", args.out.display()))?;
    if out.metadata()?.len() < written {
        return Err(
            format!("{} has lost examples that were committed: it should have {written} bytes", args.out.display()).into()
        );
    }
    // What no commit knows comes again.
    out.set_len(written)?;
    out.seek(SeekFrom::Start(written))?;
    let mut join = Join { args, store, joiner, read, written, out: BufWriter::new(out), commits: 0 };
    join.all(BufReader::new(events))?;
    join.report()
}

struct Join<'a> {
    args: &'a Args,
    store: Store,
    joiner: Joiner,
    read: u64,
    written: u64,
    out: BufWriter<File>,
    commits: u64,
}

impl Join<'_> {
    fn all(&mut self, mut events: impl BufRead) -> Result<(), Box<dyn std::error::Error>> {
        let (mut batch, mut line, mut since, mut ended) = (Vec::new(), Vec::new(), 0, false);
        while !ended {
            line.clear();
            let length = std::io::Read::take(&mut events, MAX_LINE_BYTES).read_until(b'\n', &mut line)? as u64;
            // A last line without an end may still be written.
            ended = line.last() != Some(&b'\n');
            if ended && length == MAX_LINE_BYTES {
                return Err(self.at(&format!("a line longer than {MAX_LINE_BYTES} bytes")).into());
            }
            if !ended {
                batch.push(self.event(&line)?);
                self.read += length;
                since += 1;
            }
            let due = since >= self.args.commit_every || ended;
            if batch.len() == BATCH || due {
                self.joiner.push(&batch)?;
                batch.clear();
                self.write()?;
            }
            if due {
                self.commit()?;
                since = 0;
            }
        }
        Ok(())
    }

    fn at(&self, what: &str) -> String {
        format!("{} at byte {}: {what}", self.args.events.display(), self.read)
    }

    fn event(&self, line: &[u8]) -> Result<Event, String> {
        let line: Line = serde_json::from_slice(line).map_err(|error| self.at(&error.to_string()))?;
        line.event().map_err(|what| self.at(what))
    }

    fn write(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        let offset = training_offset(self.args.negatives);
        while let Some(example) = self.joiner.next() {
            let (request, time, label) = (example.request, example.time, example.label);
            let line = Output { request, time, label, offset, keys: &example.keys, dense: &example.dense };
            let mut line = serde_json::to_vec(&line)?;
            line.push(b'\n');
            self.out.write_all(&line)?;
            self.written += line.len() as u64;
        }
        Ok(())
    }

    /// The examples are on the disk before the commit that counts on it.
    fn commit(&mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.out.flush()?;
        self.out.get_ref().sync_data()?;
        let state = [&self.read.to_le_bytes()[..], &self.written.to_le_bytes(), &self.joiner.state()].concat();
        self.store.commit(&state)?;
        self.commits += 1;
        if self.commits.is_multiple_of(self.args.checkpoint_every) {
            self.store.checkpoint()?;
        }
        Ok(())
    }

    fn report(&self) -> Outcome {
        let (counts, waiting) = (self.joiner.counts(), self.joiner.waiting());
        if self.args.json {
            output::json(&json!({"examples": counts.examples, "joined": counts.joined, "timed_out": counts.timed_out,
                "not_drawn": counts.not_drawn, "duplicates": counts.duplicates, "late": counts.late,
                "without_features": counts.without_features, "waiting": waiting, "read_bytes": self.read,
                "offset": training_offset(self.args.negatives)}))?;
            return output::done();
        }
        let number = output::count;
        say!("{}: {} examples; {} requests wait or are remembered", self.args.out.display(), number(counts.examples), waiting);
        say!(
            "{} features met their action, {} timed out; {} negatives were not drawn; {} events came again, {} late, {} without features",
            number(counts.joined),
            number(counts.timed_out),
            number(counts.not_drawn),
            number(counts.duplicates),
            number(counts.late),
            number(counts.without_features),
        );
        output::done()
    }
}
