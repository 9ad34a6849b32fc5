//! Stores that keep rows as bytes under sorted keys: the keys of a batch are sorted and read once.
#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// Keys come in ascending order, each once.
pub(crate) trait ByteStore: Sync {
    const NAME: &'static str;

    /// Writes rows of `lanes` f32s.
    fn put(&self, keys: &[u64], rows: &[f32], lanes: usize) -> Result<(), Failure>;

    /// Visits the rows that are there, by the place of their key.
    fn get(&self, keys: &[u64], visit: &mut dyn FnMut(usize, &[u8])) -> Result<(), Failure>;

    /// Reads, changes and writes the row of each key.
    fn change(&self, keys: &[u64], lanes: usize, change: &mut dyn FnMut(usize, &mut [f32])) -> Result<(), Failure>;

    /// Called once all rows are in.
    fn settle(&mut self) -> Result<(), Failure>;
}

/// Removed when dropped.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The distinct keys of a batch in ascending order, and where each stands.
pub(crate) struct Distinct {
    pub(crate) keys: Vec<u64>,
    /// The first position of each key among `positions`, and their number.
    starts: Vec<usize>,
    positions: Vec<usize>,
}

impl Distinct {
    pub(crate) fn of(keys: &[u64]) -> Distinct {
        let mut order: Vec<(u64, usize)> = keys.iter().copied().zip(0..).collect();
        order.sort_unstable();
        let mut distinct = Distinct { keys: Vec::new(), starts: Vec::new(), positions: Vec::with_capacity(keys.len()) };
        for (key, position) in order {
            if distinct.keys.last() != Some(&key) {
                distinct.keys.push(key);
                distinct.starts.push(distinct.positions.len());
            }
            distinct.positions.push(position);
        }
        distinct.starts.push(keys.len());
        distinct
    }

    pub(crate) fn positions(&self, at: usize) -> &[usize] {
        &self.positions[self.starts[at]..self.starts[at + 1]]
    }
}

/// The first f32s of a row.
pub(crate) fn read(bytes: &[u8], out: &mut [f32]) {
    let length = size_of_val(out);
    bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(&bytes[..length]);
}

/// A row of f32s, changed.
pub(crate) fn changed(bytes: &[u8], row: &mut [f32], change: impl FnOnce(&mut [f32])) -> Vec<u8> {
    read(bytes, row);
    change(row);
    bytemuck::cast_slice(row).to_vec()
}
