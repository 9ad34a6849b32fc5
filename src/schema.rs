//! What a table is: its name, the layout of its rows, and how rows begin, learn, are admitted and expire.
#![forbid(unsafe_code)]

use std::borrow::Cow;

mod rules;
mod serving;

use rules::Rules;

use crate::admission::Admission;
use crate::codec::Reader;
use crate::error::{Error, Result};
use crate::expiry::{Expiry, Lifetime, Lifetimes};
use crate::initializer::Initializer;
use crate::optimizer::Optimizer;
use crate::precision::{Pack, Precision, Unpack};
use crate::segments::{self, MAX_SEGMENTS, Segment};
use crate::simd::Cpu;
use crate::types::{Key, UnixSeconds, slot_of};

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
    /// Schedule of the learning rate, clipping: of rows that are one segment.
    pub(super) const LEARNING: u8 = 1;
    /// All segments, of rows that have several. What stands before the parts is the first one's.
    pub(super) const SEGMENTS: u8 = 2;
    /// What a sliding filter is made for.
    pub(super) const SLIDING: u8 = 3;
    /// Thresholds, and times to live, of feature slots.
    pub(super) const SLOT_THRESHOLDS: u8 = 4;
    pub(super) const SLOT_EXPIRIES: u8 = 5;
    /// The time before which rows stay expired: of the table, of feature slots.
    pub(super) const EXPIRED_BEFORE: u8 = 6;
    pub(super) const SLOTS_EXPIRED_BEFORE: u8 = 7;
    /// In how many bits embeddings are kept, where not in 32.
    pub(super) const PRECISION: u8 = 8;
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
    segments: Vec<Segment>,
    /// A setter for rows that are one segment, called where there are several.
    misplaced: Option<&'static str>,
    admission: Admission,
    rules: Rules,
    missing: Missing,
    precision: Precision,
}

impl TableSchema {
    /// Rows of `dim` f32s; by default SGD at 0.01, zeros, every key admitted, no expiry.
    pub fn new(name: impl Into<String>, dim: usize) -> TableSchema {
        TableSchema {
            name: name.into(),
            dim,
            segments: vec![Segment::new(dim)],
            misplaced: None,
            admission: Admission::always(),
            rules: Rules::default(),
            missing: Missing::Initial,
            precision: Precision::F32,
        }
    }

    /// Divides the row into segments, each with its own optimizer and initializer, that are updated together. Their dims add up to the
    /// row's; lookups and gradients hold them one after another.
    ///
    /// ```
    /// use embedrock::{Initializer, Optimizer, Segment, TableSchema};
    /// let bias = Segment::new(1).optimizer(Optimizer::ftrl(0.01).beta(1.0));
    /// let vector = Segment::new(16).optimizer(Optimizer::adagrad(0.05)).initializer(Initializer::uniform(0.05));
    /// let schema = TableSchema::new("user", 17).segments([bias, vector]);
    /// assert_eq!(schema.lanes(), 17 + 2 + 16);
    /// assert_eq!(schema.segment_range(1), 1..17);
    /// ```
    #[must_use]
    pub fn segments(mut self, segments: impl IntoIterator<Item = Segment>) -> Self {
        self.segments = segments.into_iter().collect();
        self
    }

    fn set_only(mut self, name: &'static str, set: impl FnOnce(Segment) -> Segment) -> Self {
        match &mut self.segments[..] {
            [only] => *only = set(*only),
            _ => self.misplaced = Some(name),
        }
        self
    }

    /// Sets the optimizer that `apply_gradients` fuses into the update, of rows that are one segment.
    #[must_use]
    pub fn optimizer(self, optimizer: Optimizer) -> Self {
        self.set_only("optimizer", |segment| segment.optimizer(optimizer))
    }

    /// Sets how new rows begin, of rows that are one segment.
    #[must_use]
    pub fn initializer(self, initializer: Initializer) -> Self {
        self.set_only("initializer", |segment| segment.initializer(initializer))
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
        self.rules.lifetimes.table.expiry = expiry;
        self
    }

    /// Sets another threshold for the keys of a feature slot (0 to 32,767: [`slot_of`](crate::slot_of) of the key), in the place of that of
    /// the table's admission, which must have one. 0 and 1 admit at once.
    ///
    /// ```
    /// use embedrock::{Admission, Expiry, TableSchema};
    /// let features = TableSchema::new("features", 16)
    ///     .admission(Admission::count(5))
    ///     .slot_threshold(3, 1) // few values, all worth a row
    ///     .slot_threshold(12, 20) // queries: most are never seen again
    ///     .expiry(Expiry::after_secs(30 * 86_400))
    ///     .slot_expiry(12, Expiry::after_secs(86_400));
    /// # drop(features);
    /// ```
    #[must_use]
    pub fn slot_threshold(mut self, slot: u16, threshold: u32) -> Self {
        self.rules.thresholds.insert(slot, threshold);
        self
    }

