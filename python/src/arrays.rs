//! NumPy arrays in and out, without copies: what is not as it should be is refused by name, with what to do.
//!
//! While a call runs without the interpreter's lock the arrays are the call's: another thread of the program must not write to them.
#![forbid(unsafe_code)]

use numpy::{
    PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArray1, PyReadonlyArrayDyn, PyReadwriteArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("keys and offsets of NumPy are read in place as 64-bit integers");

fn type_error(what: &str, found: impl std::fmt::Display, expected: &str) -> PyErr {
    PyTypeError::new_err(format!("{what} is {found}, expected {expected}"))
}

fn untyped<'a, 'py>(what: &str, value: &'a Bound<'py, PyAny>, expected: &str) -> PyResult<&'a Bound<'py, PyUntypedArray>> {
    value.cast::<PyUntypedArray>().map_err(|_| {
        let found = value.get_type().name().map_or_else(|_| "something else".to_owned(), |name| format!("of type {name}"));
        type_error(what, found, expected)
    })
}

fn wrong_dtype(what: &str, array: &Bound<'_, PyUntypedArray>, expected: &str) -> PyErr {
    type_error(what, format!("an array of {}", array.dtype()), expected)
}

fn not_contiguous(what: &str) -> PyErr {
    PyValueError::new_err(format!("{what} is not contiguous in memory: pass numpy.ascontiguousarray({what})"))
}

fn in_use(what: &str, error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(format!("{what} cannot be used: {error}"))
}

/// One dimension of 64-bit integers: keys of any sign, or offsets.
pub(crate) enum Integers<'py> {
    Unsigned(PyReadonlyArray1<'py, u64>),
    Signed(PyReadonlyArray1<'py, i64>),
}

impl<'py> Integers<'py> {
    pub(crate) fn of(what: &str, value: &Bound<'py, PyAny>) -> PyResult<Integers<'py>> {
        const EXPECTED: &str = "a NumPy array of uint64 or int64";
        let array = untyped(what, value, EXPECTED)?;
        if array.ndim() != 1 {
            let message = format!("{what} has {} dimensions, expected 1: pass {what}.ravel()", array.ndim());
            return Err(PyValueError::new_err(message));
        }
        if !array.is_contiguous() {
            return Err(not_contiguous(what));
        }
        if let Ok(array) = value.cast::<PyArray1<u64>>() {
            return Ok(Integers::Unsigned(array.try_readonly().map_err(|error| in_use(what, error))?));
        }
        if let Ok(array) = value.cast::<PyArray1<i64>>() {
            return Ok(Integers::Signed(array.try_readonly().map_err(|error| in_use(what, error))?));
        }
        Err(wrong_dtype(what, array, EXPECTED))
    }

    /// As keys: a negative one is the key with the same 64 bits.
    pub(crate) fn keys(&self) -> PyResult<&[u64]> {
        match self {
            Integers::Unsigned(array) => Ok(array.as_slice().map_err(|_| not_contiguous("keys"))?),
            Integers::Signed(array) => Ok(bytemuck::cast_slice(array.as_slice().map_err(|_| not_contiguous("keys"))?)),
        }
    }

    /// As bounds of bags; a negative one is far beyond the keys, and refused there.
    pub(crate) fn offsets(&self) -> PyResult<&[usize]> {
        match self {
            Integers::Unsigned(array) => Ok(bytemuck::cast_slice(array.as_slice().map_err(|_| not_contiguous("offsets"))?)),
            Integers::Signed(array) => Ok(bytemuck::cast_slice(array.as_slice().map_err(|_| not_contiguous("offsets"))?)),
        }
    }
}

const ROWS: &str = "a NumPy array of float32";

fn check_rows<'py>(what: &str, value: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    let array = untyped(what, value, ROWS)?;
    let Ok(typed) = value.cast::<PyArrayDyn<f32>>() else { return Err(wrong_dtype(what, array, ROWS)) };
    if array.shape() != shape {
        let found = array.shape();
        return Err(PyValueError::new_err(format!("{what} has shape {found:?}, expected {shape:?}")));
    }
    if !array.is_c_contiguous() {
        return Err(not_contiguous(what));
    }
    Ok(typed.clone())
}

/// f32s to be read, of exactly this shape.
pub(crate) fn rows<'py>(what: &str, value: &Bound<'py, PyAny>, shape: &[usize]) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    check_rows(what, value, shape)?.try_readonly().map_err(|error| in_use(what, error))
}

/// The values of an array that [`rows`] took.
pub(crate) fn values<'a>(what: &str, rows: &'a PyReadonlyArrayDyn<'_, f32>) -> PyResult<&'a [f32]> {
    rows.as_slice().map_err(|_| not_contiguous(what))
}

/// f32s to be written: the caller's array, or a new one.
pub(crate) struct Output<'py> {
    array: Bound<'py, PyAny>,
    values: PyReadwriteArrayDyn<'py, f32>,
}

impl<'py> Output<'py> {
    pub(crate) fn of(py: Python<'py>, given: Option<&Bound<'py, PyAny>>, shape: &[usize]) -> PyResult<Output<'py>> {
        let array = match given {
            Some(given) => given.clone(),
            None => empty(py, shape, "float32")?,
        };
        let values = check_rows("out", &array, shape)?.try_readwrite().map_err(|error| in_use("out", error))?;
        Ok(Output { array, values })
    }

    pub(crate) fn values(&mut self) -> PyResult<&mut [f32]> {
        self.values.as_slice_mut().map_err(|_| not_contiguous("out"))
    }

    pub(crate) fn array(self) -> Bound<'py, PyAny> {
        self.array
    }
}

/// A new array whose content nobody has written yet.
fn empty<'py>(py: Python<'py>, shape: &[usize], dtype: &str) -> PyResult<Bound<'py, PyAny>> {
    static EMPTY: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let empty = EMPTY.get_or_try_init(py, || Ok::<_, PyErr>(py.import("numpy")?.getattr("empty")?.unbind()))?;
    let named = PyDict::new(py);
    named.set_item("dtype", dtype)?;
    empty.bind(py).call((pyo3::types::PyTuple::new(py, shape)?,), Some(&named))
}
