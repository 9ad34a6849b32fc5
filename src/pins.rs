//! Pins on the files of a store: what a reader reads, in this process or another, retention does not remove.
//!
//! | who | does |
//! |---|---|
//! | a reader that begins | pins all bases and the oldest segment ([`Pins::all`]), then looks what it needs |
//! | and once it knows | keeps only that ([`Pins::keep`]), and moves on as it goes on |
//! | retention | asks for each file before it removes it ([`Fs::claim`]), from the oldest segment on, and stops at one that is pinned |
//!
//! So a pinned segment keeps all after it. A pin holds no file of its own and ends with its process.
#![forbid(unsafe_code)]

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::fs::{Fs, LockGuard, names};
use crate::sync::thread;

/// How often, and after how long each time, files that are just being removed are looked for again.
const ATTEMPTS: u32 = 2000;
const PAUSE: Duration = Duration::from_millis(2);

/// See the module. Dropped, nothing is pinned any more.
#[derive(Default)]
pub(crate) struct Pins {
    /// The oldest segment that is needed.
    segment: Option<(u64, Box<dyn LockGuard>)>,
    bases: Vec<(u64, Box<dyn LockGuard>)>,
}

impl Pins {
    /// Pins all bases and segments that there are, so that looking at them finds one state.
    ///
    /// # Errors
    /// The directory cannot be read, or files go on being removed for seconds.
    pub(crate) fn all(fs: &dyn Fs, dir: &Path) -> Result<Pins> {
        for _ in 0..ATTEMPTS {
            let segments = fs.list(&names::logs(dir))?;
            let first = segments.iter().filter_map(|entry| names::parse_segment(&entry.name)).min();
            let mut bases = Vec::new();
            for number in fs.list(&names::bases(dir))?.iter().filter_map(|entry| names::parse_base(&entry.name)) {
                // One without a manifest is no base that could be needed.
                if fs.exists(&names::base(dir, number).join(names::MANIFEST))? {
                    bases.push(number);
                }
            }
            let mut pins = Pins::default();
            if pins.keep(fs, dir, first, &bases)? {
                return Ok(pins);
            }
            thread::sleep(PAUSE);
        }
        Err(Error::Io { action: "pin", path: dir.to_path_buf(), source: std::io::ErrorKind::WouldBlock.into() })
    }

    /// From now on keeps the segments from `first` on and these bases, no others. False, and all stays as it was, if one of them is not
    /// there any more; what is pinned already always is.
    ///
    /// # Errors
    /// A file cannot be opened.
    pub(crate) fn keep(&mut self, fs: &dyn Fs, dir: &Path, first: Option<u64>, bases: &[u64]) -> Result<bool> {
        let mut kept = Pins::default();
        // The new pins come before the old ones go.
        if let Some(number) = first {
            let Some(pin) = fs.pin(&names::segment(dir, number))? else { return Ok(false) };
            kept.segment = Some((number, pin));
        }
        for &number in bases {
            let Some(pin) = fs.pin(&names::base(dir, number).join(names::MANIFEST))? else { return Ok(false) };
            kept.bases.push((number, pin));
        }
        *self = kept;
        Ok(true)
    }
}

impl std::fmt::Debug for Pins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bases: Vec<u64> = self.bases.iter().map(|(number, _)| *number).collect();
        f.debug_struct("Pins").field("segment", &self.segment.as_ref().map(|(number, _)| number)).field("bases", &bases).finish()
    }
}
