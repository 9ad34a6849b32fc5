//! `embedrock join`: features and actions become training examples, each once, whatever happens meanwhile.
//!
//! `source.rs` says where events come from, `sink.rs` where examples go.
#![forbid(unsafe_code)]

mod sink;
mod source;

use std::path::PathBuf;

use embedrock::Store;
use embedrock::join::{JoinOptions, Joiner, training_offset};
use serde::Serialize;
use serde_json::json;

use crate::memory::ColdMemory;
use crate::output::{self, Outcome, say};
use sink::Sink;
use source::Source;

/// Before the joiner's own state: what was taken of the events, what was written of the examples.
const POSITIONS_BYTES: usize = 16;
/// Events handed over at once.
const BATCH: usize = 1024;
/// How the place of a topic begins.
const KAFKA: &str = "kafka://";
#[cfg(not(feature = "kafka"))]
const WITHOUT_KAFKA: &str = "this program was built without the Cargo feature kafka";

type Failure = Box<dyn std::error::Error>;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Lines of JSON: {"request": 1, "time": 1700000000, "keys": [7, 8], "dense": [0.5]} of features, {"request": 1, "time":
    /// 1700000030, "label": 1} of an action. Or a .parquet file with columns of these names; or kafka://HOST:PORT/TOPIC
    #[arg(value_name = "FILE_OR_URL")]
    events: PathBuf,
    /// The store in which events wait; a run that was stopped goes on from its last commit
    #[arg(long, value_name = "DIR")]
    store: PathBuf,
    /// The file that examples are appended to, lines of JSON; or kafka://HOST:PORT/TOPIC, whose keys are the requests
    #[arg(long, value_name = "FILE_OR_URL")]
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
    #[command(flatten)]
    cold_memory: ColdMemory,
    /// Print JSON
    #[arg(long)]
    json: bool,
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

fn joiner_options(args: &Args) -> Result<JoinOptions, Failure> {
    let seconds = |time: std::time::Duration| u32::try_from(time.as_secs());
    let options = JoinOptions::new(args.keys, args.dense).wait(seconds(args.wait)?).remember(seconds(args.remember)?);
    Ok(options.negatives(args.negatives).seed(args.seed))
}

pub(crate) fn run(args: &Args) -> Outcome {
    // Times of a log are trusted.
    let store = Store::open(&args.store, args.cold_memory.options(args.memory_budget).max_clock_step(u32::MAX))?;
    let commit = store.last_commit().filter(|commit| !commit.state.is_empty());
    let state =
        commit.as_ref().map(|commit| commit.state.split_at_checked(POSITIONS_BYTES).ok_or("the store is not that of a join"));
    let state = state.transpose()?;
    let position = |at: usize| state.and_then(|(head, _)| head[at..at + 8].try_into().ok()).map_or(0, u64::from_le_bytes);
    let joiner = Joiner::open(&store, joiner_options(args)?, state.map(|(_, own)| own))?;
    let (source, sink) = (source::open(&args.events, position(0))?, sink::open(&args.out, position(8))?);
    let mut join = Join { args, store, joiner, source, sink, commits: 0 };
    join.all()?;
    join.report()
}

struct Join<'a> {
    args: &'a Args,
    store: Store,
    joiner: Joiner,
    source: Box<dyn Source>,
    sink: Box<dyn Sink>,
    commits: u64,
}

impl Join<'_> {
    fn all(&mut self) -> Result<(), Failure> {
        let (mut batch, mut since, mut ended) = (Vec::new(), 0, false);
        while !ended {
            let most = usize::try_from(self.args.commit_every - since).unwrap_or(usize::MAX).min(BATCH);
            ended = self.source.take(most, &mut batch)?;
            since += batch.len() as u64;
            self.joiner.push(&batch)?;
            batch.clear();
            self.write()?;
            if since >= self.args.commit_every || ended {
                self.commit()?;
                since = 0;
            }
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Failure> {
        let offset = training_offset(self.args.negatives);
        while let Some(example) = self.joiner.next() {
            let (request, time, label) = (example.request, example.time, example.label);
            let line = Output { request, time, label, offset, keys: &example.keys, dense: &example.dense };
            self.sink.write(request, serde_json::to_vec(&line)?)?;
        }
        Ok(())
    }

    /// The examples are durable before the commit that counts on it.
    fn commit(&mut self) -> Result<(), Failure> {
        self.sink.sync()?;
        let positions = [self.source.position().to_le_bytes(), self.sink.written().to_le_bytes()].concat();
        self.store.commit(&[positions, self.joiner.state()].concat())?;
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
                "without_features": counts.without_features, "waiting": waiting, "position": self.source.position(),
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
