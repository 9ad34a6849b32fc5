//! A log of several segments, built frame by frame: which follow which, early frames, tables that come and go, numbers at their
//! limits; then cut, swapped, removed. It opens with the rows that the format's description says, or not at all.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;
#[path = "../shared/frames.rs"]
mod frames;
#[path = "../shared/stores.rs"]
mod stores;

use std::path::Path;

use arbitrary::Arbitrary;
use embedrock::Store;
use embedrock::testing::{repair_store, verify_simulated};
use frames::{History, Model, Number, ROOT, Segment};
use libfuzzer_sys::fuzz_target;
use stores::{DIR, Edit, Files, disk, identity, options, works};

#[derive(Arbitrary, Debug)]
struct Input {
    segments: Vec<Segment>,
    last: Number,
    edits: Vec<Edit>,
    repaired: bool,
}

fuzz_target!(|input: Input| {
    let (path, bytes) = identity();
    let mut history = History::default();
    let mut files = Files::new();
    let count = input.segments.len().min(5);
    for (segment, at) in input.segments.iter().zip(1..=count as u64) {
        // A name with a number at the end of numbers is no segment's.
        let number = if at == count as u64 && input.last.0 >= 8 { input.last.0 >> 1 } else { at };
        let segment = history.build(segment, number, &bytes, ROOT);
        files.insert(Path::new(DIR).join(format!("log/{number:08}.log")), segment);
    }
    files.insert(path, bytes);
    repair_store(&mut files, Path::new(DIR));
    input.edits.iter().take(4).for_each(|edit| edit.apply(&mut files));
    if input.repaired {
        repair_store(&mut files, Path::new(DIR));
    }
    let Some(fs) = disk(&files) else { return };
    let verified = verify_simulated(&fs, Path::new(DIR));
    if input.edits.is_empty() {
        match (Store::open(DIR, options(&fs)), history.replay(Model::default())) {
            (Ok(store), Some(Ok(model))) => {
                let report = verified.expect("a store that opens is verified");
                let is_written = !history.goes_back() && !model.dropped_unknown;
                assert_eq!(report.damage.is_empty(), is_written, "{:?}", report.damage);
                model.compare(&store);
            }
            (Ok(_), Some(Err(()))) => panic!("a history that contradicts itself was taken"),
            (Err(error), Some(Ok(_))) => panic!("{error}"),
            _ => {}
        }
    }
    works(&fs, &options(&fs));
});
