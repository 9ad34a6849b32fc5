//! The file system of the machine.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::{DirEntry, Fs, LockGuard, ReadFile, WriteFile};
use crate::error::{Error, Result};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealFs;

struct RealFile {
    path: PathBuf,
    file: File,
    len: u64,
}

fn failed<T>(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Result<T> {
    move |source| Err(Error::io(action, path, source))
}

impl Fs for RealFs {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = opened.or_else(failed("create", path))?;
        Ok(Box::new(RealFile { path: path.to_path_buf(), file, len: 0 }))
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let file = OpenOptions::new().write(true).open(path).or_else(failed("open", path))?;
        let len = file.metadata().or_else(failed("look at", path))?.len();
        Ok(Box::new(RealFile { path: path.to_path_buf(), file, len }))
    }

    fn open_read(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = opened.or_else(failed("open", path))?;
        let metadata = file.metadata().or_else(failed("look at", path))?;
        if !metadata.is_file() {
            return Err(Error::corrupt(path, 0, "not a regular file"));
        }
        Ok(Box::new(RealFile { path: path.to_path_buf(), file, len: metadata.len() }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).or_else(failed("list", dir))? {
            let entry = entry.or_else(failed("list", dir))?;
            let metadata = entry.metadata().or_else(failed("look at", &entry.path()))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DirEntry { name, is_dir: metadata.is_dir(), len: metadata.len() });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        fs::exists(path).or_else(failed("look at", path))
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).or_else(failed("create", path))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to).or_else(failed("rename", from))
    }

    fn remove_file(&self, path: &Path) -> Result<()> {
        fs::remove_file(path).or_else(failed("remove", path))
    }

    fn remove_dir_all(&self, path: &Path) -> Result<()> {
        fs::remove_dir_all(path).or_else(failed("remove", path))
    }

    fn sync_dir(&self, path: &Path) -> Result<()> {
        let dir = File::open(path).or_else(failed("open", path))?;
        dir.sync_all().or_else(failed("sync", path))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn LockGuard>> {
        RealLock::take(path)
    }
}

impl WriteFile for RealFile {
    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let at = self.len;
        self.write_at(at, bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        // The kernel's short writes and interruptions are continued; nothing written at all is an error.
        self.file.write_all_at(bytes, offset).or_else(failed("write", &self.path))?;
        self.len = self.len.max(offset + bytes.len() as u64);
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        self.file.sync_data().or_else(failed("sync", &self.path))
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl ReadFile for RealFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(done)
    }
}

/// Locks of this process, by device and inode: the system's lock would let a second one through in places.
static HELD: Mutex<Option<HashSet<(u64, u64)>>> = Mutex::new(None);

struct RealLock {
    _file: File,
    place: (u64, u64),
    process: u32,
}

impl RealLock {
    fn take(path: &Path) -> Result<Box<dyn LockGuard>> {
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let mut file = opened.or_else(failed("open", path))?;
        let metadata = file.metadata().or_else(failed("look at", path))?;
        let place = (metadata.dev(), metadata.ino());
        let store = path.parent().unwrap_or(path).to_path_buf();
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        let held = held.get_or_insert_default();
        if held.contains(&place) {
            return Err(Error::Locked { path: store, pid: Some(std::process::id()) });
        }
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
                return Err(Error::Locked { path: store, pid });
            }
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", path, error)),
        }
        // The number only makes the message helpful; a full disk must not keep a store from being opened.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        held.insert(place);
        Ok(Box::new(RealLock { _file: file, place, process: std::process::id() }))
    }
}

impl LockGuard for RealLock {}

impl Drop for RealLock {
    fn drop(&mut self) {
        if std::process::id() == self.process
            && let Some(held) = HELD.lock().unwrap_or_else(PoisonError::into_inner).as_mut()
        {
            held.remove(&self.place);
        }
    }
}
