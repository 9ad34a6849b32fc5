//! dashmap: one concurrent map of boxed rows, which all threads share.
#![forbid(unsafe_code)]

use std::time::Instant;

use dashmap::DashMap;

use crate::bench::candidate::{Built, Candidate, Failure};
use crate::bench::workload::{Batch, Site, adagrad, all_rows, initial_state, value_of};

struct Shared {
    rows: DashMap<u64, Box<[f32]>>,
    dim: usize,
}

pub(crate) fn build(site: &Site) -> Built {
    let (dim, lanes) = (site.dim, site.lanes());
    let rows = DashMap::new();
    let begun = Instant::now();
    for thread in 0..site.threads {
        for (batch, numbers) in all_rows(site, thread) {
            for (&key, &number) in batch.keys.iter().zip(&numbers) {
                let mut row = vec![initial_state(); lanes];
                row[..dim].fill(value_of(number));
                rows.insert(key, row.into_boxed_slice());
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Some((Box::new(Shared { rows, dim }), seconds)))
}

impl Candidate for Shared {
    fn name(&self) -> &'static str {
        "DashMap<u64, Box<[f32]>>"
    }

    fn sums_duplicates(&self) -> bool {
        false
    }

    fn lookup(&self, _: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure> {
        for (out, key) in out.chunks_exact_mut(self.dim).zip(&batch.keys) {
            match self.rows.get(key) {
                Some(row) => out.copy_from_slice(&row[..self.dim]),
                None => out.fill(0.0),
            }
        }
        Ok(())
    }

    fn update(&self, _: usize, batch: &Batch, gradients: &[f32]) -> Result<(), Failure> {
        for (gradient, key) in gradients.chunks_exact(self.dim).zip(&batch.keys) {
            let mut row = self.rows.get_mut(key).ok_or("a row is missing")?;
            let (weights, sums) = row.split_at_mut(self.dim);
            adagrad(weights, sums, gradient);
        }
        Ok(())
    }
}
