//! All file I/O but mappings and RocksDB, through one small trait, so that tests can cut the power.

pub(crate) mod names;
mod real;
#[cfg(any(test, feature = "testing"))]
mod sim;

use std::path::Path;

pub use real::RealFs;
#[cfg(any(test, feature = "testing"))]
pub use sim::{CrashMode, FaultKind, SimFs};

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
}

/// A file open to write.
pub trait WriteFile: Send {
    /// Writes all of `bytes` at the end.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
    /// Makes the content durable.
    fn sync(&mut self) -> Result<()>;
    /// The length.
    fn len(&self) -> u64;
    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file open to read.
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
pub trait LockGuard: Send + Sync {}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_all(fs: &dyn Fs, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = fs.open_read(path)?;
    if file.len() > limit {
        return Err(Error::corrupt(path, limit, format!("the file has {} bytes, at most {limit} were expected", file.len())));
    }
    let mut bytes = vec![0; file.len() as usize];
    let read = file.read_at(0, &mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Replaces a file whole: temporary, sync, rename, sync of the directory.
pub(crate) fn write_atomic(fs: &dyn Fs, path: &Path, bytes: &[u8]) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    let temporary = names::temporary(parent, "file");
    if fs.exists(&temporary)? {
        fs.remove_file(&temporary)?;
    }
    let mut file = fs.create(&temporary)?;
    file.append(bytes)?;
    file.sync()?;
    drop(file);
    fs.rename(&temporary, path)?;
    fs.sync_dir(parent)
}
