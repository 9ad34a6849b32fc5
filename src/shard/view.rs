//! A shard as a lookup sees it: its index lines and its rows, without what lies around them.
#![forbid(unsafe_code)]

use crate::index::{Lines, Probe, TOMBSTONE_BIT};
use crate::slab::{Entry, Rows};
use crate::types::Key;

/// See the module.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(super) index: Lines<'a>,
    pub(super) slab: Rows<'a>,
}

impl<'a> View<'a> {
    /// Brings the home bucket of a mixed key near.
    #[inline(always)]
    pub(crate) fn prefetch_line(self, mixed: u64) {
        self.index.prefetch(mixed);
    }

    /// What the home bucket says of a mixed key; where the search goes on, the next bucket is brought near.
    #[inline(always)]
    pub(crate) fn probe(self, mixed: u64) -> Probe {
        let probe = self.index.probe(mixed);
        if probe == Probe::Beyond {
            self.index.prefetch_beyond(mixed);
        }
        probe
    }

    /// The row of a number from the index.
    #[inline(always)]
    pub(crate) fn entry(self, raw: u32) -> Entry<'a> {
        self.slab.entry(raw & !TOMBSTONE_BIT)
    }

    /// The row that is most likely the key's, wherever it lies.
    #[inline(never)]
    pub(crate) fn search(self, mixed: u64) -> Option<Entry<'a>> {
        self.index.candidate(mixed).map(|raw| self.entry(raw))
    }

    /// The key's row, if it has one.
    pub(crate) fn find(self, key: Key, mixed: u64) -> Option<Entry<'a>> {
        let is_its = |row| self.slab.entry(row).meta.key == key;
        self.index.find(mixed, is_its).map(|raw| self.entry(raw))
    }
}
