//! All file I/O but mappings and RocksDB, through one small trait, so that tests can cut the power.

#![forbid(unsafe_code)]
#![cfg_attr(not(any(test, feature = "testing")), allow(unreachable_pub, reason = "public to tests only, through `testing`"))]

mod ahead;
mod lock;
pub(crate) mod names;
mod pin;
mod real;
mod scratch;
#[cfg(any(test, feature = "testing"))]
mod sim;

use std::path::Path;

pub(crate) use ahead::SyncAhead;
pub(crate) use real::RealFs;
pub(crate) use scratch::Scratch;
#[cfg(any(test, feature = "testing"))]
pub use sim::{CrashMode, FaultKind, FaultSpan, SimFs, SyncClass};

use crate::error::{Error, Result};

/// A file system. Every error names its path.
pub trait Fs: Send + Sync + std::fmt::Debug {
    /// Creates a file that must not exist.
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>>;
    /// Opens an existing file to write.
    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>>;
    /// Opens a regular file to read; links are refused.
    fn open_read(&self, path: &Path) -> Result<Box<dyn ReadFile>>;
    /// The entries of a directory, by name.
    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>>;
    /// Whether something is there.
    fn exists(&self, path: &Path) -> Result<bool>;
    /// Creates a directory whose parent exists.
    fn create_dir(&self, path: &Path) -> Result<()>;
    /// As [`Fs::create_dir`], for nobody but this user.
    fn create_private_dir(&self, path: &Path) -> Result<()>;
    /// Gives a file a second name, which must be free; `false` where that cannot be: on another disk, or where there are no such links.
    fn link(&self, from: &Path, to: &Path) -> Result<bool>;
    /// Renames a file or directory.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> Result<()>;
    /// Removes a directory and all in it.
    fn remove_dir_all(&self, path: &Path) -> Result<()>;
    /// Makes a directory's entries durable.
    fn sync_dir(&self, path: &Path) -> Result<()>;
    /// Takes the exclusive lock of a store, or says who has it.
    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>>;
    /// Keeps a file from being removed by who asks with [`Fs::claim`] first, in any process, until the guard is dropped. `None`: it is not
    /// there, or claimed.
    fn pin(&self, path: &Path) -> Result<Option<Box<dyn LockGuard>>>;
    /// The right to remove a file: `None` while it is pinned, or where it is not there.
    fn claim(&self, path: &Path) -> Result<Option<Box<dyn LockGuard>>>;
}

/// A file open to write.
#[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "tests alone ask for all of it"))]
pub trait WriteFile: Send {
    /// Writes all of `bytes` at the end.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Makes the content durable.
    fn sync(&mut self) -> Result<()>;
    /// A handle that makes durable what was written until it is called, while writing goes on.
    fn syncer(&self) -> Result<Box<dyn SyncFile>>;
    /// The length.
    fn len(&self) -> u64;
    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Makes a file durable that another handle writes.
pub trait SyncFile: Send {
    /// As [`WriteFile::sync`].
    fn sync(&self) -> Result<()>;
}

/// A file open to read.
#[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "tests alone ask for all of it"))]
pub trait ReadFile: Send {
    /// The length when it was opened.
    fn len(&self) -> u64;
    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Fills `buf` from `offset`; short only at the end of the file.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// A file's length.
    pub len: u64,
}

/// Holds a lock until dropped.
#[cfg_attr(not(feature = "testing"), allow(dead_code, reason = "tests alone ask for all of it"))]
pub trait LockGuard: Send + Sync {
    /// The process that took it: in a forked child it is another, and the guard holds nothing there.
    fn owner(&self) -> u32;
}

/// Fills `buf` from `offset`; a file that ends before is damaged.
pub(crate) fn read_exact_at(file: &dyn ReadFile, path: &Path, offset: u64, buf: &mut [u8]) -> Result<()> {
    let read = file.read_at(offset, buf)?;
    if read < buf.len() {
        let at = offset.saturating_add(read as u64);
        return Err(Error::corrupt(path, at, format!("the file ends {} bytes early", buf.len() - read)));
    }
    Ok(())
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_all(fs: &dyn Fs, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = fs.open_read(path)?;
    if file.len() > limit {
        return Err(Error::corrupt(path, limit, format!("the file has {} bytes, at most {limit} were expected", file.len())));
    }
    let mut bytes = vec![0; file.len() as usize];
    read_exact_at(&*file, path, 0, &mut bytes)?;
    Ok(bytes)
}

/// Replaces a file whole: temporary, sync, rename, sync of the directory. On an error the old content stays, or, where only the
/// last sync failed, either may be there after a crash.
pub(crate) fn write_atomic(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = parent(path);
    let name = path.file_name().map_or("file".into(), |name| name.to_string_lossy());
    let temporary = names::temporary(parent, &name);
    if fs.exists(&temporary)? {
        fs.remove_file(&temporary)?;
    }
    let replaced = write_new(fs, &temporary, bytes).and_then(|()| fs.rename(&temporary, path));
    if let Err(error) = replaced {
        // Left behind it is only litter, which the next open removes.
        let _ = fs.remove_file(&temporary);
        return Err(error);
    }
    fs.sync_dir(parent)
}

fn write_new(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = fs.create(path)?;
    file.append(bytes)?;
    file.sync()
}

/// The directory that a path's name stands in.
pub(crate) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
