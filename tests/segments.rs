//! Rows of several segments are bit for bit the rows of as many tables side by side; rows without gradients: `modify`.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;

use embedrock::{
    Admission, Error, Initializer, Missing, Optimizer, Schedule, Segment, Store, StoreOptions, Table, TableSchema, Update,
};
use proptest::prelude::*;

const T: u64 = 1_700_000_000;

/// One of each kind of state: none, one a value, one a row, two and more.
fn segments() -> Vec<Segment> {
    vec![
        Segment::new(3).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::uniform(0.5)),
        Segment::new(1).optimizer(Optimizer::ftrl(0.1).l1(0.01)),
        Segment::new(5).optimizer(Optimizer::adam(0.01).clip_norm(0.5)).initializer(Initializer::constant(0.25)),
        Segment::new(2).optimizer(Optimizer::sgd(0.5).schedule(Schedule::constant().warm_up(20))),
        Segment::new(4).optimizer(Optimizer::group_adagrad(0.1)).initializer(Initializer::ones()),
    ]
}

fn options(hot: usize) -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).hot_rows(hot).seed(7).twin(true)
}

fn open(dir: &Path, hot: usize, schema: TableSchema) -> (Store, Table) {
    let store = Store::open(dir, options(hot)).unwrap();
    let table = store.create_table(schema.admission(Admission::count(2))).unwrap();
    (store, table)
}

#[derive(Clone, Debug)]
enum Call {
    Gradients(Vec<u64>),
    Assign(Vec<u64>),
    AssignAdd(Vec<u64>),
    Modify(Vec<u64>),
    Remove(Vec<u64>),
    Reopen { hot: usize, checkpoint: bool },
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let keys = || proptest::collection::vec(0..40u64, 0..30);
    let call = prop_oneof![
        8 => keys().prop_map(Call::Gradients),
        2 => keys().prop_map(Call::Assign),
        2 => keys().prop_map(Call::AssignAdd),
        2 => keys().prop_map(Call::Modify),
        1 => keys().prop_map(Call::Remove),
        1 => (4..40usize, any::<bool>()).prop_map(|(hot, checkpoint)| Call::Reopen { hot, checkpoint }),
    ];
    proptest::collection::vec(call, 1..30)
}

/// What the call brings for the lanes from `first` on, of the row's 15.
fn values(keys: &[u64], number: u64, lanes: std::ops::Range<usize>) -> Vec<f32> {
    let of = |at: usize, lane: usize| ((at as u64 * 31 + lane as u64 * 7 + number * 5) % 23) as f32 / 16.0 - 0.75;
    (0..keys.len()).flat_map(|at| lanes.clone().map(move |lane| of(at, lane))).collect()
}

fn apply(table: &Table, call: &Call, number: u64, lanes: std::ops::Range<usize>, update: Update) {
    match call {
        Call::Gradients(keys) => table.apply_gradients(keys, &values(keys, number, lanes), &update).unwrap(),
        Call::Assign(keys) => drop(table.assign(keys, &values(keys, number, lanes), &update).unwrap()),
        Call::AssignAdd(keys) => drop(table.assign_add(keys, &values(keys, number, lanes), &update).unwrap()),
        Call::Modify(keys) => {
            let brought = values(keys, number, lanes.clone());
            let rows = brought.chunks(lanes.len()).collect::<Vec<_>>();
            let change = |at: usize, row: &mut [f32]| {
                row.iter_mut().zip(rows[at]).for_each(|(value, brought)| *value = *value * 0.5 + brought);
                Ok(())
            };
            table.modify(keys, &update, change).unwrap();
        }
        Call::Remove(keys) => drop(table.remove(keys).unwrap()),
        Call::Reopen { .. } => {}
    }
}

fn rows(table: &Table) -> Vec<u32> {
    let keys: Vec<u64> = (0..40).collect();
    let mut rows = vec![f32::NAN; 40 * table.dim()];
    table.lookup(&keys, &mut rows).unwrap();
    rows.iter().map(|value| value.to_bits()).collect()
}

