//! The log of deltas: what goes into the open one, and how a commit closes it.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use crate::catalog::Catalog;
use crate::context::{Journal, lock, read, write};
use crate::error::{Error, Result};
use crate::fs::{Fs, names};
use crate::log::{CommitRecord, FrameBuf, LogWriter, Mark, MarkRecord, SegmentHeader};
use crate::shard::{IMAGE_HEADER_BYTES, Shard, push_image};
use crate::table::TableInner;
use crate::types::{CommitHash, CommitId, Key, TableId};

/// Payload bytes after which a frame is closed.
pub(crate) const FRAME_BYTES: usize = 1 << 20;
/// A segment is closed at the first commit after this many bytes.
const SEGMENT_BYTES: u64 = 256 << 20;

/// A commit as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Its name.
    pub id: CommitId,
    /// A hash over it and its ancestors.
    pub hash: CommitHash,
    /// The store's clock at the commit: the largest event time seen, if any.
    pub clock: Option<u32>,
    /// The trainer's own state, as given to the commit.
    pub state: Arc<[u8]>,
}

/// Where the log goes on.
pub(crate) struct Tip {
    pub(crate) record: CommitRecord,
    pub(crate) state: Arc<[u8]>,
    pub(crate) timeline: u64,
    pub(crate) next_segment: u64,
}

/// See the module.
pub(crate) struct DeltaLog {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    uuid: [u8; 16],
    poison: Arc<OnceLock<String>>,
    state: Mutex<State>,
}

struct State {
    tip: Tip,
    writer: Option<LogWriter>,
    mark: Option<Mark>,
    /// Frames of the open delta that no later commit could write again: images of demoted rows, tables created or dropped.
    kept_frames: u64,
    frames: u64,
    /// The newest base that was completed by this process: the next commit makes it valid.
    base: u64,
}

/// A shard and the admission counts that were taken from it for a delta.
type Drained<'a> = (&'a RwLock<Shard>, Vec<(Key, u32)>);

impl Journal for DeltaLog {
    fn append_images(&self, table: TableId, lanes: usize, images: &[u8]) -> Result<()> {
        let size = IMAGE_HEADER_BYTES + lanes * 4;
        let mut state = lock(&self.state);
        for chunk in images.chunks((FRAME_BYTES / size).max(1) * size) {
            self.append_kept(&mut state, &FrameBuf::rows(table, lanes as u32, chunk))?;
        }
        Ok(())
    }

    fn append_removed(&self, table: TableId, keys: &[Key]) -> Result<()> {
        self.append_kept(&mut lock(&self.state), &FrameBuf::removed(table, keys))
    }
}

