//! Rows to files of other programs and back: what was written is read, bit for bit, and nothing else is taken for it.
#![cfg(feature = "exchange")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use embedrock::{
    Admission, CommitId, Error, Export, FileFormat, Import, Initializer, Optimizer, Precision, Quantization, Segment, Store,
    StoreOptions, TableSchema, Update,
};

const DIM: usize = 6;
const T: u64 = 1_700_000_000;
const FILES: [&str; 4] = ["rows.parquet", "rows.npy", "rows.npz", "rows.safetensors"];

fn options() -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).shards(2).hot_rows(300).max_clock_step(u32::MAX)
}

fn schema() -> TableSchema {
    TableSchema::new("t", DIM).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.05))
}

fn open(dir: &Path) -> Store {
    Store::open(dir, options()).unwrap()
}

/// Rows in both tiers, of several times, with the first and the last key.
fn filled(dir: &Path) -> Store {
    let store = open(dir);
    let table = store.create_table(schema()).unwrap();
    for batch in 0..20u64 {
        let keys: Vec<u64> = (0..100).map(|k| (batch * 131 + k * k * 7) % 1000).chain([0, u64::MAX, 1 << 63]).collect();
        let grads: Vec<f32> = (0..keys.len() * DIM).map(|i| ((i as u64 * 31 + batch * 17) % 101) as f32 / 50.0 - 1.0).collect();
        table.apply_gradients(&keys, &grads, &Update::at(T + 7 * batch)).unwrap();
    }
    store.commit(b"trainer").unwrap();
    assert!(store.stats().tables[0].demoted > 0);
    store
}

/// Time, embedding, state by key.
type Rows = BTreeMap<u64, (u32, Vec<u32>, Vec<u32>)>;

fn rows(store: &Store, name: &str) -> Rows {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    let mut rows = Rows::new();
    let table = store.table(name).unwrap();
    table
        .for_each_row(|key, time, embedding, state| {
            assert!(rows.insert(key, (time, bits(embedding), bits(state))).is_none());
            Ok(())
        })
        .unwrap();
    rows
}

fn export(export: &Export, store: &Store, path: &Path) -> u64 {
    let report = export.to(store, path, &mut |done, total| assert!(done <= total)).unwrap();
    report.rows + report.removed
}

fn import(import: &Import, store: &Store, path: &Path) -> embedrock::Result<embedrock::ImportReport> {
    import.from(store, path, &mut |done, total| assert!(done <= total))
}

fn left(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn rows_with_times_and_state_come_back_bit_for_bit_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("a"));
    let expected = rows(&store, "t");
    for name in FILES {
        let path = dir.path().join(name);
        assert_eq!(export(&Export::of("t").state(true), &store, &path), expected.len() as u64);
        let other = open(&dir.path().join(format!("b-{name}")));
        // Admission would refuse keys that are seen once.
        other.create_table(schema().admission(Admission::count(3))).unwrap();
        let report = import(&Import::new("t"), &other, &path).unwrap();
        assert_eq!((report.rows, report.removed, other.durable_commit()), (expected.len() as u64, 0, Some(report.commit)));
        assert_eq!(rows(&other, "t"), expected, "{name}");
        drop(other);
        let other = open(&dir.path().join(format!("b-{name}")));
        assert_eq!(rows(&other, "t"), expected, "{name}, opened again");
        // Again, over rows that are there; and under another name.
        std::fs::rename(&path, dir.path().join("x")).unwrap();
        let format = FileFormat::of(&path).unwrap();
        import(&Import::new("t").format(format), &other, &dir.path().join("x")).unwrap();
        assert_eq!(rows(&other, "t"), expected, "{name}, again");
        let error = export_error(&Export::of("t").format(format), &store, &dir.path().join("x"));
        assert!(matches!(error, Error::TargetExists { .. }), "{error}");
        std::fs::remove_file(dir.path().join("x")).unwrap();
    }
    assert!(!left(dir.path()).iter().any(|path| path.to_string_lossy().contains("tmp-")));
}

fn export_error(export: &Export, store: &Store, path: &Path) -> Error {
    export.to(store, path, &mut |_, _| ()).unwrap_err()
}

