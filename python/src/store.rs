//! The store: opened, filled with tables, committed, checkpointed, closed.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Arc;

use embedrock::{Export, GradientRequest, Import, LookupRequest, Pooling, Store, Table};
use numpy::PyReadonlyArrayDyn;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyDict, PyList};

use crate::arrays::{Integers, Output, rows, values};
use crate::calls::{Handle, interruptible};
use crate::commit::{PyCommit, PyCommitId, PyTicket};
use crate::errors::Failure;
use crate::options::{commit_id, quantization, store_options};
use crate::reports::{stats, verify_report};
use crate::settings::{PyOptimizer, PyTableSchema};
use crate::table::{PyTable, pooled_shape, pooling_of, update};

/// Tables of embeddings in a directory, that one process holds.
#[pyclass(name = "Store", module = "embedrock", frozen)]
pub(crate) struct PyStore {
    handle: Arc<Handle>,
    path: PathBuf,
}

impl PyStore {
    fn run<R: Send>(&self, py: Python<'_>, work: impl FnOnce(&Store) -> embedrock::Result<R> + Send) -> PyResult<R> {
        Ok(py.detach(|| self.handle.with(work))?)
    }

    /// As [`PyStore::run`], of what may take long.
    fn run_long<R: Send + 'static>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Store) -> embedrock::Result<R> + Send + 'static,
    ) -> PyResult<R> {
        let handle = Arc::clone(&self.handle);
        interruptible(py, move || handle.with(work))
    }

    fn wrap(&self, table: Table) -> PyTable {
        PyTable::new(table, &self.handle)
    }
}

/// Bytes of any kind, or none.
fn state_bytes(state: Option<PyBackedBytes>) -> Vec<u8> {
    state.map_or_else(Vec::new, |state| state.to_vec())
}

#[pymethods]
impl PyStore {
    /// Opens the store in `path`, or creates it there: rebuilt from the newest valid base and the deltas after it.
    #[new]
    #[pyo3(signature = (path, **options))]
    fn new(py: Python<'_>, path: PathBuf, options: Option<&Bound<'_, PyDict>>) -> PyResult<PyStore> {
        let (options, dir) = (store_options(options)?, path.clone());
        let handle = interruptible(py, move || Store::open(dir, options).map(Handle::new).map_err(Failure::Engine))?;
        Ok(PyStore { handle, path })
    }

    /// The directory.
    #[getter]
    fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// Opens the table of this name, or creates it; then learning rate, decay, admission and expiry become those given.
    fn create_table(&self, py: Python<'_>, schema: PyTableSchema) -> PyResult<PyTable> {
        Ok(self.wrap(self.run(py, |store| store.create_table(schema.0))?))
    }

    /// The table of this name.
    fn table(&self, py: Python<'_>, name: &str) -> PyResult<PyTable> {
        Ok(self.wrap(self.run(py, |store| store.table(name))?))
    }

    /// All tables, in the order of their creation.
    fn tables(&self, py: Python<'_>) -> PyResult<Vec<PyTable>> {
        let tables = self.run(py, |store| Ok(store.tables()))?;
        Ok(tables.into_iter().map(|table| self.wrap(table)).collect())
    }

    /// Drops a table; final with the next commit.
    fn drop_table(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.run(py, |store| store.drop_table(name))
    }

