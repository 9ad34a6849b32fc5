//! Rows pooled by bags of keys, and the gradient of that: what the field calls an embedding bag.
#![forbid(unsafe_code)]

use std::borrow::Cow;

use smallvec::smallvec;

use super::buffers::{Places, with_lanes};
use super::lookup::{Part, check_length};
use super::many::{self, GradientRequest, Gradients, Lookup, LookupRequest};
use super::pool::Jobs;
use super::{Table, TableInner, Update};
use crate::error::{Error, Result};
use crate::schema::TableSchema;
use crate::types::Key;

/// f32s of rows that are looked up before they are added: few enough to stay in the nearest caches.
const PIECE_LANES: usize = 16 << 10;
const MIN_PIECE_KEYS: usize = 64;

/// What becomes of the rows of a bag.
///
/// | pooling | a bag's output | its gradient goes to |
/// |---|---|---|
/// | `Sum` | their sum: `dim` f32s | each key |
/// | `Mean` | their sum, divided by their number: `dim` f32s | each key, divided by their number |
/// | `First(n)` | the first `n` rows one after the other, zeros behind the last: `n * dim` f32s | row by row to the first `n` keys |
///
/// Rows are added in f32 from zero on, in the order of the keys. An empty bag is all zeros, and its gradient goes nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Adds them.
    Sum,
    /// Adds them and divides by their number.
    Mean,
    /// Keeps so many, at least 1, as they are; keys further back are neither read nor trained.
    First(usize),
}

impl Pooling {
    /// Rows of the output that a bag takes.
    fn rows_a_bag(self) -> Result<usize> {
        match self {
            Pooling::Sum | Pooling::Mean => Ok(1),
            Pooling::First(0) => {
                Err(Error::InvalidOption { option: "pooling", what: "First(0) keeps no row: give at least 1".to_owned() })
            }
            Pooling::First(rows) => Ok(rows),
        }
    }
}

impl Table {
    /// Looks up `keys` and pools the embeddings of each bag. Returns how many of the keys that were read have a row.
    ///
    /// Bag `b` holds `keys[offsets[b]..offsets[b + 1]]`: `offsets` has one entry more than there are bags, begins with 0, and ends
    /// with `keys.len()` (in PyTorch's `EmbeddingBag`: `include_last_offset=True`). `out` holds `bags * dim` f32s, for
    /// [`Pooling::First`] `bags * n * dim`. A key without a row counts as what [`Missing`](crate::Missing) of the schema says.
    ///
    /// ```
    /// use embedrock::{Optimizer, Pooling, Store, StoreOptions, TableSchema, Update};
    /// # let dir = std::env::temp_dir().join(format!("embedrock-doc-pooled-{}", std::process::id()));
    /// let store = Store::open(&dir, StoreOptions::default())?;
    /// let items = store.create_table(TableSchema::new("item", 2).optimizer(Optimizer::sgd(1.0)))?;
    /// items.assign(&[1, 2, 3], &[1.0, 10.0, 2.0, 20.0, 3.0, 30.0], &Update::at(1_700_000_000))?;
    ///
    /// // Three bags: [1, 2, 3], [] and [3].
    /// let (keys, offsets) = ([1, 2, 3, 3], [0, 3, 3, 4]);
    /// let mut out = [0.0; 3 * 2];
    /// items.lookup_pooled(&keys, &offsets, Pooling::Mean, &mut out)?;
    /// assert_eq!(out, [2.0, 20.0, 0.0, 0.0, 3.0, 30.0]);
    ///
    /// // The gradient of the means, a row for each bag.
    /// let grads = [3.0, 0.0, 9.0, 9.0, 0.5, 0.0];
    /// items.apply_pooled_gradients(&keys, &offsets, Pooling::Mean, &grads, &Update::at(1_700_000_000))?;
    /// let mut rows = [0.0; 3 * 2];
    /// items.lookup(&[1, 2, 3], &mut rows)?;
    /// assert_eq!(rows, [0.0, 10.0, 1.0, 20.0, 1.5, 30.0]);
    /// # drop((items, store)); std::fs::remove_dir_all(&dir).unwrap();
    /// # Ok::<(), embedrock::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidOffsets`], a wrong length, a failing cold tier. Then the content of `out` is unspecified.
    pub fn lookup_pooled(&self, keys: &[Key], offsets: &[usize], pooling: Pooling, out: &mut [f32]) -> Result<usize> {
        let lookup = Lookup::new(LookupRequest::pooled(self, keys, offsets, pooling, out))?;
        Ok(many::lookup_all(&self.inner.context, smallvec![lookup])?.into_iter().sum())
    }

    /// Trains the rows of pooled bags: [`Table::apply_gradients`] with the gradient of [`Table::lookup_pooled`], bit for bit.
    ///
    /// `grads` has the shape of that call's output. The gradients of a key that is in several bags, or several times in one, are
    /// summed in the order of `keys`. All or nothing.
    ///
    /// # Errors
    /// [`Error::InvalidOffsets`], and as [`Table::apply_gradients`]; a position is one of `keys`, without those that
    /// [`Pooling::First`] leaves out. Gradients of empty places are not looked at.
    pub fn apply_pooled_gradients(
        &self,
        keys: &[Key],
        offsets: &[usize],
        pooling: Pooling,
        grads: &[f32],
        update: &Update,
    ) -> Result<()> {
        let gradients = Gradients::new(GradientRequest::pooled(self, keys, offsets, pooling, grads))?;
        many::apply_all(&self.inner.context, smallvec![gradients], update)
    }
}

/// Keys in bags, checked.
pub(super) struct Bags<'a> {
    offsets: &'a [usize],
    pub(super) pooling: Pooling,
    rows: usize,
    /// Those that are read.
    pub(super) keys: Cow<'a, [Key]>,
    /// The row of the output that each of them is part of; never falls.
    pub(super) places: Places,
}

