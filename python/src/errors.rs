//! Errors of the engine as exceptions of one hierarchy: the classes of `embedrock.errors`, chosen by the name of the variant.
#![forbid(unsafe_code)]

use embedrock::Error;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule, PyString};

/// Why a call on a handle failed.
pub(crate) enum Failure {
    /// The engine said so.
    Engine(Error),
    /// The store was closed before.
    Closed,
    /// The thread that carried the call panicked.
    Panicked,
}

/// What calls on handles return.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Engine(error)
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        Python::attach(|py| match failure {
            Failure::Engine(error) => exception(py, &error),
            Failure::Closed => raised(py, "Closed", "it is closed: open it again".to_owned(), PyDict::new(py)),
            Failure::Panicked => raised(py, "Panicked", "a thread of the engine panicked".to_owned(), PyDict::new(py)),
        })
    }
}

/// The exception that stands for an error, with the variant's fields as attributes.
fn exception(py: Python<'_>, error: &Error) -> PyErr {
    let fields = PyDict::new(py);
    let filled = fill(&fields, error);
    filled.map_or_else(|error| error, |class| raised(py, class, error.to_string(), fields))
}

fn raised(py: Python<'_>, class: &str, message: String, fields: Bound<'_, PyDict>) -> PyErr {
    static MODULE: PyOnceLock<Py<PyModule>> = PyOnceLock::new();
    let made = MODULE.get_or_try_init(py, || PyModule::import(py, "embedrock.errors").map(Bound::unbind)).and_then(|module| {
        let exception = module.bind(py).getattr(class)?.call1((message,))?;
        for (name, value) in fields {
            exception.setattr(name.cast::<PyString>()?, value)?;
        }
        Ok(exception)
    });
    made.map_or_else(|error| error, PyErr::from_value)
}

/// Writes the fields of an error to `fields`; returns the name of its class.
fn fill(fields: &Bound<'_, PyDict>, error: &Error) -> PyResult<&'static str> {
    let set = |name: &str, value: &dyn std::fmt::Display| fields.set_item(name, value.to_string());
    Ok(match error {
        Error::FormatTooNew { .. } => "FormatTooNew",
        Error::NotAStore { .. } => "NotAStore",
        Error::Locked { pid, .. } => {
            fields.set_item("pid", pid)?;
            "Locked"
        }
        Error::ForkedChild => "ForkedChild",
        Error::SchemaMismatch { table, what } => {
            set("table", table)?;
            set("what", what)?;
            "SchemaMismatch"
        }
        Error::InvalidSchema { table, what } => {
            set("table", table)?;
            set("what", what)?;
            "InvalidSchema"
        }
        Error::UnknownTable { table } => {
            set("table", table)?;
            "UnknownTable"
        }
        Error::TableDropped { table } => {
            set("table", table)?;
            "TableDropped"
        }
        Error::InvalidOption { option, .. } => {
            set("option", option)?;
            "InvalidOption"
        }
        Error::WrongLength { expected, found, .. } => {
            fields.set_item("expected", expected)?;
            fields.set_item("found", found)?;
            "WrongLength"
        }
        Error::InvalidOffsets { position, .. } => {
            fields.set_item("position", position)?;
            "InvalidOffsets"
        }
        // Its class is that of what is wrong with the request; the message says which one.
        Error::InRequest { request, source, .. } => {
            let class = fill(fields, source)?;
            fields.set_item("request", request)?;
            class
        }
        Error::OtherStore => "OtherStore",
        Error::NotFinite { key, position, .. } => {
            fields.set_item("key", key)?;
            fields.set_item("position", position)?;
            "NotFinite"
        }
        Error::ClockJump { time, clock, .. } => {
            fields.set_item("time", time)?;
            fields.set_item("clock", clock)?;
            "ClockJump"
        }
        Error::BudgetTooSmall { needed, budget } => {
            fields.set_item("needed", needed)?;
            fields.set_item("budget", budget)?;
            "BudgetTooSmall"
        }
        other => fill_of_files(fields, other)?,
    })
}

/// As [`fill`], of what has to do with files and commits.
fn fill_of_files(fields: &Bound<'_, PyDict>, error: &Error) -> PyResult<&'static str> {
    let set = |name: &str, value: &dyn std::fmt::Display| fields.set_item(name, value.to_string());
    Ok(match error {
        Error::Io { path, source, .. } => {
            set("filename", &path.display())?;
            fields.set_item("errno", source.raw_os_error())?;
            "FileFailed"
        }
        Error::NoSpace { path, .. } => {
            set("filename", &path.display())?;
            "NoSpace"
        }
        Error::ReadOnly { path } => {
            set("filename", &path.display())?;
            "ReadOnly"
        }
        Error::Corrupt { path, offset, what } => {
            set("path", &path.display())?;
            fields.set_item("offset", offset)?;
            set("what", what)?;
            "Corrupt"
        }
        Error::UnknownCommit { id, .. } => {
            set("commit", id)?;
            "UnknownCommit"
        }
        Error::TargetExists { path } => {
            set("filename", &path.display())?;
            "TargetExists"
        }
        Error::Poisoned { .. } => "Poisoned",
        Error::CommitFailed { .. } => "CommitFailed",
        Error::Cold { .. } => "ColdTierFailed",
        Error::File { path, .. } => {
            set("path", &path.display())?;
            "FileRefused"
        }
        Error::Input { path, line, .. } => {
            set("path", &path.display())?;
            fields.set_item("line", line)?;
            "FileRefused"
        }
        _ => "Error",
    })
}
