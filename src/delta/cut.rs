//! A delta from its cut to its commit frame: what it must hold, and how far its writing got.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::visits::{Visit, Visits, write_if};
use super::{DeltaLog, FRAME_BYTES};
use crate::admission::{IMAGE_BYTES, Images, PARTITIONS};
use crate::catalog::Catalog;
use crate::context::{lock, write};
use crate::error::Result;
use crate::kill_point::{KillPoint, reach};
use crate::log::{CommitRecord, FrameBuf};
use crate::plant::{Bug, planted};
use crate::shard::{IMAGE_HEADER_BYTES, Part};
use crate::table::TableInner;

/// Keys looked up under one lock of a shard, so that no batch waits long for the delta's writer.
const KEYS_A_VISIT: usize = 256;

/// See the module. A failed write leaves it as it was: [`Cut::write`] goes on from there.
pub(crate) struct Cut {
    pub(super) epoch: u64,
    /// The commit record, but for what only the log knows at the end.
    pub(super) record: CommitRecord,
    pub(super) trainer_state: Arc<[u8]>,
    tables: Vec<Arc<TableInner>>,
    /// The table whose rows are moved out, and which of its shards still have some.
    table: usize,
    shards: Visits<usize>,
    /// The first partition of its filter that may still owe lines.
    partition: usize,
    /// Moved out of a shard of this table, not yet in the log.
    part: Part,
    part_of: usize,
    state_written: usize,
}

impl Cut {
    /// Cuts between two batches. The gate is held alone for no longer than `trainer_state` and a few loads take.
    pub(crate) fn take(log: &DeltaLog, catalog: &Catalog, trainer_state: impl FnOnce() -> Vec<u8>) -> Result<Cut> {
        let context = &catalog.context;
        let _gate = write(&context.gate);
        context.check_writable()?;
        let trainer_state: Arc<[u8]> = trainer_state().into();
        let record = CommitRecord { state_bytes: trainer_state.len() as u64, ..log.next_record(describe(catalog)) };
        let epoch = context.epoch.fetch_add(1, Ordering::AcqRel);
        let tables = catalog.tables();
        reach(KillPoint::CutTaken);
        let shards = shards_of(&tables, 0);
        Ok(Cut {
            epoch,
            record,
            trainer_state,
            tables,
            table: 0,
            shards,
            partition: 0,
            part: Part::default(),
            part_of: 0,
            state_written: 0,
        })
    }

    /// What the commit will be called.
    pub(crate) fn record(&self) -> &CommitRecord {
        &self.record
    }

    /// Moves rows from the shards, as they stood at the cut, and the trainer's state into the log.
    pub(super) fn write(&mut self, log: &DeltaLog) -> Result<()> {
        while self.write_some(log, KEYS_A_VISIT)? {
            log.sync_early()?;
        }
        Ok(())
    }

    /// Moves the rows of up to `keys` keys, or a piece of the state; returns whether there may be more.
    pub(super) fn write_some(&mut self, log: &DeltaLog, keys: usize) -> Result<bool> {
        self.write_part(log)?;
        if let Some(table) = self.tables.get(self.table) {
            if table.context.captures.is_crowded() {
                self.relieve(log)?;
            }
            let (table, part) = (&self.tables[self.table], &mut self.part);
            self.part_of = self.table;
            let more = self.shards.make(|&mut at, wait| match write_if(&table.shards()[at], wait) {
                None => Visit::Refused,
                Some(mut shard) => Visit::made(shard.capture(&table.context, keys, part)),
            });
            if !more {
                match capture_filter(table, self.partition, keys, part) {
                    Some(partition) => self.partition = partition,
                    None => {
                        (self.table, self.partition) = (self.table + 1, 0);
                        self.shards = shards_of(&self.tables, self.table);
                    }
                }
            }
            reach(KillPoint::ShardVisited);
            return Ok(true);
        }
        let end = (self.state_written + FRAME_BYTES).min(self.trainer_state.len());
        if end > self.state_written {
            log.append_now(&FrameBuf::state(&self.trainer_state[self.state_written..end]))?;
            self.state_written = end;
            reach(KillPoint::StateAppended);
        }
        Ok(end < self.trainer_state.len())
    }

