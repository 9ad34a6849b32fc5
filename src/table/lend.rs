//! Memory goes from table to table: one that has no room for a batch, or for its first rows, is lent some by those that hold most.
//!
//! Nobody waits for a lender that is at work on a batch while it holds another table: two could wait for each other.
#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::sync::{Arc, TryLockError};
use std::time::Duration;

use super::TableInner;
use crate::context::{Context, Lender, lock, write};
use crate::error::{Error, Result};
use crate::sync::thread;
use crate::types::TableId;

/// A lender gives this part of what it holds, or twice what is lacking where that is more; at most half.
const SHARE: usize = 8;
/// So often memory is lent for one call, and so often all lenders may be at work, a moment apart, before it fails.
const LOANS: usize = 16;
const LOOKS: usize = 200;
const MOMENT: Duration = Duration::from_millis(1);

impl Lender for TableInner {
    fn id(&self) -> TableId {
        self.id
    }

    fn held(&self) -> usize {
        self.shard_bytes()
    }

    fn lend(&self, bytes: usize) -> Option<Result<()>> {
        let _no_batch = match self.updates.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(self.lend_locked(bytes))
    }
}

impl TableInner {
    /// With the lock that keeps batches out, and none on its way.
    fn lend_locked(&self, bytes: usize) -> Result<()> {
        let _still = write(&self.moves);
        self.shrink_all(bytes as f64 / self.shard_bytes().max(1) as f64)
    }
}

/// Runs `work` again as long as it lacks memory and other tables lend some. What it changes before it fails it has undone; the tables that it
/// holds locked are `own`.
pub(crate) fn with_loans<T>(context: &Context, own: &[&TableInner], mut work: impl FnMut() -> Result<T>) -> Result<T> {
    for _ in 0..LOANS {
        match work() {
            Err(Error::BudgetTooSmall { needed, budget }) => {
                let lacking = needed.saturating_sub(context.budget.limit_for_rows());
                if !take_loan(context, own, lacking)? {
                    return Err(Error::BudgetTooSmall { needed, budget });
                }
            }
            result => return result,
        }
    }
    work()
}

/// Whether any table gave memory back.
fn take_loan(context: &Context, own: &[&TableInner], lacking: usize) -> Result<bool> {
    for _ in 0..LOOKS {
        let mut lenders: Vec<Arc<dyn Lender>> = lock(&context.lenders).iter().filter_map(|lender| lender.upgrade()).collect();
        // Its own memory is of no use to a table.
        lenders.retain(|lender| own.len() != 1 || own[0].id != lender.id());
        if lacking > lenders.iter().map(|lender| lender.held() / 2).sum() {
            return Ok(false);
        }
        lenders.sort_by_cached_key(|lender| Reverse(lender.held()));
        let mut at_work = false;
        for lender in lenders {
            let held = lender.held();
            let bytes = (held / SHARE).max(2 * lacking).min(held / 2);
            let before = context.budget.used();
            match own.iter().find(|table| table.id == lender.id()) {
                Some(table) => table.lend_locked(bytes)?,
                None => match lender.lend(bytes) {
                    Some(lent) => lent?,
                    None => {
                        at_work = true;
                        continue;
                    }
                },
            }
            if context.budget.used() < before {
                return Ok(true);
            }
        }
        if !at_work {
            return Ok(false);
        }
        thread::sleep(MOMENT);
    }
    Ok(false)
}
