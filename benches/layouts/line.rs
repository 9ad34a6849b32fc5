//! One cache line of an index: twelve tags, or five keys, and the rows of each; and how many keys passed by.

use bytemuck::{Pod, Zeroable};

/// Keys that passed a line are counted in so many classes, four bits each.
const CLASSES: u32 = 8;
const MOST: u32 = 15;

/// What an index is made of.
pub(crate) trait Line: Pod {
    const WIDTH: usize;
    /// Whether a match is the key's row for certain.
    const WHOLE_KEYS: bool;

    /// The places that the key may be at, as bits.
    fn matches(&self, key: u64) -> u32;
    fn row(&self, place: usize) -> u32;
    fn passed(&self) -> u32;
    fn passed_mut(&mut self) -> &mut u32;
    /// Adds a key where there is room.
    fn push(&mut self, key: u64, row: u32) -> bool;

    #[inline(always)]
    fn has_passed(&self, key: u64) -> bool {
        self.passed() >> class(key) & MOST != 0
    }

    fn pass(&mut self, key: u64) {
        let shift = class(key);
        let passed = self.passed_mut();
        if *passed >> shift & MOST != MOST {
            *passed += 1 << shift;
        }
    }
}

fn class(key: u64) -> u32 {
    ((key >> 40) as u32 % CLASSES) * 4
}

/// Tags of twelve keys: whoever finds one compares the key beside the row.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Tags {
    tags: [u8; 12],
    passed: u32,
    rows: [u32; 12],
}

fn tag(key: u64) -> u8 {
    ((key >> 32) as u8).max(1)
}

impl Tags {
    #[inline(always)]
    fn equal(&self, tag: u8) -> u32 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: SSE2 is part of x86-64.
        let equal = unsafe {
            use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set_epi64x, _mm_set1_epi8};
            let words: &[u64] = bytemuck::cast_slice(std::slice::from_ref(self));
            let tags = _mm_set_epi64x(words[1].cast_signed(), words[0].cast_signed());
            _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag.cast_signed()))).cast_unsigned()
        };
        #[cfg(not(target_arch = "x86_64"))]
        let equal = self.tags.iter().enumerate().fold(0, |equal, (place, &other)| equal | u32::from(other == tag) << place);
        equal & 0xfff
    }
}

impl Line for Tags {
    const WIDTH: usize = 12;
    const WHOLE_KEYS: bool = false;

    #[inline(always)]
    fn matches(&self, key: u64) -> u32 {
        self.equal(tag(key))
    }

    #[inline(always)]
    fn row(&self, place: usize) -> u32 {
        self.rows[place]
    }

    #[inline(always)]
    fn passed(&self) -> u32 {
        self.passed
    }

    fn passed_mut(&mut self) -> &mut u32 {
        &mut self.passed
    }

    fn push(&mut self, key: u64, row: u32) -> bool {
        let free = self.equal(0).trailing_zeros() as usize;
        if free >= Self::WIDTH {
            return false;
        }
        (self.tags[free], self.rows[free]) = (tag(key), row);
        true
    }
}

/// Five keys: nothing else needs to be compared. Rows are counted from 1.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Keys {
    keys: [u64; 5],
    rows: [u32; 5],
    passed: u32,
}

impl Line for Keys {
    const WIDTH: usize = 5;
    const WHOLE_KEYS: bool = true;

    #[inline(always)]
    fn matches(&self, key: u64) -> u32 {
        let pairs = self.keys.iter().zip(self.rows).enumerate();
        pairs.fold(0, |equal, (place, (&other, row))| equal | u32::from(other == key && row != 0) << place)
    }

    #[inline(always)]
    fn row(&self, place: usize) -> u32 {
        self.rows[place] - 1
    }

    #[inline(always)]
    fn passed(&self) -> u32 {
        self.passed
    }

    fn passed_mut(&mut self) -> &mut u32 {
        &mut self.passed
    }

    fn push(&mut self, key: u64, row: u32) -> bool {
        let Some(free) = self.rows.iter().position(|&row| row == 0) else { return false };
        (self.keys[free], self.rows[free]) = (key, row + 1);
        true
    }
}