impl<'a> Bags<'a> {
    pub(super) fn new(keys: &'a [Key], offsets: &'a [usize], pooling: Pooling) -> Result<Bags<'a>> {
        let rows_a_bag = pooling.rows_a_bag()?;
        check_offsets(offsets, keys.len())?;
        let rows = (offsets.len() - 1).saturating_mul(rows_a_bag);
        if u32::try_from(rows).is_err() {
            return Err(Error::InvalidOption { option: "pooling", what: format!("{rows} rows of output are more than 2^32") });
        }
        let mut places = Places::empty();
        places.reserve(keys.len());
        let mut kept = Vec::new();
        for (bag, bounds) in offsets.windows(2).enumerate() {
            let first = (bag * rows_a_bag) as u32;
            let keys = &keys[bounds[0]..bounds[1]];
            if let Pooling::First(most) = pooling {
                let keys = &keys[..keys.len().min(most)];
                places.extend(first..first + keys.len() as u32);
                kept.extend_from_slice(keys);
            } else {
                places.extend(std::iter::repeat_n(first, keys.len()));
            }
        }
        let keys = if matches!(pooling, Pooling::First(_)) { Cow::Owned(kept) } else { Cow::Borrowed(keys) };
        Ok(Bags { offsets, pooling, rows, keys, places })
    }

    pub(super) fn check_length(&self, what: &'static str, dim: usize, found: usize) -> Result<()> {
        check_length(what, self.rows.saturating_mul(dim), found, self.keys.len())
    }

    /// Divides the rows of the output by the sizes of their bags, where means are asked for.
    pub(super) fn divide(&self, dim: usize, rows: &mut [f32]) {
        if self.pooling == Pooling::Mean {
            for (row, bounds) in
                rows.chunks_exact_mut(dim).zip(self.offsets.windows(2)).filter(|(_, bounds)| bounds[0] < bounds[1])
            {
                let size = (bounds[1] - bounds[0]) as f32;
                row.iter_mut().for_each(|value| *value /= size);
            }
        }
    }

    /// The gradients of each row of the output, as the keys get them.
    pub(super) fn gradients<'g>(&self, dim: usize, grads: &'g [f32]) -> Cow<'g, [f32]> {
        let mut grads = Cow::Borrowed(grads);
        if self.pooling == Pooling::Mean {
            self.divide(dim, grads.to_mut());
        }
        grads
    }

    /// Divides the keys into parts of `share` or less, none of which ends within a row of the output; a longer row is a part.
    pub(super) fn parts<'b>(&'b self, share: usize, dim: usize, mut out: &'b mut [f32]) -> Jobs<BagPart<'b>> {
        let (mut keys, mut places) = (&*self.keys, &self.places[..]);
        let mut parts = Jobs::new();
        let mut first = 0;
        while keys.len() > share {
            let start = places.partition_point(|&place| place < places[share]);
            let end = if start > 0 { start } else { places.partition_point(|&place| place == places[0]) };
            let Some(&next) = places.get(end) else { break };
            let (part_out, rest) = std::mem::take(&mut out).split_at_mut((next - first) as usize * dim);
            parts.push(BagPart { keys: &keys[..end], places: &places[..end], first, out: part_out });
            (keys, places, out, first) = (&keys[end..], &places[end..], rest, next);
        }
        parts.push(BagPart { keys, places, first, out });
        parts
    }
}

fn check_offsets(offsets: &[usize], keys: usize) -> Result<()> {
    let wrong = |position: usize, what: String| Err(Error::InvalidOffsets { position, what });
    match (offsets.first(), offsets.last()) {
        (None, _) | (_, None) => return wrong(0, "is missing".to_owned()),
        (Some(&first), _) if first != 0 => return wrong(0, format!("is {first}, not 0")),
        _ => {}
    }
    let falls = offsets.windows(2).position(|bounds| bounds[0] > bounds[1]);
    if let Some(at) = falls {
        return wrong(at + 1, format!("is {}, below the {} before it", offsets[at + 1], offsets[at]));
    }
    match offsets.last() {
        Some(&last) if last != keys => wrong(offsets.len() - 1, format!("is {last}, not the number of keys, {keys}")),
        _ => Ok(()),
    }
}

/// What of some bags one thread looks up.
pub(super) struct BagPart<'a> {
    keys: &'a [Key],
    places: &'a [u32],
    /// The row of the whole output that `out` begins with.
    first: u32,
    out: &'a mut [f32],
}

impl TableInner {
    /// Looks rows up a piece at a time and adds them to where they belong while they are near.
    pub(super) fn lookup_bag_part(&self, schema: &TableSchema, pooling: Pooling, part: BagPart<'_>) -> Result<usize> {
        let dim = schema.dim();
        let piece = (PIECE_LANES / dim).max(MIN_PIECE_KEYS).min(part.keys.len().max(1));
        with_lanes(piece * dim, |rows| {
            part.out.fill(0.0);
            let mut hits = 0;
            for (keys, places) in part.keys.chunks(piece).zip(part.places.chunks(piece)) {
                let rows = &mut rows[..keys.len() * dim];
                hits += self.lookup_part(schema, Part { keys, rows: &mut *rows, found: None })?;
                for (row, place) in rows.chunks_exact(dim).zip(places) {
                    let out = &mut part.out[(place - part.first) as usize * dim..][..dim];
                    match pooling {
                        Pooling::First(_) => out.copy_from_slice(row),
                        Pooling::Sum | Pooling::Mean => out.iter_mut().zip(row).for_each(|(sum, value)| *sum += value),
                    }
                }
            }
            Ok(hits)
        })
    }
}
