//! Opening a store whose files are not in the page cache: from a base, from a log, and with most rows in the cold tier.

use std::path::Path;
use std::time::Instant;

use embedrock::{At, Digest};
use rocksdb::{DB, IngestExternalFileOptions, Options, SstFileWriter};
use serde_json::{Value, json};

use crate::disk;
use crate::resident::{peak_of, resident};
use crate::site::{Failure, POOL_BYTES, Site, median, same};

/// Opens store `name` cold and the files' own reading beside it, a few times; `read` are the files with its rows.
fn opened(site: &Site, name: &str, cold: bool, read: &Path, digest: &Digest) -> Result<Opened, Failure> {
    let mut opened = Opened::default();
    for turn in 0..site.turns.min(3) {
        opened.rates.push(disk::read_rates(&disk::files(read)?)?);
        disk::forget(&site.path(name))?;
        let (before, begun) = (resident(), Instant::now());
        let (store, peak) = peak_of(|| site.open(name, cold));
        opened.seconds.push(begun.elapsed().as_secs_f64());
        let (store, _) = store?;
        opened.bytes = disk::bytes(read)?;
        opened.peak = opened.peak.max(peak.saturating_sub(before));
        if turn == 0 {
            same("the recovered store", &store.digest()?, digest)?;
        }
    }
    Ok(opened)
}

#[derive(Default)]
struct Opened {
    seconds: Vec<f64>,
    rates: Vec<disk::Rates>,
    bytes: u64,
    peak: u64,
}

impl Opened {
    fn to_json(&self, site: &Site, cold: bool) -> Value {
        let rates: Vec<f64> = self.seconds.iter().map(|seconds| self.bytes as f64 / seconds).collect();
        let of = |limit: fn(&disk::Rates) -> f64| median(rates.iter().zip(&self.rates).map(|(rate, disk)| rate / limit(disk)));
        json!({
            "mb": self.bytes as f64 / 1e6, "seconds": median(self.seconds.clone()), "mb_s": median(rates.clone()) / 1e6,
            "seconds_a_gib": median(self.seconds.clone()) / self.bytes as f64 * 2f64.powi(30),
            "disk_cached_mb_s": median(self.rates.iter().map(|r| r.cached)) / 1e6,
            "disk_direct_mb_s": median(self.rates.iter().map(|r| r.direct)) / 1e6,
            "of_cached": of(|r| r.cached), "of_best": of(|r| r.best()),
            "peak_mib": self.peak >> 20, "allowed_mib": (site.budget(cold) as u64 + POOL_BYTES) >> 20,
        })
    }
}

pub(crate) fn run(site: &Site) -> Result<Value, Failure> {
    let (store, table) = site.filled("recovery", false)?;
    let digest = store.digest()?;
    drop((store, table));
    let path = site.path("recovery");
    let log = opened(site, "recovery", false, &path.join("log"), &digest)?;
    let (store, table) = site.open("recovery", false)?;
    store.checkpoint()?;
    // A second base that follows the same commit; with it the log before can go.
    store.checkpoint()?;
    drop((store, table));
    let bases = disk::files(&path.join("base"))?.into_iter().filter_map(|file| file.parent().map(Path::to_path_buf));
    let newest = bases.filter(|dir| dir.join("hot.rows").exists()).max().ok_or("no base")?;
    let base = opened(site, "recovery", false, &newest, &digest)?;
    let restored = restore(site, ("recovery", false), &digest)?;
    site.remove("recovery")?;
    Ok(
        json!({ "log": log.to_json(site, false), "base": base.to_json(site, false), "restore": restored, "larger": larger(site)? }),
    )
}

