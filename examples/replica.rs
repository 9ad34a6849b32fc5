//! Serving from a replica: a copy that follows its trainer from commit to commit, in a directory of its own.
//!
//! `cargo run --release --example replica`. Here both are in one process; usually they are not, nor need they be on one machine.
#![forbid(unsafe_code)]

use embedrock::{Optimizer, Replica, Result, Store, StoreOptions, TableSchema, Update};

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("embedrock-replica-{}", std::process::id()));
    let (trained, served) = (dir.join("trained"), dir.join("served"));
    std::fs::create_dir_all(&dir).map_err(|error| embedrock::Error::Io { action: "make", path: dir.clone(), source: error })?;
    let store = Store::open(&trained, StoreOptions::default())?;
    let users = store.create_table(TableSchema::new("user", 4).optimizer(Optimizer::adagrad(0.1)))?;
    users.apply_gradients(&[1, 2, 3], &[1.0; 3 * 4], &Update::at(1_700_000_000))?;
    store.commit(b"")?;
    let replica = Replica::open(&trained, &served, StoreOptions::default().memory_budget(64 << 20))?;
    let mut rows = [0.0; 2 * 4];
    for round in 1..=3 {
        users.apply_gradients(&[2, 10 + round], &[1.0; 2 * 4], &Update::at(1_700_000_000 + round))?;
        store.commit(b"")?;
        println!("round {round}: {:?}", replica.lag()?);
        let caught = replica.catch_up()?;
        let found = replica.lookup("user", &[2, 10 + round], &mut rows)?;
        println!("  {caught:?}");
        println!("  at commit {}: {found} of 2 found, user 2 is {:?}", replica.at(), &rows[..4]);
    }
    drop((replica, users));
    store.close()?;
    std::fs::remove_dir_all(&dir).ok();
    Ok(())
}
