//! Open files and locks of the simulated disk.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::disk::{NodeId, Pending, Refused, put};
use super::{LockGuard, ReadFile, SimFs, State, SyncClass, SyncFile, WriteFile};
use crate::error::Result;

/// Keeps a file's content while it is open, whether it has a name or not.
struct Handle {
    fs: SimFs,
    path: PathBuf,
    node: NodeId,
}

impl Handle {
    fn new(fs: &SimFs, path: &Path, node: NodeId) -> Handle {
        *fs.state().disk.open.entry(node).or_default() += 1;
        Handle { fs: fs.clone(), path: path.to_path_buf(), node }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.fs.state();
        let count = state.disk.open.entry(self.node).or_default();
        *count = count.saturating_sub(1);
        if *count == 0 {
            state.disk.open.remove(&self.node);
        }
    }
}

pub(super) struct SimWriter {
    handle: Handle,
    len: u64,
}

impl SimWriter {
    pub(super) fn new(fs: &SimFs, path: &Path, node: NodeId, len: u64) -> SimWriter {
        SimWriter { handle: Handle::new(fs, path, node), len }
    }
}

impl WriteFile for SimWriter {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.write_at(self.len, bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let Handle { fs, path, node } = &self.handle;
        fs.act("write", path, |state| write(state, *node, offset, bytes))?;
        self.len = self.len.max(offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        SyncFile::sync(self)
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>> {
        Ok(Box::new(SimWriter::new(&self.handle.fs, &self.handle.path, self.handle.node, self.len)))
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl SyncFile for SimWriter {
    fn sync(&self) -> Result<()> {
        let Handle { fs, path, node } = &self.handle;
        fs.act("sync", path, |state| sync(state, *node))
    }
}

/// Writes; a write that fails may have written a part, and here it always has.
fn write(state: &mut State, node: NodeId, offset: u64, bytes: &[u8]) -> Result<(), Refused> {
    let fault = state.call();
    let len = state.disk.file(node)?.content.len() as u64;
    let end = offset.checked_add(bytes.len() as u64).ok_or(libc::EFBIG)?;
    let room = state.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(state.disk.used()));
    let over = end.saturating_sub(len).saturating_sub(room).min(bytes.len() as u64) as usize;
    let (fits, result) = match fault {
        Err(number) => (bytes.len() / 2, Err(number)),
        Ok(()) if over > 0 => (bytes.len() - over, Err(libc::ENOSPC)),
        Ok(()) => (bytes.len(), Ok(())),
    };
    let fits = fits.min(bytes.len() - over);
    if fits > 0 {
        let order = state.disk.tick();
        let file = state.disk.file_mut(node)?;
        put(&mut file.content, offset, &bytes[..fits]);
        file.pending.push(Pending { order, offset, bytes: bytes[..fits].to_vec() });
    }
    result
}

/// Makes a file's writes durable. A sync that fails has lost them, and readers see them all the same, as Linux does it.
fn sync(state: &mut State, node: NodeId) -> Result<(), Refused> {
    let mut result = state.call();
    if state.failing_syncs > 0 {
        state.failing_syncs -= 1;
        result = Err(libc::EIO);
    }
    if result.is_err() {
        state.disk.file_mut(node)?.pending.clear();
        return result;
    }
    if state.ignored.contains(&SyncClass::Files) { Ok(()) } else { state.disk.sync_file(node) }
}

pub(super) struct SimReader {
    handle: Handle,
    len: u64,
}

impl SimReader {
    pub(super) fn new(fs: &SimFs, path: &Path, node: NodeId, len: u64) -> SimReader {
        SimReader { handle: Handle::new(fs, path, node), len }
    }
}

impl ReadFile for SimReader {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let Handle { fs, path, node } = &self.handle;
        fs.act("read", path, |state| {
            state.call()?;
            let content = &state.disk.file(*node)?.content;
            let rest = content.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(buf.len());
            buf[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }
}

pub(super) struct SimLock {
    fs: SimFs,
    path: PathBuf,
    owner: u32,
}

impl SimLock {
    pub(super) fn new(fs: &SimFs, path: &Path) -> SimLock {
        SimLock { fs: fs.clone(), path: path.to_path_buf(), owner: std::process::id() }
    }
}

impl LockGuard for SimLock {
    fn owner(&self) -> u32 {
        self.owner
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.fs.release(&self.path);
    }
}

pub(super) struct SimPin {
    fs: SimFs,
    node: NodeId,
    owner: u32,
}

impl SimPin {
    pub(super) fn new(fs: &SimFs, node: NodeId) -> SimPin {
        SimPin { fs: fs.clone(), node, owner: std::process::id() }
    }
}

impl LockGuard for SimPin {
    fn owner(&self) -> u32 {
        self.owner
    }
}

impl Drop for SimPin {
    fn drop(&mut self) {
        self.fs.release_pin(self.node);
    }
}
