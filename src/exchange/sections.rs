//! A new file whose parts have lengths known beforehand, and are written side by side; it gets its name once it is whole.
#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};

use super::refused;
use crate::codec::crc;
use crate::error::{Error, Result};
use crate::fs::{self, Fs, RealFs, WriteFile, names};

/// Bytes of a part gathered before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// A file under another name, until it is whole.
pub(super) struct NewFile {
    target: PathBuf,
    temporary: PathBuf,
    pub(super) file: Box<dyn WriteFile>,
    named: bool,
}

impl NewFile {
    /// Begins a file that must not be there.
    pub(super) fn create(target: &Path) -> Result<NewFile> {
        if RealFs.exists(target)? {
            return Err(Error::TargetExists { path: target.to_path_buf() });
        }
        let name = target.file_name().ok_or_else(|| refused(target, "it is no name of a file"))?;
        let temporary = names::temporary(fs::parent(target), &name.to_string_lossy());
        if RealFs.exists(&temporary)? {
            // Of an export that was interrupted.
            RealFs.remove_file(&temporary)?;
        }
        let file = RealFs.create(&temporary)?;
        Ok(NewFile { target: target.to_path_buf(), temporary, file, named: false })
    }

    /// Makes it durable and gives it its name.
    pub(super) fn finish(mut self) -> Result<()> {
        self.file.sync()?;
        RealFs.rename(&self.temporary, &self.target)?;
        self.named = true;
        RealFs.sync_dir(fs::parent(&self.target))
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.named {
            let _ = RealFs.remove_file(&self.temporary);
        }
    }
}

struct Part {
    at: u64,
    left: u64,
    buffer: Vec<u8>,
    crc: u32,
}

/// See the module.
pub(super) struct Sections {
    pub(super) new: NewFile,
    parts: Vec<Part>,
}

impl Sections {
    pub(super) fn create(target: &Path) -> Result<Sections> {
        Ok(Sections { new: NewFile::create(target)?, parts: Vec::new() })
    }

    /// Adds a part of so many bytes at an offset.
    pub(super) fn add(&mut self, at: u64, bytes: u64) {
        self.parts.push(Part { at, left: bytes, buffer: Vec::new(), crc: 0 });
    }

    /// Appends to a part.
    pub(super) fn append(&mut self, part: usize, put: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        let Some(part) = self.parts.get_mut(part) else { return Ok(()) };
        put(&mut part.buffer);
        if part.buffer.len() >= BUFFER_BYTES { flush(&mut self.new, part) } else { Ok(()) }
    }

    /// Writes what was gathered, and checks that each part has as many bytes as was said. Returns their checksums.
    pub(super) fn flush(&mut self) -> Result<Vec<u32>> {
        for part in &mut self.parts {
            flush(&mut self.new, part)?;
            if part.left > 0 {
                return Err(refused(&self.new.target, "there were fewer rows than were counted: they changed meanwhile"));
            }
        }
        Ok(self.parts.iter().map(|part| part.crc).collect())
    }
}

fn flush(new: &mut NewFile, part: &mut Part) -> Result<()> {
    let bytes = part.buffer.len() as u64;
    let Some(left) = part.left.checked_sub(bytes) else {
        return Err(refused(&new.target, "there were more rows than were counted: they changed meanwhile"));
    };
    new.file.write_at(part.at, &part.buffer)?;
    part.crc = crc(part.crc, &part.buffer);
    (part.at, part.left) = (part.at + bytes, left);
    part.buffer.clear();
    Ok(())
}
