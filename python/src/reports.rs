//! What the engine reports, as dicts.
#![forbid(unsafe_code)]

use embedrock::{StoreStats, TableStats, VerifyReport, Wait};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

/// What a verification found.
pub(crate) fn verify_report<'py>(py: Python<'py>, report: &VerifyReport) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("files", report.files)?;
    dict.set_item("bytes", report.bytes)?;
    let damage = report.damage.iter().map(|damage| (damage.path.clone(), damage.offset, damage.what.clone()));
    dict.set_item("damage", damage.collect::<Vec<_>>())?;
    dict.set_item("notes", report.notes.clone())?;
    Ok(dict)
}

/// Figures of a store.
pub(crate) fn stats<'py>(py: Python<'py>, stats: &StoreStats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let waited = |wait: &Wait| (wait.times, wait.total.as_secs_f64(), wait.longest.as_secs_f64());
    dict.set_item("memory_bytes", stats.memory_bytes)?;
    dict.set_item("memory_budget", stats.memory_budget)?;
    dict.set_item("cold_memory_bytes", stats.cold_memory_bytes)?;
    dict.set_item("cold_disk_bytes", stats.cold_disk_bytes)?;
    let traffic = stats.cold_traffic.as_ref().map(|traffic| {
        [
            ("flushed_bytes", traffic.flushed_bytes),
            ("compacted_bytes", traffic.compacted_bytes),
            ("compaction_read_bytes", traffic.compaction_read_bytes),
            ("row_blocks", traffic.row_blocks),
            ("index_blocks", traffic.index_blocks),
        ]
        .into_py_dict(py)
    });
    dict.set_item("cold_traffic", traffic.transpose()?)?;
    dict.set_item("log_bytes", stats.log_bytes)?;
    dict.set_item("kept_image_bytes", stats.kept_image_bytes)?;
    dict.set_item("batches", stats.batches)?;
    dict.set_item("commits", waited(&stats.commits))?;
    dict.set_item("commit_bytes", stats.commit_bytes)?;
    dict.set_item("queued_commits", stats.queued_commits)?;
    dict.set_item("checkpoints", waited(&stats.checkpoints))?;
    dict.set_item("checkpoint_bytes", stats.checkpoint_bytes)?;
    dict.set_item("uncommitted_rows", stats.uncommitted_rows)?;
    dict.set_item("prefetches_waiting", stats.prefetches_waiting)?;
    dict.set_item("clock", stats.clock)?;
    let waits = PyDict::new(py);
    let each = [
        ("gate", &stats.waits.gate),
        ("images", &stats.waits.images),
        ("shards", &stats.waits.shards),
        ("log", &stats.waits.log),
    ];
    for (name, wait) in each {
        waits.set_item(name, waited(wait))?;
    }
    dict.set_item("waits", waits)?;
    let tables = PyDict::new(py);
    for table in &stats.tables {
        tables.set_item(&table.name, table_stats(py, table)?)?;
    }
    dict.set_item("tables", tables)?;
    Ok(dict)
}

fn table_stats<'py>(py: Python<'py>, table: &TableStats) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let counts = [
        ("rows", table.rows),
        ("hot_rows", table.hot_rows),
        ("cold_keys", table.cold_keys),
        ("looked_up", table.looked_up),
        ("hot_hits", table.hot_hits),
        ("cold_hits", table.cold_hits),
        ("updated", table.updated),
        ("updated_hot", table.updated_hot),
        ("refused", table.refused),
        ("dropped_counts", table.dropped_counts),
        ("expired", table.expired),
        ("cold_reads", table.cold_reads),
        ("promoted", table.promoted),
        ("demoted", table.demoted),
        ("demoted_writes", table.demoted_writes),
        ("prefetched", table.prefetched),
        ("prefetched_used", table.prefetched_used),
        ("dim", table.dim as u64),
        ("row_bytes", table.row_bytes as u64),
        ("memory_bytes", table.memory_bytes as u64),
        ("filter_bytes", table.filter_bytes as u64),
    ];
    for (name, count) in counts {
        dict.set_item(name, count)?;
    }
    Ok(dict)
}
