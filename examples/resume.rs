//! A job that is killed in the middle goes on from its last commit, and ends with the same bits as one that never was.
//!
//! `cargo run --release --example resume`. The job runs in a process of its own, which aborts itself.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use embedrock::{Digest, Initializer, Optimizer, Result, Store, StoreOptions, TableSchema, Update};

const STEPS: u64 = 1_000;

/// Learns from the step that the last commit names on; aborts after `crash_at` steps.
fn job(dir: &Path, crash_at: u64) -> Result<(u64, Digest)> {
    let store = Store::open(dir, StoreOptions::default().seed(1))?;
    let schema = TableSchema::new("item", 8).optimizer(Optimizer::adam(0.01)).initializer(Initializer::uniform(0.1));
    let items = store.create_table(schema)?;
    let state = store.last_commit().map_or(Vec::new(), |commit| commit.state.to_vec());
    let from = state.first_chunk::<8>().map_or(0, |step| u64::from_le_bytes(*step));
    for step in from..STEPS {
        if step == crash_at {
            std::process::abort();
        }
        let keys: Vec<u64> = (0..64).map(|at| (step * 17 + at * at) % 5_000).collect();
        let mut rows = vec![0.0; keys.len() * 8];
        items.lookup(&keys, &mut rows)?;
        // Each row is drawn towards its key.
        let aim = |key: &u64| (*key as f32 / 5_000.0).sin();
        let grads: Vec<f32> =
            rows.chunks_exact(8).zip(&keys).flat_map(|(row, key)| row.iter().map(move |w| w - aim(key))).collect();
        items.apply_gradients(&keys, &grads, &Update::at(1_700_000_000 + step))?;
        if step % 100 == 99 {
            // Rows and step become durable together, or not at all.
            store.commit(&(step + 1).to_le_bytes())?;
        }
    }
    Ok((from, store.digest()?))
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    if let Some(dir) = std::env::args().nth(1) {
        job(Path::new(&dir), 637)?;
        return Ok(());
    }
    let dir = std::env::temp_dir().join(format!("embedrock-resume-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let (whole, crashed) = (dir.join("whole"), dir.join("crashed"));
    let (_, expected) = job(&whole, u64::MAX)?;
    let status = Command::new(std::env::current_exe()?).arg(&crashed).status()?;
    println!("the job ended with: {status}");
    let (from, found) = job(&crashed, u64::MAX)?;
    println!("gone on from step {from}; the same bits as a job never interrupted: {}", found == expected);
    std::fs::remove_dir_all(&dir)?;
    if found == expected && from == 600 { Ok(()) } else { Err("the two differ".into()) }
}
