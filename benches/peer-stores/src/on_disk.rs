//! A byte store as a candidate: gradients of a key are summed first. All in its cache.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Instant;

use fjall::KeyspaceCreateOptions;

use crate::bench::candidate::{Built, Candidate};
use crate::bench::workload::{Batch, Site, adagrad, all_rows, initial_state, value_of};
use crate::byte_store::{ByteStore, Distinct, Failure, Temporary, read};
use crate::in_fjall::Fjall;
use crate::in_redb::Redb;

pub(crate) fn redb(site: &Site) -> Built {
    fill(site, |dir, bytes| Redb::open(dir, bytes * 4 + (256 << 20)))
}

pub(crate) fn fjall(site: &Site) -> Built {
    fill(site, |dir, bytes| {
        Fjall::open(dir, bytes * 2 + (64 << 20), KeyspaceCreateOptions::default().max_memtable_size(128 << 20))
    })
}

struct OnDisk<S> {
    store: S,
    dim: usize,
    lanes: usize,
    // Last, so that the store is closed by then.
    _dir: Temporary,
}

/// Puts all rows of a site into a new store. `open` gets its directory and the bytes of all rows.
fn fill<S: ByteStore + 'static>(site: &Site, open: impl Fn(&Path, usize) -> Result<S, Failure>) -> Built {
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
