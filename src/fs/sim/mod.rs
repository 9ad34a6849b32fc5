//! A file system in memory that forgets what was not synced, fails on demand, and fills up.
//!
//! It is more forgetful than any journal: a synced file whose directory was not synced is gone after a power cut, a removed one is
//! back. Two things it takes for granted, as every journalling file system gives them: a rename happens wholly or not at all, also
//! between directories, and syncing either of its directories makes it durable.
#![forbid(unsafe_code)]

mod crash;
mod disk;
mod handle;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

pub use crash::CrashMode;
use disk::{DirNode, Disk, FileNode, Node, NodeId, Refused, os_error};
use handle::{SimLock, SimPin, SimReader, SimWriter};

use super::{DirEntry, Fs, LockGuard, ReadFile, SyncFile, WriteFile};
use crate::error::{Error, Result};
use crate::sync::{Mutex, MutexGuard};

/// How a call is made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The device reports an error. A failed write may have written a part; a failed sync loses what it should have made durable.
    Io,
    /// The disk is full.
    NoSpace,
}

/// How long a fault lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultSpan {
    /// For one call.
    Once,
    /// From that call on: also the way to stop a program at its Nth call.
    Forever,
}

/// A class of syncs that a broken disk, or a broken program, leaves out: to prove that a test would notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SyncClass {
    /// Syncs of files do nothing.
    Files,
    /// Syncs of directories do nothing.
    Dirs,
}

/// A simulated disk. A clone is the same disk.
#[derive(Clone, Debug)]
pub struct SimFs {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    disk: Disk,
    locks: BTreeSet<PathBuf>,
    /// Of each pinned node, how often; 0 where it is claimed.
    pins: BTreeMap<NodeId, usize>,
    calls: u64,
    fault: Option<(u64, FaultKind, FaultSpan)>,
    failing_syncs: u64,
    ignored: BTreeSet<SyncClass>,
    capacity: Option<u64>,
}

impl State {
    fn of(disk: Disk, capacity: Option<u64>) -> State {
        State {
            disk,
            locks: BTreeSet::new(),
            pins: BTreeMap::new(),
            calls: 0,
            fault: None,
            failing_syncs: 0,
            ignored: BTreeSet::new(),
            capacity,
        }
    }

    /// Counts a call, and says with which error number it fails, if it does.
    fn call(&mut self) -> Result<(), Refused> {
        self.calls += 1;
        let Some((at, kind, span)) = self.fault else { return Ok(()) };
        if self.calls < at || (span == FaultSpan::Once && self.calls > at) {
            return Ok(());
        }
        Err(match kind {
            FaultKind::Io => libc::EIO,
            FaultKind::NoSpace => libc::ENOSPC,
        })
    }

    /// A node more needs no room, but a full disk refuses it.
    fn room_for_entry(&self) -> Result<(), Refused> {
        if self.capacity.is_some_and(|capacity| self.disk.used() >= capacity) { Err(libc::ENOSPC) } else { Ok(()) }
    }

    fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Refused> {
        self.call()?;
        let node = self.disk.find(from)?;
        let (from, to) = (self.disk.place(from)?, self.disk.place(to)?);
        if from == to {
            return Ok(());
        }
        if let Some(&old) = self.disk.dir(to.0)?.entries.get(&to.1) {
            match (self.disk.dir(node), self.disk.dir(old)) {
                (Ok(_), Ok(target)) if !target.entries.is_empty() => return Err(libc::ENOTEMPTY),
                (Ok(_), Err(_)) => return Err(libc::ENOTDIR),
                (Err(_), Ok(_)) => return Err(libc::EISDIR),
                _ => {}
            }
        }
        self.disk.change(node, Some(from), Some(to))
    }

    /// Removes a directory entry by entry, each a call: a crash or a fault may leave a half.
    fn remove_tree(&mut self, path: &Path) -> Result<(), Refused> {
        let id = self.disk.find(path)?;
        let names: Vec<String> = self.disk.dir(id)?.entries.keys().cloned().collect();
        for name in names {
            let child = path.join(name);
            let node = self.disk.find(&child)?;
            if self.disk.dir(node).is_ok() {
                self.remove_tree(&child)?;
            } else {
                self.call()?;
                self.disk.change(node, Some(self.disk.place(&child)?), None)?;
            }
        }
        self.call()?;
        self.disk.change(id, Some(self.disk.place(path)?), None)
    }
}

impl Default for SimFs {
    fn default() -> Self {
        SimFs::new()
    }
}

