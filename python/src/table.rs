//! A table's batches of keys and rows.
#![forbid(unsafe_code)]

use std::sync::Arc;

use embedrock::{Pooling, Table, Update};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::arrays::{Integers, Output, rows, values};
use crate::calls::{Handle, Slot, interruptible};
use crate::settings::{PyTableSchema, known};

/// A lookup of more keys looks for signals after each so many.
const KEYS_BETWEEN_SIGNALS: usize = 1 << 16;

/// What a batch of gradients takes besides its time.
const LEARNING: [&str; 5] = ["learning_rate", "segment_learning_rates", "step", "scale_gradients", "clip_global_norm"];

/// Keys, times, embeddings and optimizer states of a table's rows.
type Rows<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>);

/// A table of an open store.
#[pyclass(name = "Table", module = "embedrock", frozen)]
pub(crate) struct PyTable {
    // Before the handle, so that the store goes last.
    slot: Slot,
    handle: Arc<Handle>,
    name: String,
    dim: usize,
}

impl PyTable {
    pub(crate) fn new(table: Table, handle: &Arc<Handle>) -> PyTable {
        let (name, dim) = (table.name(), table.dim());
        PyTable { slot: handle.keep(table), handle: Arc::clone(handle), name, dim }
    }

    /// Values of an embedding.
    pub(crate) fn width(&self) -> usize {
        self.dim
    }

    /// The table itself: to be dropped before the call ends, which keeps the store open meanwhile.
    pub(crate) fn table(&self) -> PyResult<Table> {
        Ok(self.handle.with_table(&self.slot, |table| Ok(table.clone()))?)
    }

    /// Runs `work` on the table without the interpreter's lock.
    pub(crate) fn run<R: Send>(&self, py: Python<'_>, work: impl FnOnce(&Table) -> embedrock::Result<R> + Send) -> PyResult<R> {
        Ok(py.detach(|| self.handle.with_table(&self.slot, work))?)
    }

    /// Looks up a share of the keys at a time, and for signals in between.
    fn lookup_shares(&self, py: Python<'_>, keys: &[u64], out: &mut [f32], found: Option<&mut [bool]>) -> PyResult<()> {
        let dim = self.dim;
        let mut found = found.map(|found| found.chunks_mut(KEYS_BETWEEN_SIGNALS));
        for (at, (keys, out)) in keys.chunks(KEYS_BETWEEN_SIGNALS).zip(out.chunks_mut(KEYS_BETWEEN_SIGNALS * dim)).enumerate() {
            if at > 0 {
                py.check_signals()?;
            }
            let found = found.as_mut().and_then(Iterator::next);
            self.run(py, |table| match found {
                Some(found) => table.lookup_found(keys, out, found),
                None => table.lookup(keys, out),
            })?;
        }
        // Also where there are no keys: a closed store, a forked child.
        if keys.is_empty() { self.run(py, |table| table.lookup(&[], &mut [])).map(drop) } else { Ok(()) }
    }
}

#[pymethods]
impl PyTable {
    /// The table's name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Values of an embedding.
    #[getter]
    fn dim(&self) -> usize {
        self.dim
    }

    /// The schema, with the settings in force.
    #[getter]
    fn schema(&self, py: Python<'_>) -> PyResult<PyTableSchema> {
        self.run(py, |table| Ok(PyTableSchema(table.schema())))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.run(py, |table| Ok(table.len() as usize))
    }

