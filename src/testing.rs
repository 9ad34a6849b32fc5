//! For tests: a simulated disk that loses what was not synced, and what fuzzing needs of the formats.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use crate::fs::{CrashMode, DirEntry, FaultKind, FaultSpan, Fs, LockGuard, ReadFile, SimFs, SyncClass, SyncFile, WriteFile};

pub use crate::kill_point::KillPoint;
pub use crate::plant::{Bug, plant};

use crate::codec::crc;
use crate::cold::{TWIN_ROWS, repair_twin};
use crate::error::Result;
use crate::fs::names;
use crate::log::{CommitRecord, Event, Frame, LogReader, Renamed, repair, repair_base};
use crate::manifest::{FileSum, Manifest};
use crate::schema::TableSchema;
use crate::shard::{read_lanes, split_cold};
use crate::verify::{VerifyReport, verify_on};

/// Where [`disk_of`] puts a lone file.
const LONE: &str = "/disk/file";
/// Bytes of a copy in a DURABLE and in an IDENTITY file: the last four of each are its checksum.
const COPIES: [(&str, usize); 2] = [("DURABLE", 72), ("IDENTITY", 40)];
/// Where a manifest has the hash of its commit.
const BEGIN_HASH: std::ops::Range<usize> = 36..52;

/// As [`crate::verify`], on a simulated disk.
///
/// # Errors
/// As [`crate::verify`].
pub fn verify_simulated(fs: &SimFs, dir: &Path) -> Result<VerifyReport> {
    verify_on(fs, dir)
}

/// A simulated disk with these files, in directories made for them.
///
/// # Errors
/// A path that a disk cannot have.
pub fn disk_of(files: &BTreeMap<PathBuf, Vec<u8>>) -> Result<SimFs> {
    let fs = SimFs::new();
    for (path, bytes) in files {
        fs.make_dirs(path.parent().unwrap_or(path))?;
        let mut file = fs.create(path)?;
        file.append(bytes)?;
        file.sync()?;
        fs.sync_dir(path.parent().unwrap_or(path))?;
    }
    Ok(fs)
}

/// Reads bytes as a segment of a log, its checksums made right first if `repaired`; returns frames, rows and commits seen.
///
/// # Panics
/// If the reader goes back, or on after an end.
#[must_use]
pub fn walk_segment(bytes: &[u8], repaired: bool) -> [usize; 3] {
    let mut bytes = bytes.to_vec();
    if repaired {
        repair(&mut bytes, &mut Renamed::new());
    }
    let length = bytes.len() as u64;
    let Ok(fs) = disk_of(&BTreeMap::from([(LONE.into(), bytes)])) else { return [0; 3] };
    let Ok(mut reader) = LogReader::open(&fs, Path::new(LONE)) else { return [0; 3] };
    let mut seen = [0; 3];
    loop {
        let before = reader.position();
        match reader.next() {
            Ok(Event::Frame { offset, end, frame, .. }) => {
                assert!(offset == before && end > offset && end <= length);
                seen[0] += 1;
                match frame {
                    Frame::Rows { lanes, images, .. } => seen[1] += images.bytes().len() / (16 + 4 * lanes as usize),
                    Frame::Removed { keys, .. } => seen[1] += keys.iter().count(),
                    Frame::Counts { counts, .. } => seen[1] += counts.iter().count(),
                    Frame::Commit(_) => seen[2] += 1,
                    _ => {}
                }
            }
            Ok(Event::End { offset } | Event::Torn { offset, .. }) => {
                assert!(offset == before && reader.position() == before);
                return seen;
            }
            Err(_) => return seen,
        }
    }
}

/// Decodes bytes as each of the small records; what decodes must be encoded and decode again to the same.
///
/// # Panics
/// If it does not.
pub fn round_trips(bytes: &[u8]) {
    if let Ok(schema) = TableSchema::decode(bytes) {
        assert_eq!(TableSchema::decode(&schema.encode()).as_ref(), Ok(&schema));
    }
    if let Some(record) = CommitRecord::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
    let mut summed = bytes.to_vec();
    summed.extend_from_slice(&crc(0, bytes).to_le_bytes());
    let manifest = |bytes: Vec<u8>| {
        let fs = disk_of(&BTreeMap::from([(LONE.into(), bytes)])).ok()?;
        Manifest::read(&fs, Path::new(LONE)).ok()
    };
    if let Some(read) = manifest(summed.clone()) {
        assert_eq!(read.encode(), summed);
    }
    let lanes = usize::from(bytes.first().copied().unwrap_or(0));
    if let Some((_, values)) = split_cold(bytes, lanes) {
        let mut row = vec![0.0; lanes];
        read_lanes(values, &mut row);
        let back: Vec<u8> = row.iter().flat_map(|lane| lane.to_le_bytes()).collect();
        assert_eq!(back, values);
    }
}

/// Makes every checksum of the store in `dir` right again after its files were changed.
pub fn repair_store(files: &mut BTreeMap<PathBuf, Vec<u8>>, dir: &Path) {
    let mut renamed = Renamed::new();
    for (_, bytes) in files.iter_mut().filter(|(path, _)| path.starts_with(names::logs(dir))) {
        repair(bytes, &mut renamed);
    }
    for (name, size) in COPIES {
        let Some(bytes) = files.get_mut(&dir.join(name)) else { continue };
        for copy in bytes.chunks_exact_mut(size) {
            let sum = crc(0, &copy[..size - 4]);
            copy[size - 4..].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let manifests: Vec<PathBuf> = files.keys().filter(|path| path.ends_with(names::MANIFEST)).cloned().collect();
    for path in manifests {
        let base = path.parent().unwrap_or(&path).to_path_buf();
        if let Some(hot) = files.get_mut(&base.join(names::HOT_ROWS)) {
            repair_base(hot, &renamed);
        }
        if let Some(rows) = files.get_mut(&base.join(names::COLD).join(TWIN_ROWS)) {
            repair_twin(rows);
        }
        repair_manifest(files, &path, &base, &renamed);
    }
}

/// The checksum of a manifest; and, where it decodes, its sums of files and the commit that it names.
fn repair_manifest(files: &mut BTreeMap<PathBuf, Vec<u8>>, path: &Path, base: &Path, renamed: &Renamed) {
    let Some(bytes) = files.get_mut(path) else { return };
    if let Some(hash) = bytes.get_mut(BEGIN_HASH)
        && let Some(new) = renamed.get(&*hash)
    {
        hash.copy_from_slice(new);
    }
    if let Some(end) = bytes.len().checked_sub(4) {
        let sum = crc(0, &bytes[..end]);
        bytes[end..].copy_from_slice(&sum.to_le_bytes());
    }
    let Ok(fs) = disk_of(files) else { return };
    if let Ok(mut manifest) = Manifest::read(&fs, path) {
        for file in &mut manifest.files {
            if let Ok(found) = FileSum::of(&fs, base, file.name.clone()) {
                *file = found;
            }
        }
        files.insert(path.to_path_buf(), manifest.encode());
    }
}
