//! redb and fjall with rows that do not fit in memory, beside a plain mapping and the device's own random reads: what the engine's
//! bench `larger_than_memory` does with this store and RocksDB, by the same code.
//!
//! Both read through the page cache, so a memory cgroup holds them: what they allocate and what the kernel keeps of their files.

#[allow(dead_code, reason = "shared with the bench in memory, which needs more of it")]
mod byte_store;
#[path = "../../larger_than_memory/cgroup.rs"]
mod cgroup;
#[path = "../../larger_than_memory/device.rs"]
mod device;
#[path = "../../durability/disk.rs"]
#[allow(dead_code, reason = "shared with the bench of durability, which needs more of it")]
mod disk;
#[path = "../../larger_than_memory/draw.rs"]
mod draw;
#[path = "../../larger_than_memory/drive.rs"]
#[allow(dead_code, reason = "shared with the bench of this store, which needs more of it")]
mod drive;
mod in_fjall;
mod in_redb;
#[path = "../../larger_than_memory/mapped.rs"]
mod mapped;
#[path = "../../larger_than_memory/report.rs"]
mod report;
#[path = "../../larger_than_memory/run.rs"]
mod run;
#[path = "../../../src/bin/embedrock/bench/workload.rs"]
#[allow(dead_code, reason = "shared with the benches of lookups and updates, which need more of it")]
mod workload;

use std::path::Path;

use clap::{Parser, ValueEnum};
use fjall::KeyspaceCreateOptions;
use fjall::config::{PartitioningPolicy, PinningPolicy};

use byte_store::{ByteStore, Distinct, Temporary, read};
use cgroup::Cgroup;
use drive::{Candidate, Failure, Site};
use in_fjall::Fjall;
use in_redb::Redb;

/// What a cgroup holds beyond the budget: what this store's accounting may leave out, see docs/benchmarks.md.
const BESIDE_BUDGET: usize = 40 << 20;

#[derive(Parser)]
#[command(
    args_override_self = true,
    about = "Rows beyond memory: redb, fjall and a plain mapping beside the device's own random reads"
)]
struct Cli {
    #[command(flatten)]
    args: run::Args,
    /// What is measured
    #[arg(long, value_delimiter = ',', default_value = "redb,redb-deep,fjall,fjall-deep,mapped,mapped-deep")]
    only: Vec<Kind>,
}

/// The candidates; the deep ones divide a batch's reads over 32 threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Redb,
    RedbDeep,
    Fjall,
    FjallDeep,
    Mapped,
    MappedDeep,
}

fn main() -> Result<(), Failure> {
    let Cli { args, only } = run::parse();
    run::run(args, &only, 1.0, |kind, site| {
        // With all of the budget as its cache the kernel ends the process: what it holds beside it does not fit.
        let redb = |threads| build(site, threads, |dir, memory| Redb::open(dir, memory / 2));
        // Memtables come beside the cache, up to five of them.
        let fjall = |threads| build(site, threads, |dir, memory| Fjall::open(dir, memory / 4 * 3, fjall_options(site.budget)));
        let mapped = |threads| Ok(mapped::build(site, threads)?.map(|mapped| Box::new(mapped) as Box<dyn Candidate>));
        match kind {
            Kind::Redb => redb(1),
            Kind::RedbDeep => redb(32),
            Kind::Fjall => fjall(1),
            Kind::FjallDeep => fjall(32),
            Kind::Mapped => mapped(1),
            Kind::MappedDeep => mapped(32),
        }
    })
}

/// Index and filters whole and in memory: they are a tenth of the budget. In partitions, as fjall has them from the fourth level on, they
/// are read again and again.
fn fjall_options(budget: usize) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size((budget as u64 / 16).max(1 << 20))
        .index_block_partitioning_policy(PartitioningPolicy::all(false))
        .filter_block_partitioning_policy(PartitioningPolicy::all(false))
        .index_block_pinning_policy(PinningPolicy::all(true))
        .filter_block_pinning_policy(PinningPolicy::all(true))
}

struct Beyond<S> {
    store: S,
    name: String,
    dim: usize,
    threads: usize,
    _group: Cgroup,
    // Last, so that the store is closed by then.
    _dir: Temporary,
}

