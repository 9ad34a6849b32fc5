//! `embedrock train`: a model whose embeddings live in a store.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use embedrock::join::JoinOptions;
use embedrock::train::data::synthetic::{Clicks, Synthetic};
use embedrock::train::data::{self, Source};
use embedrock::train::online::{LoggedClicks, OnlineOptions, train_online};
use embedrock::train::runs::{Moment, online_moment};
use embedrock::train::{DeepFmOptions, Progress, Rows, train_deepfm};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::job::Job;
use crate::output::{self, Outcome, say};

/// After this long a click of the synthetic stream is logged.
const CLICK_SECONDS: u64 = 5;

#[derive(Subcommand)]
pub(crate) enum Model {
    /// DeepFM on clicks or ratings: first order, factorization machine and a small network
    Deepfm(Args),
    /// Dynamic customer embeddings: recurrent encoders of sessions and customers, and heads on their vectors
    Dce(crate::dce::Args),
}

#[derive(clap::Args)]
pub(crate) struct Args {
    /// MovieLens or Criteo data, plain, gzip or zstd, or a directory with it; without it a synthetic stream is generated
    #[arg(long, value_name = "FILE_OR_DIR")]
    data: Option<PathBuf>,
    #[command(flatten)]
    job: Job,
    /// Batches between two commits; 0 for one at the end
    #[arg(long, default_value_t = 2000)]
    commit_every: u64,
    /// Batches read ahead of training, and their rows brought into memory; 0 for none
    #[arg(long, value_name = "BATCHES", default_value_t = DeepFmOptions::default().read_ahead)]
    read_ahead: usize,
    /// Samples a batch: small ones learn more from each, large ones are faster. 8, or 1024 for the synthetic stream
    #[arg(long)]
    batch_size: Option<usize>,
    /// Learning rate of the rows; by default it follows the number of keys of a sample
    #[arg(long)]
    learning_rate: Option<f32>,
    /// Latent factors of a key
    #[arg(long, default_value_t = 16)]
    factors: usize,
    /// Stop after so many samples
    #[arg(long)]
    max_samples: Option<u64>,
    /// Samples of the synthetic stream
    #[arg(long, default_value_t = 2_000_000)]
    samples: u64,
    /// Users of the synthetic stream
    #[arg(long)]
    users: Option<u64>,
    /// Items of the synthetic stream
    #[arg(long)]
    items: Option<u64>,
    /// Learn the synthetic stream as it would be logged: features and, later, clicks, joined; sync a serving copy at an interval, and
    /// let that predict what is learned next
    #[arg(long, requires = "replica", conflicts_with = "data")]
    online: bool,
    /// A directory for that copy's own files
    #[arg(long, value_name = "DIR", requires = "online")]
    replica: Option<PathBuf>,
    /// Examples between two syncs, each of which is a commit
    #[arg(long, value_name = "EXAMPLES", default_value_t = 20_000, requires = "online")]
    sync_every: u64,
    /// How long features wait for their click; clicks come after 5 s
    #[arg(long, value_name = "TIME", value_parser = output::duration, default_value = "10s", requires = "online")]
    wait: Duration,
    /// The share of examples without a click that is kept
    #[arg(long, value_name = "RATE", default_value_t = 1.0, requires = "online")]
    negatives: f64,
}

pub(crate) fn run(model: Model) -> Outcome {
    let args = match model {
        Model::Deepfm(args) => args,
        Model::Dce(args) => return crate::dce::run(&args),
    };
    if let Some(replica) = args.replica.as_ref().filter(|_| args.online) {
        return online(&args, replica);
    }
    let source = source(&args)?;
    let job = &args.job;
    let store = job.open()?;
    let options = model_options(&args);
    if !job.json {
        if source.description().synthetic {
            say!("no --data: learning a synthetic click stream");
        }
        say!("{}: {}", job.store.display(), store.recovery());
    }
    let bar = bar(source.description().samples);
    let data = source.description();
    let described = ("deepfm", format!("{} ({})", data.format, data.name), data.synthetic, "samples");
    let report = job.run(&store, described, |note| {
        train_deepfm(&store, source, &options, &mut |progress| {
            show(&bar, progress);
            note(Moment::from(progress), progress.committed);
        })
    })?;
    bar.finish_and_clear();
    job.tell(&report)
}

