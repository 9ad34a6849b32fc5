//! Tables of 16-bit embeddings: the same bits whatever happens around them, and means that are right.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a test")]

use embedrock::{Initializer, Missing, Optimizer, Precision, Store, StoreOptions, TableSchema, Update};

const DIM: usize = 9;
const NOW: u64 = 1_700_000_000;

fn schema(precision: Precision) -> TableSchema {
    TableSchema::new("rows", DIM).optimizer(Optimizer::adagrad(0.05)).initializer(Initializer::uniform(0.1)).precision(precision)
}

fn keys(batch: u64) -> Vec<u64> {
    (0..300).map(|i| (i * i + batch * 37) % 500).collect()
}

fn train(store: &Store, batches: std::ops::Range<u64>) {
    let table = store.table("rows").unwrap();
    for batch in batches {
        let keys = keys(batch);
        let grads: Vec<f32> = (0..keys.len() * DIM).map(|i| ((i as u64 * 7 + batch) % 11) as f32 * 0.01 - 0.04).collect();
        table.apply_gradients(&keys, &grads, &Update::at(NOW + batch)).unwrap();
        if batch % 5 == 0 {
            table.assign_add(&keys[..20], &[0.001; 20 * DIM], &Update::at(NOW + batch)).unwrap();
            table.remove(&keys[20..25]).unwrap();
        }
    }
}

fn all_rows(store: &Store) -> Vec<u32> {
    let table = store.table("rows").unwrap();
    let keys: Vec<u64> = (0..600).collect();
    let mut rows = vec![0.0; keys.len() * DIM];
    table.lookup(&keys, &mut rows).unwrap();
    rows.into_iter().map(f32::to_bits).collect()
}

#[test]
fn rows_have_the_same_bits_whatever_the_threads_the_shards_the_tier_and_a_crash() {
    for precision in [Precision::Bf16, Precision::F16] {
        let mut expected = None;
        let plain = || StoreOptions::default().twin(true).threads(1);
        for options in [plain(), plain().threads(3).shards(3), plain().hot_rows(40)] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(dir.path(), options.clone()).unwrap();
            store.create_table(schema(precision)).unwrap();
            train(&store, 0..20);
            store.commit(b"").unwrap();
            store.checkpoint().unwrap();
            train(&store, 20..30);
            store.commit(b"").unwrap();
            train(&store, 30..33);
            drop(store);
            let store = Store::open(dir.path(), options).unwrap();
            train(&store, 30..40);
            let found = (store.digest().unwrap(), all_rows(&store));
            assert_eq!(*expected.get_or_insert(found.clone()), found, "{precision:?}");
        }
    }
}

#[test]
fn a_missing_key_yields_the_row_that_it_would_have() {
    for precision in [Precision::Bf16, Precision::F16] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default().twin(true)).unwrap();
        let table = store.create_table(schema(precision).missing(Missing::Initial)).unwrap();
        let (mut before, mut after) = ([0.0; DIM], [0.0; DIM]);
        assert_eq!(table.lookup(&[7], &mut before).unwrap(), 0);
        table.apply_gradients(&[7], &[0.0; DIM], &Update::at(NOW)).unwrap();
        assert_eq!(table.lookup(&[7], &mut after).unwrap(), 1);
        assert_eq!(before, after);
        table
            .for_each_row(|key, _, embedding, state| {
                assert_eq!((key, embedding, state.len()), (7, &after[..], DIM));
                Ok(())
            })
            .unwrap();
    }
}

/// Steps of a tenth of the spacing: rounding to the nearest would lose them all.
#[test]
fn many_small_steps_arrive_on_average() {
    for (precision, spacing) in [(Precision::Bf16, 1.0 / 128.0), (Precision::F16, 1.0 / 1024.0)] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), StoreOptions::default().twin(true)).unwrap();
        let schema = TableSchema::new("rows", DIM).optimizer(Optimizer::sgd(1.0)).precision(precision);
        let table = store.create_table(schema).unwrap();
        let keys: Vec<u64> = (0..200).collect();
        table.assign(&keys, &vec![1.0; keys.len() * DIM], &Update::at(NOW)).unwrap();
        for _ in 0..50 {
            table.apply_gradients(&keys, &vec![-spacing / 10.0; keys.len() * DIM], &Update::at(NOW)).unwrap();
        }
        let mut rows = vec![0.0; keys.len() * DIM];
        table.lookup(&keys, &mut rows).unwrap();
        let mean = rows.iter().map(|&w| f64::from(w)).sum::<f64>() / rows.len() as f64;
        let deviation = f64::from(spacing) * (50.0f64 * 0.1 * 0.9 / rows.len() as f64).sqrt();
        assert!((mean - 1.0 - 5.0 * f64::from(spacing)).abs() < 5.0 * deviation, "{precision:?}: {mean}");
    }
}

#[test]
fn the_precision_is_part_of_a_tables_identity() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), StoreOptions::default().twin(true)).unwrap();
    store.create_table(schema(Precision::Bf16)).unwrap();
    let error = store.create_table(schema(Precision::F32)).unwrap_err();
    assert!(error.to_string().contains("precision is Bf16, not F32"), "{error}");
}

/// A copy that is quantised holds embeddings, not lanes: values of 16 bits come back as they were from a copy of the same 16.
#[test]
#[cfg(feature = "remote")]
fn a_quantised_copy_of_the_same_precision_has_the_same_rows() {
    use embedrock::{At, Quantization, Remote, Upload};

    for (precision, codec) in [(Precision::F16, Quantization::F16), (Precision::Bf16, Quantization::Bf16)] {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions::default().memory_budget(24 << 20);
        let store = Store::open(dir.path().join("store"), options.clone()).unwrap();
        store.create_table(schema(precision)).unwrap();
        train(&store, 0..10);
        store.commit(b"").unwrap();
        let expected = all_rows(&store);
        let remote = Remote::open("memory:").unwrap();
        let upload = Upload::default().quantize(codec).memory_budget(24 << 20).scratch(dir.path());
        store.upload_as(&remote, &upload, &mut |_| ()).unwrap();
        let target = dir.path().join("restored");
        remote.restore(At::Latest, &target, |restore| restore, &mut |_| ()).unwrap();
        let restored = Store::open(&target, options).unwrap();
        assert_eq!(all_rows(&restored), expected, "{precision:?}");
    }
}
