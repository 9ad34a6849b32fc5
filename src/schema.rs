//! What a table is: its name, the layout of its rows, and how rows begin, learn, are admitted and expire.
#![forbid(unsafe_code)]

use crate::admission::Admission;
use crate::codec::Reader;
use crate::error::{Error, Result};
use crate::expiry::Expiry;
use crate::initializer::Initializer;
use crate::optimizer::Optimizer;

/// The longest name of a table, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 255;
/// The largest dimension of an embedding.
pub(crate) const MAX_DIM: usize = 65_536;

/// What every program reads; a schema that it can hold is written so.
const FIRST_VERSION: u8 = 1;
/// The same, then parts that say what the first version has no place for.
const VERSION_WITH_PARTS: u8 = 2;

/// The kinds of parts, in the order in which they stand. A new one goes here, into `parts` and into `take_part`.
mod part {
    /// Schedule of the learning rate, clipping.
    pub(super) const LEARNING: u8 = 1;
}

/// What a lookup of a key without a row yields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// The row that the first update would start from: a pure function of (store seed, table, key).
    #[default]
    Initial,
    /// Zeros, for serving.
    Zeros,
}

/// The schema of a table: fixed at creation but for the learning rate, decay, admission and expiry, which may change at open.
///
/// ```
/// use embedrock::{Admission, Expiry, Initializer, Optimizer, TableSchema};
/// let schema = TableSchema::new("user", 64)
///     .optimizer(Optimizer::adagrad(0.05))
///     .initializer(Initializer::uniform(0.05))
///     .admission(Admission::count(3))
///     .expiry(Expiry::after_secs(30 * 86_400));
/// assert_eq!(schema.row_bytes(), 64 * 4 * 2); // the embedding and Adagrad's accumulators
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TableSchema {
    name: String,
    dim: usize,
    optimizer: Optimizer,
    initializer: Initializer,
    admission: Admission,
    expiry: Expiry,
    missing: Missing,
}

impl TableSchema {
    /// Rows of `dim` f32s; by default SGD at 0.01, zeros, every key admitted, no expiry.
    pub fn new(name: impl Into<String>, dim: usize) -> TableSchema {
        TableSchema {
            name: name.into(),
            dim,
            optimizer: Optimizer::sgd(0.01),
            initializer: Initializer::zeros(),
            admission: Admission::always(),
            expiry: Expiry::never(),
            missing: Missing::Initial,
        }
    }

    /// Sets the optimizer that `apply_gradients` fuses into the update.
    #[must_use]
    pub fn optimizer(mut self, optimizer: Optimizer) -> Self {
        self.optimizer = optimizer;
        self
    }

    /// Sets how new rows begin.
    #[must_use]
    pub fn initializer(mut self, initializer: Initializer) -> Self {
        self.initializer = initializer;
        self
    }

    /// Sets when a key earns a row.
    #[must_use]
    pub fn admission(mut self, admission: Admission) -> Self {
        self.admission = admission;
        self
    }

    /// Sets after which inactivity a row counts as absent.
    #[must_use]
    pub fn expiry(mut self, expiry: Expiry) -> Self {
        self.expiry = expiry;
        self
    }

