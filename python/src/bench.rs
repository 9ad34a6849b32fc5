//! The calls of a benchmark's loop without Python around them, timed one by one.
#![forbid(unsafe_code)]

use std::time::Instant;

use embedrock::Update;
use pyo3::prelude::*;

use crate::arrays::{Integers, Output, rows, values};
use crate::table::PyTable;

/// Seconds of each of `rounds` lookups into `out`, or updates with `grads` where there are some.
#[pyfunction]
#[pyo3(signature = (table, keys, *, out, grads=None, time=0, rounds))]
#[expect(clippy::too_many_arguments, reason = "they are keyword arguments of a Python function")]
pub(crate) fn time_calls(
    py: Python<'_>,
    table: &PyTable,
    keys: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    grads: Option<&Bound<'_, PyAny>>,
    time: u64,
    rounds: usize,
) -> PyResult<Vec<f64>> {
    let keys = Integers::of("keys", keys)?;
    let keys = keys.keys()?;
    let shape = [keys.len(), table.width()];
    let mut out = Output::of(py, Some(out), &shape)?;
    let grads = grads.map(|grads| rows("grads", grads, &shape)).transpose()?;
    let grads = grads.as_ref().map(|grads| values("grads", grads)).transpose()?;
    let into = out.values()?;
    let mut seconds = Vec::with_capacity(rounds);
    table.run(py, |table| {
        for _ in 0..rounds {
            let began = Instant::now();
            match grads {
                Some(grads) => table.apply_gradients(keys, grads, &Update::at(time))?,
                None => drop(table.lookup(keys, into)?),
            }
            seconds.push(began.elapsed().as_secs_f64());
        }
        Ok(seconds)
    })
}