    fn __bool__(&self) -> bool {
        true
    }

    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let key = match key.extract::<u64>() {
            Ok(key) => key,
            Err(_) => key.extract::<i64>()? as u64,
        };
        self.run(py, |table| table.contains(key))
    }

    /// The embeddings of `keys`, shape (len(keys), dim): in `out`, or in a new array.
    ///
    /// A key without a row yields what `missing` of the schema says. Nothing is inserted. `keys` is an array of uint64 or int64, contiguous; `out`
    /// is one of float32, C-contiguous. A lookup of many keys looks for signals in between.
    #[pyo3(signature = (keys, *, out=None))]
    fn lookup<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let keys = Integers::of("keys", keys)?;
        let keys = keys.keys()?;
        let mut out = Output::of(py, out, &[keys.len(), self.dim])?;
        self.lookup_shares(py, keys, out.values()?, None)?;
        Ok(out.array())
    }

    /// As `lookup`; also an array of bool that says which keys have a row.
    #[pyo3(signature = (keys, *, out=None))]
    fn lookup_found<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyArray1<bool>>)> {
        let keys = Integers::of("keys", keys)?;
        let keys = keys.keys()?;
        let mut out = Output::of(py, out, &[keys.len(), self.dim])?;
        let mut found = vec![false; keys.len()];
        self.lookup_shares(py, keys, out.values()?, Some(&mut found))?;
        Ok((out.array(), PyArray1::from_vec(py, found)))
    }

    /// Sums or means of bags of rows, shape (bags, dim): bag b holds `keys[offsets[b]:offsets[b + 1]]`.
    ///
    /// `offsets` has one entry more than there are bags: from 0 to len(keys) (in PyTorch: `include_last_offset=True`). `pooling` is "sum",
    /// "mean", or a number n of rows to keep: then the shape is (bags, n * dim), zeros behind the last. An empty bag is all zeros.
    #[pyo3(signature = (keys, offsets, pooling=None, *, out=None))]
    fn lookup_pooled<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        offsets: &Bound<'py, PyAny>,
        pooling: Option<&Bound<'py, PyAny>>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (keys, offsets) = (Integers::of("keys", keys)?, Integers::of("offsets", offsets)?);
        let (keys, offsets, pooling) = (keys.keys()?, offsets.offsets()?, pooling_of(pooling)?);
        let mut out = Output::of(py, out, &pooled_shape(offsets.len(), pooling, self.dim))?;
        let into = out.values()?;
        self.run(py, |table| table.lookup_pooled(keys, offsets, pooling, into))?;
        Ok(out.array())
    }

    /// Trains: sums the gradients of equal keys in their order, then runs the table's optimizer on each row. All or nothing.
    ///
    /// `grads` has shape (len(keys), dim). Keys without a row get one if they are admitted. `time`: unix seconds of the batch's events, 0 for
    /// none. Also `learning_rate`, `segment_learning_rates`, `step`, `scale_gradients` and `clip_global_norm`, for this batch.
    #[pyo3(signature = (keys, grads, *, time=0, **learning))]
    fn apply_gradients(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        grads: &Bound<'_, PyAny>,
        time: u64,
        learning: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let (keys, update) = (Integers::of("keys", keys)?, update(time, learning)?);
        let keys = keys.keys()?;
        let grads = rows("grads", grads, &[keys.len(), self.dim])?;
        let grads = values("grads", &grads)?;
        self.run(py, |table| table.apply_gradients(keys, grads, &update))
    }

    /// As `apply_gradients`, for gradients worked out from rows `read` some time ago: makes up for what changed since, by
    /// `g + strength * g**2 * (w - read)`.
    #[pyo3(signature = (keys, grads, read, *, strength, time=0, **learning))]
    #[expect(clippy::too_many_arguments, reason = "they are keyword arguments of a Python method")]
    fn apply_delayed_gradients(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        grads: &Bound<'_, PyAny>,
        read: &Bound<'_, PyAny>,
        strength: f32,
        time: u64,
        learning: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let (keys, update) = (Integers::of("keys", keys)?, update(time, learning)?);
        let keys = keys.keys()?;
        let shape = [keys.len(), self.dim];
        let (grads, read) = (rows("grads", grads, &shape)?, rows("read", read, &shape)?);
        let (grads, read) = (values("grads", &grads)?, values("read", &read)?);
        self.run(py, |table| table.apply_delayed_gradients(keys, grads, read, strength, &update))
    }

    /// Trains the rows of pooled bags, bit for bit by the gradient of `lookup_pooled`; `grads` has the shape of its output.
    #[pyo3(signature = (keys, offsets, grads, pooling=None, *, time=0, **learning))]
    #[expect(clippy::too_many_arguments, reason = "they are keyword arguments of a Python method")]
    fn apply_pooled_gradients(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        offsets: &Bound<'_, PyAny>,
        grads: &Bound<'_, PyAny>,
        pooling: Option<&Bound<'_, PyAny>>,
        time: u64,
        learning: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let (keys, offsets) = (Integers::of("keys", keys)?, Integers::of("offsets", offsets)?);
        let (keys, offsets, pooling) = (keys.keys()?, offsets.offsets()?, pooling_of(pooling)?);
        let grads = rows("grads", grads, &pooled_shape(offsets.len(), pooling, self.dim))?;
        let (grads, update) = (values("grads", &grads)?, update(time, learning)?);
        self.run(py, |table| table.apply_pooled_gradients(keys, offsets, pooling, grads, &update))
    }

    /// Sets embeddings; of equal keys the last wins. The optimizer's state of existing rows stays. Returns how many distinct keys were
    /// written: those that admission refuses are not.
    #[pyo3(signature = (keys, rows, *, time=0))]
    fn assign(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, rows: &Bound<'_, PyAny>, time: u64) -> PyResult<usize> {
        let keys = Integers::of("keys", keys)?;
        let keys = keys.keys()?;
        let given = crate::arrays::rows("rows", rows, &[keys.len(), self.dim])?;
        let given = values("rows", &given)?;
        self.run(py, |table| table.assign(keys, given, &Update::at(time)))
    }

    /// Adds to embeddings; equal keys are summed first. Returns as `assign`.
    #[pyo3(signature = (keys, rows, *, time=0))]
    fn assign_add(&self, py: Python<'_>, keys: &Bound<'_, PyAny>, rows: &Bound<'_, PyAny>, time: u64) -> PyResult<usize> {
        let keys = Integers::of("keys", keys)?;
        let keys = keys.keys()?;
        let given = crate::arrays::rows("rows", rows, &[keys.len(), self.dim])?;
        let given = values("rows", &given)?;
        self.run(py, |table| table.assign_add(keys, given, &Update::at(time)))
    }

    /// As `assign`, and returns what `lookup` gave until now, with no other update in between.
    #[pyo3(signature = (keys, rows, *, time=0, out=None))]
    fn replace<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
        rows: &Bound<'py, PyAny>,
        time: u64,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let keys = Integers::of("keys", keys)?;
        let keys = keys.keys()?;
        let shape = [keys.len(), self.dim];
        let given = crate::arrays::rows("rows", rows, &shape)?;
        let mut out = Output::of(py, out, &shape)?;
        let (given, old) = (values("rows", &given)?, out.values()?);
        self.run(py, |table| table.replace(keys, given, &Update::at(time), old))?;
        Ok(out.array())
    }

    /// Removes rows; returns how many there were.
    fn remove(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<usize> {
        let keys = Integers::of("keys", keys)?;
        let keys = keys.keys()?;
        self.run(py, |table| table.remove(keys))
    }

    /// Has the cold rows among `keys` brought into memory in the background, and returns at once: for the keys of a batch some batches
    /// before it. A hint: no result depends on it.
    fn prefetch(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<()> {
        let keys = Integers::of("keys", keys)?;
        let keys = keys.keys()?;
        self.run(py, |table| table.prefetch(keys))
    }

    /// All rows: keys (n,) uint64, event times (n,) uint32, embeddings (n, dim) and optimizer states (n, lanes) float32, in no
    /// particular order. In memory all at once; `Store.export_rows` writes files in memory that does not grow.
    fn rows<'py>(&self, py: Python<'py>) -> PyResult<Rows<'py>> {
        let (slot, handle) = (Arc::clone(&self.slot), Arc::clone(&self.handle));
        let (keys, times, embeddings, states) = interruptible(py, move || {
            handle.with_table(&slot, |table| {
                let (mut keys, mut times, mut embeddings, mut states) = (vec![], vec![], vec![], vec![]);
                table.for_each_row(|key, time, embedding, state| {
                    keys.push(key);
                    times.push(time);
                    embeddings.extend_from_slice(embedding);
                    states.extend_from_slice(state);
                    Ok(())
                })?;
                Ok((keys, times, embeddings, states))
            })
        })?;
        let rows = keys.len();
        let state_lanes = states.len().checked_div(rows).unwrap_or(0);
        let shaped = |values: Vec<f32>, width: usize| PyArray1::from_vec(py, values).reshape([rows, width]);
        let (embeddings, states) = (shaped(embeddings, self.dim)?.into_any(), shaped(states, state_lanes)?.into_any());
        Ok((PyArray1::from_vec(py, keys).into_any(), PyArray1::from_vec(py, times).into_any(), embeddings, states))
    }

    fn __repr__(&self) -> String {
        format!("<Table '{}', dim {}>", self.name, self.dim)
    }
}

