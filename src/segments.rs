//! Rows of several segments: each part of an embedding with its own initializer and optimizer, updated together.
//!
//! A row is `[embeddings of all segments | states of all segments]`, so whoever copies embeddings or whole rows knows of no segments.
#![forbid(unsafe_code)]

use std::ops::Range;

use smallvec::SmallVec;

use crate::codec::Reader;
use crate::initializer::Initializer;
use crate::optimizer::{Optimizer, Step};
use crate::simd::Cpu;

/// The most segments of a row.
pub(crate) const MAX_SEGMENTS: usize = 16;

/// A part of a row with its own initializer and optimizer, e.g. a bias trained by FTRL beside a vector trained by Adagrad.
///
/// By default SGD at 0.01, beginning with zeros. See [`TableSchema::segments`](crate::TableSchema::segments).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    pub(crate) dim: usize,
    pub(crate) optimizer: Optimizer,
    pub(crate) initializer: Initializer,
}

impl Segment {
    /// A segment of `dim` f32s.
    pub fn new(dim: usize) -> Segment {
        Segment { dim, optimizer: Optimizer::sgd(0.01), initializer: Initializer::zeros() }
    }

    /// Sets how gradients change it.
    #[must_use]
    pub fn optimizer(mut self, optimizer: Optimizer) -> Segment {
        self.optimizer = optimizer;
        self
    }

    /// Sets how it begins in new rows.
    #[must_use]
    pub fn initializer(mut self, initializer: Initializer) -> Segment {
        self.initializer = initializer;
        self
    }

    /// f32s of its embedding.
    pub fn dim(&self) -> usize {
        self.dim
    }

    fn state_len(&self) -> usize {
        self.optimizer.state_len(self.dim)
    }

    pub(crate) fn validate(&self) -> Result<(), String> {
        if self.dim == 0 {
            return Err("a segment has at least dim 1".into());
        }
        self.optimizer.validate()?;
        self.optimizer.validate_dim(self.dim)?;
        self.initializer.validate()
    }

    /// The first difference that makes rows of one unfit for the other.
    fn difference(&self, other: &Segment) -> Option<String> {
        if self.dim != other.dim {
            Some(format!("dim is {}, not {}", self.dim, other.dim))
        } else if !self.optimizer.same_layout(&other.optimizer) {
            Some(format!("the optimizer is {}, not {}", self.optimizer.describe(), other.optimizer.describe()))
        } else if self.initializer != other.initializer {
            Some(format!("the initializer is {:?}, not {:?}", self.initializer, other.initializer))
        } else {
            None
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&(self.dim as u32).to_le_bytes());
        let (kind, parameters) = self.optimizer.encode();
        out.push(kind);
        parameters.iter().for_each(|p| out.extend_from_slice(&p.to_le_bytes()));
        self.optimizer.encode_more(out);
        let (kind, parameter) = self.initializer.encode();
        out.push(kind);
        out.extend_from_slice(&parameter.to_le_bytes());
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Segment> {
        let (dim, kind) = (reader.u32()? as usize, reader.u8()?);
        let mut parameters = [0.0; 8];
        for parameter in &mut parameters {
            *parameter = reader.f32()?;
        }
        let optimizer = Optimizer::decode(kind, parameters)?.decode_more(reader)?;
        let initializer = Initializer::decode(reader.u8()?, reader.f32()?)?;
        Some(Segment { dim, optimizer, initializer })
    }
}

/// f32s of state of all segments.
pub(crate) fn state_len(segments: &[Segment]) -> usize {
    segments.iter().map(Segment::state_len).fold(0, usize::saturating_add)
}

/// Where each segment lies in the embedding.
pub(crate) fn ranges(segments: &[Segment]) -> impl Iterator<Item = Range<usize>> + '_ {
    segments.iter().scan(0, |end: &mut usize, segment| {
        let begin = *end;
        *end = begin.saturating_add(segment.dim);
        Some(begin..*end)
    })
}

/// The first difference that makes rows of one unfit for the other.
pub(crate) fn difference(known: &[Segment], other: &[Segment]) -> Option<String> {
    if known.len() != other.len() {
        return Some(format!("rows have {} segments, not {}", known.len(), other.len()));
    }
    known.iter().zip(other).enumerate().find_map(|(at, (known, other))| {
        let what = known.difference(other)?;
        Some(if at == 0 { what } else { format!("in segment {at}, {what}") })
    })
}

/// Writes the embedding of the row `key` before its first update.
pub(crate) fn fill_initial(segments: &[Segment], store_seed: u64, table: u32, key: u64, embedding: &mut [f32]) {
    for ((number, segment), range) in (0..).zip(segments).zip(ranges(segments)) {
        segment.initializer.fill(store_seed, table, key, number, &mut embedding[range]);
    }
}