    fn write_part(&mut self, log: &DeltaLog) -> Result<()> {
        match self.tables.get(self.part_of) {
            Some(table) => write_part(table, &mut self.part, &mut |frame| log.append_now(frame)),
            None => Ok(()),
        }
    }

    /// Writes what batches kept aside, wherever it is: where they come first they would wait for the writer to come by.
    fn relieve(&mut self, log: &DeltaLog) -> Result<()> {
        for at in self.table..self.tables.len() {
            let table = Arc::clone(&self.tables[at]);
            self.part_of = at;
            for shard in table.shards() {
                if let Some(mut shard) = write_if(shard, false) {
                    shard.hand_over_kept(&table.context, &mut self.part);
                }
                self.write_part(log)?;
            }
        }
        Ok(())
    }

    /// Once durable: counts nothing as uncommitted that is committed, and frees removed rows.
    pub(crate) fn settle(&self) -> Result<()> {
        for table in &self.tables {
            let schema = table.schema();
            for shard in table.shards() {
                write(shard).committed();
                while !write(shard).sweep_tombstones(&table.env(&schema))? {}
            }
        }
        reach(KillPoint::CommitSettled);
        Ok(())
    }
}

/// Moves lines of the first partition of a filter, from `partition` on, that owes any to the delta being written, to `part`. Returns where
/// to go on.
fn capture_filter(table: &TableInner, partition: usize, lines: usize, part: &mut Part) -> Option<usize> {
    if table.filter_bytes() == 0 {
        return None;
    }
    (partition..PARTITIONS).find_map(|at| {
        let (done, kept) = table.filter().capture(at, lines, table.context.epoch(), &mut part.filter);
        table.context.captures.release(kept);
        if part.filter.shape.lines > 0 { Some(at + usize::from(done)) } else { None }
    })
}

fn shards_of(tables: &[Arc<TableInner>], at: usize) -> Visits<usize> {
    Visits::new(0..tables.get(at).map_or(0, |table| table.shards().len()))
}

/// Writes a part and empties it piece by piece, so that after a failure what is left is what was not written.
pub(crate) fn write_part(table: &TableInner, part: &mut Part, append: &mut dyn FnMut(&FrameBuf<'_>) -> Result<()>) -> Result<()> {
    let lanes = table.schema().lanes();
    let image_bytes = IMAGE_HEADER_BYTES + lanes * 4;
    while !part.images.is_empty() {
        let end = part.images.len().min((FRAME_BYTES / image_bytes).max(1) * image_bytes);
        let start = part.images.len() - end;
        append(&FrameBuf::rows(table.id, lanes as u32, &part.images[start..]))?;
        part.images.truncate(start);
    }
    while !part.removed.is_empty() {
        let start = part.removed.len() - part.removed.len().min(FRAME_BYTES / 8);
        append(&FrameBuf::removed(table.id, &part.removed[start..]))?;
        part.removed.truncate(start);
    }
    while !part.counts.is_empty() {
        let start = part.counts.len() - part.counts.len().min(FRAME_BYTES / 12);
        append(&FrameBuf::counts(table.id, &part.counts[start..]))?;
        part.counts.truncate(start);
    }
    while part.filter.shape.lines > 0 {
        let lines = &part.filter.lines;
        let start = lines.len() - lines.len().min(FRAME_BYTES / IMAGE_BYTES * IMAGE_BYTES);
        append(&FrameBuf::filter(table.id, &part.filter, &lines[start..]))?;
        part.filter.lines.truncate(start);
        if start == 0 {
            part.filter = Images::default();
        }
    }
    Ok(())
}

/// What a commit record says of the store as it stands: clock, batches, rows.
fn describe(catalog: &Catalog) -> CommitRecord {
    let rows = |table: &Arc<TableInner>| (table.id, u64::try_from(table.counters().rows.load(Ordering::Relaxed)).unwrap_or(0));
    CommitRecord {
        clock: lock(&catalog.context.clock).latest().filter(|_| !planted(Bug::ClockLost)),
        batches: catalog.context.batches.load(Ordering::Relaxed),
        rows: catalog.tables().iter().map(rows).collect(),
        next_table: catalog.next_table(),
        ..CommitRecord::default()
    }
}