/// Rows of two segments in 16 bits: what is exported is f32, and rounds back to the same bits.
#[test]
fn rows_of_segments_and_of_16_bits_come_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let segments = [Segment::new(DIM - 1).optimizer(Optimizer::adam(0.1)), Segment::new(1).optimizer(Optimizer::ftrl(0.1))];
    let schema = |precision| TableSchema::new("t", DIM).segments(segments).precision(precision);
    for (precision, name) in [Precision::Bf16, Precision::F16, Precision::F32].into_iter().zip(FILES) {
        let store = open(&dir.path().join(format!("a-{name}")));
        let table = store.create_table(schema(precision)).unwrap();
        for step in 1..4 {
            let grads: Vec<f32> = (0..50 * DIM as u64).map(|i| (i * step % 23) as f32 / 9.0 - 1.0).collect();
            table.apply_gradients(&(0..50).collect::<Vec<u64>>(), &grads, &Update::at(T + step)).unwrap();
        }
        let path = dir.path().join(name);
        export(&Export::of("t").state(true), &store, &path);
        let other = open(&dir.path().join(format!("b-{name}")));
        import(&Import::new("t").schema(schema(precision)), &other, &path).unwrap();
        assert_eq!(rows(&other, "t"), rows(&store, "t"), "{name}");
        assert_eq!(other.digest().unwrap(), store.digest().unwrap(), "{name}");
    }
    // As long, and not the same.
    let other = open(&dir.path().join("c"));
    let swapped = [segments[1], segments[0]].map(|segment| segment.initializer(Initializer::zeros()));
    let error =
        import(&Import::new("t").schema(TableSchema::new("t", DIM).segments(swapped)), &other, &dir.path().join("rows.parquet"));
    assert!(matches!(&error, Err(Error::SchemaMismatch { what, .. }) if what.contains("adam of 5, ftrl of 1")), "{error:?}");
}

#[test]
fn without_state_rows_begin_with_a_new_one_and_those_there_keep_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("a"));
    let expected = rows(&store, "t");
    for name in FILES {
        let path = dir.path().join(name);
        export(&Export::of("t"), &store, &path);
        let other = open(&dir.path().join(format!("b-{name}")));
        let before = other.commit(b"another trainer").unwrap();
        other.create_table(schema()).unwrap().assign(&[0], &[5.0; DIM], &Update::at(T + 9999)).unwrap();
        let report = import(&Import::new("t"), &other, &path).unwrap();
        assert!(report.commit.sequence == before.sequence + 1 && &other.last_commit().unwrap().state[..] == b"another trainer");
        for (key, (time, embedding, state)) in rows(&other, "t") {
            let (was, same, _) = &expected[&key];
            assert_eq!((&embedding, state), (same, vec![0.1f32.to_bits(); DIM]), "{name}, key {key}");
            assert_eq!(time, if key == 0 { T as u32 + 9999 } else { *was }, "{name}, key {key}");
        }
        // A table that is made: of the file's dim.
        import(&Import::new("made").optimizer(Optimizer::adam(0.1)), &other, &path).unwrap();
        let made = other.table("made").unwrap();
        assert_eq!((made.dim(), made.schema().lanes(), made.len()), (DIM, 3 * DIM + 2, expected.len() as u64));
    }
}

#[test]
fn quantised_embeddings_come_back_as_near_as_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("a"));
    let expected = rows(&store, "t");
    for codec in [Quantization::F16, Quantization::Bf16, Quantization::Int8] {
        for name in FILES {
            let path = dir.path().join(format!("{codec}-{name}"));
            let with = Export::of("t").state(true).quantize(codec);
            if codec == Quantization::Bf16 && name.ends_with("npz") {
                assert!(export_error(&with, &store, &path).to_string().contains("no bf16"));
                continue;
            }
            export(&with, &store, &path);
            let other = open(&dir.path().join(format!("b-{codec}-{name}")));
            import(&Import::new("t").schema(schema()), &other, &path).unwrap();
            let mut encoded = Vec::new();
            for (key, (time, embedding, state)) in rows(&other, "t") {
                let row: Vec<f32> = expected[&key].1.iter().map(|bits| f32::from_bits(*bits)).collect();
                let mut near = [0.0; DIM];
                encoded.clear();
                codec.encode(&row, &mut encoded);
                assert!(codec.decode(&encoded, &mut near));
                let near = near.map(f32::to_bits).to_vec();
                assert_eq!((time, embedding, &state), (expected[&key].0, near, &expected[&key].2), "{codec} {name} key {key}");
            }
        }
    }
    let error = export_error(&Export::of("t").quantize(Quantization::OneBit), &store, &dir.path().join("x.npz"));
    assert!(error.to_string().contains("int8"), "{error}");
}

