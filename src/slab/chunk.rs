//! One mapping of a slab: the metas of its rows, then their lanes. The end may be too short for a huge page, and metas, of which
//! each access costs as much as a row's and brings less, must not lie in small ones.

use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use memmap2::{Advice, MmapOptions, MmapRaw, UncheckedAdvice};

use super::{Entry, META_BYTES, RowMeta};
use crate::error::{Error, Result};
use crate::memory::{HUGE_PAGE_BYTES, map_anonymous, mapped_bytes};

/// What chunks of huge pages leave free, to begin at different places of them. If all began at the same one, the rows of small
/// tables, which are few in each shard, would crowd few sets of the caches.
pub(super) const SPREAD_BYTES: usize = HUGE_PAGE_BYTES / 64;
/// Chunks with a place of their own.
const PLACES: usize = 16;

/// Where slabs live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Backing {
    /// Anonymous memory, with huge pages where chunks are large enough.
    #[default]
    Anonymous,
    /// Unlinked files in this directory, for read-mostly tables: under training, writes collapse once the dirty
    /// pages pass the kernel's write-back limits.
    File(PathBuf),
}

pub(super) struct Chunk {
    // Invariant: `base` is 64-byte aligned and valid for `rows * (META_BYTES + lanes * 4)` zero-initialised bytes
    // for as long as `map` lives; nothing else holds a reference into it.
    base: NonNull<u8>,
    rows: usize,
    lanes: usize,
    /// Where its first page begins in the mapping.
    skip: usize,
    is_anonymous: bool,
    map: MmapRaw,
}

// SAFETY: a chunk owns its mapping alone; `&Chunk` only reads and `&mut Chunk` is exclusive, as for a `Vec`.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// Bytes of a chunk of `rows` rows.
    pub(super) fn bytes(rows: usize, lanes: usize) -> usize {
        mapped_bytes(rows * (META_BYTES + lanes * 4))
    }

    pub(super) fn map(rows: usize, lanes: usize, backing: &Backing) -> Result<Chunk> {
        let bytes = Chunk::bytes(rows, lanes);
        let (map, skip, place) = match backing {
            Backing::Anonymous => {
                let (map, skip) = map_anonymous(bytes).map_err(map_error)?;
                (map, skip, place(bytes - rows * (META_BYTES + lanes * 4)))
            }
            Backing::File(dir) => (map_file(bytes, dir)?, 0, 0),
        };
        // A forked child cannot use the store: without the rows it neither pays for their page tables nor makes the parent copy
        // what it writes next. Advice, as that for huge pages.
        let _ = if cfg!(miri) { Ok(()) } else { map.advise(Advice::DontFork) };
        let start = map.as_mut_ptr().wrapping_add(skip + place);
        let base = NonNull::new(start).ok_or_else(|| map_error(std::io::Error::other("null mapping")))?;
        Ok(Chunk { base, rows, lanes, skip, is_anonymous: *backing == Backing::Anonymous, map })
    }

    /// Gives the pages after the first `bytes` bytes back to the system: they are zeros when they are next used. What it refuses it keeps.
    pub(super) fn give_back(&mut self, bytes: usize) {
        let mapped = mapped_bytes(self.rows * (META_BYTES + self.lanes * 4));
        if cfg!(miri) || !self.is_anonymous || bytes >= mapped {
            return;
        }
        // SAFETY: `&mut self` excludes references to rows; zeros are as good as any other bytes, and those pages are the chunk's own.
        let given = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.skip + bytes, mapped - bytes) };
        if let Err(error) = given {
            tracing::debug!(%error, "pages of a slab stay");
        }
    }

    #[inline(always)]
    fn row_ptr(&self, at: usize) -> *mut f32 {
        assert!(at < self.rows);
        let offset = self.rows * META_BYTES + at * self.lanes * 4;
        // SAFETY: at < rows, so the offset is inside the mapping (invariant of `base`).
        unsafe { self.base.as_ptr().add(offset).cast() }
    }

    #[inline(always)]
    fn meta_ptr(&self, at: usize) -> *mut RowMeta {
        assert!(at < self.rows);
        // SAFETY: at < rows, so the offset is inside the mapping (invariant of `base`).
        unsafe { self.base.as_ptr().add(at * META_BYTES).cast() }
    }

    #[inline(always)]
    pub(super) fn row(&self, at: usize) -> &[f32] {
        // SAFETY: the pointer is valid for `lanes` initialised f32s, aligned: chunks have 8 rows or more, so lanes begin at a multiple of 64 bytes; `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.row_ptr(at), self.lanes) }
    }

    #[inline(always)]
    pub(super) fn row_mut(&mut self, at: usize) -> &mut [f32] {
        // SAFETY: as in `row`; `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.row_ptr(at), self.lanes) }
    }

    #[inline(always)]
    pub(super) fn entry_mut(&mut self, at: usize) -> (&mut RowMeta, &mut [f32]) {
        // SAFETY: as in `row_mut` and `meta_mut`; metas and lanes do not overlap.
        unsafe { (&mut *self.meta_ptr(at), std::slice::from_raw_parts_mut(self.row_ptr(at), self.lanes)) }
    }

    #[inline(always)]
    pub(super) fn meta(&self, at: usize) -> RowMeta {
        // SAFETY: valid, initialised, and aligned: metas begin where the chunk does.
        unsafe { *self.meta_ptr(at) }
    }

    #[inline(always)]
    pub(super) fn meta_mut(&mut self, at: usize) -> &mut RowMeta {
        // SAFETY: as in `meta`; `&mut self` makes the borrow unique.
        unsafe { &mut *self.meta_ptr(at) }
    }

    #[inline(always)]
    pub(super) fn entry(&self, at: usize) -> Entry<'_> {
        // SAFETY: as in `row` and `meta`.
        unsafe { Entry { meta: &*self.meta_ptr(at), lanes: std::slice::from_raw_parts(self.row_ptr(at), self.lanes) } }
    }
}

/// Where in its mapping the next chunk begins, of which so many bytes are free.
fn place(free: usize) -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let step = free.min(SPREAD_BYTES) / PLACES / 64 * 64;
    NEXT.fetch_add(1, Relaxed) % PLACES * step
}

fn map_error(source: std::io::Error) -> Error {
    Error::io("map memory for", std::path::Path::new("a slab"), source)
}

/// The file's space is allocated before it is mapped, so a full disk is an error here and never a SIGBUS later.
fn map_file(bytes: usize, dir: &std::path::Path) -> Result<MmapRaw> {
    let file = tempfile_in(dir)?;
    // SAFETY: plain system call on a descriptor that `file` keeps open.
    let status = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) };
    if status != 0 {
        return Err(Error::io("allocate a slab in", dir, std::io::Error::last_os_error()));
    }
    MmapOptions::new().len(bytes).map_raw(&file).map_err(map_error)
}

/// An unlinked file: it goes with the process, as slabs are never read back.
fn tempfile_in(dir: &std::path::Path) -> Result<std::fs::File> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Relaxed);
    let path = dir.join(format!("slab-{}-{number}", std::process::id()));
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| Error::io("create", &path, e))?;
    std::fs::remove_file(&path).map_err(|e| Error::io("unlink", &path, e))?;
    Ok(file)
}