fn schema() -> TableSchema {
    TableSchema::new("t", 15).segments(segments())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_row_of_segments_is_the_rows_of_as_many_tables(calls in calls()) {
        let dir = tempfile::tempdir().unwrap();
        // Each in a store of its own, so that all have the number and the draws of the first table.
        let parts: Vec<_> = (0..).zip(segments()).map(|(at, segment)| {
            let schema = TableSchema::new("t", segment.dim()).segments([segment]);
            (schema.clone(), open(&dir.path().join(format!("part-{at}")), 1000, schema), range_of(at))
        }).collect();
        let mut whole = open(&dir.path().join("whole"), 1000, schema());
        for (number, call) in (0..).zip(&calls) {
            if let Call::Reopen { hot, checkpoint } = call {
                whole.0.commit(b"").unwrap();
                if *checkpoint {
                    whole.0.checkpoint().unwrap();
                }
                drop(whole);
                whole = open(&dir.path().join("whole"), *hot, schema());
            }
            let update = Update::at(T + number).step(number + 1).learning_rate(0.05);
            let update = if number % 2 == 0 { Update::at(T + number).step(number + 1) } else { update };
            apply(&whole.1, call, number, 0..15, update.segment_learning_rate(2, 0.02));
            for (at, (_, (_, table), range)) in parts.iter().enumerate() {
                let update = if at == 2 { update.learning_rate(0.02) } else { update };
                apply(table, call, number, range.clone(), update);
            }
            let found = rows(&whole.1);
            for (schema, (_, table), range) in &parts {
                let of_part: Vec<u32> = found.chunks(15).flat_map(|row| row[range.clone()].to_vec()).collect();
                prop_assert_eq!(of_part, rows(table), "{:?} after call {}", schema, number);
                prop_assert_eq!(whole.1.len(), table.len());
            }
        }
    }
}

fn range_of(at: usize) -> std::ops::Range<usize> {
    schema().segment_range(at)
}

/// Random values of segments that begin alike must not be the same: they would learn the same.
#[test]
fn segments_of_a_row_begin_with_values_of_their_own() {
    let uniform = Segment::new(2).initializer(Initializer::uniform(1.0));
    let dir = tempfile::tempdir().unwrap();
    let (_store, table) = open(dir.path(), 10, TableSchema::new("t", 4).segments([uniform, uniform]));
    let mut row = [0.0; 4];
    table.lookup(&[1], &mut row).unwrap();
    assert!(row[0] != row[2] && row[1] != row[3], "{row:?}");
}

