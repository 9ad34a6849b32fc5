//! Pages of a column, no more of them than what is asked for can need: a few bytes may stand for billions of values.
#![forbid(unsafe_code)]

use std::sync::Arc;

use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};

use crate::sync::atomic::{AtomicU64, Ordering};

/// The most values of a page: writers end one at a megabyte or at some ten thousand rows.
const MAX_PAGE_VALUES: usize = 16 << 20;

/// How many values the call at hand may still fetch. One page may lie on its border.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowance(Arc<AtomicU64>);

impl Allowance {
    pub(super) fn set(&self, values: u64) {
        self.0.store(values.saturating_add(1), Ordering::Relaxed);
    }

    fn take(&self, values: usize) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(values as u64), Ordering::Relaxed);
        left > 0 && values <= MAX_PAGE_VALUES
    }
}

/// See the module.
pub(super) struct Pages {
    pub(super) inner: Box<dyn PageReader>,
    pub(super) allowance: Allowance,
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        if let Some(PageMetadata { num_levels: Some(values), is_dict: false, .. }) = self.inner.peek_next_page()?
            && !self.allowance.take(values)
        {
            return Err(ParquetError::General(format!("a page of {values} values is more than its rows can have")));
        }
        self.inner.get_next_page()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.inner.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.inner.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.inner.at_record_boundary()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Result<Page>> {
        self.get_next_page().transpose()
    }
}
