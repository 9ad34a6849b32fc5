//! Every optimizer in a store: what goes on after a crash, a restore or from the cold tier is bit for bit what never stopped; schedules,
//! clipping and compensation do through the store what their formulas say.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;

use embedrock::{
    At, Error, GradientRequest, Initializer, Optimizer, Schedule, Store, StoreOptions, Table, TableSchema, Update, restore_with,
};

const T: u64 = 1_700_000_000;
const KEYS: u64 = 60;

fn all() -> Vec<Optimizer> {
    vec![
        Optimizer::sgd(0.1),
        Optimizer::adagrad(0.1),
        Optimizer::rowwise_adagrad(0.1),
        Optimizer::adam(0.01).nesterov(true),
        Optimizer::ftrl(0.1).l1(0.01),
        Optimizer::adam_w(0.01),
        Optimizer::lazy_adam(0.01),
        Optimizer::amsgrad(0.01),
        Optimizer::group_ftrl(0.1).group_lasso(0.1),
        Optimizer::group_adagrad(0.1).group_lasso(0.01),
        Optimizer::adagrad_w(0.1),
        Optimizer::adadelta(1.0),
        Optimizer::momentum(0.01).nesterov(true),
        Optimizer::moving_average(),
        Optimizer::rmsprop(0.01),
        Optimizer::rmsprop_v2(0.01),
        Optimizer::batch_softmax(0.1),
        Optimizer::adagrad(0.1).schedule(Schedule::cosine(20, 0.1).warm_up(5)).clip_value(0.4).clip_norm(0.5),
    ]
}

fn schema(optimizer: Optimizer) -> TableSchema {
    let dim = if optimizer == Optimizer::batch_softmax(0.1) { 1 } else { 5 };
    TableSchema::new("t", dim).optimizer(optimizer).initializer(Initializer::uniform(0.5))
}

fn options(hot: usize) -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).hot_rows(hot).seed(7).twin(true)
}

fn train(table: &Table, steps: std::ops::Range<u64>) {
    for step in steps {
        let keys: Vec<u64> = (0..9).map(|i| (step * 17 + i * i * 5) % KEYS).collect();
        let values = (0..9 * table.dim() as u64).map(|i| ((i * 7 + step * 5) % 13) as f32 / 13.0 - 0.5);
        table.apply_gradients(&keys, &values.collect::<Vec<f32>>(), &Update::at(T + step).step(step + 1)).unwrap();
        if step % 7 == 3 {
            let rows = vec![0.25; 2 * table.dim()];
            table.assign(&keys[..2], &rows, &Update::at(T + step)).unwrap();
            table.assign_add(&keys[3..5], &rows, &Update::at(T + step)).unwrap();
        }
    }
}

fn open(dir: &Path, hot: usize, optimizer: Optimizer) -> (Store, Table) {
    let store = Store::open(dir, options(hot)).unwrap();
    let table = store.create_table(schema(optimizer)).unwrap();
    (store, table)
}

#[test]
fn training_goes_on_with_the_same_bits_after_crashes_restores_and_from_the_cold_tier() {
    for optimizer in all() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (store, table) = open(&path("never-stopped"), 1000, optimizer);
        train(&table, 0..40);
        let expected = store.digest().unwrap();

        // Few rows hot, and a life for every four steps: a base in one, training that no commit holds at the end of each.
        for life in 0..10 {
            let (store, table) = open(&path("many-lives"), 8, optimizer);
            train(&table, life * 4..life * 4 + 4);
            if life == 4 {
                store.checkpoint().unwrap();
            }
            store.commit(b"").unwrap();
            train(&table, 90..91);
        }
        let (store, table) = open(&path("many-lives"), 8, optimizer);
        assert_eq!(store.digest().unwrap(), expected, "{optimizer}");
        assert_eq!(table.schema(), schema(optimizer), "{optimizer}");
        drop((store, table));

        let early = Store::open(path("many-lives"), options(8)).unwrap().commits().unwrap()[6];
        restore_with(&path("many-lives"), At::Commit(early), &path("restored"), &options(8)).unwrap();
        let (store, table) = open(&path("restored"), 1000, optimizer);
        train(&table, 28..40);
        assert_eq!(store.digest().unwrap(), expected, "{optimizer}, restored at {early}");
    }
}

