//! `embedrock train dce`: vectors of sessions and customers, and heads that read them.
#![forbid(unsafe_code)]

use embedrock::train::dce::bank::Bank;
use embedrock::train::dce::data::{self, Sessions};
use embedrock::train::dce::{DceOptions, DceProgress, train_dce};
use embedrock::train::runs::Moment;
use indicatif::ProgressBar;

use crate::job::Job;
use crate::output::{self, Outcome, say};
use crate::train::bar;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to learn: bank:FILE, entree:DIR, airbnb:DIR, unix:DIR or yoochoose:DIR; without it a bank is simulated
    #[arg(long, value_name = "NAME:PATH")]
    data: Option<String>,
    #[command(flatten)]
    job: Job,
    /// Batches between two commits; 0 for one at the end
    #[arg(long, default_value_t = DceOptions::default().commit_every)]
    commit_every: u64,
    /// Stop, and commit, after so many batches of all stages
    #[arg(long)]
    max_batches: Option<u64>,
    /// Customers of the simulated bank
    #[arg(long, default_value_t = Bank::default().customers, conflicts_with = "data")]
    customers: u64,
    /// Days of the simulated bank
    #[arg(long, default_value_t = Bank::default().days, conflicts_with = "data")]
    days: u64,
    /// Floats of a session's vector
    #[arg(long, default_value_t = DceOptions::default().session)]
    session: usize,
    /// Floats of a customer's vector that come from sessions
    #[arg(long, default_value_t = DceOptions::default().sequence)]
    sequence: usize,
    /// Events of a session that are read: the last ones
    #[arg(long, default_value_t = DceOptions::default().max_events)]
    max_events: usize,
    /// Events that are counted by hand for the baselines
    #[arg(long, default_value_t = DceOptions::default().counted)]
    counted: usize,
    /// Passes of the session encoder
    #[arg(long, default_value_t = DceOptions::default().session_epochs)]
    session_epochs: usize,
    /// Passes of the customer encoder
    #[arg(long, default_value_t = DceOptions::default().customer_epochs)]
    customer_epochs: usize,
    /// Passes of the heads
    #[arg(long, default_value_t = DceOptions::default().head_epochs)]
    head_epochs: usize,
    /// How much heads are held back: a share of each weight a step, times their rate
    #[arg(long, default_value_t = DceOptions::default().head_decay)]
    head_decay: f32,
    /// The earlier share of the sessions is learned from, where the data does not say
    #[arg(long, default_value_t = DceOptions::default().train_share)]
    train_share: f64,
    /// Customers who stay away for so many days are forgotten
    #[arg(long, default_value_t = DceOptions::default().inactivity_days)]
    inactivity_days: u32,
}

pub(crate) fn run(args: &Args) -> Outcome {
    let options = DceOptions {
        session: args.session,
        sequence: args.sequence,
        max_events: args.max_events,
        counted: args.counted,
        session_epochs: args.session_epochs,
        customer_epochs: args.customer_epochs,
        head_epochs: args.head_epochs,
        head_decay: args.head_decay,
        train_share: args.train_share,
        inactivity_days: args.inactivity_days,
        seed: args.job.seed,
        commit_every: args.commit_every,
        checkpoint_every: args.job.checkpoint_every,
        max_batches: args.max_batches,
        ..DceOptions::default()
    };
    options.validate()?;
    let data = sessions(args)?;
    let job = &args.job;
    let store = job.open()?;
    if !job.json {
        if data.synthetic {
            say!("learning a SYNTHETIC bank: {}", data.name);
        }
        say!("{}: {}", job.store.display(), store.recovery());
    }
    let bar = bar(None);
    let described = ("dce", format!("{} ({})", data.format, data.name), data.synthetic, "batches of all stages");
    let report = job.run(&store, described, |note| {
        train_dce(&store, &data, &options, &mut |progress| {
            show(&bar, progress);
            note(Moment::from(progress), progress.committed);
        })
    })?;
    bar.finish_and_clear();
    job.tell(&report)
}

fn sessions(args: &Args) -> Result<Sessions, embedrock::Error> {
    match &args.data {
        Some(named) => data::open(named),
        None => data::simulate(&Bank { seed: args.job.seed, customers: args.customers, days: args.days }),
    }
}

fn show(bar: &ProgressBar, progress: &DceProgress) {
    bar.set_length(progress.steps);
    bar.set_position(progress.step);
    let loss = progress.loss.map_or(String::new(), |loss| format!(", loss {loss:.4}"));
    let (hot, cold) = (output::count(progress.rows.hot), output::count(progress.rows.cold));
    bar.set_message(format!("{:?}{loss}, rows {hot} hot {cold} cold", progress.stage));
}
