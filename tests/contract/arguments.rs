//! Wrong arguments: each its own error, and nothing changed.

use embedrock::{
    Admission, At, CommitId, Error, Expiry, Initializer, Missing, Optimizer, Pooling, Store, StoreOptions, Table, TableSchema,
    Update,
};

use crate::{DIM, T, options, schema, train};

/// Runs with a store that has rows, and checks that what runs changed nothing of it.
fn unchanged(options: StoreOptions, run: impl FnOnce(&Store, &Table)) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options.clone()).unwrap();
    let table = store.create_table(schema()).unwrap();
    (0..3).for_each(|number| train(&table, number));
    store.commit(b"state").unwrap();
    let before = (store.digest().unwrap().to_string(), store.stats().clock, store.stats().uncommitted_rows, table.len());
    run(&store, &table);
    let after = (store.digest().unwrap().to_string(), store.stats().clock, store.stats().uncommitted_rows, table.len());
    assert_eq!(after, before);
    train(&table, 3);
    store.commit(b"more").unwrap();
    let digest = store.digest().unwrap().to_string();
    drop((table, store));
    assert_eq!(Store::open(dir.path(), options).unwrap().digest().unwrap().to_string(), digest);
}

#[test]
fn a_wrong_length_says_what_was_expected() {
    unchanged(options(), |_, table| {
        let at = Update::at(T + 9);
        let check = |result: Result<(), Error>, slice: &str, wanted: usize, given: usize| match result {
            Err(Error::WrongLength { what, expected, found, .. }) => {
                assert_eq!((what, expected, found), (slice, wanted, given));
            }
            other => panic!("{other:?}"),
        };
        for given in [0, 3, 5, 6 * DIM] {
            let values = vec![0.5; given];
            check(table.apply_gradients(&[1, 2], &values, &at), "grads", 4, given);
            check(table.assign(&[1, 2], &values, &at).map(drop), "rows", 4, given);
            check(table.assign_add(&[1, 2], &values, &at).map(drop), "rows", 4, given);
            check(table.lookup(&[1, 2], &mut values.clone()).map(drop), "rows", 4, given);
        }
        check(table.lookup_found(&[1, 2], &mut [0.0; 4], &mut [false]).map(drop), "found", 2, 1);
        check(table.apply_gradients(&[], &[1.0], &at), "grads", 0, 1);
    });
}