#[test]
fn rows_since_a_commit_bring_an_older_copy_up_to_date() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("a"));
    let first = store.durable_commit().unwrap();
    let table = store.table("t").unwrap();
    let older: Vec<Store> = FILES.iter().map(|name| open(&dir.path().join(format!("b-{name}")))).collect();
    for (other, name) in older.iter().zip(FILES) {
        export(&Export::of("t").state(true), &store, &dir.path().join(name));
        import(&Import::new("t").schema(schema()), other, &dir.path().join(name)).unwrap();
    }
    store.checkpoint().unwrap();
    for batch in 0..5u64 {
        let keys: Vec<u64> = (batch * 10..batch * 10 + 40).collect();
        table.apply_gradients(&keys, &vec![0.25; keys.len() * DIM], &Update::at(T + 500 + batch)).unwrap();
        table.remove(&[keys[0], 900 + batch]).unwrap();
        store.commit(b"").unwrap();
    }
    let expected = rows(&store, "t");
    for (other, name) in older.iter().zip(FILES) {
        let path = dir.path().join(format!("since-{name}"));
        let since = Export::of("t").state(true).since(first).to(&store, &path, &mut |_, _| ()).unwrap();
        assert!(since.rows > 0 && since.rows < expected.len() as u64 / 2 && since.removed >= 5, "{since:?}");
        let report = import(&Import::new("t"), other, &path).unwrap();
        assert_eq!(report.rows, since.rows);
        assert_eq!(rows(other, "t"), expected, "{name}");
    }
    let missing = Export::of("t").since(CommitId { timeline: 4, sequence: 4 });
    let error = export_error(&missing, &store, &dir.path().join("none.npz"));
    assert!(matches!(error, Error::UnknownCommit { .. }), "{error}");
}

#[test]
fn a_commit_is_exported_while_training_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("a"));
    let expected = rows(&store, "t");
    store.table("t").unwrap().assign(&[1, 2, 3], &[7.0; 3 * DIM], &Update::at(T + 900)).unwrap();
    let reader = Store::open(dir.path().join("a"), options().read_only(true).scratch(dir.path())).unwrap();
    export(&Export::of("t").state(true), &reader, &dir.path().join("x.parquet"));
    let other = open(&dir.path().join("b"));
    import(&Import::new("t").schema(schema()), &other, &dir.path().join("x.parquet")).unwrap();
    assert_eq!(rows(&other, "t"), expected);
}

#[test]
fn what_does_not_fit_the_table_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("a"));
    for name in FILES {
        let path = dir.path().join(name);
        export(&Export::of("t").state(true), &store, &path);
        let other = open(&dir.path().join(format!("b-{name}")));
        other.create_table(TableSchema::new("wide", DIM + 1)).unwrap();
        other.create_table(TableSchema::new("plain", DIM)).unwrap();
        other.create_table(schema().optimizer(Optimizer::ftrl(0.1))).unwrap();
        let before = other.commit(b"").unwrap();
        for (table, says) in
            [("wide", "dim is 7, not 6"), ("plain", "0 values of state a row, not 6"), ("t", "12 values of state")]
        {
            let error = import(&Import::new(table), &other, &path).unwrap_err();
            assert!(matches!(&error, Error::SchemaMismatch { what, .. } if what.contains(says)), "{name}: {error}");
        }
        assert_eq!((other.durable_commit(), other.table("wide").unwrap().len()), (Some(before), 0));
    }
    let error = import(&Import::new("t"), &store, &dir.path().join("rows.csv")).unwrap_err();
    assert!(error.to_string().contains(".safetensors"), "{error}");
    let error = import(&Import::new("t"), &store, &dir.path().join("none.npy")).unwrap_err();
    assert!(error.to_string().contains("none.npy"), "{error}");
    assert!(matches!(export_error(&Export::of("none"), &store, &dir.path().join("y.npy")), Error::UnknownTable { .. }));
    // Milliseconds are no seconds.
    let late = open(&dir.path().join("late"));
    late.create_table(schema()).unwrap().assign(&[1], &[0.0; DIM], &Update::at(4_000_000_000)).unwrap();
    export(&Export::of("t"), &late, &dir.path().join("late.npz"));
    let error = import(&Import::new("t"), &store, &dir.path().join("late.npz")).unwrap_err();
    assert!(matches!(&error, Error::Input { line: 1, what, .. } if what.contains("future")), "{error}");
}