fn restore(site: &Site, (name, cold): (&str, bool), digest: &Digest) -> Result<Value, Failure> {
    disk::forget(&site.path(name))?;
    let (before, begun) = (resident(), Instant::now());
    let (done, peak) =
        peak_of(|| embedrock::Restore::of(site.path(name)).at(At::Latest).options(site.options(cold)).to(site.path("restored")));
    done?;
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = disk::bytes(&site.path("restored"))?;
    same("the restored store", &crate::site::reopened(site, "restored", cold)?, digest)?;
    site.remove("restored")?;
    Ok(json!({ "seconds": seconds, "written_mb_s": bytes as f64 / seconds / 1e6, "memory": memory(site, cold, before, peak) }))
}

/// What was added to memory that the program held before, beside what may be.
fn memory(site: &Site, cold: bool, before: u64, peak: u64) -> Value {
    json!({
        "peak_mib": peak.saturating_sub(before) >> 20, "budget_mib": site.budget(cold) >> 20, "pool_mib": POOL_BYTES >> 20,
        "data_mib": site.data_bytes() >> 20,
    })
}

/// Most rows in the cold tier, against RocksDB taking files of the same rows in and the disk reading the hot ones.
fn larger(site: &Site) -> Result<Value, Failure> {
    drop(site.filled("larger", true)?);
    let start = resident();
    let (store, checkpoint_peak) = peak_of(|| -> Result<_, Failure> {
        let (store, table) = site.open("larger", true)?;
        site.touch(&table, 2)?;
        store.commit(b"touched")?;
        store.checkpoint()?;
        Ok(store)
    });
    let digest = store.as_ref().map_err(|error| error.to_string())?.digest()?;
    drop(store);
    let path = site.path("larger");
    let newest = disk::files(&path.join("base"))?.into_iter().filter(|file| file.ends_with("hot.rows")).max().ok_or("no base")?;
    let hot = std::fs::metadata(&newest)?.len();
    let rows = vec![newest];
    let mut ratios = Vec::new();
    let (mut ours, mut theirs, mut open_peak) = (Vec::new(), Vec::new(), Value::Null);
    for turn in 0..site.turns.min(3) {
        let read = disk::read_rates(&rows)?;
        disk::forget(&path)?;
        let (before, begun) = (resident(), Instant::now());
        let (store, most) = peak_of(|| site.open("larger", true));
        ours.push(begun.elapsed().as_secs_f64());
        let (store, _) = store?;
        open_peak = memory(site, true, before, most);
        if turn == 0 {
            same("the larger store", &store.digest()?, &digest)?;
        }
        drop(store);
        theirs.push(ingest(site)?);
        ratios.push((theirs[turn] + hot as f64 / read.best()) / ours[turn]);
    }
    let restored = restore(site, ("larger", true), &digest)?;
    site.remove("larger")?;
    Ok(json!({
        "hot_mb": hot as f64 / 1e6, "all_mb": site.data_bytes() as f64 / 1e6, "seconds": median(ours),
        "rocksdb_ingest_seconds": median(theirs), "of_ingest_and_disk": median(ratios),
        "open": open_peak, "touch_commit_checkpoint": memory(site, true, start, checkpoint_peak), "restore": restored,
    }))
}

/// Seconds in which a fresh RocksDB takes in, by link, a file of all rows that is not in the page cache.
fn ingest(site: &Site) -> Result<f64, Failure> {
    let (file, dir) = (site.path("rows.sst"), site.path("rocksdb"));
    let mut options = Options::default();
    options.create_if_missing(true);
    let mut writer = SstFileWriter::create(&options);
    writer.open(&file)?;
    let value = vec![7u8; site.dim * 8 + 4];
    for row in 0..site.rows {
        writer.put(row.to_be_bytes(), &value)?;
    }
    writer.finish()?;
    disk::forget(&site.dir)?;
    let begun = Instant::now();
    let db = DB::open(&options, &dir)?;
    let mut how = IngestExternalFileOptions::default();
    how.set_move_files(true);
    db.ingest_external_file_opts(&how, vec![&file])?;
    let seconds = begun.elapsed().as_secs_f64();
    drop(db);
    std::fs::remove_dir_all(&dir)?;
    let _ = std::fs::remove_file(&file);
    Ok(seconds)
}
