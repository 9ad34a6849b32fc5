//! The thread that frees expired rows. It goes by the store's clock: once a sixteenth of the shortest time to live has passed since
//! the last round, a batch wakes it.
#![forbid(unsafe_code)]

use std::sync::PoisonError;

use super::engine::Engine;
use crate::context::{lock, write};
use crate::table::TableInner;

/// Buckets of an index looked at under one lock: some hundred rows.
const BUCKETS_A_VISIT: usize = 64;

/// Works until the store is closed.
pub(super) fn run(engine: &Engine) {
    let sweeps = &engine.catalog.context.sweeps;
    loop {
        let mut state = lock(&sweeps.state);
        while !state.due && !state.closed {
            state = sweeps.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return;
        }
        state.due = false;
        drop(state);
        if !rounds(engine) {
            return;
        }
    }
}

/// Looks at all hot rows that can expire once; false when the store is being closed.
pub(super) fn rounds(engine: &Engine) -> bool {
    let tables = engine.catalog.tables();
    tables.iter().filter(|table| table.schema().lifetimes().any()).all(|table| round(table))
}

fn round(table: &TableInner) -> bool {
    let schema = table.schema();
    for shard in table.shards() {
        let mut bucket = Some(0);
        while let Some(from) = bucket {
            if lock(&table.context.sweeps.state).closed {
                return false;
            }
            let clock = table.context.now();
            bucket = write(shard).sweep_expired(&table.env(&schema), clock, from, BUCKETS_A_VISIT);
        }
    }
    true
}
