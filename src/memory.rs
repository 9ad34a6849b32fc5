//! Memory from the system: zeroed, and in huge pages where it is large enough for them.
//!
//! Rows and index lines are read in no order, so with small pages each read would also walk the page tables: 2 to 3 times slower.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use bytemuck::Zeroable;
use memmap2::{Advice, MmapOptions, MmapRaw};

/// A huge page. Below this one would cost more memory than it saves time.
pub(crate) const HUGE_PAGE_BYTES: usize = if cfg!(miri) { 4096 } else { 2 << 20 };

/// An end that lacks no more than this share of its huge page is made one: the kernel makes none of an end that is not whole.
const END_SHARE: usize = 32;

/// The bytes that a mapping takes of which `bytes` are asked for.
pub(crate) fn mapped_bytes(bytes: usize) -> usize {
    let whole = bytes.next_multiple_of(HUGE_PAGE_BYTES);
    if whole - bytes <= HUGE_PAGE_BYTES / END_SHARE { whole } else { bytes.next_multiple_of(4096) }
}

/// Maps zeroed bytes; large ones begin at a huge page. Returns the bytes to skip at the start.
pub(crate) fn map_anonymous(bytes: usize) -> io::Result<(MmapRaw, usize)> {
    let bytes = mapped_bytes(bytes);
    let huge = bytes >= HUGE_PAGE_BYTES;
    let padded = if huge { bytes + HUGE_PAGE_BYTES } else { bytes };
    let map = MmapRaw::from(MmapOptions::new().len(padded).map_anon()?);
    let skip = if huge { map.as_ptr().align_offset(HUGE_PAGE_BYTES) } else { 0 };
    if huge && !cfg!(miri) {
        // Advice that the kernel refuses (huge pages switched off) costs speed only.
        let _ = map.advise_range(Advice::HugePage, skip, bytes);
    }
    Ok((map, skip))
}

/// Has the C library's allocator keep at most so many arenas, for all of the process; to be called before it begins threads. Returns whether
/// that is so: only glibc does this.
///
/// glibc gives threads arenas of their own, up to eight a core, and each keeps what was freed in it. RocksDB allocates for each read, in each
/// of the threads that read cold rows: a store of 24 MiB held 101 MiB after 16 minutes and 124 MiB after an hour; with two arenas 51 MiB
/// after 16 minutes. What the memory budget counts is the same either way. The command line calls it; a program that links this library
/// decides for itself, or brings another allocator.
///
/// ```
/// let limited = embedrock::limit_arenas(2);
/// assert_eq!(limited, cfg!(target_env = "gnu"));
/// ```
pub fn limit_arenas(most: u16) -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it sets a parameter of the allocator, under the allocator's own lock.
    return unsafe { libc::mallopt(libc::M_ARENA_MAX, i32::from(most.max(1))) } == 1;
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    {
        let _ = most;
        false
    }
}

/// A boxed slice of zeroes, mapped when it is large.
pub(crate) struct Zeroed<T> {
    // Invariant: valid and aligned for `len` initialised `T`s for as long as `_owner` lives, which nothing else refers to.
    base: NonNull<T>,
    len: usize,
    _owner: Owner<T>,
}

enum Owner<T> {
    Heap(NonNull<[T]>),
    Map(#[allow(dead_code, reason = "owned, reached through the pointer")] MmapRaw),
}

// SAFETY: it owns its memory alone; `&Zeroed` only reads and `&mut Zeroed` is exclusive, as for a `Box`.
unsafe impl<T: Send> Send for Zeroed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Zeroed<T> {}

impl<T: Zeroable + Clone> Zeroed<T> {
    /// `len` zeroes. A mapping that the system refuses is taken from the heap.
    pub(crate) fn new(len: usize) -> Zeroed<T> {
        let bytes = len * size_of::<T>();
        if bytes >= HUGE_PAGE_BYTES
            && let Ok((map, skip)) = map_anonymous(bytes)
            && let Some(base) = NonNull::new(map.as_mut_ptr().wrapping_add(skip).cast::<T>())
        {
            return Zeroed { base, len, _owner: Owner::Map(map) };
        }
        let boxed = NonNull::from(Box::leak(vec![T::zeroed(); len].into_boxed_slice()));
        Zeroed { base: boxed.cast(), len, _owner: Owner::Heap(boxed) }
    }
}

impl<T> Drop for Zeroed<T> {
    fn drop(&mut self) {
        if let Owner::Heap(boxed) = self._owner {
            // SAFETY: leaked from a box in `new`, and nothing refers to it any more.
            drop(unsafe { Box::from_raw(boxed.as_ptr()) });
        }
    }
}

impl<T> Deref for Zeroed<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the invariant of `base`; `&self` excludes writers.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T> DerefMut for Zeroed<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: the invariant of `base`; `&mut self` makes the borrow unique.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_nearly_fills_a_huge_page_becomes_one() {
        for (bytes, mapped) in [
            (1, 4096),
            (HUGE_PAGE_BYTES - HUGE_PAGE_BYTES / END_SHARE, HUGE_PAGE_BYTES),
            (HUGE_PAGE_BYTES, HUGE_PAGE_BYTES),
            (2 * HUGE_PAGE_BYTES - HUGE_PAGE_BYTES / END_SHARE, 2 * HUGE_PAGE_BYTES),
            (HUGE_PAGE_BYTES * 3 / 2, (HUGE_PAGE_BYTES * 3 / 2).next_multiple_of(4096)),
        ] {
            assert_eq!(mapped_bytes(bytes), mapped);
        }
    }

    #[test]
    fn small_and_large_ones_are_zero_and_keep_what_is_written() {
        for len in [0, 1, 1000, HUGE_PAGE_BYTES / 8, HUGE_PAGE_BYTES / 8 + 7] {
            let mut memory: Zeroed<u64> = Zeroed::new(len);
            assert!(memory.iter().all(|&word| word == 0) && memory.len() == len);
            memory.iter_mut().zip(1..).for_each(|(word, i)| *word = i);
            assert!(memory.iter().zip(1..).all(|(&word, i)| word == i));
        }
    }
}
