//! Finds of the fuzz targets, by name.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod driver;
mod hostile;

use std::path::Path;

use embedrock::testing::verify_simulated;
use embedrock::{Error, Optimizer, Restore, Store, StoreOptions, TableSchema, Update, plan};
use hostile::{DIR, FRAME_HEADER, ROWS, disk, files, frame, frames, last_commit, open, open_with_commit, options, segment};

/// `commits` once counted from the first sequence number to the last, whatever a file said that the last was.
#[test]
fn a_commit_with_a_number_out_of_turn_ends_the_history() {
    let files = files(40);
    let commits = open(files.clone()).unwrap().commits().unwrap();
    assert!(commits.len() > 1, "{commits:?}");
    for sequence in [1 << 50, u64::MAX, 0] {
        match open_with_commit(files.clone(), sequence) {
            Err(Error::Corrupt { what, .. }) => assert!(what.contains("durable"), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}

/// A segment whose number was the last one there is could be followed by none: the next commit went to one of number 0.
#[test]
fn a_log_at_the_end_of_numbers_keeps_what_it_has() {
    for (number, opens) in [(u64::MAX, false), (u64::MAX / 2, true)] {
        let mut files = files(3);
        let name = Path::new(DIR).join("DURABLE");
        files.remove(&name).unwrap();
        let path = segment(&mut files).0.to_path_buf();
        let mut bytes = files.remove(&path).unwrap();
        bytes[28..36].copy_from_slice(&number.to_le_bytes());
        files.insert(path.with_file_name(format!("{number}.log")), bytes);
        let fs = disk(files);
        let store = Store::open(DIR, options(&fs)).unwrap();
        // A name that no store writes is no segment's.
        assert_eq!(store.last_commit().is_some(), opens);
        if opens {
            let digest = store.digest().unwrap();
            assert!(matches!(store.commit(b"one more"), Err(Error::Corrupt { .. })));
            drop(store);
            assert_eq!(Store::open(DIR, options(&fs)).unwrap().digest().unwrap(), digest);
        }
    }
}

/// Rows of one width would have been read with another.
#[test]
fn settings_that_change_a_tables_layout_or_name_are_damage() {
    const CREATE: u8 = 1;
    const SETTINGS: u8 = 3;
    let files = files(10);
    let first = files.iter().find(|(path, _)| path.ends_with("00000001.log")).unwrap();
    let (_, create) = frames(first.1).into_iter().find(|(kind, _)| *kind == CREATE).unwrap();
    let payload = &first.1[create.clone()];
    let name = usize::from(payload[5]);
    for change in [6, 6 + name, 10 + name] {
        let mut settings = payload.to_vec();
        settings[change] ^= 1;
        let mut files = files.clone();
        let bytes = files.get_mut(first.0).unwrap();
        bytes.splice(create.end..create.end, frame(SETTINGS, &settings));
        assert!(matches!(open(files), Err(Error::Corrupt { .. })), "byte {change}");
    }
}

/// The number after the last was that of the first table, whose place the new one took.
#[test]
fn without_a_number_left_no_table_is_created() {
    let mut files = files(10);
    last_commit(&mut files)[85..89].copy_from_slice(&u32::MAX.to_le_bytes());
    let store = open(files).unwrap();
    let digest = store.digest().unwrap();
    assert!(matches!(store.create_table(TableSchema::new("third", 1)), Err(Error::InvalidSchema { .. })));
    assert_eq!((store.tables().len(), store.digest().unwrap()), (2, digest));
}

/// Publishing counted on from a number without a successor.
#[test]
fn a_mark_at_the_end_of_numbers_costs_no_commit() {
    let mut files = files(10);
    let mark = files.get_mut(&Path::new(DIR).join("DURABLE")).unwrap();
    [8, 80].into_iter().for_each(|at| mark[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes()));
    let fs = disk(files);
    let store = Store::open(DIR, options(&fs)).unwrap();
    let id = store.commit(b"after").unwrap();
    drop(store);
    assert_eq!(Store::open(DIR, options(&fs)).unwrap().last_commit().unwrap().id, id);
}

/// Pruning believed a manifest that named a segment yet to come, and removed all of the log.
#[test]
fn a_manifest_alone_removes_no_segment() {
    let fs = disk(files(10));
    Restore::of(DIR).options(options(&fs)).to("/disk/restored").unwrap();
    let store = Store::open("/disk/restored", options(&fs)).unwrap();
    store.checkpoint().unwrap();
    drop(store);
    let mut files = fs.kill().files();
    files.retain(|path, _| path.starts_with("/disk/restored"));
    for (path, bytes) in &mut files {
        if path.ends_with("MANIFEST") {
            bytes[53..61].copy_from_slice(&99u64.to_le_bytes());
        }
    }
    embedrock::testing::repair_store(&mut files, Path::new("/disk/restored"));
    let fs = embedrock::testing::disk_of(&files).unwrap();
    fs.make_dirs(Path::new("/disk/restored/log")).unwrap();
    let store = Store::open("/disk/restored", options(&fs)).unwrap();
    store.table("expiring").unwrap().assign(&[1], &[1.0; 3], &Update::at(0)).unwrap();
    store.commit(b"next").unwrap();
    store.checkpoint().unwrap();
    // Makes that base valid, so that of those before only the newest is kept, which names the segment.
    let id = store.commit(b"last").unwrap();
    drop(store);
    assert_eq!(Store::open("/disk/restored", options(&fs)).unwrap().last_commit().unwrap().id, id);
}

/// Frames of the next delta that stand before the table of theirs is created are no damage: `verify` looked at them where they stand.
#[test]
fn rows_of_the_next_delta_may_stand_before_their_table() {
    let fs = driver::disk();
    let store = Store::open(DIR, options(&fs)).unwrap();
    let table = store.create_table(TableSchema::new("t", 2)).unwrap();
    store.commit(b"a table").unwrap();
    table.assign(&[5], &[1.0, 2.0], &Update::at(1)).unwrap();
    store.commit(b"a row").unwrap();
    let digest = store.digest().unwrap();
    drop((table, store));
    let mut files = fs.kill().files();
    let (_, bytes) = segment(&mut files);
    let all = frames(bytes);
    let (start, row) = (all[0].1.start - FRAME_HEADER, all.iter().find(|(kind, _)| *kind == ROWS).unwrap().1.clone());
    let mut moved: Vec<u8> = bytes.drain(row.start - FRAME_HEADER..row.end).collect();
    for (is_early, has_row) in [(0, false), (1, true)] {
        moved[5] = is_early;
        let mut files = files.clone();
        segment(&mut files).1.splice(start..start, moved.iter().copied());
        let fs = disk(files);
        assert_eq!(verify_simulated(&fs, Path::new(DIR)).unwrap().damage.is_empty(), has_row);
        assert_eq!(Store::open(DIR, options(&fs)).is_ok_and(|store| store.digest().unwrap() == digest), has_row);
    }
}

/// A row that could not be read was taken for one that is not there.
#[test]
fn a_cold_row_of_another_length_is_an_error() {
    let fs = driver::disk();
    let store = Store::open(DIR, options(&fs)).unwrap();
    store.create_table(TableSchema::new("t", 2)).unwrap().assign(&[5], &[1.0, 2.0], &Update::at(1)).unwrap();
    store.commit(b"").unwrap();
    store.checkpoint().unwrap();
    drop(store);
    let mut files = fs.kill().files();
    let block = |payload: &[u8]| [&(payload.len() as u32).to_le_bytes()[..], &[0; 4], payload].concat();
    // A table that does not say how long its values are, and key 0, which is mixed to 0, with 8 bytes.
    let table = block(&[&[1][..], &[0; 4], &[0; 8]].concat());
    let row = block(&[&[2][..], &[0; 8], &8u32.to_le_bytes(), &[0; 8]].concat());
    let end = block(&[&[3][..], &1u64.to_le_bytes()].concat());
    let rows = files.iter_mut().find(|(path, _)| path.starts_with("/disk/store/base") && path.ends_with("twin.rows")).unwrap().1;
    *rows = [&b"ERTWIN01"[..], &table, &row, &end].concat();
    // The manifest says how long its files are.
    let bytes = rows.len() as u64;
    let manifest = files.iter_mut().find(|(path, _)| path.ends_with("MANIFEST")).unwrap().1;
    let name = manifest.windows(14).position(|name| name == b"cold/twin.rows").unwrap();
    manifest[name + 14..name + 22].copy_from_slice(&bytes.to_le_bytes());
    let store = open(files).unwrap();
    let (table, mut found) = (store.table("t").unwrap(), [0.0; 4]);
    assert!(matches!(table.lookup(&[5, 0], &mut found), Err(Error::Cold { .. })));
    // A hint; the batch that needs the row says it.
    table.prefetch(&[0]).unwrap();
    assert!(matches!(table.assign(&[0], &[1.0, 2.0], &Update::at(1)), Err(Error::Cold { .. })));
    assert_eq!(table.lookup(&[5, 1], &mut found).unwrap(), 1);
}

/// The shares of a cap without an end added up to more than there are numbers.
#[test]
fn options_take_any_number() {
    let open = |options: StoreOptions| {
        let fs = driver::disk();
        Store::open(DIR, options.simulated(std::sync::Arc::new(fs)).memory_budget(16 << 20))
    };
    let store = open(StoreOptions::default().hot_rows(usize::MAX)).unwrap();
    let table = store.create_table(TableSchema::new("t", 1)).unwrap();
    table.assign(&[1, 2], &[1.0, 2.0], &Update::at(1)).unwrap();
    assert_eq!(store.stats().tables[0].hot_rows, 2);
    let refused = open(StoreOptions::default().threads(1_000_000));
    assert!(matches!(refused, Err(Error::InvalidOption { option: "threads", .. })));
    let refused = open(StoreOptions::default().cold_readers(1_025));
    assert!(matches!(refused, Err(Error::InvalidOption { option: "cold_readers", .. })));
}

#[test]
fn rows_of_any_dimension_have_a_size() {
    for optimizer in [Optimizer::sgd(0.1), Optimizer::adam(0.1), Optimizer::ftrl(0.1), Optimizer::adagrad(0.1)] {
        let schema = TableSchema::new("t", usize::MAX / 3).optimizer(optimizer);
        assert_eq!(schema.row_bytes(), usize::MAX);
        assert_eq!(plan(u64::MAX, usize::MAX, &optimizer).memory_bytes, u64::MAX);
    }
}
