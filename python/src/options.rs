//! Options as keyword arguments.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use embedrock::{At, Codecs, CommitId, CommitPolicy, Quantization, Retention, StoreOptions};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::commit::PyCommitId;
use crate::settings::known;

const OPTIONS: [&str; 23] = [
    "commit_every",
    "commit_every_batches",
    "commit_every_bytes",
    "retain_bases",
    "retain_seconds",
    "memory_budget",
    "cold_memory",
    "hot_rows",
    "threads",
    "prefetch_threads",
    "cold_readers",
    "cold_traffic",
    "shards",
    "seed",
    "at",
    "max_clock_step",
    "allow_non_finite",
    "create",
    "read_only",
    "scratch",
    "checkpoint_ratio",
    "file_slabs",
    "codec",
];

/// The options of these keyword arguments; `None` stands for the default.
pub(crate) fn store_options(given: Option<&Bound<'_, PyDict>>) -> PyResult<StoreOptions> {
    let mut options = StoreOptions::default();
    let (mut policy, mut retention) = (CommitPolicy::default(), Retention::default());
    for (name, value) in known(given, "stores", &OPTIONS)? {
        match name.as_str() {
            "commit_every" => policy = policy.every(seconds(&name, value.extract()?)?),
            "commit_every_batches" => policy = policy.every_batches(value.extract()?),
            "commit_every_bytes" => policy = policy.every_bytes(value.extract()?),
            "retain_bases" => retention = retention.bases(value.extract()?),
            "retain_seconds" => retention = retention.seconds(value.extract()?),
            _ => options = set(options, &name, &value)?,
        }
    }
    Ok(options.commit_policy(policy).retention(retention))
}

fn set(options: StoreOptions, name: &str, value: &Bound<'_, PyAny>) -> PyResult<StoreOptions> {
    Ok(match name {
        "memory_budget" => options.memory_budget(value.extract()?),
        "cold_memory" => options.cold_memory(value.extract()?),
        "hot_rows" => options.hot_rows(value.extract()?),
        "threads" => options.threads(value.extract()?),
        "prefetch_threads" => options.prefetch_threads(value.extract()?),
        "cold_readers" => options.cold_readers(value.extract()?),
        "cold_traffic" => options.cold_traffic(value.extract()?),
        "shards" => options.shards(value.extract()?),
        "seed" => options.seed(value.extract()?),
        "at" => options.open_at(at(Some(value))?),
        "max_clock_step" => options.max_clock_step(value.extract()?),
        "allow_non_finite" => options.allow_non_finite(value.extract()?),
        "create" => options.create(value.extract()?),
        "read_only" => options.read_only(value.extract()?),
        "scratch" => options.scratch(value.extract::<PathBuf>()?),
        "checkpoint_ratio" => options.checkpoint_ratio(value.extract()?),
        "file_slabs" => options.file_slabs(value.extract::<PathBuf>()?),
        "codec" => options.codecs(Codecs::all(quantization(value)?)),
        _ => options,
    })
}

/// A commit, or the newest one.
pub(crate) fn at(value: Option<&Bound<'_, PyAny>>) -> PyResult<At> {
    value.map_or(Ok(At::Latest), |value| commit_id(value).map(At::Commit))
}

/// A `CommitId`, or its name.
pub(crate) fn commit_id(value: &Bound<'_, PyAny>) -> PyResult<CommitId> {
    match value.extract::<PyCommitId>() {
        Ok(PyCommitId(id)) => Ok(id),
        Err(_) => value.extract::<String>()?.parse().map_err(PyValueError::new_err),
    }
}

pub(crate) fn quantization(value: &Bound<'_, PyAny>) -> PyResult<Quantization> {
    let known = Quantization::ALL.map(|codec| (codec.name(), codec));
    crate::settings::named("the codec", value, &known)
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|error| PyValueError::new_err(format!("{name}: {error}")))
}
