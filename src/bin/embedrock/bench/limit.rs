//! The machine's limit: loops over rows at known addresses, in huge pages, fetched ahead by the best distance.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use memmap2::{Advice, MmapMut};

use super::candidate::{Built, Candidate, Failure};
use super::workload::{Batch, Site, adagrad, all_rows, initial_state, value_of};

/// Rows ahead that are tried; the fastest is kept.
const DISTANCES: [usize; 5] = [8, 16, 32, 64, 128];
const HUGE_PAGE: usize = 2 << 20;
/// Trials of each way to fetch ahead, and their batches: other rows each time, which no cache holds yet.
const TRIALS: usize = 3;
const TRIAL_BATCHES: usize = 64;
/// f32s of a cache line.
const LINE: usize = 16;
/// Index entries of a cache line in the limit with an index: as many as keys of 8 bytes with 4-byte row numbers leave room for.
const ENTRIES_A_LINE: usize = 4;

struct Limit {
    name: &'static str,
    dim: usize,
    lanes: usize,
    lookups: Ahead,
    updates: Ahead,
    regions: Vec<Mutex<Region>>,
}

/// How rows are fetched ahead: by how many, and into the first cache or only the second, which can wait for more at a time.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    pub(crate) distance: usize,
    pub(crate) first_cache: bool,
}

/// The rows of one thread, and lines of zeros in place of an index where one is to be passed.
struct Region {
    rows: Floats,
    index: Option<Floats>,
}

/// f32s in huge pages.
pub(crate) struct Floats {
    map: MmapMut,
    skip: usize,
    len: usize,
}

impl Floats {
    pub(crate) fn new(len: usize) -> Result<Floats, Failure> {
        let map = MmapMut::map_anon(len * 4 + HUGE_PAGE)?;
        let skip = map.as_ptr().align_offset(HUGE_PAGE);
        // Where huge pages are off the limit is what the machine can do without them.
        let _ = map.advise_range(Advice::HugePage, skip, len * 4);
        Ok(Floats { map, skip, len })
    }

    pub(crate) fn get(&self) -> &[f32] {
        bytemuck::cast_slice(&self.map[self.skip..self.skip + self.len * 4])
    }

    pub(crate) fn get_mut(&mut self) -> &mut [f32] {
        bytemuck::cast_slice_mut(&mut self.map[self.skip..self.skip + self.len * 4])
    }
}

/// A gather, and a read-modify-write.
pub(crate) fn bare(site: &Site) -> Built {
    build("limit: known addresses", site, false)
}

/// The same after a look into an array of the size of an index: what no index can do without.
pub(crate) fn with_index(site: &Site) -> Built {
    build("limit: with a line of an index", site, true)
}

fn build(name: &'static str, site: &Site, index: bool) -> Built {
    let (dim, lanes) = (site.dim, site.lanes());
    let mut regions = Vec::new();
    let begun = Instant::now();
    for thread in 0..site.threads {
        let count = site.rows_of(thread);
        let mut rows = Floats::new(count * lanes)?;
        for (batch, numbers) in all_rows(site, thread) {
            for (&place, &row) in batch.places.iter().zip(&numbers) {
                let (embedding, state) = rows.get_mut()[place as usize * lanes..][..lanes].split_at_mut(dim);
                embedding.fill(value_of(row));
                state.fill(initial_state());
            }
        }
        let mut index = index.then(|| Floats::new((count / ENTRIES_A_LINE + 1) * LINE)).transpose()?;
        // Pages that nobody wrote would all be the same page of zeros.
        index.iter_mut().for_each(|index| index.get_mut().fill(0.0));
        regions.push(Mutex::new(Region { rows, index }));
    }
    let seconds = begun.elapsed().as_secs_f64();
    let ahead = Ahead { distance: DISTANCES[0], first_cache: true };
    let mut limit = Limit { name, dim, lanes, lookups: ahead, updates: ahead, regions };
    limit.tune(site)?;
    Ok(Some((Box::new(limit), seconds)))
}

impl Limit {
    /// Finds the best ways. Its updates have gradients of zero, so that no row changes.
    fn tune(&mut self, site: &Site) -> Result<(), Failure> {
        let batches = super::workload::Workload::new(site, super::Distribution::Uniform, 4096).present.swap_remove(0);
        let mut batches = batches.iter().cycle();
        let (mut out, zeros) = (vec![0.0; 4096 * self.dim], vec![0.0; 4096 * self.dim]);
        let (mut lookups, mut updates) = ((Duration::MAX, self.lookups), (Duration::MAX, self.updates));
        let ways = DISTANCES.into_iter().flat_map(|distance| [true, false].map(|first_cache| Ahead { distance, first_cache }));
        for way in ways.cycle().take(TRIALS * 2 * DISTANCES.len()) {
            (self.lookups, self.updates) = (way, way);
            let begun = Instant::now();
            for batch in batches.by_ref().take(TRIAL_BATCHES) {
                self.lookup(0, batch, &mut out)?;
            }
            lookups = std::cmp::min_by_key(lookups, (begun.elapsed(), way), |(time, _)| *time);
            if site.trains {
                let begun = Instant::now();
                for batch in batches.by_ref().take(TRIAL_BATCHES) {
                    self.update(0, batch, &zeros)?;
                }
                updates = std::cmp::min_by_key(updates, (begun.elapsed(), way), |(time, _)| *time);
            }
        }
        (self.lookups, self.updates) = (lookups.1, updates.1);
        Ok(())
    }

