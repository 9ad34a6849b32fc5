//! A plain mapping: rows in a file, each at its place, without an index or anything else. Its page cache is held by a cgroup.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::cgroup::{self, Cgroup};
use crate::draw::row_of;
use crate::drive::{Candidate, Failure, Site, fill};

pub(crate) struct Mapped {
    map: MmapRaw,
    rows: u64,
    dim: usize,
    threads: usize,
    path: PathBuf,
    _group: Cgroup,
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// None, and a word why, where there is no memory cgroup to be had: the page cache would hide the device.
pub(crate) fn build(site: &Site, threads: usize) -> Result<Option<Mapped>, Failure> {
    use std::io::Write;
    let path = site.dir.join(format!("embedrock-mapped-{}", std::process::id()));
    let mut file = std::io::BufWriter::with_capacity(4 << 20, File::create(&path)?);
    fill(site, |_, rows| Ok(file.write_all(bytemuck::cast_slice(rows))?))?;
    file.into_inner()?.sync_all()?;
    crate::disk::forget_file(&path)?;
    let group = match cgroup::join(site.budget) {
        Ok(group) => group,
        Err(error) => {
            eprintln!("SKIPPED, the plain mapping: no memory cgroup ({error}); it needs root, or a delegated group");
            std::fs::remove_file(&path)?;
            return Ok(None);
        }
    };
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let map = MmapOptions::new().map_raw(&file)?;
    map.advise(Advice::Random)?;
    Ok(Some(Mapped { map, rows: site.rows, dim: site.dim, threads, path, _group: group }))
}

impl Mapped {
    fn at(&self, key: u64) -> Result<usize, Failure> {
        let row = row_of(key);
        if row < self.rows { Ok(row as usize * self.dim) } else { Err("a key without a row".into()) }
    }

    fn floats(&self) -> *mut f32 {
        self.map.as_mut_ptr().cast()
    }

    fn read(&self, keys: &[u64], out: &mut [f32]) -> Result<(), Failure> {
        for (&key, out) in keys.iter().zip(out.chunks_exact_mut(self.dim)) {
            let at = self.at(key)?;
            // SAFETY: `at` is the start of a row of the mapping, which holds `rows` of them and is aligned to pages; nobody writes
            // to it meanwhile, as lookups and updates do not run at once.
            out.copy_from_slice(unsafe { std::slice::from_raw_parts(self.floats().add(at), self.dim) });
        }
        Ok(())
    }

    fn add(&self, keys: &[u64]) -> Result<(), Failure> {
        for &key in keys {
            let at = self.at(key)?;
            // SAFETY: as in `read`; the keys of the threads that update at once are divided so that none has another's rows.
            let row = unsafe { std::slice::from_raw_parts_mut(self.floats().add(at), self.dim) };
            row.iter_mut().for_each(|value| *value += 1.0);
        }
        Ok(())
    }
}

impl Candidate for Mapped {
    fn name(&self) -> &str {
        if self.threads == 1 { "plain mapping" } else { "plain mapping, 32 threads" }
    }

    fn lookup(&self, keys: &[u64], out: &mut [f32]) -> Result<(), Failure> {
        if self.threads == 1 {
            return self.read(keys, out);
        }
        let share = keys.len().div_ceil(self.threads);
        std::thread::scope(|scope| {
            let parts = keys.chunks(share).zip(out.chunks_mut(share * self.dim));
            let readers: Vec<_> = parts.map(|(keys, out)| scope.spawn(move || self.read(keys, out))).collect();
            readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|_| Err("a reader panicked".into())))
        })
    }

    fn update(&self, keys: &[u64]) -> Result<(), Failure> {
        if self.threads == 1 {
            return self.add(keys);
        }
        let mut parts = vec![Vec::new(); self.threads];
        keys.iter().for_each(|&key| parts[(row_of(key) % self.threads as u64) as usize].push(key));
        std::thread::scope(|scope| {
            let writers: Vec<_> = parts.iter().map(|keys| scope.spawn(move || self.add(keys))).collect();
            writers.into_iter().try_for_each(|writer| writer.join().unwrap_or_else(|_| Err("a writer panicked".into())))
        })
    }
}
