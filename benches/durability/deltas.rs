//! The size and time of a delta, by the share of rows that were touched.

use std::time::Instant;

use serde_json::{Value, json};

use crate::site::{Failure, Site, median, reopened, same};

const EVERY: [u64; 4] = [1, 10, 100, 1000];

pub(crate) fn run(site: &Site) -> Result<Value, Failure> {
    let (store, table) = site.filled("deltas", false)?;
    let mut figures: [Vec<(f64, f64)>; EVERY.len()] = Default::default();
    for _ in 0..site.turns {
        for (every, figures) in EVERY.into_iter().zip(&mut figures) {
            site.touch(&table, every)?;
            let (before, begun) = (store.stats().log_bytes, Instant::now());
            store.commit(b"")?;
            figures.push(((store.stats().log_bytes - before) as f64, begun.elapsed().as_secs_f64()));
        }
    }
    let digest = store.digest()?;
    store.close()?;
    drop(table);
    same("the store opened again", &reopened(site, "deltas", false)?, &digest)?;
    site.remove("deltas")?;
    let full = figures[0].clone();
    let lines = EVERY.into_iter().zip(&figures).map(|(every, figures)| {
        json!({
            "touched": 1.0 / every as f64, "bytes": median(figures.iter().map(|f| f.0)),
            "ms": median(figures.iter().map(|f| f.1)) * 1e3,
            "of_full_bytes": median(figures.iter().zip(&full).map(|(f, full)| f.0 / full.0)),
            "of_full_time": median(figures.iter().zip(&full).map(|(f, full)| f.1 / full.1)),
        })
    });
    Ok(lines.collect())
}