impl SimFs {
    /// An empty disk.
    #[must_use]
    pub fn new() -> SimFs {
        SimFs::with(State::of(Disk::new(), None))
    }

    fn with(state: State) -> SimFs {
        SimFs { state: Arc::new(Mutex::new(state)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn act<T>(&self, action: &'static str, path: &Path, act: impl FnOnce(&mut State) -> Result<T, Refused>) -> Result<T> {
        act(&mut self.state()).map_err(|number| Error::io(action, path, os_error(number)))
    }

    /// The calls made so far. Every method of [`Fs`] and of its files is one, but for the lengths.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Makes the `n`th call from now fail, 1 being the next; a second fault replaces the first.
    pub fn fail_nth(&self, n: u64, kind: FaultKind, span: FaultSpan) {
        let mut state = self.state();
        state.fault = Some((state.calls + n, kind, span));
    }

    /// Makes the next sync of a file fail, and lose the file's unsynced writes while readers still see them: later syncs succeed.
    pub fn fail_next_sync(&self) {
        self.state().failing_syncs += 1;
    }

    /// No call fails any more.
    pub fn heal(&self) {
        let mut state = self.state();
        (state.fault, state.failing_syncs) = (None, 0);
        state.ignored.clear();
    }

    /// From now on syncs of this class report success and do nothing.
    pub fn ignore_syncs(&self, class: SyncClass) {
        self.state().ignored.insert(class);
    }

    /// Limits the bytes of all files together; `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity = bytes;
    }

    /// The bytes of all files together.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.state().disk.used()
    }

    /// The disk that the next boot finds after a power cut now, with no faults and no locks. This one stays as it is.
    #[must_use]
    pub fn crash(&self, mode: CrashMode, seed: u64) -> SimFs {
        let state = self.state();
        SimFs::with(State::of(crash::crash(&state.disk, mode, seed), state.capacity))
    }

    /// The disk that the next process finds after the death of this one: all that was written, synced or not, and no locks.
    #[must_use]
    pub fn kill(&self) -> SimFs {
        let state = self.state();
        let mut disk = state.disk.clone();
        disk.open.clear();
        SimFs::with(State::of(disk, state.capacity))
    }

    /// Every file's path and content.
    #[must_use]
    pub fn files(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let state = self.state();
        let content = |id: NodeId| state.disk.file(id).map_or(Vec::new(), |file| file.content.clone());
        state.disk.files().into_iter().map(|(path, id)| (path, content(id))).collect()
    }

    /// Flips bits of a byte, on the disk and for readers. An offset beyond the end changes nothing.
    pub fn corrupt(&self, path: &Path, offset: u64, xor: u8) -> Result<()> {
        self.act("corrupt", path, |state| {
            let id = state.disk.find(path)?;
            state.disk.sync_file(id)?;
            let file = state.disk.file_mut(id)?;
            for bytes in [&mut file.content, &mut file.durable] {
                bytes.get_mut(offset as usize).into_iter().for_each(|byte| *byte ^= xor);
            }
            Ok(())
        })
    }

    /// Makes a file shorter, or longer by zeros, on the disk and for readers.
    pub fn resize(&self, path: &Path, len: u64) -> Result<()> {
        self.act("resize", path, |state| {
            let id = state.disk.find(path)?;
            state.disk.sync_file(id)?;
            let file = state.disk.file_mut(id)?;
            file.content.resize(len as usize, 0);
            file.durable.resize(len as usize, 0);
            Ok(())
        })
    }

    /// Makes a directory and those above it, durable at once: the place where a test begins.
    pub fn make_dirs(&self, path: &Path) -> Result<()> {
        self.act("create", path, |state| {
            let mut above = PathBuf::new();
            for part in path.components() {
                above.push(part);
                if state.disk.find(&above).is_err() {
                    let place = state.disk.place(&above)?;
                    let parent = place.0;
                    state.disk.add(place, Node::Dir(DirNode::default()))?;
                    state.disk.sync_dir(parent)?;
                }
            }
            Ok(())
        })
    }

    fn release(&self, path: &Path) {
        self.state().locks.remove(path);
    }

    /// `then` says from how often a node is pinned how often it is then.
    fn take_pin(&self, path: &Path, then: impl FnOnce(Option<usize>) -> Option<usize>) -> Result<Option<Box<dyn LockGuard>>> {
        let node = self.act("pin", path, |state| {
            state.call()?;
            let node = match state.disk.find(path) {
                Err(libc::ENOENT) => return Ok(None),
                node => node?,
            };
            let pins = then(state.pins.get(&node).copied());
            Ok(pins.map(|pins| {
                state.pins.insert(node, pins);
                node
            }))
        })?;
        Ok(node.map(|node| Box::new(SimPin::new(self, node)) as _))
    }

    fn release_pin(&self, node: NodeId) {
        let mut state = self.state();
        match state.pins.get_mut(&node) {
            Some(pins) if *pins > 1 => *pins -= 1,
            _ => drop(state.pins.remove(&node)),
        }
    }
}

impl Fs for SimFs {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let node = self.act("create", path, |state| {
            state.call()?;
            state.room_for_entry()?;
            let place = state.disk.place(path)?;
            state.disk.add(place, Node::File(FileNode::default()))
        })?;
        Ok(Box::new(SimWriter::new(self, path, node, 0)))
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let (node, len) = self.act("open", path, |state| state.call().and_then(|()| find_file(state, path)))?;
        Ok(Box::new(SimWriter::new(self, path, node, len)))
    }