/// Writes the state of a row that was never updated.
pub(crate) fn init_state(segments: &[Segment], state: &mut [f32]) {
    let mut rest = state;
    for segment in segments {
        let (own, others) = rest.split_at_mut(segment.state_len());
        segment.optimizer.init_state(segment.dim, own);
        rest = others;
    }
}

/// The segments, for the disk: their number, then each.
pub(crate) fn encode(segments: &[Segment]) -> Vec<u8> {
    let mut out = vec![segments.len() as u8];
    segments.iter().for_each(|segment| segment.encode(&mut out));
    out
}

/// The inverse of [`encode`].
pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Vec<Segment>> {
    let count = usize::from(reader.u8()?);
    if count > MAX_SEGMENTS {
        return None;
    }
    (0..count).map(|_| Segment::decode(reader)).collect()
}

/// Learning rates that a batch brings: for all segments, and for some.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rates {
    pub(crate) all: Option<f32>,
    of: [Option<f32>; MAX_SEGMENTS],
    /// A segment that no row has, and that a rate was given for.
    beyond: Option<usize>,
}

impl Rates {
    pub(crate) fn set(&mut self, segment: usize, rate: f32) {
        match self.of.get_mut(segment) {
            Some(of) => *of = Some(rate),
            None => self.beyond = Some(segment),
        }
    }

    fn get(&self, segment: usize) -> Option<f32> {
        self.of.get(segment).copied().flatten().or(self.all)
    }

    /// Says what is wrong with a rate for rows of `segments` segments, if anything.
    pub(crate) fn validate(&self, segments: usize) -> Result<(), String> {
        self.all.iter().chain(self.of.iter().flatten()).try_for_each(|rate| Optimizer::validate_learning_rate(*rate))?;
        match self.beyond.or(self.of.iter().rposition(Option::is_some)) {
            Some(last) if last >= segments => Err(format!("a rate for segment {last} of rows with {segments} segments")),
            _ => Ok(()),
        }
    }
}

/// What the updates of a batch have in common, for each segment.
#[derive(Debug)]
pub(crate) struct Steps(SmallVec<[SegmentStep; 1]>);

#[derive(Debug)]
struct SegmentStep {
    dim: usize,
    state_len: usize,
    step: Step,
}

impl Steps {
    pub(crate) fn new(segments: &[Segment], rates: &Rates, number: Option<u64>) -> Steps {
        let step = |(at, segment): (usize, &Segment)| SegmentStep {
            dim: segment.dim,
            state_len: segment.state_len(),
            step: segment.optimizer.step(rates.get(at), number),
        };
        Steps(segments.iter().enumerate().map(step).collect())
    }

    /// Says what a batch of gradients lacks, if anything.
    pub(crate) fn check(segments: &[Segment], rates: &Rates, number: Option<u64>) -> Result<(), String> {
        segments.iter().enumerate().try_for_each(|(at, segment)| segment.optimizer.check_step(rates.get(at), number))
    }

    pub(crate) fn cpu(&self) -> Cpu {
        self.0.first().map_or_else(Cpu::detect, |first| first.step.cpu())
    }

    /// Applies a gradient to a row: `weights` and `grad` have the dimension's length, `state` its own.
    #[inline(always)]
    pub(crate) fn apply(&self, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        match &self.0[..] {
            [only] => only.step.apply(weights, state, grad),
            _ => self.apply_each(weights, state, grad),
        }
    }

    fn apply_each(&self, mut weights: &mut [f32], mut state: &mut [f32], mut grad: &[f32]) {
        for SegmentStep { dim, state_len, step } in &self.0 {
            let (own_weights, other_weights) = weights.split_at_mut(*dim);
            let (own_state, other_state) = state.split_at_mut(*state_len);
            let (own_grad, other_grad) = grad.split_at(*dim);
            step.apply(own_weights, own_state, own_grad);
            (weights, state, grad) = (other_weights, other_state, other_grad);
        }
    }

    /// Whether [`Steps::adjust`] would change any gradient.
    pub(crate) fn adjusts(&self) -> bool {
        self.0.iter().any(|segment| segment.step.adjusts())
    }

    /// Clips a row's gradient, each segment for itself.
    pub(crate) fn adjust(&self, mut grad: &mut [f32]) {
        for SegmentStep { dim, step, .. } in &self.0 {
            let (own, others) = grad.split_at_mut(*dim);
            step.adjust(own);
            grad = others;
        }
    }

    /// Brings the states in line with weights that were set.
    pub(crate) fn follow(&self, mut weights: &[f32], mut state: &mut [f32]) {
        for SegmentStep { dim, state_len, step } in &self.0 {
            let (own_weights, other_weights) = weights.split_at(*dim);
            let (own_state, other_state) = state.split_at_mut(*state_len);
            step.follow(own_weights, own_state);
            (weights, state) = (other_weights, other_state);
        }
    }
}
