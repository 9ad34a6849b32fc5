//! The lock that keeps a second `Store`, of this process or another, out of a directory.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::LockGuard;
use crate::error::{Error, Result};

/// A file, whatever it is called.
type Place = (u64, u64);

/// What each process holds that this one was forked from, and itself: the system's lock is no help against a second store of the
/// same process everywhere. Locked for a moment only, as a child that is forked meanwhile finds it locked for ever.
static HELD: Mutex<Option<HashMap<Place, u32>>> = Mutex::new(None);

fn held() -> MutexGuard<'static, Option<HashMap<Place, u32>>> {
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes that this process has the place, unless it has already.
fn claim(place: Place) -> bool {
    let own = std::process::id();
    held().get_or_insert_default().insert(place, own) != Some(own)
}

fn release(place: Place) {
    if let Some(held) = held().as_mut() {
        held.remove(&place);
    }
}

/// Held by the process that took it. A forked child inherits the guard: there, dropping it releases nothing.
pub(super) struct RealLock {
    /// Has the system's lock, together with the copies of forked children.
    file: Option<File>,
    place: Place,
    owner: u32,
}

impl RealLock {
    /// Locks the file at `path`, which is made when there is none, or says who holds it.
    pub(super) fn take(path: &Path) -> Result<Box<dyn LockGuard>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(path).map_err(|error| Error::io("lock", path, error))?;
        let metadata = file.metadata().map_err(|error| Error::io("lock", path, error))?;
        let place = (metadata.dev(), metadata.ino());
        let locked = |pid| Error::Locked { path: path.parent().unwrap_or(path).to_path_buf(), pid };
        if !claim(place) {
            return Err(locked(Some(std::process::id())));
        }
        if let Err(error) = file.try_lock() {
            release(place);
            return Err(match error {
                TryLockError::WouldBlock => locked(holder(path)),
                TryLockError::Error(error) => Error::io("lock", path, error),
            });
        }
        // The number only makes the message helpful; a full disk must not keep a store from being opened.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Box::new(RealLock { file: Some(file), place, owner: std::process::id() }))
    }
}

/// Who says in the file that it has the lock.
fn holder(path: &Path) -> Option<u32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

impl LockGuard for RealLock {
    fn owner(&self) -> u32 {
        self.owner
    }
}

impl Drop for RealLock {
    fn drop(&mut self) {
        if std::process::id() != self.owner {
            return;
        }
        // Closing alone would leave it locked for as long as a forked child has the file open.
        if let Some(file) = self.file.take() {
            let _ = file.unlock();
        }
        // Last: whoever finds the place free finds the lock free too.
        release(self.place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_locks_once_under_any_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let guard = RealLock::take(&path).unwrap();
        assert_eq!(guard.owner(), std::process::id());
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        for name in ["LOCK", "other"] {
            let second = RealLock::take(&dir.path().join(name)).err().unwrap();
            assert!(matches!(second, Error::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{second}");
        }
        drop(guard);
        drop(RealLock::take(&path).unwrap());
        assert_eq!(holder(&path), Some(std::process::id()));
    }

    #[test]
    fn another_holder_is_named_and_a_dead_ones_text_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        fs::write(&path, "4242\n").unwrap();
        // A second open file description excludes the first as another process would.
        let other = File::open(&path).unwrap();
        other.try_lock().unwrap();
        let refused = RealLock::take(&path).err().unwrap();
        assert!(matches!(refused, Error::Locked { pid: Some(4242), .. }), "{refused}");
        drop(other);
        RealLock::take(&path).unwrap();
    }
}