fn source(args: &Args) -> Result<Box<dyn Source>, embedrock::Error> {
    if let Some(path) = &args.data {
        return data::open(path);
    }
    Ok(Box::new(Synthetic::new(clicks(args))?))
}

fn clicks(args: &Args) -> Clicks {
    let default = Clicks::default();
    Clicks {
        seed: args.job.seed,
        samples: args.samples,
        users: args.users.unwrap_or(default.users),
        items: args.items.unwrap_or(default.items),
        ..default
    }
}

fn model_options(args: &Args) -> DeepFmOptions {
    let default_batch = if args.data.is_some() { DeepFmOptions::default().batch_size } else { 1024 };
    DeepFmOptions {
        factors: args.factors,
        batch_size: args.batch_size.unwrap_or(default_batch),
        learning_rate: args.learning_rate,
        seed: args.job.seed,
        commit_every: args.commit_every,
        checkpoint_every: args.job.checkpoint_every,
        read_ahead: args.read_ahead,
        max_samples: args.max_samples,
        ..DeepFmOptions::default()
    }
}

fn online(args: &Args, replica: &Path) -> Outcome {
    let job = &args.job;
    let store = job.open()?;
    let wait = u32::try_from(args.wait.as_secs())?;
    let options = OnlineOptions {
        model: model_options(args),
        join: JoinOptions::new(2, 0).wait(wait).remember(wait).negatives(args.negatives).seed(job.seed),
        sync_every: args.sync_every,
        replica: replica.to_path_buf(),
        replica_options: job.cold_memory.options(job.memory_budget),
        max_examples: args.max_samples,
    };
    let mut events = LoggedClicks::new(clicks(args), CLICK_SECONDS)?;
    let (bar, begun) = (bar(None), Instant::now());
    let described = ("online", "a synthetic click stream".to_string(), true, "examples");
    let report = job.run(&store, described, |note| {
        train_online(&store, &mut events, &options, &mut |examples, auc| {
            bar.set_position(examples);
            bar.set_message(format!("AUC of the serving copy {:.4}", auc.unwrap_or(0.5)));
            note(online_moment(examples, auc, begun.elapsed().as_secs_f64(), Rows::of(&store)), true);
        })
    })?;
    bar.finish_and_clear();
    if job.json {
        output::json(&report)?;
        return output::done();
    }
    let (count, auc) = (output::count, report.auc.unwrap_or(0.5));
    say!(
        "online, a synthetic click stream: {} examples, predicted by the serving copy before they were learned",
        count(report.examples)
    );
    say!(
        "AUC {auc:.4}; {} features met their click, {} timed out, {} clicks were late",
        count(report.joined),
        count(report.timed_out),
        count(report.late)
    );
    let intervals = report.auc_by_interval.len() as u64;
    say!("{intervals} syncs, {} a sync in this run", output::bytes(report.synced_bytes / report.synced_commits.max(1)));
    output::done()
}

/// A progress bar on a terminal, nothing elsewhere.
pub(crate) fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:24} {percent:>3}% {pos} {msg} eta {eta}") {
        bar.set_style(style);
    }
    bar
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_position(progress.samples);
    bar.set_message(format!(
        "{:.0}/s AUC {:.4} rows {} hot {} cold, memory {}",
        progress.rate,
        progress.auc.unwrap_or(0.5),
        output::count(progress.rows.hot),
        output::count(progress.rows.cold),
        output::bytes(progress.rows.memory_bytes),
    ));
}
