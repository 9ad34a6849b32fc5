//! The file system of the machine.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::lock::RealLock;
use super::pin;
use super::{DirEntry, Fs, LockGuard, ReadFile, SyncFile, WriteFile};
use crate::error::{Error, Result};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RealFs;

struct RealFile {
    path: PathBuf,
    file: File,
    len: u64,
}

fn failed<T>(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Result<T> {
    move |source| Err(Error::io(action, path, source))
}

/// As [`failed`], for calls that only read: a permission they lack is not one to write.
fn unread<T>(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Result<T> {
    move |source| Err(Error::Io { action, path: path.to_path_buf(), source })
}

impl Fs for RealFs {
    fn create(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = opened.or_else(failed("create", path))?;
        Ok(Box::new(RealFile { path: path.to_path_buf(), file, len: 0 }))
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn WriteFile>> {
        let opened = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = opened.or_else(failed("open", path))?;
        let len = file.metadata().or_else(failed("look at", path))?.len();
        Ok(Box::new(RealFile { path: path.to_path_buf(), file, len }))
    }

    fn open_read(&self, path: &Path) -> Result<Box<dyn ReadFile>> {
        let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let file = opened.or_else(unread("open", path))?;
        let metadata = file.metadata().or_else(unread("look at", path))?;
        if !metadata.is_file() {
            return Err(Error::corrupt(path, 0, "not a regular file"));
        }
        Ok(Box::new(RealFile { path: path.to_path_buf(), file, len: metadata.len() }))
    }

    fn list(&self, dir: &Path) -> Result<Vec<DirEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(dir).or_else(unread("list", dir))? {
            let entry = entry.or_else(unread("list", dir))?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::io("look at", &entry.path(), error)),
            };
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push(DirEntry { name, is_dir: metadata.is_dir(), len: metadata.len() });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn exists(&self, path: &Path) -> Result<bool> {
        fs::exists(path).or_else(unread("look at", path))
    }

    fn create_dir(&self, path: &Path) -> Result<()> {
        fs::create_dir(path).or_else(failed("create", path))
    }

    fn create_private_dir(&self, path: &Path) -> Result<()> {
        fs::DirBuilder::new().mode(0o700).create(path).or_else(failed("create", path))
    }

    fn link(&self, from: &Path, to: &Path) -> Result<bool> {
        match fs::hard_link(from, to) {
            Ok(()) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                Err(Error::io("link", to, error))
            }
            // Why links cannot be made differs from system to system; a copy takes their place, and says what is wrong if that is more.
            Err(_) => Ok(false),
        }
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

    fn pin(&self, path: &Path) -> Result<Option<Box<dyn LockGuard>>> {
        pin::take(path, true)
    }

    fn claim(&self, path: &Path) -> Result<Option<Box<dyn LockGuard>>> {
        pin::take(path, false)
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
        self.len = self.len.max(offset.saturating_add(bytes.len() as u64));
        Ok(())
    }

    fn sync(&mut self) -> Result<()> {
        SyncFile::sync(self)
    }

    fn syncer(&self) -> Result<Box<dyn SyncFile>> {
        let file = self.file.try_clone().or_else(failed("open", &self.path))?;
        Ok(Box::new(RealFile { path: self.path.clone(), file, len: self.len }))
    }

    fn len(&self) -> u64 {
        self.len
    }
}

impl SyncFile for RealFile {
    fn sync(&self) -> Result<()> {
        self.file.sync_data().or_else(failed("sync", &self.path))
    }
}

impl ReadFile for RealFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", &self.path, error)),
            }
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{read_all, read_exact_at, write_atomic};

    #[test]
    fn files_are_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut file = RealFs.create(&path).unwrap();
        assert!(matches!(RealFs.create(&path), Err(Error::Io { action: "create", .. })));
        file.append(b"hello").unwrap();
        file.write_at(1, b"a").unwrap();
        file.append(b"!").unwrap();
        file.sync().unwrap();
        RealFs.sync_dir(dir.path()).unwrap();
        assert_eq!((file.len(), read_all(&RealFs, &path, 6).unwrap()), (6, b"hallo!".to_vec()));
        assert!(matches!(read_all(&RealFs, &path, 5), Err(Error::Corrupt { .. })));
        let (reader, mut three) = (RealFs.open_read(&path).unwrap(), [0; 3]);
        read_exact_at(&*reader, &path, 3, &mut three).unwrap();
        assert_eq!(&three, b"lo!");
        assert!(matches!(read_exact_at(&*reader, &path, 4, &mut three), Err(Error::Corrupt { .. })));
        assert_eq!(
            fs::metadata(&path).map(|m| std::os::unix::fs::PermissionsExt::mode(&m.permissions()) & 0o777).unwrap(),
            0o600
        );
        let mut again = RealFs.open_write(&path).unwrap();
        again.append(b"?").unwrap();
        assert_eq!(again.len(), 7);
        assert!(RealFs.open_write(&dir.path().join("b")).is_err());
    }

    #[test]
    fn links_and_directories_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path().join("a"), dir.path().join("link")).unwrap();
        assert!(RealFs.open_read(&dir.path().join("link")).is_err());
        assert!(RealFs.open_write(&dir.path().join("link")).is_err());
        assert!(matches!(RealFs.open_read(dir.path()), Err(Error::Corrupt { .. })));
        let entries = RealFs.list(dir.path()).unwrap();
        assert_eq!(entries[0], DirEntry { name: "a".into(), is_dir: false, len: 1 });
        assert_eq!(entries[1].name, "link");
    }

    #[test]
    fn a_full_disk_says_so() {
        let full = Path::new("/dev/full");
        if full.exists() {
            assert!(matches!(RealFs.open_write(full).and_then(|mut f| f.append(b"x")), Err(Error::NoSpace { .. })));
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_leaves_no_litter() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        for content in [&b"one"[..], b"two!"] {
            write_atomic(&RealFs, &path, content).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
        }
        assert_eq!(RealFs.list(dir.path()).unwrap().len(), 1);
        RealFs.create_dir(&dir.path().join("d")).unwrap();
        assert!(write_atomic(&RealFs, &dir.path().join("d"), b"x").is_err(), "over a directory");
        assert_eq!(RealFs.list(dir.path()).unwrap().len(), 2);
    }
}
