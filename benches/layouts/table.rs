//! An index of lines over rows, as a candidate of the bench: a pipeline over the keys of a batch.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use crate::bench::candidate::{Built, Candidate, Failure};
use crate::bench::limit::{Ahead, Floats, prefetch};
use crate::bench::workload::{Batch, Site, adagrad, all_rows, initial_state, value_of};
use crate::line::{Keys, Line, Tags};
use crate::rows::{Layout, Rows};

/// Keys between the request for a line and its use, and again between that for a row and its use.
const AHEAD: usize = 16;
const WAY: Ahead = Ahead { distance: AHEAD, first_cache: true };
/// Keys for a hundred places.
const LOAD_PERCENT: usize = 85;

pub(crate) fn tags_and_metas(site: &Site) -> Built {
    build::<Tags>("12 tags a line, metas apart", site, Layout::Apart)
}

pub(crate) fn tags_and_blocks(site: &Site) -> Built {
    build::<Tags>("12 tags a line, metas in blocks of 8", site, Layout::Blocks)
}

pub(crate) fn tags_and_headers(site: &Site) -> Built {
    build::<Tags>("12 tags a line, metas before rows", site, Layout::Headers)
}

/// The metas are there, but a lookup does not see them.
pub(crate) fn keys(site: &Site) -> Built {
    build::<Keys>("5 keys a line, metas apart", site, Layout::Apart)
}

struct Table<L> {
    name: &'static str,
    dim: usize,
    parts: Vec<Mutex<Part<L>>>,
}

/// What one thread has.
struct Part<L> {
    lines: Floats,
    rows: Rows,
    _line: std::marker::PhantomData<L>,
}

fn build<L: Line + Send + Sync>(name: &'static str, site: &Site, layout: Layout) -> Built {
    let begun = Instant::now();
    let mut parts = Vec::new();
    for thread in 0..site.threads {
        let count = site.rows_of(thread);
        let lines = count * 100 / LOAD_PERCENT / L::WIDTH + 4;
        let lines = Floats::new(lines * size_of::<L>() / 4)?;
        let mut part = Part { lines, rows: Rows::new(layout, site.lanes(), count)?, _line: std::marker::PhantomData::<L> };
        for (batch, numbers) in all_rows(site, thread) {
            for ((&key, &place), &row) in batch.keys.iter().zip(&batch.places).zip(&numbers) {
                part.insert(key, place);
                let (embedding, state) = part.rows.row_mut(place).split_at_mut(site.dim);
                embedding.fill(value_of(row));
                state.fill(initial_state());
            }
        }
        parts.push(Mutex::new(part));
    }
    Ok(Some((Box::new(Table { name, dim: site.dim, parts }), begun.elapsed().as_secs_f64())))
}

fn home(key: u64, lines: usize) -> usize {
    ((u64::from(key as u32) * lines as u64) >> 32) as usize
}

/// The lines in which a key is looked for: its home, one far off, then those after that.
fn path(key: u64, lines: usize) -> impl Iterator<Item = usize> {
    let far = (home(key, lines) + 1 + (((key >> 43 & 0x1ff) * (lines as u64 - 1)) >> 9) as usize) % lines;
    std::iter::once(home(key, lines)).chain((0..lines).map(move |step| (far + step) % lines))
}

impl<L: Line> Part<L> {
    #[inline(always)]
    fn lines(&self) -> &[L] {
        bytemuck::cast_slice(self.lines.get())
    }

    fn insert(&mut self, key: u64, row: u32) {
        let lines: &mut [L] = bytemuck::cast_slice_mut(self.lines.get_mut());
        let count = lines.len();
        for at in path(key, count) {
            if lines[at].push(key, row) {
                break;
            }
            lines[at].pass(key);
        }
        self.rows.set_key(row, key);
    }

    #[inline(always)]
    fn find(&self, key: u64, is_its: impl Fn(u32) -> bool) -> Option<u32> {
        let lines = self.lines();
        let first = &lines[home(key, lines.len())];
        if let Some(row) = find_in(first, key, &is_its) {
            return Some(row);
        }
        if first.has_passed(key) { self.find_beyond(key, &is_its) } else { None }
    }