/// A process of its own fills the store, with all the memory that it wants; this one opens it with the budget. None, and a word why,
/// where there is no memory cgroup to be had: the page cache would hide the device.
fn build<S: ByteStore + 'static>(
    site: &Site,
    threads: usize,
    open: impl Fn(&Path, usize) -> Result<S, Failure>,
) -> Result<Option<Box<dyn Candidate>>, Failure> {
    if let Some(dir) = &site.fill {
        let mut store = open(dir, site.rows as usize * site.dim * 4 * 4 + (256 << 20))?;
        drive::fill(site, |keys, rows| put(&store, keys, rows, site.dim))?;
        store.settle()?;
        return Ok(None);
    }
    let dir = Temporary(site.dir.join(format!("embedrock-beyond-{}-{}", S::NAME, std::process::id())));
    std::fs::create_dir(&dir.0)?;
    if site.keep {
        let kept = site.dir.join(format!("embedrock-beyond-{}-{}x{}", S::NAME, site.rows, site.dim));
        if !kept.exists() {
            std::fs::create_dir(&kept)?;
            run::filled(&kept)?;
        }
        copy(&kept, &dir.0)?;
    } else {
        run::filled(&dir.0)?;
    }
    disk::forget(&dir.0)?;
    let group = match cgroup::join(site.budget + BESIDE_BUDGET) {
        Ok(group) => group,
        Err(error) => {
            eprintln!("SKIPPED, {}: no memory cgroup ({error}); it needs root, or a delegated group", S::NAME);
            return Ok(None);
        }
    };
    let store = open(&dir.0, site.budget)?;
    let name = if threads == 1 { S::NAME.to_owned() } else { format!("{}, {threads} threads", S::NAME) };
    Ok(Some(Box::new(Beyond { store, name, dim: site.dim, threads, _group: group, _dir: dir })))
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    for path in disk::files(from)? {
        let target = to.join(path.strip_prefix(from)?);
        std::fs::create_dir_all(target.parent().unwrap_or(to))?;
        std::fs::copy(&path, target)?;
    }
    Ok(())
}

/// Rows in the order of their keys, which come in any.
fn put<S: ByteStore>(store: &S, keys: &[u64], rows: &[f32], dim: usize) -> Result<(), Failure> {
    let distinct = Distinct::of(keys);
    let sorted: Vec<f32> =
        (0..distinct.keys.len()).flat_map(|at| &rows[distinct.positions(at)[0] * dim..][..dim]).copied().collect();
    store.put(&distinct.keys, &sorted, dim)
}

impl<S: ByteStore> Beyond<S> {
    /// The rows of ascending keys, one after the other.
    fn rows(&self, keys: &[u64]) -> Result<Vec<f32>, Failure> {
        let dim = self.dim;
        let mut rows = vec![0.0; keys.len() * dim];
        let share = keys.len().div_ceil(self.threads).max(1);
        let part = |keys: &[u64], rows: &mut [f32]| {
            let mut found = 0;
            self.store.get(keys, &mut |at, bytes| {
                read(bytes, &mut rows[at * dim..(at + 1) * dim]);
                found += 1;
            })?;
            if found == keys.len() { Ok(()) } else { Err(Failure::from("a row is missing")) }
        };
        if self.threads == 1 {
            part(keys, &mut rows)?;
            return Ok(rows);
        }
        std::thread::scope(|scope| {
            let parts = keys.chunks(share).zip(rows.chunks_mut(share * dim));
            let readers: Vec<_> = parts.map(|(keys, rows)| scope.spawn(move || part(keys, rows))).collect();
            readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|_| Err("a reader panicked".into())))
        })?;
        Ok(rows)
    }
}

impl<S: ByteStore> Candidate for Beyond<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn lookup(&self, keys: &[u64], out: &mut [f32]) -> Result<(), Failure> {
        let (distinct, dim) = (Distinct::of(keys), self.dim);
        let rows = self.rows(&distinct.keys)?;
        for (at, row) in rows.chunks_exact(dim).enumerate() {
            distinct.positions(at).iter().for_each(|&position| out[position * dim..(position + 1) * dim].copy_from_slice(row));
        }
        Ok(())
    }

    fn update(&self, keys: &[u64]) -> Result<(), Failure> {
        let distinct = Distinct::of(keys);
        let mut rows = self.rows(&distinct.keys)?;
        for (at, row) in rows.chunks_exact_mut(self.dim).enumerate() {
            row.iter_mut().for_each(|value| *value += distinct.positions(at).len() as f32);
        }
        self.store.put(&distinct.keys, &rows, self.dim)
    }
}
