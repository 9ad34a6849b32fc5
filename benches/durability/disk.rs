//! What the disk does by itself, in the same run: one file of the same size written and read in order.
#![allow(clippy::cast_precision_loss, reason = "figures")]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::Instant;

const BLOCK_BYTES: usize = 4 << 20;
const ALIGNMENT: usize = 4096;

/// Bytes a second, through the page cache and past it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) cached: f64,
    pub(crate) direct: f64,
}

impl Rates {
    /// What a program could do here.
    pub(crate) fn best(self) -> f64 {
        self.cached.max(self.direct)
    }
}

fn block() -> (Vec<u8>, usize) {
    let block: Vec<u8> = (0..BLOCK_BYTES + ALIGNMENT).map(|i| (i * 31 % 251) as u8).collect();
    let skip = block.as_ptr().align_offset(ALIGNMENT);
    (block, skip)
}

fn open(path: &Path, write: bool, direct: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(!write).write(write).create(write).truncate(write);
    options.custom_flags(if direct { libc::O_DIRECT } else { 0 }).open(path)
}

/// Writes a new file in order and syncs it.
fn write(path: &Path, bytes: u64, direct: bool) -> io::Result<f64> {
    let (block, skip) = block();
    let block = &block[skip..skip + BLOCK_BYTES];
    let begun = Instant::now();
    let file = open(path, true, direct)?;
    (0..bytes.div_ceil(BLOCK_BYTES as u64)).try_for_each(|at| file.write_all_at(block, at * BLOCK_BYTES as u64))?;
    file.sync_data()?;
    let seconds = begun.elapsed().as_secs_f64();
    drop(file);
    fs::remove_file(path)?;
    Ok((bytes.next_multiple_of(BLOCK_BYTES as u64)) as f64 / seconds)
}

/// The rates of writing `bytes` into a new file in `dir`, the sync included.
pub(crate) fn write_rates(dir: &Path, bytes: u64) -> io::Result<Rates> {
    let path = dir.join("disk");
    Ok(Rates { cached: write(&path, bytes, false)?, direct: write(&path, bytes, true).unwrap_or(0.0) })
}

/// The rates of reading files in order, dropped from the page cache before.
pub(crate) fn read_rates(files: &[std::path::PathBuf]) -> io::Result<Rates> {
    let rate = |direct: bool| -> io::Result<f64> {
        let (mut block, skip) = block();
        let (mut bytes, begun) = (0, Instant::now());
        for path in files {
            forget_file(path)?;
        }
        for path in files {
            let (file, mut at) = (open(path, false, direct)?, 0);
            loop {
                let read = file.read_at(&mut block[skip..skip + BLOCK_BYTES], at)?;
                at += read as u64;
                if read < BLOCK_BYTES {
                    break;
                }
            }
            bytes += at;
        }
        Ok(bytes as f64 / begun.elapsed().as_secs_f64())
    };
    Ok(Rates { cached: rate(false)?, direct: rate(true).unwrap_or(0.0) })
}

pub(crate) fn forget_file(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    // SAFETY: the descriptor is open; the call takes no pointers.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// All plain files below a directory.
pub(crate) fn files(dir: &Path) -> io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { found.extend(files(&path)?) } else { found.push(path) }
    }
    Ok(found)
}

/// Drops a directory's files from the page cache.
pub(crate) fn forget(dir: &Path) -> io::Result<()> {
    files(dir)?.iter().try_for_each(|path| forget_file(path))
}

/// Bytes of all files below a directory.
pub(crate) fn bytes(dir: &Path) -> io::Result<u64> {
    files(dir)?.iter().map(|path| fs::metadata(path).map(|metadata| metadata.len())).sum()
}