    /// Sets another expiry for the keys of a feature slot (0 to 32,767: [`slot_of`](crate::slot_of) of the key).
    #[must_use]
    pub fn slot_expiry(mut self, slot: u16, expiry: Expiry) -> Self {
        self.rules.lifetimes.slots.insert(slot, Lifetime { expiry, floor: 0 });
        self
    }

    /// Sets what a lookup of a missing key yields.
    #[must_use]
    pub fn missing(mut self, missing: Missing) -> Self {
        self.missing = missing;
        self
    }

    /// Sets in how many bits embeddings are kept. Default: 32.
    #[must_use]
    pub fn precision(mut self, precision: Precision) -> Self {
        self.precision = precision;
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

    /// Units of four bytes of a row: the embedding, of which two values share one where [`precision`](Self::precision) is of 16 bits, and
    /// the optimizer state.
    pub fn lanes(&self) -> usize {
        self.embedding_lanes().saturating_add(segments::state_len(&self.segments))
    }

    /// Lanes that the embedding takes.
    pub(crate) fn embedding_lanes(&self) -> usize {
        self.precision.lanes(self.dim)
    }

    pub(crate) fn precision_value(&self) -> Precision {
        self.precision
    }

    /// The values of a row's embedding.
    pub(crate) fn embedding<'a>(&self, lanes: &'a [f32]) -> Cow<'a, [f32]> {
        let lanes = &lanes[..self.embedding_lanes()];
        if self.precision == Precision::F32 {
            return Cow::Borrowed(lanes);
        }
        let mut values = vec![0.0; self.dim];
        Cpu::detect().run(Unpack { precision: self.precision, lanes, values: &mut values });
        Cow::Owned(values)
    }

    /// An embedding as it lies in a row, rounded to the nearest.
    pub(crate) fn packed<'a>(&self, values: &'a [f32]) -> Cow<'a, [f32]> {
        if self.precision == Precision::F32 {
            return Cow::Borrowed(values);
        }
        let mut lanes = vec![0.0; self.embedding_lanes()];
        Cpu::detect().run(Pack { precision: self.precision, values, lanes: &mut lanes, dither: None });
        Cow::Owned(lanes)
    }

    /// Rounds initial values to those that a row can have.
    pub(crate) fn round(&self, values: &mut [f32]) {
        self.precision.round(values);
    }

    /// f32s of a row whose embedding is not packed, and of that embedding.
    pub(crate) fn unpacked_shape(&self) -> (usize, usize) {
        (self.dim.saturating_add(segments::state_len(&self.segments)), self.dim)
    }

    /// Bytes of a row: the embedding and the optimizer state.
    pub fn row_bytes(&self) -> usize {
        self.lanes().saturating_mul(4)
    }

    /// Where a segment lies in the embedding; empty, at its end, for one that is not there.
    pub fn segment_range(&self, segment: usize) -> std::ops::Range<usize> {
        segments::ranges(&self.segments).nth(segment).unwrap_or(self.dim..self.dim)
    }

    pub(crate) fn segments_ref(&self) -> &[Segment] {
        &self.segments
    }

    pub(crate) fn admission_ref(&self) -> &Admission {
        &self.admission
    }

    /// The rule for a key: that of its feature slot, if it has one.
    pub(crate) fn admission_of(&self, key: Key) -> Admission {
        let thresholds = &self.rules.thresholds;
        let threshold = if thresholds.is_empty() { None } else { thresholds.get(&slot_of(key)) };
        threshold.map_or(self.admission, |threshold| self.admission.with_threshold(*threshold))
    }

    pub(crate) fn lifetimes(&self) -> &Lifetimes {
        &self.rules.lifetimes
    }

    fn with_lifetimes(mut self, lifetimes: Lifetimes) -> TableSchema {
        self.rules.lifetimes = lifetimes;
        self
    }

    /// The schema of a table that begins: nothing of it is expired.
    pub(crate) fn begun(self) -> TableSchema {
        let lifetimes = self.lifetimes().without_floors();
        self.with_lifetimes(lifetimes)
    }

    /// The settings of `next`, if they differ; what is expired at `clock` under those of this schema stays so.
    pub(crate) fn changed_to(&self, next: &TableSchema, clock: UnixSeconds) -> Option<TableSchema> {
        let same = next.clone().with_lifetimes(self.lifetimes().clone()) == *self;
        if same && self.lifetimes().same_rules(next.lifetimes()) {
            return None;
        }
        Some(next.clone().with_lifetimes(self.lifetimes().then(next.lifetimes(), clock)))
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
        if let Some(name) = self.misplaced {
            return invalid(format!(
                "{name} is set for the whole row, which has {} segments: set it for each",
                self.segments.len()
            ));
        }
        let dims = self.segments.iter().map(|segment| segment.dim()).fold(0, usize::saturating_add);
        if self.segments.is_empty() || self.segments.len() > MAX_SEGMENTS {
            return invalid(format!("{} segments, a row has 1 to {MAX_SEGMENTS}", self.segments.len()));
        }
        if dims != self.dim {
            return invalid(format!("the segments have {dims} values, the row {}", self.dim));
        }
        for (at, segment) in self.segments.iter().enumerate() {
            let place = if at == 0 { String::new() } else { format!("in segment {at}, ") };
            segment.validate().or_else(|what| invalid(place + &what))?;
        }
        self.rules.validate(&self.admission).or_else(invalid)
    }

    /// Refuses a schema whose rows could not be those of this one.
    pub(crate) fn check_same_identity(&self, other: &TableSchema) -> Result<()> {
        let what = if self.dim != other.dim {
            format!("dim is {}, not {}", self.dim, other.dim)
        } else if self.precision != other.precision {
            format!("the precision is {:?}, not {:?}", self.precision, other.precision)
        } else if let Some(what) = segments::difference(&self.segments, &other.segments) {
            what
        } else {
            return Ok(());
        };
        Err(Error::SchemaMismatch { table: self.name.clone(), what })
    }

    /// What the first version has no place for, each under its kind, ascending.
    fn parts(&self) -> Vec<(u8, Vec<u8>)> {
        let mut parts = Vec::new();
        match &self.segments[..] {
            [only] if only.optimizer.has_more() => {
                let mut learning = Vec::new();
                only.optimizer.encode_more(&mut learning);
                parts.push((part::LEARNING, learning));
            }
            [_] => {}
            _ => parts.push((part::SEGMENTS, segments::encode(&self.segments))),
        }
        parts.extend(self.rules.parts(&self.admission));
        if self.precision != Precision::F32 {
            parts.push((part::PRECISION, vec![self.precision.encode()]));
        }
        parts
    }

    /// Takes over a part; `None` for an unknown one or one that does not decode.
    fn take_part(&mut self, kind: u8, reader: &mut Reader<'_>) -> Option<()> {
        match kind {
            part::LEARNING => {
                let [only] = &mut self.segments[..] else { return None };
                only.optimizer = only.optimizer.decode_more(reader)?;
            }
            part::SEGMENTS => self.segments = segments::decode(reader)?,
            part::PRECISION => self.precision = Precision::decode(reader.u8()?)?,
            _ => self.rules.take_part(kind, reader, &mut self.admission)?,
        }
        Some(())
    }

    /// The schema as it stands in a log (docs/design.md, "Schema").
    pub(crate) fn encode(&self) -> Vec<u8> {
        let parts = self.parts();
        let first = self.segments.first().copied().unwrap_or(Segment::new(self.dim));
        let is_first = parts.is_empty() && first.optimizer.is_version_1();
        let mut out = vec![if is_first { FIRST_VERSION } else { VERSION_WITH_PARTS }, self.name.len() as u8];
        out.extend_from_slice(self.name.as_bytes());
        out.extend_from_slice(&(self.dim as u32).to_le_bytes());
        let (kind, params) = first.optimizer.encode();
        out.push(kind);
        params.iter().for_each(|p| out.extend_from_slice(&p.to_le_bytes()));
        let (kind, param) = first.initializer.encode();
        out.push(kind);
        out.extend_from_slice(&param.to_le_bytes());
        out.extend_from_slice(&Initializer::VERSION.to_le_bytes());
        let (kind, param) = self.admission.encode();
        out.push(kind);
        out.extend_from_slice(&param.to_le_bytes());
        out.extend_from_slice(&self.rules.lifetimes.table.expiry.encode().to_le_bytes());
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
        let mut rules = Rules::default();
        rules.lifetimes.table.expiry = Expiry::decode(reader.u32()?);
        let missing = match reader.u8()? {
            0 => Missing::Initial,
            1 => Missing::Zeros,
            _ => return None,
        };
        let mut schema = TableSchema {
            name,
            dim,
            segments: vec![Segment::new(dim).optimizer(optimizer).initializer(initializer)],
            misplaced: None,
            admission,
            rules,
            missing,
            precision: Precision::F32,
        };
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
