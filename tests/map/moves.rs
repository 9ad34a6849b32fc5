//! Rows on their way between the tiers while operations go on.

use super::Run;

impl Run {
    #[cfg(feature = "testing")]
    pub(super) fn begin_prefetch(&self, keys: &[u64]) {
        self.table().begin_prefetch(keys).unwrap();
    }

    #[cfg(feature = "testing")]
    pub(super) fn end_prefetch(&self) {
        self.table().end_prefetch();
    }

    #[cfg(not(feature = "testing"))]
    pub(super) fn begin_prefetch(&self, _: &[u64]) {}

    #[cfg(not(feature = "testing"))]
    pub(super) fn end_prefetch(&self) {}

    #[cfg(feature = "testing")]
    pub(super) fn begin_leaving(&self, rows: usize) {
        self.table().begin_leaving(rows).unwrap();
    }

    #[cfg(feature = "testing")]
    pub(super) fn end_leaving(&self, written: bool) {
        self.table().end_leaving(written).unwrap();
    }

    #[cfg(not(feature = "testing"))]
    pub(super) fn begin_leaving(&self, _: usize) {}

    #[cfg(not(feature = "testing"))]
    pub(super) fn end_leaving(&self, _: bool) {}
}
