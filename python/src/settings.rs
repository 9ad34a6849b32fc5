//! Schemas and what they are made of, with the engine's names; what is wrong with one is said when its table is created.
#![forbid(unsafe_code)]

use embedrock::{Admission, Expiry, Initializer, Missing, Optimizer, Precision, Schedule, Segment, TableSchema};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::BTreeMap;

/// How the learning rate changes from step to step.
#[pyclass(name = "Schedule", module = "embedrock", frozen, eq, from_py_object)]
#[derive(Clone, PartialEq)]
pub(crate) struct PySchedule(pub(crate) Schedule);

#[pymethods]
impl PySchedule {
    /// The same rate at every step.
    #[staticmethod]
    fn constant() -> PySchedule {
        PySchedule(Schedule::constant())
    }

    /// Down to the part `end` within `steps`, along a polynomial of this power.
    #[staticmethod]
    #[pyo3(signature = (steps, *, end, power=1.0))]
    fn polynomial(steps: u32, end: f32, power: f32) -> PySchedule {
        PySchedule(Schedule::polynomial(steps, end, power))
    }

    /// Times `rate` every `steps`, smoothly.
    #[staticmethod]
    #[pyo3(signature = (steps, *, rate))]
    fn exponential(steps: u32, rate: f32) -> PySchedule {
        PySchedule(Schedule::exponential(steps, rate))
    }

    /// Times `rate` every `steps`, at once.
    #[staticmethod]
    #[pyo3(signature = (steps, *, rate))]
    fn staircase(steps: u32, rate: f32) -> PySchedule {
        PySchedule(Schedule::staircase(steps, rate))
    }

    /// Down to the part `end` within `steps`, along half a cosine.
    #[staticmethod]
    #[pyo3(signature = (steps, *, end))]
    fn cosine(steps: u32, end: f32) -> PySchedule {
        PySchedule(Schedule::cosine(steps, end))
    }

    /// With the inverse of the root of the step.
    #[staticmethod]
    fn inverse_sqrt(steps: u32) -> PySchedule {
        PySchedule(Schedule::inverse_sqrt(steps))
    }

    /// Begins with this many steps of a rate that grows from near 0.
    fn warm_up(&self, steps: u32) -> PySchedule {
        PySchedule(self.0.warm_up(steps))
    }

    /// What the learning rate is multiplied by at a step, from 1 on.
    fn factor(&self, step: u64) -> f32 {
        self.0.factor(step)
    }

    fn __repr__(&self) -> String {
        format!("<Schedule {}>", self.0)
    }
}

/// How gradients change a table's rows.
#[pyclass(name = "Optimizer", module = "embedrock", frozen, eq, from_py_object)]
#[derive(Clone, PartialEq)]
pub(crate) struct PyOptimizer(pub(crate) Optimizer);

const RULE: [&str; 13] = [
    "weight_decay",
    "initial_accumulator",
    "betas",
    "epsilon",
    "decay",
    "nesterov",
    "l1",
    "l2",
    "group_lasso",
    "beta",
    "clip_value",
    "clip_norm",
    "schedule",
];

fn configured(mut optimizer: Optimizer, settings: Option<&Bound<'_, PyDict>>) -> PyResult<PyOptimizer> {
    for (name, value) in known(settings, "optimizers", &RULE)? {
        optimizer = match name.as_str() {
            "weight_decay" => optimizer.weight_decay(value.extract()?),
            "initial_accumulator" => optimizer.initial_accumulator(value.extract()?),
            "betas" => {
                let (first, second) = value.extract()?;
                optimizer.betas(first, second)
            }
            "epsilon" => optimizer.epsilon(value.extract()?),
            "decay" => optimizer.decay(value.extract()?),
            "nesterov" => optimizer.nesterov(value.extract()?),
            "l1" => optimizer.l1(value.extract()?),
            "l2" => optimizer.l2(value.extract()?),
            "group_lasso" => optimizer.group_lasso(value.extract()?),
            "beta" => optimizer.beta(value.extract()?),
            "clip_value" => optimizer.clip_value(value.extract()?),
            "clip_norm" => optimizer.clip_norm(value.extract()?),
            "schedule" => optimizer.schedule(value.extract::<PySchedule>()?.0),
            _ => optimizer,
        };
    }
    Ok(PyOptimizer(optimizer))
}

