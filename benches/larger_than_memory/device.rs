//! The device's own random reads of 4 KiB, past the page cache, from as many threads as the depth says.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::drive::Failure;
use crate::workload::key_of;

pub(crate) const DEPTHS: [usize; 5] = [1, 4, 16, 32, 64];
const PAGE: usize = 4096;
const BLOCK: usize = 4 << 20;

/// Room for a page at an address that direct reads take.
struct Aligned(Vec<u8>);

impl Aligned {
    fn new(bytes: usize) -> Aligned {
        Aligned(vec![0x5a; bytes + PAGE])
    }

    fn bytes(&mut self, bytes: usize) -> &mut [u8] {
        let skip = self.0.as_ptr().align_offset(PAGE);
        &mut self.0[skip..skip + bytes]
    }
}

fn open(path: &Path, direct: bool) -> std::io::Result<File> {
    OpenOptions::new().read(true).custom_flags(if direct { libc::O_DIRECT } else { 0 }).open(path)
}

/// Reads a second at each depth.
pub(crate) fn measure(dir: &Path, bytes: u64, seconds: f64) -> Result<Vec<(usize, f64)>, Failure> {
    let path = dir.join("device");
    let blocks = bytes.div_ceil(BLOCK as u64);
    let file = File::create(&path)?;
    let mut block = Aligned::new(BLOCK);
    for at in 0..blocks {
        block.bytes(BLOCK)[..8].copy_from_slice(&at.to_le_bytes());
        file.write_all_at(block.bytes(BLOCK), at * BLOCK as u64)?;
    }
    file.sync_all()?;
    drop(file);
    crate::disk::forget(dir)?;
    let direct = open(&path, true).is_ok();
    if !direct {
        eprintln!("the file system takes no direct reads: the device's rates are those of the page cache");
    }
    let pages = blocks * (BLOCK / PAGE) as u64;
    let mut rates = Vec::new();
    for depth in DEPTHS {
        let (done, begun) = (AtomicU64::new(0), Instant::now());
        let until = begun + Duration::from_secs_f64(seconds);
        std::thread::scope(|scope| {
            let reader = |thread: u64| -> std::io::Result<()> {
                let (file, mut page) = (open(&path, direct)?, Aligned::new(PAGE));
                for number in 0u64.. {
                    let at = key_of(thread << 40 | (depth as u64) << 32 | number) % pages;
                    file.read_exact_at(page.bytes(PAGE), at * PAGE as u64)?;
                    done.fetch_add(1, Ordering::Relaxed);
                    if Instant::now() >= until {
                        break;
                    }
                }
                Ok(())
            };
            let readers: Vec<_> = (0..depth as u64).map(|thread| scope.spawn(move || reader(thread))).collect();
            readers.into_iter().try_for_each(|reader| reader.join().unwrap_or_else(|_| Err(std::io::ErrorKind::Other.into())))
        })?;
        rates.push((depth, done.into_inner() as f64 / begun.elapsed().as_secs_f64()));
    }
    fs::remove_file(&path)?;
    Ok(rates)
}
