//! A serving copy that follows a store.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use embedrock::{Error, Replica};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{Integers, Output};
use crate::calls::interruptible;
use crate::commit::PyCommitId;
use crate::errors::{Failure, Outcome};
use crate::options::store_options;
use crate::settings::PyTableSchema;

/// Embeddings of a store that another process trains.
#[pyclass(name = "Replica", module = "embedrock", frozen)]
pub(crate) struct PyReplica {
    replica: Arc<RwLock<Option<Replica>>>,
    process: u32,
    path: PathBuf,
}

fn with<R>(replica: &RwLock<Option<Replica>>, work: impl FnOnce(&Replica) -> embedrock::Result<R>) -> Outcome<R> {
    let replica = replica.read().unwrap_or_else(PoisonError::into_inner);
    Ok(work(replica.as_ref().ok_or(Failure::Closed)?)?)
}

impl PyReplica {
    fn run<R: Send>(&self, py: Python<'_>, work: impl FnOnce(&Replica) -> embedrock::Result<R> + Send) -> PyResult<R> {
        if std::process::id() != self.process {
            return Err(Failure::Engine(Error::ForkedChild).into());
        }
        Ok(py.detach(|| with(&self.replica, work))?)
    }

    fn find<'py>(
        &self,
        py: Python<'py>,
        table: &str,
        keys: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Vec<bool>, PyCommitId)> {
        let keys = Integers::of("keys", keys)?;
        let keys = keys.keys()?;
        let dim = self.run(py, |replica| replica.dim(table))?;
        let mut out = Output::of(py, out, &[keys.len(), dim])?;
        let mut found = vec![false; keys.len()];
        let (into, mask) = (out.values()?, &mut found);
        let (at, _) = self.run(py, |replica| replica.lookup_at(table, keys, into, mask))?;
        Ok((out.array(), found, PyCommitId(at)))
    }
}

#[pymethods]
impl PyReplica {
    /// Serves the store in `store` from its last durable commit on; `path` holds what does not fit the memory budget.
    #[new]
    #[pyo3(signature = (store, path, **options))]
    fn new(py: Python<'_>, store: PathBuf, path: PathBuf, options: Option<&Bound<'_, PyDict>>) -> PyResult<PyReplica> {
        let (options, dir) = (store_options(options)?, path.clone());
        let replica = interruptible(py, move || Ok(Replica::open(store, dir, options)?))?;
        Ok(PyReplica { replica: Arc::new(RwLock::new(Some(replica))), process: std::process::id(), path })
    }

    /// As `Table.lookup`, at the commit that is served.
    #[pyo3(signature = (table, keys, *, out=None))]
    fn lookup<'py>(
        &self,
        py: Python<'py>,
        table: &str,
        keys: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(self.find(py, table, keys, out)?.0)
    }

    /// Embeddings, which keys have a row, and the commit that they are of.
    #[pyo3(signature = (table, keys, *, out=None))]
    fn lookup_at<'py>(
        &self,
        py: Python<'py>,
        table: &str,
        keys: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray1<bool>>, PyCommitId)> {
        let (rows, found, at) = self.find(py, table, keys, out)?;
        Ok((rows, PyArray1::from_vec(py, found), at))
    }

    /// Applies what became durable since: a dict of `at`, `commits`, `bytes` and `restarted` (why, if it began anew).
    fn catch_up<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        if std::process::id() != self.process {
            return Err(Failure::Engine(Error::ForkedChild).into());
        }
        let replica = Arc::clone(&self.replica);
        let report = interruptible(py, move || with(&replica, Replica::catch_up))?;
        let dict = PyDict::new(py);
        dict.set_item("at", PyCommitId(report.at))?;
        dict.set_item("commits", report.commits)?;
        dict.set_item("bytes", report.bytes)?;
        dict.set_item("restarted", report.restarted)?;
        Ok(dict)
    }

    /// Durable commits that it has not (`None` across timelines), and seconds since it had all.
    fn lag(&self, py: Python<'_>) -> PyResult<(Option<u64>, f64)> {
        let lag = self.run(py, Replica::lag)?;
        Ok((lag.commits, lag.seconds))
    }

    /// The commit that is served.
    #[getter]
    fn at(&self, py: Python<'_>) -> PyResult<PyCommitId> {
        self.run(py, |replica| Ok(replica.at())).map(PyCommitId)
    }

    /// The tables that are served.
    fn tables(&self, py: Python<'_>) -> PyResult<Vec<PyTableSchema>> {
        Ok(self.run(py, |replica| Ok(replica.tables()))?.into_iter().map(PyTableSchema).collect())
    }

    /// Rows of each table.
    fn rows(&self, py: Python<'_>) -> PyResult<Vec<(String, u64)>> {
        self.run(py, |replica| Ok(replica.rows()))
    }

    /// Bytes that it takes of the memory budget.
    #[getter]
    fn memory_bytes(&self, py: Python<'_>) -> PyResult<u64> {
        self.run(py, |replica| Ok(replica.memory_bytes()))
    }

    /// Closes it.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if std::process::id() != self.process {
            return Err(Failure::Engine(Error::ForkedChild).into());
        }
        let replica = Arc::clone(&self.replica);
        interruptible(py, move || {
            drop(replica.write().unwrap_or_else(PoisonError::into_inner).take());
            Ok(())
        })
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, py: Python<'_>, _error: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py)
    }

    fn __repr__(&self) -> String {
        format!("<Replica '{}'>", self.path.display())
    }
}