macro_rules! optimizers {
    ($($name:ident),*) => {
        #[pymethods]
        impl PyOptimizer {
            $(
                #[staticmethod]
                #[pyo3(signature = (learning_rate, **settings))]
                fn $name(learning_rate: f32, settings: Option<&Bound<'_, PyDict>>) -> PyResult<PyOptimizer> {
                    configured(Optimizer::$name(learning_rate), settings)
                }
            )*

            #[staticmethod]
            #[pyo3(signature = (**settings))]
            fn moving_average(settings: Option<&Bound<'_, PyDict>>) -> PyResult<PyOptimizer> {
                configured(Optimizer::moving_average(), settings)
            }

            #[getter]
            fn learning_rate(&self) -> f32 {
                self.0.learning_rate()
            }

            fn state_len(&self, dim: usize) -> usize {
                self.0.state_len(dim)
            }

            fn __repr__(&self) -> String {
                format!("<Optimizer {}>", self.0)
            }
        }
    };
}

optimizers!(
    sgd,
    momentum,
    adagrad,
    adagrad_w,
    rowwise_adagrad,
    group_adagrad,
    adadelta,
    rmsprop,
    rmsprop_v2,
    adam,
    adam_w,
    lazy_adam,
    amsgrad,
    ftrl,
    group_ftrl,
    batch_softmax
);

/// How the values of a row are set before its first update.
#[pyclass(name = "Initializer", module = "embedrock", frozen, eq, from_py_object)]
#[derive(Clone, PartialEq)]
pub(crate) struct PyInitializer(pub(crate) Initializer);

#[pymethods]
impl PyInitializer {
    /// Every value 0.
    #[staticmethod]
    fn zeros() -> PyInitializer {
        PyInitializer(Initializer::zeros())
    }

    /// Every value 1.
    #[staticmethod]
    fn ones() -> PyInitializer {
        PyInitializer(Initializer::ones())
    }

    /// Every value the same.
    #[staticmethod]
    fn constant(value: f32) -> PyInitializer {
        PyInitializer(Initializer::constant(value))
    }

    /// Uniform in (-limit, limit).
    #[staticmethod]
    fn uniform(limit: f32) -> PyInitializer {
        PyInitializer(Initializer::uniform(limit))
    }

    /// Normal with mean 0.
    #[staticmethod]
    fn normal(std: f32) -> PyInitializer {
        PyInitializer(Initializer::normal(std))
    }

    fn __repr__(&self) -> String {
        format!("<Initializer {:?}>", self.0)
    }
}

/// Which keys get a row when they are first updated.
#[pyclass(name = "Admission", module = "embedrock", frozen, eq, from_py_object)]
#[derive(Clone, PartialEq)]
pub(crate) struct PyAdmission(pub(crate) Admission);

#[pymethods]
impl PyAdmission {
    /// Every key, at once.
    #[staticmethod]
    fn always() -> PyAdmission {
        PyAdmission(Admission::always())
    }

    /// A key's n-th occurrence; counts are exact.
    #[staticmethod]
    fn count(n: u32) -> PyAdmission {
        PyAdmission(Admission::count(n))
    }

    /// A key's n-th occurrence within `window_secs` of event time, counted in memory for `capacity` keys.
    #[staticmethod]
    #[pyo3(signature = (n, *, window_secs, capacity))]
    fn sliding(n: u32, window_secs: u32, capacity: u64) -> PyAdmission {
        PyAdmission(Admission::sliding(n, window_secs, capacity))
    }

    /// Each occurrence with probability 1/n.
    #[staticmethod]
    fn probabilistic(n: u32) -> PyAdmission {
        PyAdmission(Admission::probabilistic(n))
    }

    fn __repr__(&self) -> String {
        format!("<Admission {:?}>", self.0)
    }
}

/// When a row that is no longer updated counts as absent.
#[pyclass(name = "Expiry", module = "embedrock", frozen, eq, from_py_object)]
#[derive(Clone, PartialEq)]
pub(crate) struct PyExpiry(pub(crate) Expiry);

#[pymethods]
impl PyExpiry {
    /// Rows live until they are removed.
    #[staticmethod]
    fn never() -> PyExpiry {
        PyExpiry(Expiry::never())
    }

    /// Rows are gone `ttl` seconds of event time after their last update.
    #[staticmethod]
    fn after_secs(ttl: u32) -> PyExpiry {
        PyExpiry(Expiry::after_secs(ttl))
    }

    fn __repr__(&self) -> String {
        format!("<Expiry {}>", self.0)
    }
}

/// A part of the row with its own optimizer and initializer.
#[pyclass(name = "Segment", module = "embedrock", frozen, from_py_object)]
#[derive(Clone)]
pub(crate) struct PySegment(Segment);

