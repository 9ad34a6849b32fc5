//! The thread that lets rows leave memory before batches must wait for that.
#![forbid(unsafe_code)]

use super::engine::Engine;

/// Works until the store's room is stopped. What fails here a batch that needs the room tries again, and says why.
pub(super) fn run(engine: &Engine) {
    while engine.catalog.context.room.wait() {
        for table in engine.catalog.tables() {
            if let Err(error) = table.make_room()
                && !table.is_dropped()
            {
                tracing::warn!(%error, "rows could not leave memory in the background");
            }
        }
    }
}