fn one_row(optimizer: Optimizer) -> (tempfile::TempDir, Store, Table) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("s"), options(100)).unwrap();
    let table = store.create_table(TableSchema::new("t", 2).optimizer(optimizer)).unwrap();
    (dir, store, table)
}

fn row(table: &Table, key: u64) -> [f32; 2] {
    let mut row = [f32::NAN; 2];
    table.lookup(&[key], &mut row).unwrap();
    row
}

/// What was assigned, or what a row begins with, is where FTRL goes on from.
#[test]
fn ftrl_remembers_what_was_assigned() {
    for optimizer in [Optimizer::ftrl(0.1).l1(0.2).beta(1.0), Optimizer::group_ftrl(0.1).group_lasso(0.2)] {
        let (_dir, store, table) = one_row(optimizer);
        let begins = store.create_table(TableSchema::new("b", 2).optimizer(optimizer).initializer(Initializer::ones())).unwrap();
        let now = Update::at(T);
        table.apply_gradients(&[1], &[0.5, -0.5], &now).unwrap();
        table.assign(&[1, 2], &[3.0, -2.0, 0.5, 0.0], &now).unwrap();
        table.assign_add(&[1], &[1.0, 1.0], &now).unwrap();
        let zero = [0.0; 4];
        table.apply_gradients(&[1, 2], &zero, &now).unwrap();
        begins.apply_gradients(&[9], &zero[..2], &now).unwrap();
        for (found, expected) in [(row(&table, 1), [4.0, -1.0]), (row(&table, 2), [0.5, 0.0]), (row(&begins, 9), [1.0, 1.0])] {
            let near = found.iter().zip(expected).all(|(found, expected): (&f32, f32)| (found - expected).abs() < 1e-5);
            assert!(near, "{optimizer}: {found:?}, expected {expected:?}");
        }
        table.apply_gradients(&[1], &[1.0, 1.0], &now).unwrap();
        assert!(row(&table, 1)[0] < 4.0 && row(&table, 1)[0] > 3.0, "{optimizer}: {:?}", row(&table, 1));
    }
}

#[test]
fn what_needs_the_number_of_the_step_is_refused_without_it_and_nothing_changes() {
    let scheduled = Optimizer::sgd(1.0).schedule(Schedule::constant().warm_up(4));
    for (optimizer, rate_helps) in [(scheduled, true), (Optimizer::lazy_adam(1.0), false)] {
        let (_dir, store, table) = one_row(optimizer);
        let before = store.digest().unwrap();
        let refused = table.apply_gradients(&[1], &[1.0, 1.0], &Update::at(T)).unwrap_err();
        assert!(
            matches!(&refused, Error::InvalidOption { option: "step", what } if what.contains("number of the step")),
            "{refused}"
        );
        assert_eq!(store.digest().unwrap(), before);
        assert_eq!(table.apply_gradients(&[1], &[1.0, 1.0], &Update::at(T).learning_rate(0.5)).is_ok(), rate_helps);
        table.assign(&[1], &[1.0, 1.0], &Update::at(T)).unwrap();
        table.apply_gradients(&[1], &[1.0, 0.0], &Update::at(T).step(2)).unwrap();
        if rate_helps {
            assert_eq!(row(&table, 1), [0.5, 1.0], "half of the rate at step 2 of 4");
        }
    }
}

/// Sums come before limits: two gradients that each pass do not pass together.
#[test]
fn clipping_sees_the_sum_of_equal_keys() {
    let (_dir, _store, table) = one_row(Optimizer::sgd(1.0).clip_value(1.0));
    table.apply_gradients(&[1, 2, 1], &[0.75, -0.5, 8.0, 0.25, 0.75, -0.25], &Update::at(T)).unwrap();
    assert_eq!((row(&table, 1), row(&table, 2)), ([-1.0, 0.75], [-1.0, -0.25]));
    let (_dir, _store, table) = one_row(Optimizer::sgd(1.0).clip_norm(2.5));
    table.apply_gradients(&[1, 2, 1], &[1.0, -4.0, 0.5, 0.25, 2.0, 0.0], &Update::at(T)).unwrap();
    assert_eq!((row(&table, 1), row(&table, 2)), ([-1.5, 2.0], [-0.5, -0.25]));
}

