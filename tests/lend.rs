//! Memory goes from table to table: what one took first another can have.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;

use embedrock::{Error, GradientRequest, Initializer, Optimizer, Store, StoreOptions, Table, TableSchema, Update};

const DIM: usize = 64;
const BUDGET: usize = 12 << 20;
const A_BATCH: u64 = 8000;
const ROWS: u64 = 10 * A_BATCH;

fn open(dir: &Path) -> Store {
    Store::open(dir, StoreOptions::default().twin(true).memory_budget(BUDGET).threads(2).shards(2)).unwrap()
}

fn schema(name: &str) -> TableSchema {
    TableSchema::new(name, DIM).optimizer(Optimizer::sgd(1.0)).initializer(Initializer::zeros())
}

fn fill(store: &Store, table: &Table) {
    for first in (0..ROWS).step_by(A_BATCH as usize) {
        let keys: Vec<u64> = (first..first + A_BATCH).collect();
        let rows: Vec<f32> = keys.iter().flat_map(|&key| [key as f32; DIM]).collect();
        table.assign(&keys, &rows, &Update::at(1)).unwrap();
        let stats = store.stats();
        assert!(stats.memory_bytes <= stats.memory_budget, "{stats:?}");
    }
}

fn check(table: &Table, more: f32) {
    let keys: Vec<u64> = (0..ROWS).collect();
    let mut rows = vec![0.0; keys.len() * DIM];
    assert_eq!(table.lookup(&keys, &mut rows).unwrap(), keys.len());
    assert!(keys.iter().zip(rows.chunks(DIM)).all(|(&key, row)| row == [key as f32 + more; DIM]));
}

fn hot_rows(store: &Store) -> Vec<u64> {
    store.stats().tables.iter().map(|table| table.hot_rows).collect()
}

#[test]
fn a_table_that_comes_later_has_room_for_its_batches() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let first = store.create_table(schema("first")).unwrap();
    fill(&store, &first);
    assert!(hot_rows(&store)[0] * 3 < ROWS * 2, "{:?}", hot_rows(&store));
    let others: Vec<Table> = (0..3).map(|at| store.create_table(schema(&format!("later {at}"))).unwrap()).collect();
    others.iter().for_each(|table| fill(&store, table));
    assert!(hot_rows(&store).iter().all(|&rows| rows > 1000), "{:?}", hot_rows(&store));
    check(&first, 0.0);
    others.iter().for_each(|table| check(table, 0.0));
    let keys: Vec<u64> = (0..A_BATCH / 4).collect();
    let gradients = vec![-1.0; keys.len() * DIM];
    let requests = others.iter().map(|table| GradientRequest::new(table, &keys, &gradients));
    store.apply_gradients_many(requests, &Update::at(1)).unwrap();
    let mut row = [0.0; DIM];
    assert_eq!(others[1].lookup(&[7], &mut row).unwrap(), 1);
    assert_eq!(row, [8.0; DIM]);
}

#[test]
fn tables_that_are_trained_at_once_lend_to_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let tables: Vec<Table> = (0..3).map(|at| store.create_table(schema(&format!("{at}"))).unwrap()).collect();
    std::thread::scope(|threads| {
        for table in &tables {
            threads.spawn(|| fill(&store, table));
        }
    });
    tables.iter().for_each(|table| check(table, 0.0));
    drop(tables);
    let digest = store.digest().unwrap();
    store.commit(b"").unwrap();
    store.close().unwrap();
    assert_eq!(open(dir.path()).digest().unwrap(), digest);
}

#[test]
fn what_no_loan_makes_possible_fails_as_before_and_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (first, second) = (store.create_table(schema("first")).unwrap(), store.create_table(schema("second")).unwrap());
    fill(&store, &first);
    let before = hot_rows(&store);
    let keys: Vec<u64> = (0..200_000).collect();
    let result = second.assign(&keys, &vec![1.0; keys.len() * DIM], &Update::at(1));
    assert!(matches!(result, Err(Error::BudgetTooSmall { .. })), "{result:?}");
    assert_eq!((second.len(), hot_rows(&store)), (0, before));
    check(&first, 0.0);
}
