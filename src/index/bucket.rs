//! One cache line of the index: tags of twelve keys, their rows, and how many keys passed by.

use bytemuck::Zeroable;

/// Rows a bucket holds.
pub(super) const WIDTH: usize = 12;
/// Keys that passed a bucket are counted in this many classes, four bits each, so that few searches go on for nothing.
const CLASSES: u32 = 8;
const CLASS_BITS: u32 = 4;
const CLASS_MAX: u32 = (1 << CLASS_BITS) - 1;
const ALL_PLACES: u32 = (1 << WIDTH) - 1;

#[derive(Clone, Copy, Zeroable)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Eight bits of each key's hash, never 0; 0 where the place is free.
    tags: [u8; WIDTH],
    /// For each class the keys whose search begins before here and ends beyond. The highest number means "at least".
    passed: u32,
    pub(super) rows: [u32; WIDTH],
}

const _: () = assert!(size_of::<Bucket>() == 64 && WIDTH + 4 == 16);

/// What of a hash the buckets look at.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    tag: u8,
    shift: u32,
}

impl Mark {
    /// From other bits than those that choose the bucket.
    #[inline(always)]
    pub(super) fn new(hash: u64) -> Mark {
        Mark { tag: ((hash >> 32) as u8).max(1), shift: ((hash >> 40) as u32 % CLASSES) * CLASS_BITS }
    }
}

/// Places of a bucket, as bits.
#[derive(Clone, Copy)]
pub(super) struct Places(u32);

impl Iterator for Places {
    type Item = usize;

    #[inline(always)]
    fn next(&mut self) -> Option<usize> {
        let place = self.0.trailing_zeros() as usize;
        self.0 &= self.0.wrapping_sub(1);
        (place < WIDTH).then_some(place)
    }
}

impl Bucket {
    #[inline(always)]
    fn places_of(&self, tag: u8) -> Places {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 is part of x86-64; a bucket begins at a multiple of 64 bytes and has more than the 16 that are read.
        let equal = unsafe {
            use std::arch::x86_64::{__m128i, _mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi8};
            let tags = _mm_load_si128((&raw const *self).cast::<__m128i>());
            _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag.cast_signed()))).cast_unsigned()
        };
        #[cfg(not(target_arch = "x86_64"))]
        let equal = self.tags.iter().enumerate().fold(0, |equal, (place, &other)| equal | u32::from(other == tag) << place);
        Places(equal & ALL_PLACES)
    }

    /// Where a key of this mark may be.
    #[inline(always)]
    pub(super) fn matches(&self, mark: Mark) -> Places {
        self.places_of(mark.tag)
    }

    /// Whether a key of this mark may lie beyond.
    #[inline(always)]
    pub(super) fn was_passed(&self, mark: Mark) -> bool {
        self.passed >> mark.shift & CLASS_MAX != 0
    }

    /// Adds a row where there is room.
    pub(super) fn push(&mut self, mark: Mark, row: u32) -> bool {
        let Some(place) = self.places_of(0).next() else { return false };
        self.tags[place] = mark.tag;
        self.rows[place] = row;
        true
    }

    pub(super) fn clear(&mut self, place: usize) {
        self.tags[place] = 0;
    }

    /// One more key of this mark lies beyond.
    pub(super) fn pass(&mut self, mark: Mark) {
        if self.passed >> mark.shift & CLASS_MAX != CLASS_MAX {
            self.passed += 1 << mark.shift;
        }
    }

    /// One less. A full count has lost track and stays until the next rebuild: longer searches, never wrong ones.
    pub(super) fn unpass(&mut self, mark: Mark) {
        if self.passed >> mark.shift & CLASS_MAX != CLASS_MAX {
            self.passed -= 1 << mark.shift;
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let used = Places(!self.places_of(0).0 & ALL_PLACES);
        used.map(|place| self.rows[place])
    }
}