#[pymethods]
impl PySegment {
    #[new]
    #[pyo3(signature = (dim, *, optimizer=None, initializer=None))]
    fn new(dim: usize, optimizer: Option<PyOptimizer>, initializer: Option<PyInitializer>) -> PySegment {
        let mut segment = Segment::new(dim);
        if let Some(PyOptimizer(optimizer)) = optimizer {
            segment = segment.optimizer(optimizer);
        }
        if let Some(PyInitializer(initializer)) = initializer {
            segment = segment.initializer(initializer);
        }
        PySegment(segment)
    }

    /// Values of the segment.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }
}

/// What a table is.
#[pyclass(name = "TableSchema", module = "embedrock", frozen, eq, from_py_object)]
#[derive(Clone, PartialEq)]
pub(crate) struct PyTableSchema(pub(crate) TableSchema);

#[pymethods]
impl PyTableSchema {
    #[new]
    #[pyo3(signature = (name, dim, **settings))]
    fn new(name: String, dim: usize, settings: Option<&Bound<'_, PyDict>>) -> PyResult<PyTableSchema> {
        let mut schema = TableSchema::new(name, dim);
        for (name, value) in known(settings, "schemas", &SETTINGS)? {
            schema = set(schema, &name, &value)?;
        }
        Ok(PyTableSchema(schema))
    }

    /// The table's name.
    #[getter]
    fn name(&self) -> &str {
        self.0.name()
    }

    /// Values of an embedding.
    #[getter]
    fn dim(&self) -> usize {
        self.0.dim()
    }

    /// Units of four bytes of a row: the embedding and the optimizer's state.
    #[getter]
    fn lanes(&self) -> usize {
        self.0.lanes()
    }

    /// Bytes of a row.
    #[getter]
    fn row_bytes(&self) -> usize {
        self.0.row_bytes()
    }

    /// Where a segment lies in the embedding.
    fn segment_range(&self, segment: usize) -> (usize, usize) {
        let range = self.0.segment_range(segment);
        (range.start, range.end)
    }

    fn __repr__(&self) -> String {
        format!("<TableSchema '{}', dim {}>", self.0.name(), self.0.dim())
    }
}

/// What a schema has besides its name and dim.
const SETTINGS: [&str; 9] =
    ["optimizer", "initializer", "segments", "admission", "expiry", "slot_thresholds", "slot_expiries", "missing", "precision"];

/// The keyword arguments that are given, each of which must be known; `None` stands for the default.
pub(crate) fn known<'py>(
    given: Option<&Bound<'py, PyDict>>,
    whose: &str,
    known: &[&str],
) -> PyResult<Vec<(String, Bound<'py, PyAny>)>> {
    let mut settings = Vec::new();
    for (name, value) in given.into_iter().flatten() {
        let name: String = name.extract()?;
        if !known.contains(&name.as_str()) {
            return Err(PyTypeError::new_err(format!("{whose} have no setting '{name}', only {}", known.join(", "))));
        }
        if !value.is_none() {
            settings.push((name, value));
        }
    }
    Ok(settings)
}

fn set(schema: TableSchema, name: &str, value: &Bound<'_, PyAny>) -> PyResult<TableSchema> {
    Ok(match name {
        "optimizer" => schema.optimizer(value.extract::<PyOptimizer>()?.0),
        "initializer" => schema.initializer(value.extract::<PyInitializer>()?.0),
        "admission" => schema.admission(value.extract::<PyAdmission>()?.0),
        "expiry" => schema.expiry(value.extract::<PyExpiry>()?.0),
        "segments" => schema.segments(value.extract::<Vec<PySegment>>()?.into_iter().map(|segment| segment.0)),
        "missing" => schema.missing(named(name, value, &[("initial", Missing::Initial), ("zeros", Missing::Zeros)])?),
        "precision" => {
            let known = [("f32", Precision::F32), ("bf16", Precision::Bf16), ("f16", Precision::F16)];
            schema.precision(named(name, value, &known)?)
        }
        "slot_thresholds" => {
            let thresholds: BTreeMap<u16, u32> = value.extract()?;
            thresholds.into_iter().fold(schema, |schema, (slot, threshold)| schema.slot_threshold(slot, threshold))
        }
        "slot_expiries" => {
            let expiries: BTreeMap<u16, PyExpiry> = value.extract()?;
            expiries.into_iter().fold(schema, |schema, (slot, expiry)| schema.slot_expiry(slot, expiry.0))
        }
        _ => schema,
    })
}

/// The value of this name.
pub(crate) fn named<T: Copy>(what: &str, name: &Bound<'_, PyAny>, known: &[(&str, T)]) -> PyResult<T> {
    let name: String = name.extract()?;
    known.iter().find(|(of, _)| *of == name).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        PyValueError::new_err(format!("{what} is '{name}', expected one of {}", names.join(", ")))
    })
}