#[test]
fn schemas_that_do_not_add_up_are_refused_and_others_come_back() {
    let (bias, vector) = (Segment::new(1).optimizer(Optimizer::ftrl(0.1)), Segment::new(4));
    let of = |dim, segments: &[Segment]| TableSchema::new("t", dim).segments(segments.iter().copied());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(10)).unwrap();
    for (schema, why) in [
        (of(5, &[]), "0 segments"),
        (of(17, &[bias; 17]), "17 segments"),
        (of(6, &[bias, vector]), "the segments have 5 values, the row 6"),
        (of(4, &[vector, Segment::new(0)]), "in segment 1, a segment has at least dim 1"),
        (of(4, &[Segment::new(usize::MAX), vector]), "the row 4"),
        (of(5, &[bias, vector.optimizer(Optimizer::sgd(-1.0))]), "in segment 1, learning rate -1"),
        (of(5, &[bias, vector.optimizer(Optimizer::batch_softmax(0.1))]), "in segment 1, batch_softmax is for dim 1"),
        (of(5, &[bias, vector]).optimizer(Optimizer::sgd(0.1)), "optimizer is set for the whole row"),
        (of(5, &[bias, vector]).initializer(Initializer::ones()), "initializer is set for the whole row"),
    ] {
        let refused = store.create_table(schema).unwrap_err();
        assert!(matches!(&refused, Error::InvalidSchema { what, .. } if what.contains(why)), "{refused}, expected {why}");
    }
    let schema = of(5, &[bias, vector]).missing(Missing::Zeros);
    let table = store.create_table(schema.clone()).unwrap();
    for (other, why) in [
        (TableSchema::new("t", 5), "rows have 2 segments, not 1"),
        (of(5, &[vector, bias]), "dim is 1, not 4"),
        (of(5, &[bias, vector.optimizer(Optimizer::momentum(0.1))]), "in segment 1, the optimizer is sgd"),
        (of(5, &[bias, vector.initializer(Initializer::ones())]), "in segment 1, the initializer is Zeros"),
    ] {
        let refused = store.create_table(other).unwrap_err();
        assert!(matches!(&refused, Error::SchemaMismatch { what, .. } if what.contains(why)), "{refused}, expected {why}");
    }
    let refused = table.apply_gradients(&[1], &[0.0; 5], &Update::at(T).segment_learning_rate(2, 0.1)).unwrap_err();
    assert!(refused.to_string().contains("a rate for segment 2 of rows with 2 segments"), "{refused}");
    let refused = table.apply_gradients(&[1], &[0.0; 5], &Update::at(T).segment_learning_rate(usize::MAX, 0.1)).unwrap_err();
    assert!(refused.to_string().contains("a rate for segment 18446744073709551615"), "{refused}");
    // Rates, schedules and clipping are settings: recorded, not part of what rows are.
    let changed = of(5, &[bias.optimizer(Optimizer::ftrl(0.7).clip_value(2.0)), vector]).missing(Missing::Zeros);
    store.create_table(changed.clone()).unwrap();
    store.commit(b"").unwrap();
    drop((table, store));
    let store = Store::open(dir.path(), options(10)).unwrap();
    assert_eq!(store.table("t").unwrap().schema(), changed);
}

#[test]
fn modify_sees_each_change_before_it_and_changes_nothing_when_it_fails() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(10)).unwrap();
    let table = store.create_table(TableSchema::new("t", 1).initializer(Initializer::constant(10.0))).unwrap();
    let now = Update::at(T);
    let keys = [1, 2, 1, 1];
    let mut seen = Vec::new();
    let written = table.modify(&keys, &now, |at, row| {
        seen.push((at, row[0]));
        row[0] += 1.0;
        Ok(())
    });
    assert_eq!((written.unwrap(), seen), (2, vec![(0, 10.0), (1, 10.0), (2, 11.0), (3, 12.0)]));
    let before = store.digest().unwrap();
    let failing = table.modify(&keys, &now, |at, row| {
        row[0] = 0.0;
        if at == 3 { Err(Error::UnknownTable { table: "of another".into() }) } else { Ok(()) }
    });
    assert!(matches!(failing, Err(Error::UnknownTable { .. })));
    let infinite = table.modify(&keys, &now, |_, row| {
        row[0] = f32::INFINITY;
        Ok(())
    });
    assert!(matches!(infinite, Err(Error::NotFinite { what: "row", key: 1, .. })));
    let panicking =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| table.modify(&keys, &now, |_, _| panic!("of a caller"))));
    assert!(panicking.is_err());
    assert_eq!(store.digest().unwrap(), before);
    assert_eq!(table.modify(&[], &now, |_, _| Ok(())).unwrap(), 0);
    assert_eq!(table.modify(&[1], &now, |_, _| Ok(())).unwrap(), 1, "the table works on");
}

/// Counters that four threads add to: none is lost.
#[test]
fn modify_lets_no_other_update_come_between() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options(1000).threads(2)).unwrap();
    let table = store.create_table(TableSchema::new("t", 1)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let table = &table;
            scope.spawn(move || {
                for round in 0..50 {
                    let keys: Vec<u64> = (0..20).map(|i| (i * (thread + 1) + round) % 20).collect();
                    let add = |_: usize, row: &mut [f32]| {
                        row[0] += 1.0;
                        Ok(())
                    };
                    table.modify(&keys, &Update::at(T), add).unwrap();
                }
            });
        }
    });
    let mut total = 0.0;
    table
        .for_each_row(|_, _, row, _| {
            total += f64::from(row[0]);
            Ok(())
        })
        .unwrap();
    assert_eq!(total, 4.0 * 50.0 * 20.0);
}
