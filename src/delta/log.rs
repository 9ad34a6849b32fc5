//! The log as it grows: frames of the delta being written and of the one after it, and the commit frame that closes a delta.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{Cut, FIRST_EPOCH, FRAME_BYTES};
use crate::context::{Journal, lock};
use crate::error::{Error, Result};
use crate::fs::{Fs, SyncAhead, names};
use crate::kill_point::{KillPoint, reach};
use crate::log::{CommitRecord, FrameBuf, LogWriter, Mark, MarkRecord, SegmentHeader};
use crate::plant::{Bug, planted};
use crate::shard::IMAGE_HEADER_BYTES;
use crate::sync::{Mutex, MutexGuard};
use crate::types::{CommitId, Key, TableId};
use crate::waits::{Meter, Wait};

/// A segment is closed at the first commit after this many bytes.
const SEGMENT_BYTES: u64 = 256 << 20;
/// With so much not yet durable, most is synced ahead of the commit frame, while others may go on appending.
const SYNC_AHEAD_BYTES: u64 = 1 << 20;
/// Commits written and not yet synced, after which the next one waits: their trainer states are held in memory.
const MAX_UNSYNCED: usize = 64;

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
    /// Held by whoever syncs on behalf of all commits written by then. Taken before `state`.
    syncing: Mutex<()>,
    /// Held while the segment is synced: of two syncs of one file at once either may be told of a failure, and the other not.
    ahead: Mutex<SyncAhead>,
    /// How long batches waited for `state`.
    waits: Meter,
}

/// A commit in the log that is durable with the next sync.
struct Written {
    record: CommitRecord,
    trainer_state: Arc<[u8]>,
    mark: MarkRecord,
}

struct State {
    /// The last durable commit.
    tip: Tip,
    /// The commits after it, oldest first; all in the segment that is open.
    unsynced: VecDeque<Written>,
    writer: Option<LogWriter>,
    mark: Option<Mark>,
    /// The epoch of the delta being written.
    epoch: u64,
    /// Frames of the delta being written, and whether any belongs to the next.
    frames: u64,
    has_early: bool,
    /// Whether the last delta held frames of the one being written.
    continues: bool,
    synced: u64,
    /// Bytes of frames appended by this process.
    written: u64,
    /// The newest base that was completed by this process, and the newest that a commit made valid.
    base: u64,
    valid_base: u64,
}

impl Journal for DeltaLog {
    fn append_images(&self, table: TableId, epoch: u64, lanes: usize, images: &[u8]) -> Result<()> {
        let size = IMAGE_HEADER_BYTES + lanes * 4;
        for chunk in images.chunks((FRAME_BYTES / size).max(1) * size) {
            self.append(epoch, FrameBuf::rows(table, lanes as u32, chunk))?;
        }
        Ok(())
    }

    fn append_removed(&self, table: TableId, epoch: u64, keys: &[Key]) -> Result<()> {
        for chunk in keys.chunks(FRAME_BYTES / size_of::<Key>()) {
            self.append(epoch, FrameBuf::removed(table, chunk))?;
        }
        Ok(())
    }
}

impl DeltaLog {
    pub(crate) fn new(fs: Arc<dyn Fs>, dir: &Path, uuid: [u8; 16], tip: Tip, poison: Arc<OnceLock<String>>) -> DeltaLog {
        let state = State {
            tip,
            unsynced: VecDeque::new(),
            writer: None,
            mark: None,
            epoch: FIRST_EPOCH,
            frames: 0,
            has_early: false,
            continues: false,
            synced: 0,
            written: 0,
            base: 0,
            valid_base: 0,
        };
        DeltaLog {
            fs,
            dir: dir.to_path_buf(),
            uuid,
            poison,
            state: Mutex::new(state),
            syncing: Mutex::new(()),
            ahead: Mutex::default(),
            waits: Meter::default(),
        }
    }

    /// The last durable commit and its state.
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

    /// Bytes of frames appended by this process.
    pub(crate) fn written(&self) -> u64 {
        lock(&self.state).written
    }

    /// How long batches waited to append.
    pub(crate) fn waited(&self) -> Wait {
        self.waits.waited()
    }