    /// Looks up in several tables at once: a list of arrays, one for each request `(table, keys)` or `(table, keys, offsets[,
    /// pooling])`. `out` is a list of arrays to write to.
    #[pyo3(signature = (requests, *, out=None))]
    fn lookup_many<'py>(
        &self,
        py: Python<'py>,
        requests: Vec<Bound<'py, PyAny>>,
        out: Option<Vec<Bound<'py, PyAny>>>,
    ) -> PyResult<Bound<'py, PyList>> {
        if let Some(out) = out.as_ref().filter(|out| out.len() != requests.len()) {
            return Err(PyValueError::new_err(format!("{} arrays in out, expected {}", out.len(), requests.len())));
        }
        let requests: Vec<Request<'py>> = requests.iter().map(|request| Request::of(request, false)).collect::<PyResult<_>>()?;
        let mut outputs = Vec::with_capacity(requests.len());
        for (at, request) in requests.iter().enumerate() {
            outputs.push(Output::of(py, out.as_ref().map(|out| &out[at]), &request.shape()?)?);
        }
        let lookups = requests.iter().zip(&mut outputs).map(|(request, output)| {
            let (table, keys, out) = (&request.table, request.keys.keys()?, output.values()?);
            Ok(match &request.bags {
                None => LookupRequest::new(table, keys, out),
                Some((offsets, pooling)) => LookupRequest::pooled(table, keys, offsets.offsets()?, *pooling, out),
            })
        });
        let lookups = lookups.collect::<PyResult<Vec<_>>>()?;
        self.run(py, |store| store.lookup_many(lookups))?;
        PyList::new(py, outputs.into_iter().map(Output::array))
    }

    /// Trains several tables, all or none: requests are `(table, keys, grads)` or `(table, keys, grads, offsets[, pooling])`. The
    /// settings are those of `Table.apply_gradients`.
    #[pyo3(signature = (requests, *, time=0, **learning))]
    fn apply_gradients_many(
        &self,
        py: Python<'_>,
        requests: Vec<Bound<'_, PyAny>>,
        time: u64,
        learning: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<()> {
        let update = update(time, learning)?;
        let requests: Vec<Request<'_>> = requests.iter().map(|request| Request::of(request, true)).collect::<PyResult<_>>()?;
        let gradients = requests.iter().filter_map(|request| {
            let grads = request.grads.as_ref()?;
            Some(request.gradients(grads))
        });
        let gradients = gradients.collect::<PyResult<Vec<_>>>()?;
        self.run(py, |store| store.apply_gradients_many(gradients, &update))
    }

    /// Makes everything so far durable, atomically with `state` (bytes of any size), and returns its name.
    ///
    /// Ctrl-C ends the wait, not the commit: `durable_commit` says whether it came about.
    #[pyo3(signature = (state=None))]
    fn commit(&self, py: Python<'_>, state: Option<PyBackedBytes>) -> PyResult<PyCommitId> {
        let state = state_bytes(state);
        self.run_long(py, move |store| store.commit_with(|| state)).map(PyCommitId)
    }

    /// As `commit`, but returns after the cut; the ticket says when it is durable.
    #[pyo3(signature = (state=None))]
    fn commit_in_background(&self, py: Python<'_>, state: Option<PyBackedBytes>) -> PyResult<PyTicket> {
        let state = state_bytes(state);
        self.run(py, |store| store.commit_in_background(|| state)).map(PyTicket)
    }

    /// Commits in the background if the options `commit_every...` say that it is time. To be called after each batch.
    #[pyo3(signature = (state=None))]
    fn commit_if_due(&self, py: Python<'_>, state: Option<PyBackedBytes>) -> PyResult<Option<PyTicket>> {
        let state = state_bytes(state);
        Ok(self.run(py, |store| store.commit_if_due(|| state))?.map(PyTicket))
    }

    /// The last durable commit with its state: where to resume.
    fn last_commit(&self, py: Python<'_>) -> PyResult<Option<PyCommit>> {
        Ok(self.run(py, |store| Ok(store.last_commit()))?.map(PyCommit))
    }

    /// The name of the last durable commit.
    fn durable_commit(&self, py: Python<'_>) -> PyResult<Option<PyCommitId>> {
        Ok(self.run(py, |store| Ok(store.durable_commit()))?.map(PyCommitId))
    }

    /// The commits that can be opened or restored, oldest first. Reads the log.
    fn commits(&self, py: Python<'_>) -> PyResult<Vec<PyCommitId>> {
        Ok(self.run_long(py, Store::commits)?.into_iter().map(PyCommitId).collect())
    }

    /// Writes a new base, so that recovery begins there; returns its number. Training may go on meanwhile.
    fn checkpoint(&self, py: Python<'_>) -> PyResult<u64> {
        self.run_long(py, Store::checkpoint)
    }

    /// As `checkpoint`, in a thread; returns whether one was begun: not while another is under way.
    fn checkpoint_in_background(&self, py: Python<'_>) -> PyResult<bool> {
        self.run(py, Store::checkpoint_in_background)
    }

    /// Checks every file of the open store: a dict of `files`, `bytes`, `damage` (path, offset, what) and `notes`.
    fn verify<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        verify_report(py, &self.run_long(py, Store::verify)?)
    }

    /// A hash over all live rows, whatever their tier: 64 hexadecimal digits. Reads every row.
    fn digest(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.run_long(py, Store::digest)?.to_string())
    }

    /// What opening found, in words.
    fn recovery(&self, py: Python<'_>) -> PyResult<String> {
        self.run(py, |store| Ok(store.recovery().to_string()))
    }

    /// Writes the figures of `stats` to the file that `embedrock inspect --watch` follows.
    fn publish_status(&self, py: Python<'_>) -> PyResult<()> {
        self.run(py, Store::publish_status)
    }

    /// Memory, disk, and each table's rows by tier, as a dict. Waits are (times, seconds, longest in seconds). All zeros in a
    /// forked child.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats(py, &self.run(py, |store| Ok(store.stats()))?)
    }

    /// Writes a table's rows to a new file (.parquet, .npy, .npz or .safetensors): keys, times, embeddings, and the optimizer's
    /// state unless `state` is false. `since` a commit: only what may have changed. `codec`: "f16", "bf16" or "int8". Returns the rows.
    ///
    /// The memory does not grow with the file. Nobody may change rows meanwhile.
    #[pyo3(signature = (table, path, *, state=true, since=None, codec=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keyword arguments of a Python method")]
    fn export_rows(
        &self,
        py: Python<'_>,
        table: String,
        path: PathBuf,
        state: bool,
        since: Option<&Bound<'_, PyAny>>,
        codec: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<u64> {
        let mut export = Export::of(table).state(state);
        if let Some(since) = since {
            export = export.since(commit_id(since)?);
        }
        if let Some(codec) = codec {
            export = export.quantize(quantization(codec)?);
        }
        Ok(self.run_long(py, move |store| export.to(store, path, &mut |_, _| ()))?.rows)
    }

    /// Reads a file's rows into a table and commits them, the trainer's state staying as it is. Returns the rows.
    ///
    /// `table` is a name or a schema; where there is no such table one is made, with `optimizer`. The file has keys (`key`) and embeddings
    /// (`embedding`), and may have times (`time`) and the optimizer's state (`state`).
    #[pyo3(signature = (table, path, *, optimizer=None, time=0, commit_every=None))]
    #[expect(clippy::too_many_arguments, reason = "they are keyword arguments of a Python method")]
    fn import_rows(
        &self,
        py: Python<'_>,
        table: &Bound<'_, PyAny>,
        path: PathBuf,
        optimizer: Option<PyOptimizer>,
        time: u64,
        commit_every: Option<u64>,
    ) -> PyResult<u64> {
        let mut import = match table.extract::<PyTableSchema>() {
            Ok(schema) => Import::new(schema.0.name()).schema(schema.0),
            Err(_) => Import::new(table.extract::<String>()?),
        };
        if let Some(PyOptimizer(optimizer)) = optimizer {
            import = import.optimizer(optimizer);
        }
        if let Some(rows) = commit_every {
            import = import.commit_every(rows);
        }
        let import = import.time(time);
        Ok(self.run_long(py, move |store| import.from(store, path, &mut |_, _| ()))?.rows)
    }

    /// Closes the store; returns how many rows had updates that no commit holds: they are gone. `None` if it was closed before.
    fn close(&self, py: Python<'_>) -> PyResult<Option<u64>> {
        let handle = Arc::clone(&self.handle);
        interruptible(py, move || handle.close())
    }

    fn __enter__(slf: PyRef<'_, Self>) -> PyRef<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_error))]
    fn __exit__(&self, py: Python<'_>, _error: &Bound<'_, PyAny>) -> PyResult<()> {
        self.close(py).map(drop)
    }

    fn __repr__(&self) -> String {
        format!("<Store '{}'>", self.path.display())
    }
}

/// Keys of one table in a call over several: `(table, keys)`, with offsets and pooling behind where they are bags, and with
/// gradients as the third where they are trained.
struct Request<'py> {
    table: Table,
    keys: Integers<'py>,
    bags: Option<(Integers<'py>, Pooling)>,
    grads: Option<PyReadonlyArrayDyn<'py, f32>>,
}

impl<'py> Request<'py> {
    fn of(request: &Bound<'py, PyAny>, trained: bool) -> PyResult<Request<'py>> {
        let parts: Vec<Bound<'py, PyAny>> = request.extract()?;
        let (own, bags) = parts.split_at(parts.len().min(if trained { 3 } else { 2 }));
        let wrong = || PyValueError::new_err("a request is (table, keys[, grads][, offsets[, pooling]])");
        let (table, keys, grads) = match own {
            [table, keys] if !trained => (table, keys, None),
            [table, keys, grads] => (table, keys, Some(grads)),
            _ => return Err(wrong()),
        };
        let bags = match bags {
            [] => None,
            [offsets] => Some((Integers::of("offsets", offsets)?, Pooling::Sum)),
            [offsets, pooling] => Some((Integers::of("offsets", offsets)?, pooling_of(Some(pooling))?)),
            _ => return Err(wrong()),
        };
        let table = table.extract::<PyRef<'py, PyTable>>()?.table()?;
        let mut made = Request { table, keys: Integers::of("keys", keys)?, bags, grads: None };
        if let Some(grads) = grads {
            made.grads = Some(rows("grads", grads, &made.shape()?)?);
        }
        Ok(made)
    }

    /// Of its output, and of its gradients.
    fn shape(&self) -> PyResult<[usize; 2]> {
        let dim = self.table.dim();
        Ok(match &self.bags {
            None => [self.keys.keys()?.len(), dim],
            Some((offsets, pooling)) => pooled_shape(offsets.offsets()?.len(), *pooling, dim),
        })
    }

    fn gradients<'a>(&'a self, grads: &'a PyReadonlyArrayDyn<'py, f32>) -> PyResult<GradientRequest<'a>> {
        let (table, keys, grads) = (&self.table, self.keys.keys()?, values("grads", grads)?);
        Ok(match &self.bags {
            None => GradientRequest::new(table, keys, grads),
            Some((offsets, pooling)) => GradientRequest::pooled(table, keys, offsets.offsets()?, *pooling, grads),
        })
    }
}
