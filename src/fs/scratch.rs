//! A directory for what need not last.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Fs;
use crate::error::{Error, Result};

/// Names tried: those of processes that died with the same number may be there.
const ATTEMPTS: u64 = 10_000;

/// Distinguishes the directories of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A directory of its own that nobody else may enter, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    fs: Arc<dyn Fs>,
    path: PathBuf,
    owner: u32,
}

impl Scratch {
    /// Makes one in `place`, or in the system's directory for temporary files.
    pub(crate) fn new(fs: &Arc<dyn Fs>, place: Option<&Path>) -> Result<Scratch> {
        let (owner, system) = (std::process::id(), std::env::temp_dir());
        let place = place.unwrap_or(&system);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let path = place.join(format!("embedrock-{owner}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
            match fs.create_private_dir(&path) {
                Ok(()) => return Ok(Scratch { fs: Arc::clone(fs), path, owner }),
                Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
                    last = Some((path, source))
                }
                Err(error) => return Err(error),
            }
        }
        let (path, source) = last.unwrap_or_else(|| (place.to_path_buf(), std::io::ErrorKind::AlreadyExists.into()));
        Err(Error::Io { action: "create", path, source })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A forked child's copy is the parent's directory.
        if std::process::id() == self.owner
            && let Err(error) = self.fs.remove_dir_all(&self.path)
        {
            tracing::warn!(%error, "a temporary directory could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::RealFs;

    #[test]
    fn each_is_another_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let fs: Arc<dyn Fs> = Arc::new(RealFs);
        let two = [Scratch::new(&fs, Some(dir.path())).unwrap(), Scratch::new(&fs, Some(dir.path())).unwrap()];
        assert_ne!(two[0].path(), two[1].path());
        let mode = std::fs::metadata(two[0].path()).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o700);
        std::fs::write(two[0].path().join("x"), "x").unwrap();
        drop(two);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(Scratch::new(&fs, Some(&dir.path().join("none"))).is_err());
    }
}
