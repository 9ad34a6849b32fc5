//! The values that a batch brings for its keys: a row for each, or a row that many share.
#![forbid(unsafe_code)]

/// Gradients or embeddings of the positions of a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a> {
    rows: &'a [f32],
    /// The row of each position, where that is not the one of its number.
    places: Option<&'a [u32]>,
    /// The rows that the gradients were worked out from, one a position, and how strongly to make up for what changed since.
    read: Option<(&'a [f32], f32)>,
}

impl<'a> Values<'a> {
    /// One row a position.
    pub(crate) fn of_each(rows: &'a [f32]) -> Values<'a> {
        Values { rows, places: None, read: None }
    }

    /// Row `places[i]` for position `i`.
    pub(crate) fn shared(rows: &'a [f32], places: &'a [u32]) -> Values<'a> {
        Values { rows, places: Some(places), read: None }
    }

    /// Gradients worked out from `read`, one row a position.
    pub(crate) fn compensated(grads: &'a [f32], read: &'a [f32], strength: f32) -> Values<'a> {
        Values { read: Some((read, strength)), ..Values::of_each(grads) }
    }

    pub(crate) fn is_compensated(&self) -> bool {
        self.read.is_some()
    }

    /// What the gradient of a position was worked out from, and how strongly to compensate.
    pub(crate) fn read(&self, position: u32, dim: usize) -> Option<(&'a [f32], f32)> {
        let (rows, strength) = self.read?;
        let at = position as usize * dim;
        Some((&rows[at..at + dim], strength))
    }

    /// f32s of all positions together.
    pub(crate) fn len(&self, dim: usize) -> usize {
        self.places.map_or(self.rows.len(), |places| places.len().saturating_mul(dim))
    }

    pub(crate) fn all(&self) -> &'a [f32] {
        self.rows
    }

    #[inline(always)]
    pub(crate) fn row(&self, position: u32, dim: usize) -> &'a [f32] {
        let row = self.places.map_or(position, |places| places[position as usize]) as usize;
        &self.rows[row * dim..(row + 1) * dim]
    }
}