#[test]
fn what_is_not_finite_is_refused_with_its_key_and_place() {
    unchanged(options(), |_, table| {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let values = [0.1, 0.2, 0.3, bad, bad, 0.0];
            let calls: [(&str, Result<(), Error>); 3] = [
                ("gradient", table.apply_gradients(&[7, u64::MAX, 9], &values, &Update::at(T + 9))),
                ("row", table.assign(&[7, u64::MAX, 9], &values, &Update::at(T + 9)).map(drop)),
                ("row", table.assign_add(&[7, u64::MAX, 9], &values, &Update::at(T + 9)).map(drop)),
            ];
            for (name, result) in calls {
                match result {
                    Err(Error::NotFinite { what, key: u64::MAX, position: 1 }) => assert_eq!(what, name),
                    other => panic!("{other:?}"),
                }
            }
        }
        for rate in [f32::NAN, f32::INFINITY, -0.1, 0.0] {
            let result = table.apply_gradients(&[7], &[0.1, 0.2], &Update::at(T + 9).learning_rate(rate));
            assert!(matches!(result, Err(Error::InvalidOption { option: "learning_rate", .. })), "{rate}: {result:?}");
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options().allow_non_finite(true)).unwrap();
    let table = store.create_table(schema()).unwrap();
    table.assign(&[7], &[f32::INFINITY, 0.5], &Update::at(T)).unwrap();
    let mut row = [0.0; 2];
    table.lookup(&[7], &mut row).unwrap();
    assert_eq!(row, [f32::INFINITY, 0.5]);
}

#[test]
fn offsets_that_do_not_divide_the_keys_are_refused_with_their_place() {
    use Pooling::{First, Mean, Sum};
    let (keys, at) = ([1, 2, 900], Update::at(T + 9));
    unchanged(options(), |_, table| {
        let both = |offsets: &[usize], pooling: Pooling, values: usize| {
            let looked_up = table.lookup_pooled(&keys, offsets, pooling, &mut vec![0.0; values]).map(drop);
            [looked_up, table.apply_pooled_gradients(&keys, offsets, pooling, &vec![0.5; values], &at)]
        };
        let wrong: [(&[usize], usize, &str); 6] = [
            (&[], 0, "is missing"),
            (&[0], 0, "is 0, not the number of keys, 3"),
            (&[1, 3], 0, "is 1, not 0"),
            (&[0, 2, 1, 3], 2, "is 1, below the 2 before it"),
            (&[0, 1, 4], 2, "is 4, not the number of keys, 3"),
            (&[0, usize::MAX, 3], 2, "below the"),
        ];
        for (offsets, place, said) in wrong {
            for pooling in [Sum, Mean, First(2)] {
                for result in both(offsets, pooling, offsets.len().saturating_sub(1) * DIM) {
                    match result {
                        Err(Error::InvalidOffsets { position, what }) => {
                            assert!(position == place && what.contains(said), "{what}")
                        }
                        other => panic!("{offsets:?}: {other:?}"),
                    }
                }
            }
        }
        for (pooling, wanted) in [(Sum, 2 * DIM), (Mean, 2 * DIM), (First(1), 2 * DIM), (First(3), 6 * DIM)] {
            for given in [0, wanted - 1, wanted + DIM] {
                for (result, name) in both(&[0, 1, 3], pooling, given).into_iter().zip(["out", "grads"]) {
                    let Err(Error::WrongLength { what, expected, found, .. }) = result else { panic!("{result:?}") };
                    assert_eq!((what, expected, found), (name, wanted, given));
                }
            }
        }
        for pooling in [First(0), First(usize::MAX)] {
            for result in both(&[0, 1, 3], pooling, 2 * DIM) {
                assert!(matches!(result, Err(Error::InvalidOption { option: "pooling", .. })), "{result:?}");
            }
        }
        for (pooling, position) in [(Sum, 1), (Mean, 1), (First(1), 1)] {
            let result = table.apply_pooled_gradients(&keys, &[0, 1, 3], pooling, &[0.0, 0.0, 0.0, f32::NAN], &at);
            let Err(Error::NotFinite { what: "gradient", key: 2, position: place }) = result else { panic!("{result:?}") };
            assert_eq!(place, position);
        }
        // No key takes the gradient of an empty bag, nor those behind the last of a short one.
        table.apply_pooled_gradients(&[], &[0, 0], Mean, &[f32::NAN; DIM], &Update::at(0)).unwrap();
        assert_eq!(table.lookup_pooled(&[], &[0], Sum, &mut []).unwrap(), 0);
        let (mut empty, mut short) = ([9.0; DIM], [9.0; 3 * DIM]);
        assert_eq!(table.lookup_pooled(&[], &[0, 0], Mean, &mut empty).unwrap(), 0);
        assert_eq!(table.lookup_pooled(&[9_999], &[0, 1], First(3), &mut short).unwrap(), 0);
        assert_eq!((empty, &short[DIM..]), ([0.0; DIM], &[0.0; 2 * DIM][..]));
    });
}

#[test]
fn a_clock_that_jumps_is_refused_and_one_that_goes_back_revives_nothing() {
    let clock = T + 2;
    unchanged(options(), |_, table| {
        for time in [clock + 86_401, T * 1000, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
            for result in [
                table.apply_gradients(&[1], &[0.5; DIM], &Update::at(time)),
                table.assign(&[1], &[0.5; DIM], &Update::at(time)).map(drop),
                table.assign_add(&[], &[], &Update::at(time)).map(drop),
            ] {
                match result {
                    Err(Error::ClockJump { time: given, clock: shown, ahead }) => {
                        assert_eq!((given, shown, ahead), (time, clock, time - clock));
                    }
                    other => panic!("{time}: {other:?}"),
                }
            }
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let expiring = || schema().expiry(Expiry::after_secs(100));
    let open = |step| {
        let store = Store::open(dir.path(), options().max_clock_step(step)).unwrap();
        let table = store.create_table(expiring()).unwrap();
        (store, table)
    };
    let (store, table) = open(1_000);
    table.assign(&[1], &[1.0; DIM], &Update::at(T)).unwrap();
    table.assign(&[2], &[2.0; DIM], &Update::at(T + 100)).unwrap();
    store.commit(b"").unwrap();
    let alive = |table: &Table| [1, 2, 3].map(|key| table.contains(key).unwrap());
    // Times long past are taken, but neither the clock nor a row's time goes back: what expired stays so.
    table.assign_add(&[2], &[1.0; DIM], &Update::at(T - 1_000_000)).unwrap();
    table.assign(&[3], &[1.0; DIM], &Update::at(1)).unwrap();
    assert_eq!(alive(&table), [false, true, false], "a row as old as 3 is expired when it is made");
    drop((table, store));
    let (store, table) = open(1_000);
    assert_eq!((store.stats().clock as u64, alive(&table)), (T + 100, [false, true, false]));
    // The clock that a commit kept is the one that a jump is measured by; a gap in the data is let through by name.
    let gap = Update::at(T + 1_101);
    assert!(matches!(table.assign(&[4], &[0.0; DIM], &gap), Err(Error::ClockJump { ahead: 1_001, .. })));
    drop((table, store));
    let (_store, table) = open(1_001);
    table.assign(&[4], &[0.0; DIM], &gap).unwrap();
    assert_eq!(alive(&table), [false; 3]);
}

#[test]
fn a_schema_that_differs_is_refused_and_the_field_is_named() {
    let with = |optimizer, initializer| TableSchema::new("t", DIM).optimizer(optimizer).initializer(initializer);
    let (adagrad, uniform) = (|| Optimizer::adagrad(0.1), || Initializer::uniform(0.05));
    let others = [
        (TableSchema::new("t", 3).optimizer(adagrad()).initializer(uniform()), "dim is 2, not 3"),
        (with(Optimizer::adam(0.1), uniform()), "the optimizer is adagrad"),
        (with(Optimizer::rowwise_adagrad(0.1), uniform()), "the optimizer is adagrad"),
        (with(adagrad(), Initializer::uniform(0.06)), "the initializer is"),
        (with(adagrad(), Initializer::normal(0.05)), "the initializer is"),
    ];
    unchanged(options(), |store, table| {
        for (schema, field) in others {
            match store.create_table(schema) {
                Err(Error::SchemaMismatch { table, what }) => assert!(table == "t" && what.contains(field), "{what}"),
                other => panic!("{field}: {other:?}"),
            }
        }
        assert_eq!(table.schema(), schema());
    });
    // What concerns the future only may change; the next commit keeps it.
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    train(&table, 0);
    store.commit(b"").unwrap();
    let changed = with(Optimizer::adagrad(0.7), uniform())
        .admission(Admission::count(3))
        .expiry(Expiry::after_secs(5_000))
        .missing(Missing::Zeros);
    store.create_table(changed.clone()).unwrap();
    assert_eq!(table.schema(), changed, "the handles that there are see it");
    drop((table, store));
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.table("t").unwrap().schema(), schema(), "no commit kept the change");
    store.create_table(changed.clone()).unwrap();
    store.commit(b"").unwrap();
    drop(store);
    assert_eq!(Store::open(dir.path(), options()).unwrap().table("t").unwrap().schema(), changed);
}

#[test]
fn a_schema_that_no_table_can_have_is_refused() {
    let named = |name: &str| TableSchema::new(name, DIM);
    let all = [
        (named(""), "1 to 255 bytes"),
        (named(&"x".repeat(256)), "1 to 255 bytes"),
        (named("a\nb"), "no control characters"),
        (TableSchema::new("n", 0), "dim 0"),
        (TableSchema::new("n", 65_537), "dim 65537"),
        (named("n").optimizer(Optimizer::sgd(f32::NAN)), "learning rate"),
        (named("n").optimizer(Optimizer::adam(-1.0)), "learning rate"),
        (named("n").initializer(Initializer::uniform(f32::INFINITY)), "uniform"),
        (named("n").expiry(Expiry::after_secs(0)), "expiry of 0 seconds"),
    ];
    unchanged(options(), |store, _| {
        for (schema, said) in all {
            match store.create_table(schema.clone()) {
                Err(Error::InvalidSchema { what, .. }) => assert!(what.contains(said), "{said}: {what}"),
                other => panic!("{schema:?}: {other:?}"),
            }
        }
        assert_eq!(store.tables().len(), 1);
    });
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    for name in ["x".repeat(255), "../../etc/passwd".into(), "a/b c\u{e9}".into(), "log".into()] {
        store.create_table(named(&name)).unwrap().assign(&[1], &[1.0; DIM], &Update::at(T)).unwrap();
    }
    store.commit(b"").unwrap();
    store.checkpoint().unwrap();
    let digest = store.digest().unwrap();
    drop(store);
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!((store.digest().unwrap(), store.tables().len()), (digest, 4), "a name of a table is no name of a file");
}

#[test]
fn a_table_that_is_not_there_and_one_that_was_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    for result in [store.table("t").map(drop), store.drop_table("t")] {
        assert!(matches!(result, Err(Error::UnknownTable { table }) if table == "t"));
    }
    let table = store.create_table(schema()).unwrap();
    train(&table, 0);
    store.commit(b"with").unwrap();
    store.drop_table("t").unwrap();
    let at = Update::at(T);
    let calls = [
        table.lookup(&[1], &mut [0.0; DIM]).map(drop),
        table.contains(1).map(drop),
        table.lookup_pooled(&[1], &[0, 1], Pooling::Sum, &mut [0.0; DIM]).map(drop),
        table.apply_pooled_gradients(&[1], &[0, 1], Pooling::Sum, &[0.5; DIM], &at),
        table.apply_gradients(&[1], &[0.5; DIM], &at),
        table.assign(&[1], &[0.5; DIM], &at).map(drop),
        table.assign_add(&[1], &[0.5; DIM], &at).map(drop),
        table.remove(&[1]).map(drop),
        table.prefetch(&[1]),
        table.for_each_row(|_, _, _, _| Ok(())),
    ];
    for (at, result) in calls.into_iter().enumerate() {
        assert!(matches!(&result, Err(Error::TableDropped { table }) if table == "t"), "call {at}: {result:?}");
    }
    // A new one of the name is another table, with nothing of the old one.
    let again = store.create_table(TableSchema::new("t", 5)).unwrap();
    assert!(again.is_empty() && !again.contains(1).unwrap());
    drop((table, again, store));
    // Nothing was committed since: the table is back.
    let store = Store::open(dir.path(), options()).unwrap();
    assert_eq!(store.table("t").unwrap().schema(), schema());
    store.drop_table("t").unwrap();
    store.commit(b"without").unwrap();
    drop(store);
    let store = Store::open(dir.path(), options()).unwrap();
    assert!(store.tables().is_empty());
    assert_eq!(store.commits().unwrap().len(), 2);
}

#[test]
fn batches_may_be_empty_and_name_a_key_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options()).unwrap();
    let table = store.create_table(TableSchema::new("t", 1).optimizer(Optimizer::sgd(1.0))).unwrap();
    table.apply_gradients(&[], &[], &Update::at(T)).unwrap();
    assert_eq!(table.assign(&[], &[], &Update::at(T)).unwrap(), 0);
    assert_eq!((table.remove(&[]).unwrap(), table.lookup(&[], &mut []).unwrap(), table.len()), (0, 0, 0));
    table.prefetch(&[]).unwrap();
    let value = |key: u64| {
        let mut row = [9.0];
        table.lookup(&[key], &mut row).unwrap();
        row[0]
    };
    for key in [0, 1, u64::MAX] {
        assert_eq!(table.assign(&[key, key, key], &[1.0, 2.0, 3.0], &Update::at(T)).unwrap(), 1);
        assert_eq!(value(key), 3.0, "the last wins");
        table.assign_add(&[key, key], &[0.25, 0.5], &Update::at(T)).unwrap();
        table.apply_gradients(&[key, key], &[0.5, 0.25], &Update::at(T)).unwrap();
        assert_eq!(value(key), 3.0, "equal keys are summed");
        let (mut rows, mut found) = ([0.0; 3], [false; 3]);
        assert_eq!(table.lookup_found(&[key, 77, key], &mut rows, &mut found).unwrap(), 2);
        assert_eq!((rows, found), ([3.0, 0.0, 3.0], [true, false, true]));
        assert_eq!(table.remove(&[key, key, 77]).unwrap(), 1);
    }
    assert!(table.is_empty());
}