    #[inline(never)]
    fn find_beyond(&self, key: u64, is_its: &dyn Fn(u32) -> bool) -> Option<u32> {
        let lines = self.lines();
        for at in path(key, lines.len()).skip(1) {
            let found = find_in(&lines[at], key, is_its);
            if found.is_some() || !lines[at].has_passed(key) {
                return found;
            }
        }
        None
    }

    /// Calls `with` for each key and its row, which is near by then.
    #[inline(always)]
    fn each(&mut self, keys: &[u64], lanes: usize, mut with: impl FnMut(&mut Rows, usize, Option<u32>)) {
        let mut ring = [None; AHEAD];
        for step in 0..keys.len() + 2 * AHEAD {
            if let Some(&key) = keys.get(step) {
                let line = &self.lines()[home(key, self.lines().len())];
                prefetch(bytemuck::cast_slice(std::slice::from_ref(line)), WAY);
            }
            if let Some(at) = step.checked_sub(2 * AHEAD) {
                let (key, likely) = (keys[at], ring[at % AHEAD]);
                let row = match likely {
                    Some(row) if L::WHOLE_KEYS || self.rows.key(row) == key => Some(row),
                    Some(_) => self.find(key, |row| self.rows.key(row) == key),
                    None => None,
                };
                with(&mut self.rows, at, row);
            }
            if let Some(&key) = step.checked_sub(AHEAD).and_then(|at| keys.get(at)) {
                let likely = self.find(key, |_| true);
                likely.iter().for_each(|&row| self.rows.prefetch(row, lanes, !L::WHOLE_KEYS, WAY));
                ring[step % AHEAD] = likely;
            }
        }
    }
}

#[inline(always)]
fn find_in<L: Line>(line: &L, key: u64, is_its: &(impl Fn(u32) -> bool + ?Sized)) -> Option<u32> {
    let mut places = line.matches(key);
    while places != 0 {
        let row = line.row(places.trailing_zeros() as usize);
        if is_its(row) {
            return Some(row);
        }
        places &= places - 1;
    }
    None
}

impl<L: Line> Table<L> {
    fn part(&self, thread: usize) -> Result<MutexGuard<'_, Part<L>>, Failure> {
        self.parts[thread].lock().map_err(|_| "another thread panicked".into())
    }

    #[inline(always)]
    fn lookup_as<const D: usize>(&self, thread: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure> {
        let dim = if D == 0 { self.dim } else { D };
        self.part(thread)?.each(&batch.keys, dim, |rows, at, row| {
            let out = &mut out[at * dim..][..dim];
            match row {
                Some(row) => out.copy_from_slice(&rows.row(row)[..dim]),
                None => out.fill(0.0),
            }
        });
        Ok(())
    }
}

impl<L: Line + Send + Sync> Candidate for Table<L> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn sums_duplicates(&self) -> bool {
        false
    }

    fn lookup(&self, thread: usize, batch: &Batch, out: &mut [f32]) -> Result<(), Failure> {
        match self.dim {
            16 => self.lookup_as::<16>(thread, batch, out),
            32 => self.lookup_as::<32>(thread, batch, out),
            64 => self.lookup_as::<64>(thread, batch, out),
            128 => self.lookup_as::<128>(thread, batch, out),
            _ => self.lookup_as::<0>(thread, batch, out),
        }
    }

    fn update(&self, thread: usize, batch: &Batch, gradients: &[f32]) -> Result<(), Failure> {
        let dim = self.dim;
        let mut missing = false;
        self.part(thread)?.each(&batch.keys, 2 * dim, |rows, at, row| match row {
            Some(row) => {
                let (weights, sums) = rows.row_mut(row).split_at_mut(dim);
                adagrad(weights, sums, &gradients[at * dim..][..dim]);
            }
            None => missing = true,
        });
        if missing { Err("a row is missing".into()) } else { Ok(()) }
    }
}