    /// From now on cuts say that base `number` is complete.
    pub(crate) fn set_base(&self, number: u64) {
        lock(&self.state).base = number;
    }

    /// The record of the commit that a cut made now leads to. Only a base complete by now is made valid by it.
    pub(super) fn next_record(&self, described: CommitRecord) -> CommitRecord {
        let state = lock(&self.state);
        let parent = state.unsynced.back().map_or(&state.tip.record, |written| &written.record);
        let id = CommitId { timeline: state.tip.timeline, sequence: parent.id.sequence.saturating_add(1) };
        CommitRecord { id, parent: parent.hash, base: state.base, ..described }
    }

    fn poison(&self, reason: &str) {
        let _ = self.poison.set(reason.to_owned());
    }

    /// Makes a table's creation, settings or end part of the delta that is open while no commit is under way.
    pub(crate) fn append_now(&self, frame: &FrameBuf<'_>) -> Result<()> {
        append(&mut *self.writable()?, frame)
    }

    /// Until a commit frame follows, what is appended counts for nothing.
    fn append(&self, epoch: u64, frame: FrameBuf<'_>) -> Result<()> {
        self.check_poison()?;
        let mut state = self.waits.lock(&self.state);
        self.open_segment(&mut state)?;
        let early = epoch > state.epoch;
        append(&mut state, &if early { frame.early() } else { frame })?;
        state.has_early |= early;
        Ok(())
    }

    /// The state, with a segment open.
    fn writable(&self) -> Result<MutexGuard<'_, State>> {
        self.check_poison()?;
        let mut state = lock(&self.state);
        self.open_segment(&mut state)?;
        Ok(state)
    }

    fn check_poison(&self) -> Result<()> {
        self.poison.get().map_or(Ok(()), |reason| Err(Error::Poisoned { reason: reason.clone() }))
    }

    fn open_segment(&self, state: &mut State) -> Result<()> {
        if state.writer.is_none() {
            state.writer = Some(self.create_segment(state)?);
            (state.frames, state.has_early, state.synced) = (0, false, 0);
        }
        Ok(())
    }

    fn create_segment(&self, state: &mut State) -> Result<LogWriter> {
        let number = state.tip.next_segment;
        let path = names::segment(&self.dir, number);
        names::check_number(number, &path)?;
        let header = SegmentHeader {
            store: self.uuid,
            segment: number,
            timeline: state.tip.timeline,
            parent: state.tip.record.id,
            parent_hash: state.tip.record.hash,
            continues: state.continues,
        };
        // Never used again, even if the creation fails half way.
        state.tip.next_segment += 1;
        LogWriter::create(&*self.fs, &path, &header)
    }

    /// Writes what a cut still owes the log and closes its delta. The commit is durable with the next [`DeltaLog::sync_to`].
    ///
    /// On an error the cut can be finished by another call; or, after a sync that failed, the store is poisoned.
    pub(crate) fn finish(&self, cut: &mut Cut) -> Result<()> {
        cut.write(self)?;
        self.sync_ahead()?;
        let mut state = self.writable()?;
        if state.mark.is_none() {
            state.mark = Some(Mark::open_or_create(&*self.fs, &names::durable(&self.dir))?);
        }
        let syncer = writer(&mut state)?.syncer()?;
        let mut record = CommitRecord { frames: state.frames, ..cut.record.clone() };
        let writer = writer(&mut state)?;
        record.seal(writer.chain());
        writer.append(&FrameBuf::commit(&record))?;
        reach(KillPoint::CommitWritten);
        let offset = writer.position();
        let mark = MarkRecord { segment: state.tip.next_segment - 1, offset, id: record.id, hash: record.hash };
        if planted(Bug::MarkTooEarly) {
            publish(&mut state, mark);
        }
        // From here on frames belong to the next delta, and no longer stand early.
        state.epoch = cut.epoch + 1;
        (state.continues, state.frames, state.has_early) = (state.has_early, 0, false);
        let base = record.base;
        state.unsynced.push_back(Written { record, trainer_state: Arc::clone(&cut.trainer_state), mark });
        if offset >= SEGMENT_BYTES || base > state.valid_base {
            // Nothing may be appended behind a commit that ends its segment.
            self.sync(&*syncer)?;
            (state.writer, state.valid_base) = (None, base);
            settle(&mut state, mark);
            reach(KillPoint::SegmentEnded);
        }
        Ok(())
    }

    /// Whether so many commits wait for a sync that the next one should too.
    pub(crate) fn is_behind(&self) -> bool {
        lock(&self.state).unsynced.len() >= MAX_UNSYNCED
    }

    /// Makes the commit of this sequence number durable, and all written by now with the same sync: of callers at the same time
    /// one syncs for all. Returns the last durable commit.
    pub(crate) fn sync_to(&self, sequence: u64) -> Result<CommitRecord> {
        let _syncing = lock(&self.syncing);
        self.check_poison()?;
        let mut state = lock(&self.state);
        if let Some(mark) = state.unsynced.back().map(|written| written.mark)
            && state.tip.record.id.sequence < sequence
        {
            let syncer = writer(&mut state)?.syncer()?;
            drop(state);
            self.sync(&*syncer)?;
            state = lock(&self.state);
            settle(&mut state, mark);
        }
        Ok(state.tip.record.clone())
    }

    /// Writes a little of a cut; returns whether there may be more. For tests that change the store in between.
    #[cfg(feature = "testing")]
    pub(crate) fn write_some(&self, cut: &mut Cut, keys: usize) -> Result<bool> {
        cut.write_some(self, keys)
    }

    /// Begins to make durable what was written so far, if that is much and nobody does so now.
    pub(super) fn sync_early(&self) -> Result<()> {
        let Ok(mut ahead) = self.ahead.try_lock() else { return Ok(()) };
        let position = writer(&mut *self.writable()?)?.position();
        let begun = ahead.grown(position, || writer(&mut *self.writable()?)?.syncer());
        begun.inspect_err(|error| self.poison(&error.to_string()))
    }

    fn sync_ahead(&self) -> Result<()> {
        let mut state = self.writable()?;
        let writer = writer(&mut state)?;
        let (syncer, position) = (writer.syncer()?, writer.position());
        if position.saturating_sub(state.synced) >= SYNC_AHEAD_BYTES {
            drop(state);
            self.sync(&*syncer)?;
            lock(&self.state).synced = position;
        }
        Ok(())
    }

    /// After a failed sync it is unknown what reached the disk: the commit may come back or not, so nothing may follow it.
    fn sync(&self, syncer: &dyn crate::fs::SyncFile) -> Result<()> {
        if planted(Bug::CommitNotSynced) {
            return Ok(());
        }
        let mut ahead = lock(&self.ahead);
        ahead.finish().and_then(|()| syncer.sync()).inspect_err(|error| self.poison(&error.to_string()))
    }
}

