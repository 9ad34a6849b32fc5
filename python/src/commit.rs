//! Commits: their names, what one holds, and the ticket of one that is on its way.
#![forbid(unsafe_code)]

use embedrock::{Commit, CommitId, Ticket};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::calls::interruptible;
use crate::errors::Failure;

/// Names one commit.
#[pyclass(name = "CommitId", module = "embedrock", frozen, eq, ord, hash, from_py_object)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PyCommitId(pub(crate) CommitId);

#[pymethods]
impl PyCommitId {
    #[new]
    fn new(timeline: u64, sequence: u64) -> PyCommitId {
        PyCommitId(CommitId { timeline, sequence })
    }

    /// Of its name, `TIMELINE.SEQUENCE`.
    #[staticmethod]
    fn parse(text: &str) -> PyResult<PyCommitId> {
        text.parse().map(PyCommitId).map_err(PyValueError::new_err)
    }

    /// One unbroken line of commits, from 1.
    #[getter]
    fn timeline(&self) -> u64 {
        self.0.timeline
    }

    /// The number of commits that led here.
    #[getter]
    fn sequence(&self) -> u64 {
        self.0.sequence
    }

    fn __str__(&self) -> String {
        self.0.to_string()
    }

    fn __repr__(&self) -> String {
        format!("CommitId({}, {})", self.0.timeline, self.0.sequence)
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> (Bound<'py, PyAny>, (u64, u64)) {
        (py.get_type::<PyCommitId>().into_any(), (self.0.timeline, self.0.sequence))
    }
}

/// A commit with the trainer's state.
#[pyclass(name = "Commit", module = "embedrock", frozen)]
pub(crate) struct PyCommit(pub(crate) Commit);

#[pymethods]
impl PyCommit {
    /// Its name.
    #[getter]
    fn id(&self) -> PyCommitId {
        PyCommitId(self.0.id)
    }

    /// A hash over it and its ancestors.
    #[getter]
    fn hash(&self) -> String {
        self.0.hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The largest event time seen, if any.
    #[getter]
    fn clock(&self) -> Option<u32> {
        self.0.clock
    }

    /// The trainer's own state.
    #[getter]
    fn state<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.state)
    }

    fn __repr__(&self) -> String {
        format!("<Commit {}, {} bytes of state>", self.0.id, self.0.state.len())
    }
}

/// Says when a commit in the background is durable.
#[pyclass(name = "Ticket", module = "embedrock", frozen)]
pub(crate) struct PyTicket(pub(crate) Ticket);

#[pymethods]
impl PyTicket {
    /// What the commit is called once it is durable.
    #[getter]
    fn id(&self) -> PyCommitId {
        PyCommitId(self.0.id())
    }

    /// Whether it is durable.
    fn is_durable(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.is_durable())
    }

    /// Waits until it is durable. Ctrl-C ends the wait, not the commit.
    fn wait(&self, py: Python<'_>) -> PyResult<PyCommitId> {
        let ticket = self.0.clone();
        interruptible(py, move || ticket.wait().map_err(Failure::Engine)).map(PyCommitId)
    }

    fn __repr__(&self) -> String {
        format!("<Ticket of commit {}>", self.0.id())
    }
}