    /// Sets what a lookup of a missing key yields.
    #[must_use]
    pub fn missing(mut self, missing: Missing) -> Self {
        self.missing = missing;
        self
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// f32s of an embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// f32s of a row: the embedding and the optimizer state.
    pub fn lanes(&self) -> usize {
        self.dim.saturating_add(self.optimizer.state_len(self.dim))
    }

    /// Bytes of a row: the embedding and the optimizer state.
    pub fn row_bytes(&self) -> usize {
        self.lanes().saturating_mul(4)
    }

    pub(crate) fn optimizer_ref(&self) -> &Optimizer {
        &self.optimizer
    }

    pub(crate) fn initializer_ref(&self) -> &Initializer {
        &self.initializer
    }

    pub(crate) fn admission_ref(&self) -> &Admission {
        &self.admission
    }

    pub(crate) fn expiry_ref(&self) -> &Expiry {
        &self.expiry
    }

    pub(crate) fn missing_value(&self) -> Missing {
        self.missing
    }

    /// Refuses what no table can be.
    pub(crate) fn validate(&self) -> Result<()> {
        let invalid = |what: String| Err(Error::InvalidSchema { table: self.name.clone(), what });
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES || self.name.chars().any(char::is_control) {
            return invalid(format!("a name has 1 to {MAX_NAME_BYTES} bytes and no control characters"));
        }
        if self.dim == 0 || self.dim > MAX_DIM {
            return invalid(format!("dim {} is not within 1 to {MAX_DIM}", self.dim));
        }
        self.optimizer.validate().and_then(|()| self.optimizer.validate_dim(self.dim)).or_else(invalid)?;
        let invalid = |what: String| Err(Error::InvalidSchema { table: self.name.clone(), what });
        self.initializer.validate().and_then(|()| self.expiry.validate()).or_else(invalid)
    }

    /// Refuses a schema whose rows could not be those of this one.
    pub(crate) fn check_same_identity(&self, other: &TableSchema) -> Result<()> {
        let what = if self.dim != other.dim {
            format!("dim is {}, not {}", self.dim, other.dim)
        } else if !self.optimizer.same_layout(&other.optimizer) {
            format!("the optimizer is {}, not {}", self.optimizer.describe(), other.optimizer.describe())
        } else if self.initializer != other.initializer {
            format!("the initializer is {:?}, not {:?}", self.initializer, other.initializer)
        } else {
            return Ok(());
        };
        Err(Error::SchemaMismatch { table: self.name.clone(), what })
    }

    /// What the first version has no place for, each under its kind, ascending.
    fn parts(&self) -> Vec<(u8, Vec<u8>)> {
        let mut parts = Vec::new();
        if self.optimizer.has_more() {
            let mut learning = Vec::new();
            self.optimizer.encode_more(&mut learning);
            parts.push((part::LEARNING, learning));
        }
        parts
    }

    /// Takes over a part; `None` for an unknown one or one that does not decode.
    fn take_part(&mut self, kind: u8, reader: &mut Reader<'_>) -> Option<()> {
        match kind {
            part::LEARNING => self.optimizer = self.optimizer.decode_more(reader)?,
            _ => return None,
        }
        Some(())
    }

    /// The schema as it stands in a log (docs/design.md, "Schema").
    pub(crate) fn encode(&self) -> Vec<u8> {
        let parts = self.parts();
        let is_first = parts.is_empty() && self.optimizer.is_version_1();
        let mut out = vec![if is_first { FIRST_VERSION } else { VERSION_WITH_PARTS }, self.name.len() as u8];
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&(self.dim as u32).to_le_bytes());
        let (kind, params) = self.optimizer.encode();
        out.push(kind);
        params.iter().for_each(|p| out.extend_from_slice(&p.to_le_bytes()));
        let (kind, param) = self.initializer.encode();
        out.push(kind);
        out.extend_from_slice(&param.to_le_bytes());
        out.extend_from_slice(&Initializer::VERSION.to_le_bytes());
        let (kind, param) = self.admission.encode();
        out.push(kind);
        out.extend_from_slice(&param.to_le_bytes());
        out.extend_from_slice(&self.expiry.encode().to_le_bytes());
        out.push(match self.missing {
            Missing::Initial => 0,
            Missing::Zeros => 1,
        });
        if !is_first {
            out.push(parts.len() as u8);
            for (kind, bytes) in parts {
                out.push(kind);
                out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                out.extend_from_slice(&bytes);
            }
        }
        out
    }

    /// Reads what [`TableSchema::encode`] wrote; says what is wrong with anything else.
    pub(crate) fn decode(bytes: &[u8]) -> Result<TableSchema, String> {
        let mut reader = Reader::new(bytes);
        let schema = Self::read(&mut reader).ok_or("a schema that does not decode")?;
        let schema = schema?;
        if !reader.is_empty() {
            return Err("bytes after a schema".into());
        }
        schema.validate().map_err(|e| e.to_string())?;
        Ok(schema)
    }

    fn read(reader: &mut Reader<'_>) -> Option<Result<TableSchema, String>> {
        let schema_version = reader.u8()?;
        if schema_version != FIRST_VERSION && schema_version != VERSION_WITH_PARTS {
            let expected = format!("expected {FIRST_VERSION} or {VERSION_WITH_PARTS}: use a newer embedrock");
            return Some(Err(format!("schema version {schema_version}, {expected}")));
        }
        let length = usize::from(reader.u8()?);
        let name = String::from_utf8(reader.bytes(length)?.to_vec()).ok()?;
        let dim = reader.u32()? as usize;
        let kind = reader.u8()?;
        let mut params = [0f32; 8];
        for param in &mut params {
            *param = reader.f32()?;
        }
        let decode = if schema_version == FIRST_VERSION { Optimizer::decode_version_1 } else { Optimizer::decode };
        let optimizer = decode(kind, params)?;
        let (kind, param, version) = (reader.u8()?, reader.f32()?, reader.u32()?);
        if version != Initializer::VERSION {
            return Some(Err(format!("initializer version {version}, expected {}", Initializer::VERSION)));
        }
        let initializer = Initializer::decode(kind, param)?;
        let admission = Admission::decode(reader.u8()?, reader.u32()?)?;
        let expiry = Expiry::decode(reader.u32()?);
        let missing = match reader.u8()? {
            0 => Missing::Initial,
            1 => Missing::Zeros,
            _ => return None,
        };
        let mut schema = TableSchema { name, dim, optimizer, initializer, admission, expiry, missing };
        if schema_version == VERSION_WITH_PARTS {
            schema.read_parts(reader)?;
        }
        Some(Ok(schema))
    }

    fn read_parts(&mut self, reader: &mut Reader<'_>) -> Option<()> {
        let mut last = 0;
        for _ in 0..reader.u8()? {
            let (kind, length) = (reader.u8()?, reader.u32()? as usize);
            let mut part = Reader::new(reader.bytes(length)?);
            if kind <= last {
                return None;
            }
            self.take_part(kind, &mut part)?;
            if !part.is_empty() {
                return None;
            }
            last = kind;
        }
        Some(())
    }
}
