//! What one would write without a store: hash maps in memory, each thread with its own.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::time::Instant;

use super::candidate::{Built, Candidate, Failure};
use super::workload::{Batch, Site, adagrad, all_rows, initial_state, value_of};

/// A key is its own hash: these keys are random already.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

/// One map's rows.
trait Rows: Send {
    fn insert(&mut self, key: u64, row: Vec<f32>);
    fn get(&self, key: u64) -> Option<&[f32]>;
    fn get_mut(&mut self, key: u64) -> Option<&mut [f32]>;
}

/// `HashMap<u64, Box<[f32]>>`, as it comes.
#[derive(Default)]
struct Boxed(HashMap<u64, Box<[f32]>>);

impl Rows for Boxed {
    fn insert(&mut self, key: u64, row: Vec<f32>) {
        self.0.insert(key, row.into());
    }

    fn get(&self, key: u64) -> Option<&[f32]> {
        self.0.get(&key).map(|row| &**row)
    }

    fn get_mut(&mut self, key: u64) -> Option<&mut [f32]> {
        self.0.get_mut(&key).map(|row| &mut **row)
    }
}

/// A map without the cost of hashing to places in one array: the best simple way in memory.
struct Flat {
    places: HashMap<u64, u32, BuildHasherDefault<Itself>>,
    values: Vec<f32>,
    lanes: usize,
}

impl Rows for Flat {
    fn insert(&mut self, key: u64, row: Vec<f32>) {
        self.places.insert(key, (self.values.len() / self.lanes) as u32);
        self.values.extend_from_slice(&row);
    }

    fn get(&self, key: u64) -> Option<&[f32]> {
        self.places.get(&key).map(|&place| &self.values[place as usize * self.lanes..][..self.lanes])
    }

    fn get_mut(&mut self, key: u64) -> Option<&mut [f32]> {
        self.places.get(&key).map(|&place| &mut self.values[place as usize * self.lanes..][..self.lanes])
    }
}

struct Maps<R> {
    name: &'static str,
    dim: usize,
    maps: Vec<Mutex<R>>,
}

pub(crate) fn boxed(site: &Site) -> Built {
    fill("HashMap<u64, Box<[f32]>>", site, |_| Boxed::default())
}

pub(crate) fn flat(site: &Site) -> Built {
    let lanes = site.lanes();
    fill("HashMap<u64, u32> and a Vec<f32>", site, move |rows| {
        let mut values = Vec::with_capacity(rows * lanes);
        // Written once, or the pages would be faulted in by what is measured.
        values.resize(rows * lanes, f32::MIN);
        values.clear();
        Flat { places: HashMap::with_capacity_and_hasher(rows, BuildHasherDefault::default()), values, lanes }
    })
}

fn fill<R: Rows + 'static>(name: &'static str, site: &Site, new: impl Fn(usize) -> R) -> Built {
    let (dim, lanes) = (site.dim, site.lanes());
    let mut maps = Vec::new();
    let begun = Instant::now();
    for thread in 0..site.threads {
        let mut map = new(site.rows_of(thread));
        for (batch, rows) in all_rows(site, thread) {
            for (&key, &row) in batch.keys.iter().zip(&rows) {
                let mut values = vec![initial_state(); lanes];
                values[..dim].fill(value_of(row));
                map.insert(key, values);
            }
        }
        maps.push(Mutex::new(map));
    }
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Some((Box::new(Maps { name, dim, maps }), seconds)))
}

impl<R: Rows> Candidate for Maps<R> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn sums_duplicates(&self) -> bool {
        false
    }

    fn lookup(&self, thread: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure> {
        let map = self.maps[thread].lock().map_err(|_| "another thread panicked")?;
        for (out, &key) in out.chunks_exact_mut(self.dim).zip(&batch.keys) {
            match map.get(key) {
                Some(row) => out.copy_from_slice(&row[..self.dim]),
                None => out.fill(0.0),
            }
        }
        Ok(())
    }

    fn update(&self, thread: usize, batch: &Batch, gradients: &[f32]) -> Result<(), Failure> {
        let mut map = self.maps[thread].lock().map_err(|_| "another thread panicked")?;
        for (gradient, &key) in gradients.chunks_exact(self.dim).zip(&batch.keys) {
            let (weights, sums) = map.get_mut(key).ok_or("a row is missing")?.split_at_mut(self.dim);
            adagrad(weights, sums, gradient);
        }
        Ok(())
    }
}
