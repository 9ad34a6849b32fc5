//! A control group of its own for a process, with a limit on its memory: version 1 or 2, as root.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A group that is removed in the end.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// None, and why, where there can be none.
    pub(crate) fn with_limit(bytes: usize) -> Result<Cgroup, String> {
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let of = |controller: &str| {
            own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                (fields.next()? == controller).then_some(fields.next()?.trim_start_matches('/').to_owned())
            })
        };
        let candidates = [
            of("memory").map(|path| (Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes")),
            of("").map(|path| (Path::new("/sys/fs/cgroup").join(path), "memory.max")),
        ];
        let mut why = "no memory controller".to_owned();
        for (parent, limit) in candidates.into_iter().flatten() {
            let dir = parent.join(format!("embedrock-{}", std::process::id()));
            let made = fs::create_dir(&dir).and_then(|()| fs::write(dir.join(limit), bytes.to_string()));
            match made {
                Ok(()) => return Ok(Cgroup(dir)),
                Err(error) => {
                    let _ = fs::remove_dir(&dir);
                    why = format!("{}: {error}", dir.join(limit).display());
                }
            }
        }
        Err(why)
    }

    /// What runs the program inside.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