    fn open_read(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        match self.act("open", path, |state| state.call().and_then(|()| find_file(state, path))) {
            Ok((node, len)) => Ok(Box::new(SimReader::new(self, path, node, len))),
            Err(Error::Io { source, .. }) if source.raw_os_error() == Some(libc::EISDIR) => {
                Err(Error::corrupt(path, 0, "not a regular file"))
            }
            Err(error) => Err(error),
        }
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        self.act("list", dir, |state| {
            state.call()?;
            let disk = &state.disk;
            let entry = |(name, id): (&String, &NodeId)| {
                let len = disk.file(*id).map_or(0, |file| file.content.len() as u64);
                DirEntry { name: name.clone(), is_dir: disk.dir(*id).is_ok(), len }
            };
            Ok(disk.dir(disk.find(dir)?)?.entries.iter().map(entry).collect())
        })
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        self.act("look at", path, |state| {
            state.call()?;
            match state.disk.find(path) {
                Ok(_) => Ok(true),
                Err(libc::ENOENT | libc::ENOTDIR) => Ok(false),
                Err(number) => Err(number),
            }
        })
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        self.act("create", path, |state| {
            state.call()?;
            state.room_for_entry()?;
            let place = state.disk.place(path)?;
            state.disk.add(place, Node::Dir(DirNode::default())).map(drop)
        })
    }

    fn create_private_dir(&self, path: &Path) -> Result<()> {
        self.create_dir(path)
    }

    /// As a disk without such links: each entry is a node of its own.
    fn link(&self, from: &Path, _: &Path) -> Result<bool> {
        self.act("link", from, |state| state.call().and_then(|()| find_file(state, from)).map(|_| false))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.act("rename", from, |state| state.rename(from, to))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        self.act("remove", path, |state| {
            state.call()?;
            let (node, _) = find_file(state, path)?;
            let place = state.disk.place(path)?;
            state.disk.change(node, Some(place), None)
        })
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        self.act("remove", path, |state| state.remove_tree(path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        self.act("sync", path, |state| {
            state.call()?;
            let id = state.disk.find(path)?;
            if state.ignored.contains(&SyncClass::Dirs) { Ok(()) } else { state.disk.sync_dir(id) }
        })
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>> {
        let mut state = self.state();
        let made = state.call().and_then(|()| match state.disk.find(path) {
            Ok(_) => Ok(()),
            Err(_) => {
                let place = state.disk.place(path)?;
                state.disk.add(place, Node::File(FileNode::default())).map(drop)
            }
        });
        made.map_err(|number| Error::io("lock", path, os_error(number)))?;
        if !state.locks.insert(path.to_path_buf()) {
            let store = path.parent().unwrap_or(path).to_path_buf();
            return Err(Error::Locked { path: store, pid: Some(std::process::id()) });
        }
        Ok(Box::new(SimLock::new(self, path)))
    }

    fn pin(&self, path: &Path) -> Result<Option<Box<dyn LockGuard>>> {
        self.take_pin(path, |pins| pins.is_none_or(|pins| pins > 0).then(|| pins.unwrap_or(0) + 1))
    }

    fn claim(&self, path: &Path) -> Result<Option<Box<dyn LockGuard>>> {
        self.take_pin(path, |pins| pins.is_none().then_some(0))
    }
}

fn find_file(state: &State, path: &Path) -> Result<(NodeId, u64), Refused> {
    let id = state.disk.find(path)?;
    Ok((id, state.disk.file(id)?.content.len() as u64))
}
