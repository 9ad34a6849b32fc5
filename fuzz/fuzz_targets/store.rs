//! A store whose files were changed, with checksums made right or not: opening it is an error, or gives a store that works.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;
#[path = "../shared/stores.rs"]
mod stores;

use std::path::Path;

use arbitrary::Arbitrary;
use embedrock::testing::{repair_store, verify_simulated};
use embedrock::{At, Store};
use libfuzzer_sys::fuzz_target;
use stores::{DIR, Edit, STORES, disk, options, works};

#[derive(Arbitrary, Debug)]
struct Input {
    store: u8,
    edits: Vec<Edit>,
    repaired: bool,
    at: Option<u8>,
}

fuzz_target!(|input: Input| {
    let mut files = STORES[usize::from(input.store) % STORES.len()].clone();
    input.edits.iter().take(8).for_each(|edit| edit.apply(&mut files));
    if input.repaired {
        repair_store(&mut files, Path::new(DIR));
    }
    let Some(fs) = disk(&files) else { return };
    let _ = verify_simulated(&fs, Path::new(DIR));
    let at = input.at.and_then(|at| {
        let commits = Store::open(DIR, options(&fs)).ok()?.commits().ok()?;
        commits.get(usize::from(at)).copied()
    });
    works(&fs, &options(&fs).open_at(at.map_or(At::Latest, At::Commit)));
});
