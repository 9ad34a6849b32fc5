//! Cold rows of any bytes under a table: reading, promoting and writing over them is an error, or gives the rows that are there.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;
#[path = "../shared/stores.rs"]
mod stores;

use std::path::Path;

use embedrock::testing::repair_store;
use embedrock::{Store, Update};
use libfuzzer_sys::fuzz_target;
use stores::{DIR, Files, STORES, disk, options, works};

/// The newest base's cold rows.
fn cold_rows(files: &Files) -> &Path {
    files.keys().rfind(|path| path.ends_with("cold/twin.rows")).expect("the store has a base")
}

fuzz_target!(|input: &[u8]| {
    let Some((how, bytes)) = input.split_first() else { return };
    let mut files = STORES[STORES.len() - 1].clone();
    let path = cold_rows(&files).to_path_buf();
    // Small inputs are mostly one of many blocks: the rest of the file stays.
    let file = files.entry(path).or_default();
    match how >> 1 & 1 {
        0 => *file = bytes.to_vec(),
        _ => {
            let at = usize::from(*how) * 7 % (file.len() - 8) + 8;
            file.splice(at..(at + bytes.len()).min(file.len()), bytes.iter().copied());
        }
    }
    if how & 1 == 1 {
        repair_store(&mut files, Path::new(DIR));
    }
    let Some(fs) = disk(&files) else { return };
    if let Ok(store) = Store::open(DIR, options(&fs)) {
        for table in store.tables() {
            let keys: Vec<u64> = (0..150).collect();
            let mut rows = vec![f32::NAN; keys.len() * table.dim()];
            let found = table.lookup(&keys, &mut rows);
            let visited = table.for_each_row(|_, _, row, _| {
                assert_eq!(row.len(), table.dim());
                Ok(())
            });
            // A row that cannot be read is never one that is not there.
            assert!(found.is_ok() || visited.is_err());
            let _ = table.prefetch(&keys);
            let _ = table.apply_gradients(&keys[..50], &rows[..50 * table.dim()], &Update::at(0));
            let _ = table.remove(&keys[..5]);
        }
    }
    works(&fs, &options(&fs));
});