/// Takes all commits up to the one of `mark` for durable. Those may be so already, where another sync covered them.
fn settle(state: &mut State, mark: MarkRecord) {
    let mut newest = None;
    while state.unsynced.front().is_some_and(|written| written.record.id.sequence <= mark.id.sequence) {
        newest = state.unsynced.pop_front();
    }
    let Some(Written { record, trainer_state, mark }) = newest else { return };
    reach(KillPoint::CommitSynced);
    state.synced = mark.offset;
    publish(state, mark);
    reach(KillPoint::MarkPublished);
    state.tip.record = record;
    if !planted(Bug::OldTrainerState) {
        state.tip.state = trainer_state;
    }
}

/// What fails here costs a later check, not the commit.
fn publish(state: &mut State, mark: MarkRecord) {
    if let Some(Err(error)) = state.mark.as_mut().map(|file| file.publish(mark)) {
        tracing::warn!(%error, "the commit is durable, but its mark could not be published");
        state.mark = None;
    }
}

fn append(state: &mut State, frame: &FrameBuf<'_>) -> Result<()> {
    let writer = writer(state)?;
    let before = writer.position();
    writer.append(frame)?;
    state.written += writer.position() - before;
    state.frames += 1;
    Ok(())
}

fn writer(state: &mut State) -> Result<&mut LogWriter> {
    state.writer.as_mut().ok_or_else(|| Error::Poisoned { reason: "the log has no open segment".into() })
}
