//! What all experiments are told, and runs of several seeds beside one another.
#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::fs::{Fs, RealFs, Scratch};
use crate::train::DeepFmOptions;
use crate::train::data::synthetic::{Clicks, Synthetic};
use crate::train::data::{self, Samples, Shape, Source};
use crate::{Error, Result, Store, StoreOptions};

/// The memory of a run's store where nothing is said.
const MEMORY_BUDGET: usize = 128 << 20;

/// What all experiments are told.
#[derive(Clone, Debug)]
pub struct Setup {
    /// A file or directory that [`data::open`] reads; without one a stream is generated.
    pub data: Option<PathBuf>,
    /// The generated stream; its seed is the run's.
    pub clicks: Clicks,
    /// Runs, of the seeds from 1 on.
    pub seeds: u64,
    /// Runs at the same time.
    pub jobs: usize,
    /// Passes over the samples, where an experiment makes several.
    pub epochs: usize,
    /// The model; its seed is the run's, and `commit_every` and the like mean nothing here.
    pub model: DeepFmOptions,
    /// How stores are opened.
    pub store: StoreOptions,
    /// Where stores lie while they are used; by default the system's directory for temporary files.
    pub scratch: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup {
            data: None,
            clicks: Clicks::default(),
            seeds: 5,
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
            epochs: 1,
            model: DeepFmOptions::default(),
            store: StoreOptions::default().memory_budget(MEMORY_BUDGET),
            scratch: None,
        }
    }
}

impl Setup {
    fn validate(&self) -> Result<()> {
        let refuse = |option, what: &str| Err(Error::InvalidOption { option, what: what.into() });
        self.model.validate()?;
        match self {
            o if o.seeds == 0 || o.seeds > 1_000 => refuse("seeds", "must be 1 to 1000"),
            o if o.jobs == 0 || o.jobs > 1_024 => refuse("jobs", "must be 1 to 1024"),
            o if o.epochs == 0 || o.epochs > 1_000 => refuse("epochs", "must be 1 to 1000"),
            _ => Ok(()),
        }
    }

    /// The model of a run.
    pub(super) fn model(&self, seed: u64) -> DeepFmOptions {
        DeepFmOptions { seed, ..self.model.clone() }
    }

    /// A store of a run. Times are the data's, and are trusted; runs are as parallel as is wanted, so a store has one thread.
    pub(super) fn open(&self, dir: &Path, seed: u64) -> Result<Store> {
        Store::open(dir, self.options(seed))
    }

    pub(super) fn options(&self, seed: u64) -> StoreOptions {
        self.store.clone().seed(seed).threads(1).max_clock_step(u32::MAX)
    }

    /// Runs each seed, `jobs` at the same time, each with a directory that goes when it is done; results are in the order of seeds. `done` is
    /// told how many are done.
    pub(super) fn each_seed<T: Send>(
        &self,
        done: &(dyn Fn(u64, u64) + Sync),
        run: impl Fn(u64, &Path) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        let (next, results) = (AtomicU64::new(1), Mutex::new(Vec::new()));
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed > self.seeds {
                    return;
                }
                let place = Scratch::new(&fs, self.scratch.as_deref());
                let result = place.and_then(|place| run(seed, place.path()));
                if result.is_err() {
                    // The others need not begin.
                    next.store(self.seeds + 1, Ordering::Relaxed);
                }
                let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                results.push((seed, result));
                done(results.len() as u64, self.seeds);
            }
        };
        std::thread::scope(|scope| (0..self.jobs).for_each(|_| drop(scope.spawn(work))));
        let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.sort_unstable_by_key(|(seed, _)| *seed);
        results.into_iter().map(|(_, result)| result).collect()
    }
}

/// The samples of an experiment, in the order of time.
pub(super) enum Input {
    /// Of a file.
    Real { name: String, shape: Shape, samples: Samples },
    /// Made up for each run.
    Generated(Clicks),
}

impl Input {
    /// At least so many samples.
    pub(super) fn of(setup: &Setup, least: u64) -> Result<Input> {
        setup.validate()?;
        let input = match &setup.data {
            None => {
                setup.clicks.validate()?;
                Input::Generated(setup.clicks.clone())
            }
            Some(path) => {
                let mut source = data::open(path)?;
                let (shape, mut samples) = (source.description().shape, Samples::default());
                while source.next(&mut samples, 1 << 16)? > 0 {}
                Input::Real { name: name_of(path), shape, samples }
            }
        };
        if input.len() < least {
            let what = format!("{} samples are too few, {least} are needed", input.len());
            return Err(Error::InvalidOption { option: "data", what });
        }
        Ok(input)
    }

    pub(super) fn name(&self) -> String {
        match self {
            Input::Real { name, .. } => name.clone(),
            Input::Generated(_) => "synthetic".into(),
        }
    }

    pub(super) fn is_synthetic(&self) -> bool {
        matches!(self, Input::Generated(_))
    }

    pub(super) fn shape(&self) -> Shape {
        match self {
            Input::Real { shape, .. } => *shape,
            Input::Generated(_) => Shape { keys: 2, dense: 0 },
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Input::Real { samples, .. } => samples.len() as u64,
            Input::Generated(clicks) => clicks.samples,
        }
    }

    /// What it was made with, or how many samples it has.
    pub(super) fn about(&self) -> String {
        match self {
            Input::Real { samples, .. } => {
                let positive: f64 = samples.labels.iter().map(|label| f64::from(*label)).sum();
                format!("{} samples, {:.1} % positive", samples.len(), 100.0 * positive / samples.len().max(1) as f64)
            }
            Input::Generated(clicks) => format!("generated: {}, each run with its own seed", clicks.without_seed()),
        }
    }

    /// The samples of a run.
    pub(super) fn samples(&self, seed: u64) -> Result<Cow<'_, Samples>> {
        match self {
            Input::Real { samples, .. } => Ok(Cow::Borrowed(samples)),
            Input::Generated(clicks) => {
                let mut samples = Samples::default();
                Synthetic::new(Clicks { seed, ..clicks.clone() })?.next(&mut samples, usize::MAX)?;
                Ok(Cow::Owned(samples))
            }
        }
    }
}

/// The data's own name: nothing of the machine goes into a report.
fn name_of(path: &Path) -> String {
    let of = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let named = match path.is_dir() {
        true => of(path),
        false => path.parent().and_then(of).or_else(|| of(path)),
    };
    named.unwrap_or_else(|| "data".into())
}