    fn region(&self, thread: usize) -> Result<std::sync::MutexGuard<'_, Region>, Failure> {
        self.regions[thread].lock().map_err(|_| "another thread panicked".into())
    }
}

impl Candidate for Limit {
    fn name(&self) -> &'static str {
        self.name
    }

    fn can_miss(&self) -> bool {
        false
    }

    fn sums_duplicates(&self) -> bool {
        false
    }

    fn lookup(&self, thread: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure> {
        let region = self.region(thread)?;
        let gather = match self.dim {
            16 => gather::<16>,
            32 => gather::<32>,
            64 => gather::<64>,
            128 => gather::<128>,
            _ => gather::<0>,
        };
        let rows = Rows { values: region.rows.get(), dim: self.dim, lanes: self.lanes };
        gather(rows, region.index.as_ref().map(Floats::get), &batch.places, self.lookups, out);
        Ok(())
    }

    fn update(&self, thread: usize, batch: &Batch, gradients: &[f32]) -> Result<(), Failure> {
        let mut region = self.region(thread)?;
        let Region { rows, index } = &mut *region;
        let (lanes, dim) = (self.lanes, self.dim);
        train(rows.get_mut(), index.as_ref().map(Floats::get), &batch.places, self.updates, (dim, lanes), gradients);
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Rows<'a> {
    values: &'a [f32],
    dim: usize,
    lanes: usize,
}

/// `D` is the dimension where it is known when this is compiled, else 0.
fn gather<const D: usize>(rows: Rows<'_>, index: Option<&[f32]>, places: &[u32], way: Ahead, out: &mut [f32]) {
    let dim = if D == 0 { rows.dim } else { D };
    for (at, (out, &place)) in out.chunks_exact_mut(dim).zip(places).enumerate() {
        if let Some(ahead) = ahead(index, places, at, way) {
            prefetch(&rows.values[ahead * rows.lanes..][..dim], way);
        }
        out.copy_from_slice(&rows.values[place as usize * rows.lanes..][..dim]);
    }
}

fn train(values: &mut [f32], index: Option<&[f32]>, places: &[u32], way: Ahead, (dim, lanes): (usize, usize), gradients: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the feature.
        return unsafe { train_avx512(values, index, places, way, (dim, lanes), gradients) };
    }
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has the feature.
        return unsafe { train_avx2(values, index, places, way, (dim, lanes), gradients) };
    }
    train_rows(values, index, places, way, (dim, lanes), gradients);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn train_avx512(v: &mut [f32], i: Option<&[f32]>, p: &[u32], way: Ahead, shape: (usize, usize), g: &[f32]) {
    train_rows(v, i, p, way, shape, g);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn train_avx2(v: &mut [f32], i: Option<&[f32]>, p: &[u32], way: Ahead, shape: (usize, usize), g: &[f32]) {
    train_rows(v, i, p, way, shape, g);
}

#[inline(always)]
fn train_rows(
    values: &mut [f32],
    index: Option<&[f32]>,
    places: &[u32],
    way: Ahead,
    (dim, lanes): (usize, usize),
    gradients: &[f32],
) {
    for (at, (gradient, &place)) in gradients.chunks_exact(dim).zip(places).enumerate() {
        if let Some(ahead) = ahead(index, places, at, way) {
            prefetch(&values[ahead * lanes..][..lanes], way);
        }
        let (weights, sums) = values[place as usize * lanes..][..lanes].split_at_mut(dim);
        adagrad(weights, sums, gradient);
    }
}

/// The row to fetch ahead. With an index its line was fetched twice as far ahead, and decides.
#[inline(always)]
fn ahead(index: Option<&[f32]>, places: &[u32], at: usize, way: Ahead) -> Option<usize> {
    let Some(index) = index else { return places.get(at + way.distance).map(|&place| place as usize) };
    let line = |place: u32| {
        let lines = index.len() / LINE;
        let line = ((u64::from(place.wrapping_mul(0x9e37_79b1)) * lines as u64) >> 32) as usize;
        &index[line * LINE..][..LINE]
    };
    if let Some(&place) = places.get(at + 2 * way.distance) {
        prefetch(line(place), way);
    }
    places.get(at + way.distance).map(|&place| place as usize + line(place)[0].to_bits() as usize)
}

#[inline(always)]
pub(crate) fn prefetch(values: &[f32], way: Ahead) {
    for line in values.chunks(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a prefetch never faults, whatever the address; SSE is part of x86-64.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
            match way.first_cache {
                true => _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()),
                false => _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (line, way);
    }
}