#[test]
fn a_matrix_of_numpy_is_rows_by_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }\n";
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(head.len() as u16).to_le_bytes());
    bytes.extend_from_slice(head);
    (0..6).for_each(|i| bytes.extend_from_slice(&f64::from(i).to_le_bytes()));
    std::fs::write(dir.path().join("m.npy"), bytes).unwrap();
    let store = open(&dir.path().join("a"));
    import(&Import::new("t").time(T), &store, &dir.path().join("m.npy")).unwrap();
    let mut found = [0.0; 6];
    assert_eq!(store.table("t").unwrap().lookup(&[0, 1, 2], &mut found).unwrap(), 3);
    assert_eq!(found, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
}

#[test]
fn a_failure_costs_what_follows_the_last_commit() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("a"));
    let table = store.create_table(TableSchema::new("t", 1)).unwrap();
    let keys: Vec<u64> = (0..40_000).collect();
    table.assign(&keys, &vec![1.0; keys.len()], &Update::at(T)).unwrap();
    let path = dir.path().join("x.npy");
    export(&Export::of("t"), &store, &path);
    // A value near the end is not finite.
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, bytes).unwrap();
    for (every, kept) in [(None, 0), (Some(10_000), 32_768)] {
        let target = dir.path().join(format!("b-{}", every.unwrap_or(0)));
        let other = open(&target);
        let with = every.map_or(Import::new("t"), |rows| Import::new("t").commit_every(rows));
        assert!(matches!(import(&with, &other, &path), Err(Error::NotFinite { .. })));
        drop(other);
        let other = open(&target);
        assert_eq!(other.table("t").map_or(0, |table| table.len()), kept);
    }
}

/// Bytes changed, left out and put in: an error or rows, never a panic, and never a store that does not open.
#[test]
fn hostile_files_are_errors_or_rows() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("a"));
    let table = store.create_table(schema()).unwrap();
    let keys: Vec<u64> = (0..40).collect();
    table.assign(&keys, &vec![0.5; keys.len() * DIM], &Update::at(T)).unwrap();
    let first = store.commit(b"").unwrap();
    table.remove(&[3]).unwrap();
    table.assign(&[4, 5], &[1.0; 2 * DIM], &Update::at(T + 1)).unwrap();
    store.commit(b"").unwrap();
    // What the tests of other crates print when they catch a panic is of no interest.
    std::panic::set_hook(Box::new(|_| ()));
    let mut tried = 0;
    for (at, name) in FILES.iter().enumerate() {
        for since in [false, true] {
            let path = dir.path().join(format!("{since}-{name}"));
            let with = Export::of("t").state(true);
            export(&if since { with.since(first) } else { with }, &store, &path);
            let whole = std::fs::read(&path).unwrap();
            let mut random = 1 + at as u64;
            let mut next = |below: usize| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) as usize % below.max(1)
            };
            for round in 0..96 {
                let mut bytes = whole.clone();
                match round % 4 {
                    0 => bytes.truncate(next(whole.len())),
                    1 => {
                        let (from, to) = (next(whole.len()), next(whole.len()));
                        bytes[to] = whole[from];
                    }
                    2 => (0..4).for_each(|_| bytes[next(whole.len())] ^= 1 << next(8)),
                    _ => {
                        let begin = if round % 8 == 3 {
                            next(200.min(whole.len()))
                        } else {
                            whole.len() - 1 - next(300.min(whole.len()))
                        };
                        bytes[begin] = [0, 0x7f, 0x80, 0xff, b'9'][next(5)];
                    }
                }
                std::fs::write(&path, &bytes).unwrap();
                let fs = tempfile::tempdir().unwrap();
                let other = open(fs.path());
                match import(&Import::new("t"), &other, &path) {
                    Ok(report) => assert!(report.rows <= 1_000_000),
                    Err(error) => assert!(!error.to_string().is_empty()),
                }
                tried += 1;
            }
        }
    }
    let _ = std::panic::take_hook();
    assert_eq!(tried, 8 * 96);
}
