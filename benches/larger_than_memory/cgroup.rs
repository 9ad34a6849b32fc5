//! A memory cgroup of its own for this process: what it reads through the page cache counts as its memory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A group that this process is in; left and removed when dropped.
pub(crate) struct Cgroup {
    dir: PathBuf,
    parent: PathBuf,
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.parent.join("cgroup.procs"), std::process::id().to_string());
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Moves this process into a new group that may hold `bytes`. What it holds already is not counted.
pub(crate) fn join(bytes: usize) -> io::Result<Cgroup> {
    let (one, two) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
    let (parent, limit) = if one.is_dir() { (one, "memory.limit_in_bytes") } else { (two, "memory.max") };
    let dir = parent.join(format!("embedrock-bench-{}", std::process::id()));
    fs::create_dir(&dir)?;
    let group = Cgroup { dir, parent: parent.to_path_buf() };
    fs::write(group.dir.join(limit), bytes.to_string())?;
    fs::write(group.dir.join("cgroup.procs"), std::process::id().to_string())?;
    Ok(group)
}
