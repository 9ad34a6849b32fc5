//! Writing a base: all hot rows, then a checkpoint of the cold tier, then the manifest, published by a rename.
//!
//! Bases are fuzzy: batches and commits go on meanwhile, so a base holds rows newer than the commit B it follows. It is valid
//! once a commit E that was cut after its last byte is durable; E's record names it. Recovery to any target from E on loads the
//! base and applies the deltas after B, whose after-images cover every row that changed since.
#![forbid(unsafe_code)]

use std::path::Path;
use std::sync::atomic::Ordering;

use crate::admission::PARTITIONS;
use crate::catalog::Catalog;
use crate::codec::BlockSums;
use crate::delta::{FRAME_BYTES, Visit, Visits, read_if, write_part};
use crate::error::Result;
use crate::fs::{Fs, SyncAhead, names};
use crate::kill_point::{KillPoint, reach};
use crate::log::{CommitRecord, FrameBuf, LogWriter, SegmentHeader};
use crate::manifest::{BLOCK_BYTES, FileSum, Manifest};
use crate::plant::{Bug, planted};
use crate::shard::{Part, Scan};
use crate::table::TableInner;

/// Buckets of an index copied under one lock.
const BUCKETS_A_VISIT: usize = 64;
/// Lines of an admission filter copied under one lock.
const LINES_A_VISIT: usize = 1024;
/// Shards visited in turn.
const SHARDS_TOGETHER: usize = 8;
/// How the names of RocksDB's files of rows end. One is written once, and no other of a live directory ever has its number.
const SORTED: &str = ".sst";

/// Where and after what a base is written.
pub(crate) struct BasePlan<'a> {
    pub(crate) fs: &'a dyn Fs,
    pub(crate) dir: &'a Path,
    pub(crate) uuid: [u8; 16],
    pub(crate) number: u64,
    /// The last commit before the base and its trainer state.
    pub(crate) begin: &'a CommitRecord,
    pub(crate) state: &'a [u8],
    pub(crate) first_segment: u64,
    /// Sums of files of the cold tier that are as they were when these were made: those of a base written, or opened, before by the
    /// same process. Files of the one kind that never changes are not read again for them.
    pub(crate) known: &'a [FileSum],
    /// Is told how many bytes of hot rows were written.
    pub(crate) told: &'a dyn Fn(u64),
}

/// Writes base `number` and publishes it. On an error nothing is left but a `tmp-` directory that the next open removes.
pub(crate) fn write_base(plan: &BasePlan<'_>, catalog: &Catalog) -> Result<Manifest> {
    names::check_number(plan.number, &names::base(plan.dir, plan.number))?;
    let temporary = names::temporary(plan.dir, &format!("base-{}", plan.number));
    if plan.fs.exists(&temporary)? {
        plan.fs.remove_dir_all(&temporary)?;
    }
    let result = write_files(plan, catalog, &temporary);
    if result.is_err() {
        let _ = plan.fs.remove_dir_all(&temporary);
    }
    result
}