#[test]
fn the_global_norm_is_that_of_all_gradients_of_the_call() {
    let (_dir, store, a) = one_row(Optimizer::sgd(1.0));
    let b = store.create_table(TableSchema::new("b", 1).optimizer(Optimizer::sgd(1.0))).unwrap();
    // The norm of (1, 1, 1, 1, 2) and of (2, 2, 0, 0, 2) is not the same: equal keys count each for itself.
    let requests = [GradientRequest::new(&a, &[1, 1], &[1.0; 4]), GradientRequest::new(&b, &[5, 6, 7], &[2.0, 2.0, 2.0])];
    store.apply_gradients_many(requests, &Update::at(T).clip_global_norm(2.0)).unwrap();
    let mut of_b = [0.0; 3];
    b.lookup(&[5, 6, 7], &mut of_b).unwrap();
    assert_eq!((row(&a, 1), of_b), ([-1.0; 2], [-1.0; 3]));
    a.apply_gradients(&[2], &[3.0, 4.0], &Update::at(T).clip_global_norm(5.0)).unwrap();
    assert_eq!(row(&a, 2), [-3.0, -4.0], "not above the limit");
    a.apply_gradients(&[3], &[6.0, 8.0], &Update::at(T).scale_gradients(0.25).clip_global_norm(1.25)).unwrap();
    assert_eq!(row(&a, 3), [-0.75, -1.0]);
    for (update, option) in [
        (Update::at(T).clip_global_norm(0.0), "clip_global_norm"),
        (Update::at(T).clip_global_norm(f32::NAN), "clip_global_norm"),
        (Update::at(T).scale_gradients(-1.0), "scale_gradients"),
        (Update::at(T).scale_gradients(f32::INFINITY), "scale_gradients"),
    ] {
        let refused = a.apply_gradients(&[1], &[1.0, 1.0], &update).unwrap_err();
        assert!(matches!(refused, Error::InvalidOption { option: found, .. } if found == option), "{refused}");
        let refused = store.apply_gradients_many([GradientRequest::new(&a, &[1], &[1.0, 1.0])], &update).unwrap_err();
        assert!(matches!(refused, Error::InvalidOption { option: found, .. } if found == option), "{refused}");
    }
    assert_eq!(row(&a, 1), [-1.0; 2]);
}

#[test]
fn delayed_gradients_are_compensated_for_what_changed_since_they_were_worked_out() {
    let (_dir, _store, table) = one_row(Optimizer::sgd(1.0));
    let now = Update::at(T);
    table.assign(&[1, 2], &[1.0, 1.0, 1.0, 1.0], &now).unwrap();
    let read = [1.0, 1.0, 1.0, 1.0, 9.0, 9.0, 1.0, 1.0];
    table.apply_gradients(&[1], &[0.5, -1.0], &now).unwrap();
    // Key 1 stands at (0.5, 2) now; its gradient is (2, 1) in two parts. Key 2 did not change; key 3 has no row.
    let grads = [1.5, 0.5, 4.0, 4.0, 1.0, 1.0, 0.5, 0.5];
    table.apply_delayed_gradients(&[1, 2, 3, 1], &grads, &read, 0.25, &now).unwrap();
    let expected = [0.5 - (2.0 + 0.25 * 4.0 * -0.5), 2.0 - (1.0 + 0.25 * 1.0 * 1.0)];
    assert_eq!((row(&table, 1), row(&table, 2), row(&table, 3)), (expected, [-3.0, -3.0], [-1.0, -1.0]));
    for (read, strength) in [(&read[..6], 0.1), (&[f32::NAN; 8][..], 0.1), (&read[..], -1.0), (&read[..], f32::NAN)] {
        assert!(table.apply_delayed_gradients(&[1, 2, 3, 1], &grads, read, strength, &now).is_err());
    }
    assert_eq!(row(&table, 1), expected);
}
