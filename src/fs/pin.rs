//! Pins: who reads a file says so on the file itself, and who would remove it asks first.
//!
//! A pin is a shared lock (flock) on a descriptor that is open to read. So it takes no permission to write and no file of its own,
//! works on a disk that is read-only, and ends with the process that holds it, however that ends.
#![forbid(unsafe_code)]

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::LockGuard;
use crate::error::{Error, Result};

/// Held by the process that took it. A forked child inherits the guard: there, dropping it releases nothing.
struct RealPin {
    file: File,
    owner: u32,
}

/// Pins a file, or claims it so as to remove it. `None`: it is not there, or the other of the two has it.
pub(super) fn take(path: &Path, shared: bool) -> Result<Option<Box<dyn LockGuard>>> {
    let failed = |error| Error::Io { action: "pin", path: path.to_path_buf(), source: error };
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    match if shared { file.try_lock_shared() } else { file.try_lock() } {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    let pin = RealPin { file, owner: std::process::id() };
    // Between the opening and the lock the name may have been removed, or given to another file.
    let (held, named) = (pin.file.metadata().map_err(failed)?, fs::symlink_metadata(path));
    let same = named.is_ok_and(|named| (named.dev(), named.ino()) == (held.dev(), held.ino()));
    Ok(same.then(|| Box::new(pin) as _))
}

impl LockGuard for RealPin {
    fn owner(&self) -> u32 {
        self.owner
    }
}

impl Drop for RealPin {
    fn drop(&mut self) {
        if std::process::id() == self.owner {
            // Closing alone would leave it pinned for as long as a forked child has the file open.
            let _ = self.file.unlock();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_file_is_not_claimed_and_a_claimed_one_not_pinned() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        assert!(take(&path, true).unwrap().is_none() && take(&path, false).unwrap().is_none(), "not there");
        fs::write(&path, "x").unwrap();
        let pins = [take(&path, true).unwrap().unwrap(), take(&path, true).unwrap().unwrap()];
        assert!(take(&path, false).unwrap().is_none());
        drop(pins);
        let claim = take(&path, false).unwrap().unwrap();
        assert!(take(&path, true).unwrap().is_none());
        // Removed and made anew: the claim is of the old file.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "y").unwrap();
        assert!(take(&path, true).unwrap().is_some());
        drop(claim);
    }
}
