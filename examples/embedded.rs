//! A store in ten lines: `cargo run --release --example embedded`.
#![forbid(unsafe_code)]

use embedrock::{Initializer, Optimizer, Result, Store, StoreOptions, TableSchema, Update};

fn main() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("embedrock-embedded-{}", std::process::id()));
    let store = Store::open(&dir, StoreOptions::default())?;
    let schema = TableSchema::new("user", 8).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.05));
    let users = store.create_table(schema)?;
    let keys = [7, u64::MAX, 7];
    users.apply_gradients(&keys, &[0.5; 3 * 8], &Update::at(1_700_000_000))?; // the two gradients of 7 are summed
    let mut rows = vec![0.0; 3 * 8];
    println!("{} of 3 found: {:?}", users.lookup(&keys, &mut rows)?, &rows[..8]);
    println!("commit {}", store.commit(b"whatever the trainer must remember")?);
    drop(users); // a table keeps its store open
    store.close()?;
    let again = Store::open(&dir, StoreOptions::default())?;
    println!("{} rows after reopening", again.table("user")?.len());
    drop(again);
    std::fs::remove_dir_all(&dir).ok();
    Ok(())
}
