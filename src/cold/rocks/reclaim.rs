//! What of a table its compactions drop: rows that expired before they began.
#![forbid(unsafe_code)]

use std::ffi::CStr;
use std::sync::{Arc, Mutex, PoisonError};

use rocksdb::compaction_filter::{CompactionFilter, Decision};
use rocksdb::compaction_filter_factory::{CompactionFilterContext, CompactionFilterFactory};

use crate::cold::time_of;
use crate::expiry::Horizons;
use crate::types::unmix;

/// What of a table is expired by now.
#[derive(Default)]
pub(super) struct Horizon(Mutex<Arc<Horizons>>);

impl Horizon {
    pub(super) fn set(&self, horizons: Horizons) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if **known != horizons {
            *known = Arc::new(horizons);
        }
    }

    fn get(&self) -> Arc<Horizons> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Makes the filters of one table's compactions.
pub(super) struct Filters(pub(super) Arc<Horizon>);

/// Drops what was expired when its compaction began.
pub(super) struct Expiry(Arc<Horizons>);

impl CompactionFilterFactory for Filters {
    type Filter = Expiry;
    fn create(&mut self, _context: CompactionFilterContext) -> Expiry {
        Expiry(self.0.get())
    }
    fn name(&self) -> &CStr {
        c"embedrock.expiry"
    }
}

impl CompactionFilter for Expiry {
    fn filter(&mut self, _level: u32, key: &[u8], value: &[u8]) -> Decision {
        let key = key.first_chunk().map(|key| unmix(u64::from_be_bytes(*key)));
        let gone = key.zip(time_of(value)).is_some_and(|(key, time)| self.0.passed(key, time));
        if gone { Decision::Remove } else { Decision::Keep }
    }
    fn name(&self) -> &CStr {
        c"embedrock.expiry"
    }
}
