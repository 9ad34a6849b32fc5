//! One cache line of the index: five keys, their rows, which places are used, how many keys passed by.
#![forbid(unsafe_code)]

use crate::types::Key;

/// Keys a bucket holds.
pub(super) const WIDTH: usize = 5;

#[derive(Clone, Copy, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    keys: [Key; WIDTH],
    pub(super) rows: [u32; WIDTH],
    used: u8,
    /// Keys whose home is here or before and that lie beyond; 255 means "at least".
    pub(super) overflow: u8,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    /// Where `key` is. All places are compared, so the compiler can do so at once.
    #[inline]
    pub(super) fn position(&self, key: Key) -> Option<usize> {
        let mut matches = 0u8;
        for (place, &stored) in self.keys.iter().enumerate() {
            matches |= u8::from(stored == key) << place;
        }
        matches &= self.used;
        (matches != 0).then(|| matches.trailing_zeros() as usize)
    }

    /// Adds a key where there is room.
    pub(super) fn push(&mut self, key: Key, row: u32) -> bool {
        let place = (!self.used).trailing_zeros() as usize;
        if place >= WIDTH {
            return false;
        }
        self.keys[place] = key;
        self.rows[place] = row;
        self.used |= 1 << place;
        true
    }

    pub(super) fn clear(&mut self, place: usize) {
        self.used &= !(1 << place);
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, u32)> + '_ {
        (0..WIDTH).filter(|place| self.used & (1 << place) != 0).map(|place| (self.keys[place], self.rows[place]))
    }
}
