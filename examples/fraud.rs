//! Account takeovers told from vectors of sessions and customers, on a simulated bank (SYNTHETIC).
//!
//! `cargo run --release --features train --example fraud [CUSTOMERS]`: some 10 seconds for 300 customers.
#![forbid(unsafe_code)]

use embedrock::train::dce::bank::Bank;
use embedrock::train::dce::data::simulate;
use embedrock::train::dce::{CUSTOMER_TABLE, DceOptions, train_dce};
use embedrock::{Result, Store, StoreOptions};

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("embedrock-fraud-{}", std::process::id()));
    let store = Store::open(&dir, StoreOptions::default().memory_budget(128 << 20).max_clock_step(u32::MAX))?;
    let customers = std::env::args().nth(1).and_then(|customers| customers.parse().ok()).unwrap_or(300);
    let data = simulate(&Bank { seed: 1, customers, days: 120 })?;
    let options = DceOptions { session_epochs: 3, customer_epochs: 3, ..DceOptions::default() };
    let mut stage = None;
    let report = train_dce(&store, &data, &options, &mut |progress| {
        if stage != Some(progress.stage) {
            stage = Some(progress.stage);
            println!("{:?}: {} rows", progress.stage, progress.rows.total);
        }
    })?;
    println!("{report}");
    // What a serving system reads: one row for each customer, kept up to date with every session.
    let customers = store.table(CUSTOMER_TABLE)?;
    let last = data.sessions.last().map_or(0, |session| session.customer);
    let mut vector = vec![0.0; customers.dim()];
    let found = customers.lookup(&[last], &mut vector)?;
    println!("{} customers; {found} vector of {} floats: {:.2?} ...", customers.len(), customers.dim(), &vector[..4]);
    drop(customers);
    store.close()?;
    std::fs::remove_dir_all(&dir).ok();
    Ok(())
}
