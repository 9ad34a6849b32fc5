//! Embedrock for Python: the engine's calls on NumPy arrays. What each does is written in `embedrock/_embedrock.pyi`.
#![forbid(unsafe_code)]

mod arrays;
mod calls;
mod commit;
mod errors;
mod options;
mod replica;
mod reports;
mod settings;
mod store;
mod table;

#[cfg(feature = "bench")]
mod bench;

use pyo3::prelude::*;

#[pymodule]
mod _embedrock {
    use std::path::PathBuf;

    use embedrock::Restore;
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    #[cfg(feature = "bench")]
    #[pymodule_export]
    use crate::bench::time_calls;
    use crate::calls::interruptible;
    #[pymodule_export]
    use crate::commit::{PyCommit, PyCommitId, PyTicket};
    use crate::options::{at, store_options};
    #[pymodule_export]
    use crate::replica::PyReplica;
    use crate::reports::verify_report;
    #[pymodule_export]
    use crate::settings::{PyAdmission, PyExpiry, PyInitializer, PyOptimizer, PySchedule, PySegment, PyTableSchema};
    #[pymodule_export]
    use crate::store::PyStore;
    #[pymodule_export]
    use crate::table::PyTable;

    /// Restores a store's state at a commit, the newest if none is given, as a new store in `target`: a dict of `commit`, `tables` and
    /// `state_bytes`. Ctrl-C ends the wait; the same call again goes on with what was done.
    #[pyfunction]
    #[pyo3(signature = (source, target, *, commit=None, tables=None, **options))]
    fn restore<'py>(
        py: Python<'py>,
        source: PathBuf,
        target: PathBuf,
        commit: Option<&Bound<'py, PyAny>>,
        tables: Option<Vec<String>>,
        options: Option<&Bound<'py, PyDict>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let mut restore = Restore::of(source).at(at(commit)?).options(store_options(options)?);
        if let Some(tables) = tables {
            restore = restore.tables(tables);
        }
        let report = interruptible(py, move || Ok(restore.to(target)?))?;
        let dict = PyDict::new(py);
        dict.set_item("commit", crate::commit::PyCommitId(report.commit))?;
        dict.set_item("tables", report.tables)?;
        dict.set_item("state_bytes", report.state_bytes)?;
        Ok(dict)
    }

    /// Checks every file of a store that nobody has open; as `Store.verify`.
    #[pyfunction]
    fn verify<'py>(py: Python<'py>, path: PathBuf) -> PyResult<Bound<'py, PyDict>> {
        verify_report(py, &interruptible(py, move || Ok(embedrock::verify(path)?))?)
    }

    /// The feature slot of a key: its bits 48 to 62.
    #[pyfunction]
    fn slot_of(key: u64) -> u16 {
        embedrock::slot_of(key)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
