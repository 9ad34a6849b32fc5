//! What every training command is told: its store, its record, what it prints.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;

use embedrock::train::runs::{Begun, Ended, Moment, Recorder};
use embedrock::{Error, Store};

use crate::exporter::published;
use crate::memory::ColdMemory;
use crate::output::{self, say};

#[derive(clap::Args)]
pub(crate) struct Job {
    /// The store; a run that was stopped goes on from its last commit
    #[arg(long, value_name = "DIR")]
    pub(crate) store: PathBuf,
    /// Memory that rows, indexes and caches may take
    #[arg(long, value_parser = output::size, value_name = "BYTES", default_value = "256MiB")]
    pub(crate) memory_budget: usize,
    #[command(flatten)]
    pub(crate) cold_memory: ColdMemory,
    /// Cap on the rows in memory, for trying out what happens beyond it
    #[arg(long)]
    hot_rows: Option<usize>,
    /// Worker threads of the store; 0 for one a core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Commits between two bases; 0 for none
    #[arg(long, default_value_t = 10)]
    pub(crate) checkpoint_every: u64,
    /// Seed of the model and, where none is given, of the data
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Answer Prometheus here, e.g. 127.0.0.1:9090; what the cold tier reads and writes is counted too
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// Append how the job goes to this file, as JSON lines: `report` shows them
    #[arg(long, value_name = "FILE.jsonl")]
    record: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Job {
    pub(crate) fn open(&self) -> Result<Store, Error> {
        // Real logs have gaps of weeks and months, and their times are trusted.
        let options = self.cold_memory.options(self.memory_budget).threads(self.threads).seed(self.seed);
        let options = options.max_clock_step(u32::MAX).cold_traffic(self.metrics.is_some());
        Store::open(&self.store, self.hot_rows.map_or(options.clone(), |rows| options.hot_rows(rows)))
    }

    /// Runs a job of this name on this data, with its figures published and its record kept; `unit` is what its moments count.
    pub(crate) fn run<T>(
        &self,
        store: &Store,
        (job, data, synthetic, unit): (&str, String, bool, &str),
        train: impl FnOnce(&mut dyn FnMut(Moment, bool)) -> Result<T, Error>,
    ) -> Result<T, Box<dyn std::error::Error>>
    where
        for<'a> Ended: From<&'a T>,
    {
        let resumed = store.last_commit().filter(|commit| !commit.state.is_empty()).map(|commit| commit.id.to_string());
        let begun = Begun::new(job, data, synthetic, unit, resumed);
        let mut recorder = self.record.as_ref().map(|path| Recorder::open(path, begun)).transpose()?;
        let report = published(store, self.metrics, || {
            train(&mut |moment, always| {
                if let Some(recorder) = &mut recorder {
                    recorder.note(moment, always);
                }
            })
        })??;
        recorder.map_or(Ok(()), |recorder| recorder.end(Ended::from(&report)))?;
        Ok(report)
    }

    /// Prints the report.
    pub(crate) fn tell(&self, report: &(impl serde::Serialize + std::fmt::Display)) -> output::Outcome {
        if self.json {
            output::json(report)?;
        } else {
            say!("{report}");
        }
        output::done()
    }
}