fn write_files(plan: &BasePlan<'_>, catalog: &Catalog, temporary: &Path) -> Result<Manifest> {
    let fs = plan.fs;
    fs.create_dir(temporary)?;
    let unchanged = || catalog.context.batches.load(Ordering::SeqCst) == plan.begin.batches;
    let early = planted(Bug::StillTooEarly) && unchanged();
    let hot_rows = write_hot_rows(plan, catalog, &temporary.join(names::HOT_ROWS))?;
    reach(KillPoint::HotRowsWritten);
    catalog.context.cold.checkpoint(&temporary.join(names::COLD))?;
    reach(KillPoint::ColdCheckpointed);
    // Read after the last byte: a batch that came in between makes the base wait for a commit.
    let still = early || unchanged();
    let mut files = vec![hot_rows];
    for entry in fs.list(&temporary.join(names::COLD))? {
        let name = format!("{}/{}", names::COLD, entry.name);
        let known = plan.known.iter().find(|file| file.name == name && file.bytes == entry.len && name.ends_with(SORTED));
        files.push(known.map_or_else(|| FileSum::of(fs, temporary, name.clone()), |file| Ok(file.clone()))?);
    }
    let manifest = Manifest {
        number: plan.number,
        begin: plan.begin.id,
        begin_hash: plan.begin.hash,
        still,
        first_segment: plan.first_segment,
        files,
    };
    let mut file = fs.create(&temporary.join(names::MANIFEST))?;
    file.append(&manifest.encode())?;
    file.sync()?;
    drop(file);
    fs.sync_dir(&temporary.join(names::COLD))?;
    fs.sync_dir(temporary)?;
    reach(KillPoint::ManifestWritten);
    // The rename is the moment of truth: before it the directory is litter, after it a base.
    let bases = names::bases(plan.dir);
    fs.rename(temporary, &names::base(plan.dir, plan.number))?;
    reach(KillPoint::BaseRenamed);
    fs.sync_dir(&bases)?;
    reach(KillPoint::BaseNamed);
    Ok(manifest)
}

fn write_hot_rows(plan: &BasePlan<'_>, catalog: &Catalog, path: &Path) -> Result<FileSum> {
    let header = SegmentHeader {
        store: plan.uuid,
        segment: plan.number,
        timeline: plan.begin.id.timeline,
        parent: plan.begin.id,
        parent_hash: plan.begin.hash,
        continues: false,
    };
    let mut writer = LogWriter::create_summed(plan.fs, path, &header, BLOCK_BYTES)?;
    let mut ahead = SyncAhead::default();
    for table in catalog.tables() {
        let schema = table.schema().encode();
        writer.append(&FrameBuf::create_table(table.id, &schema))?;
        write_table(plan, &mut writer, &mut ahead, &table)?;
    }
    for chunk in plan.state.chunks(FRAME_BYTES) {
        writer.append(&FrameBuf::state(chunk))?;
    }
    writer.append(&FrameBuf::commit(plan.begin))?;
    ahead.finish()?;
    let sums = writer.finish()?.unwrap_or_else(|| BlockSums::new(BLOCK_BYTES));
    Ok(FileSum::written(names::HOT_ROWS.to_owned(), sums))
}

/// A few buckets of each of some shards in turn, so that no batch waits long, and whoever loads them finds work for several threads. Not
/// of all: the longer a shard is visited, the likelier its index grows meanwhile, and its visits begin again.
fn write_table(plan: &BasePlan<'_>, writer: &mut LogWriter, ahead: &mut SyncAhead, table: &TableInner) -> Result<()> {
    let mut part = Part::default();
    for shards in table.shards().chunks(SHARDS_TOGETHER) {
        let (mut visits, mut more) = (Visits::new(shards.iter().map(|shard| (shard, Scan::default()))), true);
        while more {
            more = visits.make(|(shard, scan), wait| match read_if(shard, wait) {
                None => Visit::Refused,
                Some(shard) => Visit::made(shard.scan(scan, BUCKETS_A_VISIT, &mut part)),
            });
            if !more || part.images.len() >= FRAME_BYTES {
                write_part(table, &mut part, &mut |frame| writer.append(frame))?;
                ahead.grown(writer.position(), || writer.syncer())?;
                (plan.told)(writer.position());
            }
        }
    }
    write_filter(writer, table)
}

/// The table's admission filter, if it has one.
pub(crate) fn write_filter(writer: &mut LogWriter, table: &TableInner) -> Result<()> {
    let mut part = Part::default();
    if table.filter_bytes() == 0 {
        return Ok(());
    }
    for partition in 0..PARTITIONS {
        let mut line = Some(0);
        while let Some(from) = line {
            line = table.filter().scan(partition, from, LINES_A_VISIT, &mut part.filter);
            write_part(table, &mut part, &mut |frame| writer.append(frame))?;
        }
    }
    Ok(())
}