/// `"sum"`, the default, `"mean"`, or a number of rows to keep.
pub(crate) fn pooling_of(value: Option<&Bound<'_, PyAny>>) -> PyResult<Pooling> {
    let Some(value) = value else { return Ok(Pooling::Sum) };
    if let Ok(first) = value.extract::<usize>() {
        return Ok(Pooling::First(first));
    }
    crate::settings::named("pooling", value, &[("sum", Pooling::Sum), ("mean", Pooling::Mean)])
}

/// The shape of what comes out of bags.
pub(crate) fn pooled_shape(offsets: usize, pooling: Pooling, dim: usize) -> [usize; 2] {
    let rows = if let Pooling::First(rows) = pooling { rows } else { 1 };
    [offsets.saturating_sub(1), rows.saturating_mul(dim)]
}

/// What a batch brings besides keys and values.
pub(crate) fn update(time: u64, learning: Option<&Bound<'_, PyDict>>) -> PyResult<Update> {
    let mut update = Update::at(time);
    for (name, value) in known(learning, "updates", &LEARNING)? {
        update = match name.as_str() {
            "learning_rate" => update.learning_rate(value.extract()?),
            "segment_learning_rates" => {
                let rates: std::collections::BTreeMap<usize, f32> = value.extract()?;
                rates.into_iter().fold(update, |update, (segment, rate)| update.segment_learning_rate(segment, rate))
            }
            "step" => update.step(value.extract()?),
            "scale_gradients" => update.scale_gradients(value.extract()?),
            "clip_global_norm" => update.clip_global_norm(value.extract()?),
            _ => update,
        };
    }
    Ok(update)
}