impl DeltaLog {
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path, uuid: [u8; 16], tip: Tip, poison: Arc<OnceLock<String>>) -> DeltaLog {
        let state = State { tip, writer: None, mark: None, kept_frames: 0, frames: 0, base: 0 };
        DeltaLog { fs, dir: dir.to_path_buf(), uuid, poison, state: Mutex::new(state) }
    }

    /// Makes a table's creation, settings or end part of the open delta.
    pub(crate) fn append_frame(&self, frame: &FrameBuf) -> Result<()> {
        self.append_kept(&mut lock(&self.state), frame)
    }

    /// The commit that the next one follows, and its state.
    pub(crate) fn tip(&self) -> (CommitRecord, Arc<[u8]>) {
        let state = lock(&self.state);
        (state.tip.record.clone(), Arc::clone(&state.tip.state))
    }

    /// Sets what the next commit follows, once recovery has rebuilt it.
    pub(crate) fn set_tip(&self, record: CommitRecord, trainer_state: Arc<[u8]>) {
        let mut state = lock(&self.state);
        (state.tip.record, state.tip.state) = (record, trainer_state);
    }

    /// The segment in which the next delta begins.
    pub(crate) fn segment(&self) -> u64 {
        let state = lock(&self.state);
        state.writer.as_ref().map_or(state.tip.next_segment, |_| state.tip.next_segment - 1)
    }

    /// From now on commits say that base `number` is complete.
    pub(crate) fn set_base(&self, number: u64) {
        lock(&self.state).base = number;
    }

    pub(crate) fn poison(&self, reason: &str) {
        let _ = self.poison.set(reason.to_owned());
    }

    fn append_kept(&self, state: &mut State, frame: &FrameBuf) -> Result<()> {
        self.append(state, frame)?;
        state.kept_frames += 1;
        Ok(())
    }

    /// Until a commit frame follows, what is appended counts for nothing. A segment that failed is left behind: the next one names
    /// the last commit as its parent, so the reader passes over the rest. Only frames that are kept nowhere else make that a loss.
    fn append(&self, state: &mut State, frame: &FrameBuf) -> Result<()> {
        if let Some(reason) = self.poison.get() {
            return Err(Error::Poisoned { reason: reason.clone() });
        }
        if state.writer.is_none() {
            state.writer = Some(self.create_segment(state)?);
            state.frames = 0;
        }
        let Some(writer) = &mut state.writer else { return Ok(()) };
        if let Err(error) = writer.append(frame) {
            self.abandon_segment(state, &error);
            return Err(error);
        }
        state.frames += 1;
        Ok(())
    }

    fn abandon_segment(&self, state: &mut State, error: &Error) {
        state.writer = None;
        state.frames = 0;
        if state.kept_frames > 0 {
            self.poison(&error.to_string());
        }
    }

    fn create_segment(&self, state: &mut State) -> Result<LogWriter> {
        let number = state.tip.next_segment;
        let header = SegmentHeader {
            store: self.uuid,
            segment: number,
            timeline: state.tip.timeline,
            parent: state.tip.record.id,
            parent_hash: state.tip.record.hash,
        };
        // Never used again, even if the creation fails half way.
        state.tip.next_segment += 1;
        LogWriter::create(&*self.fs, &names::segment(&self.dir, number), &header)
    }

    /// Closes the open delta with all rows touched since the last commit, the changed admission counts and `trainer_state`.
    ///
    /// The gate is held alone: the cut is between two batches. Durable when it returns. On an error either nothing changed and
    /// the rows stay uncommitted, or the store is poisoned.
    pub(crate) fn commit(&self, catalog: &Catalog, trainer_state: impl FnOnce() -> Vec<u8>) -> Result<CommitRecord> {
        let _gate = write(&catalog.context.gate);
        catalog.context.check_writable()?;
        let trainer_state: Arc<[u8]> = trainer_state().into();
        let tables = catalog.tables();
        let mut drained = Vec::new();
        let result =
            self.write_delta(&tables, &trainer_state, &mut drained).and_then(|()| self.close_delta(catalog, &trainer_state));
        match result {
            Ok(record) => {
                for table in &tables {
                    table.shards().iter().for_each(|shard| write(shard).mark_committed());
                }
                Ok(record)
            }
            Err(error) => {
                for (shard, changes) in drained {
                    write(shard).counts_mut().put_back_changes(&changes);
                }
                Err(error)
            }
        }
    }

    fn write_delta<'a>(&self, tables: &'a [Arc<TableInner>], trainer_state: &[u8], drained: &mut Vec<Drained<'a>>) -> Result<()> {
        for table in tables {
            let lanes = table.schema().lanes();
            for shard in table.shards() {
                self.write_uncommitted(table.id, lanes, &read(shard))?;
                let changes = write(shard).counts_mut().drain_changes();
                for chunk in changes.chunks(FRAME_BYTES / 12) {
                    self.append(&mut lock(&self.state), &FrameBuf::counts(table.id, chunk))?;
                }
                drained.push((shard, changes));
            }
        }
        for chunk in trainer_state.chunks(FRAME_BYTES) {
            self.append(&mut lock(&self.state), &FrameBuf::state(chunk))?;
        }
        Ok(())
    }

    fn write_uncommitted(&self, table: TableId, lanes: usize, shard: &Shard) -> Result<()> {
        let (mut images, mut removed) = (Vec::new(), Vec::new());
        shard.for_each_uncommitted(&mut |key, row| {
            match row {
                Some((time, row)) => push_image(&mut images, key, time, row),
                None => removed.push(key),
            }
            if images.len() + IMAGE_HEADER_BYTES + lanes * 4 > FRAME_BYTES {
                self.append(&mut lock(&self.state), &FrameBuf::rows(table, lanes as u32, &images))?;
                images.clear();
            }
            Ok(())
        })?;
        if !images.is_empty() {
            self.append(&mut lock(&self.state), &FrameBuf::rows(table, lanes as u32, &images))?;
        }
        for chunk in removed.chunks(FRAME_BYTES / 8) {
            self.append(&mut lock(&self.state), &FrameBuf::removed(table, chunk))?;
        }
        Ok(())
    }

    /// Appends the commit frame, makes everything durable, publishes the mark.
    fn close_delta(&self, catalog: &Catalog, trainer_state: &Arc<[u8]>) -> Result<CommitRecord> {
        let state = &mut *lock(&self.state);
        if state.writer.is_none() {
            state.writer = Some(self.create_segment(state)?);
        }
        let mark = match state.mark.take() {
            Some(mark) => mark,
            None => Mark::open_or_create(&*self.fs, &names::durable(&self.dir))?,
        };
        let mark = state.mark.insert(mark);
        let Some(writer) = &mut state.writer else { return Err(Error::Poisoned { reason: "no log".into() }) };
        let parent = &state.tip.record;
        let mut record = CommitRecord {
            id: CommitId { timeline: state.tip.timeline, sequence: parent.id.sequence + 1 },
            parent: parent.hash,
            state_bytes: trainer_state.len() as u64,
            frames: state.frames,
            base: state.base,
            ..describe(catalog)
        };
        record.seal(writer.chain());
        if let Err(error) = writer.append(&FrameBuf::commit(&record)).and_then(|()| writer.flush()) {
            self.abandon_segment(state, &error);
            return Err(error);
        }
        if let Err(error) = writer.sync() {
            // What reached the disk is unknown: the commit may come back or not, so nothing may follow it.
            self.poison(&error.to_string());
            return Err(error);
        }
        let (segment, offset) = (state.tip.next_segment - 1, writer.position());
        if let Err(error) = mark.publish(MarkRecord { segment, offset, id: record.id, hash: record.hash }) {
            tracing::warn!(%error, "the commit is durable, but its mark could not be published");
            state.mark = None;
        }
        if offset >= SEGMENT_BYTES {
            state.writer = None;
        }
        state.tip.record = record.clone();
        state.tip.state = Arc::clone(trainer_state);
        (state.frames, state.kept_frames) = (0, 0);
        Ok(record)
    }
}

/// What a commit record says of the store as it stands: clock, batches, rows.
pub(crate) fn describe(catalog: &Catalog) -> CommitRecord {
    let rows = |table: &Arc<TableInner>| (table.id, u64::try_from(table.counters().rows.load(Ordering::Relaxed)).unwrap_or(0));
    CommitRecord {
        clock: lock(&catalog.context.clock).latest(),
        batches: catalog.context.batches.load(Ordering::Relaxed),
        rows: catalog.tables().iter().map(rows).collect(),
        next_table: catalog.next_table(),
        ..CommitRecord::default()
    }
}
