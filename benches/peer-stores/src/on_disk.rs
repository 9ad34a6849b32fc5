//! Stores that keep rows as bytes under sorted keys: the keys of a batch are sorted and read once, gradients summed first.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Instant;

use crate::bench::candidate::{Built, Candidate, Failure};
use crate::bench::workload::{Batch, Site, adagrad, all_rows, initial_state, value_of};

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

struct OnDisk<S> {
    store: S,
    dim: usize,
    lanes: usize,
    // Last, so that the store is closed by then.
    _dir: Temporary,
}

/// The distinct keys of a batch in ascending order, and where each stands.
struct Distinct {
    keys: Vec<u64>,
    /// The first position of each key among `positions`, and their number.
    starts: Vec<usize>,
    positions: Vec<usize>,
}

impl Distinct {
    fn of(keys: &[u64]) -> Distinct {
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

    fn positions(&self, at: usize) -> &[usize] {
        &self.positions[self.starts[at]..self.starts[at + 1]]
    }
}

/// Puts all rows of a site into a new store. `open` gets its directory and the bytes of all rows.
pub(crate) fn fill<S: ByteStore + 'static>(site: &Site, open: impl Fn(&std::path::Path, usize) -> Result<S, Failure>) -> Built {
    let (dim, lanes) = (site.dim, site.lanes());
    let dir = Temporary(site.dir.join(format!("embedrock-bench-{}-{}", S::NAME, std::process::id())));
    std::fs::create_dir_all(&dir.0)?;
    let mut store = open(&dir.0, site.rows as usize * lanes * 4)?;
    let mut seconds = 0.0;
    for thread in 0..site.threads {
        for (batch, numbers) in all_rows(site, thread) {
            let distinct = Distinct::of(&batch.keys);
            let mut rows = vec![initial_state(); distinct.keys.len() * lanes];
            for (row, at) in rows.chunks_exact_mut(lanes).zip(0..) {
                row[..dim].fill(value_of(numbers[distinct.positions(at)[0]]));
            }
            let begun = Instant::now();
            store.put(&distinct.keys, &rows, lanes)?;
            seconds += begun.elapsed().as_secs_f64();
        }
    }
    store.settle()?;
    Ok(Some((Box::new(OnDisk { store, dim, lanes, _dir: dir }), seconds)))
}

/// The first f32s of a row.
fn read(bytes: &[u8], out: &mut [f32]) {
    let length = size_of_val(out);
    bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(&bytes[..length]);
}

/// A row of f32s, changed.
pub(crate) fn changed(bytes: &[u8], row: &mut [f32], change: impl FnOnce(&mut [f32])) -> Vec<u8> {
    read(bytes, row);
    change(row);
    bytemuck::cast_slice(row).to_vec()
}

impl<S: ByteStore> Candidate for OnDisk<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn sums_duplicates(&self) -> bool {
        true
    }

    fn lookup(&self, _: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure> {
        out.fill(0.0);
        let (distinct, dim) = (Distinct::of(&batch.keys), self.dim);
        self.store.get(&distinct.keys, &mut |at, bytes| {
            distinct.positions(at).iter().for_each(|&position| read(bytes, &mut out[position * dim..(position + 1) * dim]));
        })
    }

    fn update(&self, _: usize, batch: &Batch, gradients: &[f32]) -> Result<(), Failure> {
        let (distinct, dim) = (Distinct::of(&batch.keys), self.dim);
        let mut sum = vec![0.0; dim];
        self.store.change(&distinct.keys, self.lanes, &mut |at, row| {
            sum.fill(0.0);
            for position in distinct.positions(at) {
                sum.iter_mut().zip(&gradients[position * dim..]).for_each(|(sum, gradient)| *sum += gradient);
            }
            let (weights, sums) = row.split_at_mut(dim);
            adagrad(weights, sums, &sum);
        })
    }
}
