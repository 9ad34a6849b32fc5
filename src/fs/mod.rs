//! A stand-in for the file-system trait, with as much of it as the cold tier needs: the real one replaces this file.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub(crate) trait Fs: Send + Sync + std::fmt::Debug {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>>;
    fn open_read(&self, path: &Path) -> Result<Box<dyn ReadFile>>;
    fn create_dir(&self, path: &Path) -> Result<()>;
    fn sync_dir(&self, path: &Path) -> Result<()>;
    fn remove_dir_all(&self, path: &Path) -> Result<()>;
    fn exists(&self, path: &Path) -> Result<bool>;
}

pub(crate) trait WriteFile: Send {
    fn append(&mut self, bytes: &[u8]) -> Result<()>;
    fn sync(&mut self) -> Result<()>;
}

pub(crate) trait ReadFile: Send {
    fn len(&self) -> u64;
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize>;
}

/// The operating system's files.
#[derive(Debug)]
pub(crate) struct StdFs;

struct Opened(PathBuf, File);

impl Fs for StdFs {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = File::create_new(path).map_err(|e| Error::io("create", path, e))?;
        Ok(Box::new(Opened(path.to_path_buf(), file)))
    }
    fn open_read(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        let file = File::open(path).map_err(|e| Error::io("open", path, e))?;
        Ok(Box::new(Opened(path.to_path_buf(), file)))
    }
    fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).map_err(|e| Error::io("create", path, e))
    }
    fn sync_dir(&self, path: &Path) -> Result<()> {
        File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| Error::io("sync", path, e))
    }
    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).map_err(|e| Error::io("remove", path, e))
    }
    fn exists(&self, path: &Path) -> Result<bool> {
        path.try_exists().map_err(|e| Error::io("look for", path, e))
    }
}

impl WriteFile for Opened {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.1.write_all(bytes).map_err(|e| Error::io("write", &self.0, e))
    }
    fn sync(&mut self) -> Result<()> {
        self.1.sync_all().map_err(|e| Error::io("sync", &self.0, e))
    }
}

impl ReadFile for Opened {
    fn len(&self) -> u64 {
        self.1.metadata().map_or(0, |meta| meta.len())
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.1.read_at(buf, offset).map_err(|e| Error::io("read", &self.0, e))
    }
}