#[test]
fn options_that_cannot_be_met_are_refused_and_make_no_store() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    for shards in [0, 4097] {
        let error = crate::refused(&path, options().shards(shards));
        assert!(matches!(error, Error::InvalidOption { option: "shards", .. }), "{error}");
    }
    let error = crate::refused(&path, options().memory_budget(1000));
    assert!(matches!(error, Error::BudgetTooSmall { budget: 1000, .. }), "{error}");
    let error = crate::refused(&path, options().create(false));
    assert!(matches!(error, Error::NotAStore { .. }), "{error}");
    assert!(!path.exists());
    let none = CommitId { timeline: 1, sequence: 7 };
    let digest = crate::filled(&path, options());
    let before = crate::truth(&path);
    let error = crate::refused(&path, options().open_at(At::Commit(none)));
    assert!(matches!(error, Error::UnknownCommit { id, .. } if id == none), "{error}");
    let error = crate::refused(&path, options().file_slabs("/nowhere/at/all"));
    assert!(matches!(error, Error::Io { .. }) && error.to_string().contains("/nowhere/at/all"), "{error}");
    assert_eq!(crate::truth(&path), before);
    assert_eq!(Store::open(&path, options()).unwrap().digest().unwrap().to_string(), digest);
}

#[test]
fn a_batch_that_the_budget_cannot_hold_changes_nothing() {
    let small = options().memory_budget(2 << 20);
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), small).unwrap();
    let table = store.create_table(TableSchema::new("wide", 1024)).unwrap();
    table.assign(&[1], &[1.0; 1024], &Update::at(T)).unwrap();
    let (digest, clock) = (store.digest().unwrap(), store.stats().clock);
    let keys: Vec<u64> = (0..2000).collect();
    let rows = vec![0.5; 2000 * 1024];
    let error = table.assign(&keys, &rows, &Update::at(T + 5)).unwrap_err();
    assert!(matches!(error, Error::BudgetTooSmall { needed, budget } if needed > budget && budget == 2 << 20), "{error}");
    assert_eq!((store.digest().unwrap(), store.stats().clock, table.len()), (digest, clock, 1));
    assert!(store.stats().memory_bytes <= 2 << 20, "{:?}", store.stats());
    for (keys, rows) in keys.chunks(100).zip(rows.chunks(100 * 1024)) {
        table.assign(keys, rows, &Update::at(T + 5)).unwrap();
    }
    assert_eq!(table.len(), 2000, "in smaller batches they go in");
}

#[test]
fn a_commit_takes_state_of_any_size() {
    let dir = tempfile::tempdir().unwrap();
    let large: Vec<u8> = (0..20_000_003u32).map(|i| (i ^ (i >> 11)) as u8).collect();
    for (at, state) in [&large[..], b"", &large[..1], &large].into_iter().enumerate() {
        let store = Store::open(dir.path(), options()).unwrap();
        store.commit(state).unwrap();
        assert!(store.last_commit().unwrap().state[..] == *state);
        if at % 2 == 0 {
            store.checkpoint().unwrap();
        }
        drop(store);
        let store = Store::open(dir.path(), options()).unwrap();
        let last = store.last_commit().unwrap();
        assert!(last.id.sequence == at as u64 + 1 && last.state[..] == *state, "{} bytes", state.len());
    }
}
