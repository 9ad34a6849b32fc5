//! Calls over several tables: the same rows as one call after another, all or nothing, and never half in a commit.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use embedrock::{
    Admission, At, Error, Expiry, GradientRequest, Initializer, LookupRequest, Optimizer, Pooling, Store, StoreOptions, Table,
    TableSchema, Update,
};
use proptest::prelude::*;

const T: u64 = 1_700_000_000;

fn options() -> StoreOptions {
    StoreOptions::default().memory_budget(64 << 20).twin(true)
}

/// Three tables that differ in all that a batch depends on, its number among them.
fn tables(store: &Store) -> [Table; 3] {
    let all = [
        TableSchema::new("a", 3).optimizer(Optimizer::adagrad(0.1)).admission(Admission::probabilistic(2)),
        TableSchema::new("b", 16).optimizer(Optimizer::adam(0.01)).expiry(Expiry::after_secs(2)),
        TableSchema::new("c", 1).optimizer(Optimizer::sgd(0.5)).admission(Admission::count(2)),
    ];
    all.map(|schema| store.create_table(schema.initializer(Initializer::uniform(0.5))).unwrap())
}

fn random(seed: u64, number: u64) -> u64 {
    let mixed = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 8
}

/// A request: its table, its keys in bags of so many, and whether they are pooled.
#[derive(Clone, Debug)]
struct Request {
    table: usize,
    sizes: Vec<usize>,
    pooling: Option<Pooling>,
    seed: u64,
}

impl Request {
    fn keys(&self) -> Vec<u64> {
        (0..self.sizes.iter().sum::<usize>() as u64).map(|i| random(self.seed, i) % 900).collect()
    }

    fn offsets(&self) -> Vec<usize> {
        let ends = self.sizes.iter().scan(0, |end, size| {
            *end += size;
            Some(*end)
        });
        std::iter::once(0).chain(ends).collect()
    }

    fn values(&self, dim: usize) -> usize {
        match self.pooling {
            None => self.sizes.iter().sum::<usize>() * dim,
            Some(Pooling::First(rows)) => self.sizes.len() * rows * dim,
            Some(_) => self.sizes.len() * dim,
        }
    }

    fn grads(&self, dim: usize) -> Vec<f32> {
        (0..self.values(dim) as u64).map(|i| (random(self.seed ^ 1, i) % 2001) as f32 / 1e3 - 1.0).collect()
    }
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let size = prop_oneof![2 => Just(0usize), 8 => 1usize..20, 1 => 800usize..2500];
    let pooling = prop_oneof![Just(Pooling::Sum), Just(Pooling::Mean), (1usize..4).prop_map(Pooling::First)];
    let request = (0usize..3, proptest::collection::vec(size, 0..6), proptest::option::of(pooling), any::<u64>())
        .prop_map(|(table, sizes, pooling, seed)| Request { table, sizes, pooling, seed });
    proptest::collection::vec(request, 0..5)
}

fn lookup_one(table: &Table, request: &Request, out: &mut [f32]) -> usize {
    match request.pooling {
        None => table.lookup(&request.keys(), out).unwrap(),
        Some(pooling) => table.lookup_pooled(&request.keys(), &request.offsets(), pooling, out).unwrap(),
    }
}

fn train_one(table: &Table, request: &Request, update: &Update) {
    let grads = request.grads(table.dim());
    match request.pooling {
        None => table.apply_gradients(&request.keys(), &grads, update).unwrap(),
        Some(pooling) => {
            table.apply_pooled_gradients(&request.keys(), &request.offsets(), pooling, &grads, update).unwrap();
        }
    }
}

/// The arguments of requests, which borrow them.
struct Arguments {
    keys: Vec<u64>,
    offsets: Vec<usize>,
    out: Vec<f32>,
    grads: Vec<f32>,
}

fn lookup_all(store: &Store, tables: &[Table; 3], requests: &[Request], all: &mut [Arguments]) -> Vec<usize> {
    let requests = requests.iter().zip(all).map(|(request, Arguments { keys, offsets, out, .. })| {
        let table = &tables[request.table];
        match request.pooling {
            None => LookupRequest::new(table, keys, out),
            Some(pooling) => LookupRequest::pooled(table, keys, offsets, pooling, out),
        }
    });
    store.lookup_many(requests).unwrap()
}

fn train_all(store: &Store, tables: &[Table; 3], requests: &[Request], all: &[Arguments], update: &Update) {
    let requests = requests.iter().zip(all).map(|(request, Arguments { keys, offsets, grads, .. })| {
        let table = &tables[request.table];
        match request.pooling {
            None => GradientRequest::new(table, keys, grads),
            Some(pooling) => GradientRequest::pooled(table, keys, offsets, pooling, grads),
        }
    });
    store.apply_gradients_many(requests, update).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn several_tables_at_once_are_one_after_another(
        batches in proptest::collection::vec(requests(), 1..5),
        (threads, shards) in (1usize..4, 1usize..9),
        hot in proptest::option::of(0usize..60),
        seed in any::<u64>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, options: StoreOptions| Store::open(dir.path().join(name), options.seed(seed)).unwrap();
        let many_options = options().threads(threads).shards(shards);
        let many = open("many", match hot { Some(rows) => many_options.hot_rows(rows), None => many_options });
        let single = open("single", options().threads(1).shards(2));
        let (of_many, of_single) = (tables(&many), tables(&single));
        for (mut requests, number) in batches.into_iter().zip(0..) {
            let update = Update::at(T + number);
            let mut all: Vec<Arguments> = requests
                .iter()
                .map(|request| {
                    let dim = of_many[request.table].dim();
                    let (out, grads) = (vec![f32::NAN; request.values(dim)], request.grads(dim));
                    Arguments { keys: request.keys(), offsets: request.offsets(), out, grads }
                })
                .collect();
            let found = lookup_all(&many, &of_many, &requests, &mut all);
            for ((request, arguments), found) in requests.iter().zip(&all).zip(found) {
                let mut out = vec![f32::NAN; arguments.out.len()];
                prop_assert_eq!(lookup_one(&of_single[request.table], request, &mut out), found);
                prop_assert!(out.iter().zip(&arguments.out).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
            // Requests for one table are one batch, which calls one by one are not: tested apart.
            let mut seen = [false; 3];
            let mut first = |request: &Request| !std::mem::replace(&mut seen[request.table], true);
            let kept: Vec<bool> = requests.iter().map(&mut first).collect();
            let mut kept_of = kept.iter();
            requests.retain(|_| *kept_of.next().unwrap());
            let mut kept_of = kept.iter();
            all.retain(|_| *kept_of.next().unwrap());
            train_all(&many, &of_many, &requests, &all, &update);
            requests.iter().for_each(|request| train_one(&of_single[request.table], request, &update));
            prop_assert_eq!(many.digest().unwrap().to_string(), single.digest().unwrap().to_string());
        }
    }
}

#[test]
fn requests_for_one_table_are_one_batch_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str| {
        let store = Store::open(dir.path().join(name), options()).unwrap();
        let tables = tables(&store);
        (store, tables)
    };
    let ((many, of_many), (single, of_single)) = (open("many"), open("single"));
    let update = Update::at(T);
    // In f32 the sum depends on the order: 1e8 + 1 - 1e8 is 0.
    let (a, b) = (&of_many[2], &of_many[1]);
    let first = GradientRequest::new(a, &[5, 6], &[1e8, 2.0]);
    let between = GradientRequest::new(b, &[5], &[0.5; 16]);
    let pooled = GradientRequest::pooled(a, &[5, 6, 5], &[0, 2, 3], Pooling::Sum, &[1.0, -1e8]);
    many.apply_gradients_many([first, between, pooled], &update).unwrap();
    of_single[2].apply_gradients(&[5, 6, 5, 6, 5], &[1e8, 2.0, 1.0, 1.0, -1e8], &update).unwrap();
    of_single[1].apply_gradients(&[5], &[0.5; 16], &update).unwrap();
    assert_eq!(many.digest().unwrap(), single.digest().unwrap());
    assert_eq!((of_many[2].len(), of_many[1].len()), (2, 1));
}

fn state(store: &Store) -> (String, u32, u64) {
    (store.digest().unwrap().to_string(), store.stats().clock, store.stats().uncommitted_rows)
}

#[test]
fn what_fails_in_the_last_table_changes_nothing_in_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), options().memory_budget(3 << 20).shards(2).threads(2)).unwrap();
    let small = store.create_table(TableSchema::new("small", 1).optimizer(Optimizer::sgd(1.0))).unwrap();
    let wide = store.create_table(TableSchema::new("wide", 1024).optimizer(Optimizer::sgd(1.0))).unwrap();
    store
        .apply_gradients_many(
            [GradientRequest::new(&small, &[1], &[1.0]), GradientRequest::new(&wide, &[1], &[1.0; 1024])],
            &Update::at(T),
        )
        .unwrap();
    store.commit(b"").unwrap();
    let (before, memory) = (state(&store), store.stats().memory_bytes);
    let keys: Vec<u64> = (0..3000).collect();
    let grads = vec![0.5; 3000 * 1024];
    let later = Update::at(T + 50);
    for _ in 0..3 {
        let requests = [GradientRequest::new(&small, &keys[..20], &grads[..20]), GradientRequest::new(&wide, &keys, &grads)];
        let error = store.apply_gradients_many(requests, &later).unwrap_err();
        assert!(matches!(error, Error::BudgetTooSmall { budget, .. } if budget == 3 << 20), "{error}");
        assert_eq!((state(&store), small.len(), wide.len()), (before.clone(), 1, 1));
        assert!(store.stats().memory_bytes <= memory, "{} of {memory} bytes", store.stats().memory_bytes);
    }
    // Wrong arguments name their request.
    let good = || GradientRequest::new(&small, &[1], &[1.0]);
    let wrong = [
        GradientRequest::new(&wide, &[1], &[1.0]),
        GradientRequest::new(&wide, &[1], &[f32::NAN; 1024]),
        GradientRequest::pooled(&wide, &[1], &[0, 2], Pooling::Sum, &[0.0; 1024]),
    ];
    for request in wrong {
        match store.apply_gradients_many([good(), request], &later) {
            Err(Error::InRequest { request: 1, table, source }) => assert!(
                table == "wide"
                    && matches!(*source, Error::WrongLength { .. } | Error::NotFinite { .. } | Error::InvalidOffsets { .. })
            ),
            other => panic!("{other:?}"),
        }
    }
    for update in [Update::at(T * 1000), Update::at(T).learning_rate(-1.0)] {
        let error = store.apply_gradients_many([good()], &update).unwrap_err();
        assert!(matches!(error, Error::ClockJump { .. } | Error::InvalidOption { .. }), "{error}");
    }
    let (mut one, mut two) = ([0.0], [0.0; 2]);
    let error = store.lookup_many([LookupRequest::new(&small, &[1], &mut one), LookupRequest::new(&wide, &[1], &mut two)]);
    assert!(matches!(&error, Err(Error::InRequest { request: 1, .. })), "{error:?}");
    let other = Store::open(dir.path().join("other"), options()).unwrap();
    let error = other.lookup_many([LookupRequest::new(&small, &[1], &mut one)]).unwrap_err();
    assert!(matches!(&error, Error::InRequest { request: 0, source, .. } if matches!(**source, Error::OtherStore)), "{error}");
    let error = other.apply_gradients_many([good()], &later).unwrap_err();
    assert!(matches!(&error, Error::InRequest { request: 0, source, .. } if matches!(**source, Error::OtherStore)), "{error}");
    store.drop_table("wide").unwrap();
    let error = store.apply_gradients_many([good(), GradientRequest::new(&wide, &[], &[])], &later).unwrap_err();
    assert!(matches!(&error, Error::InRequest { request: 1, source, .. } if matches!(**source, Error::TableDropped { .. })));
    store.apply_gradients_many([good()], &later).unwrap();
    assert_eq!(small.len(), 1);
}

/// Threads that name the tables in either order train while commits are cut; in each commit both tables are equally far.
#[test]
fn a_commit_has_all_tables_of_a_batch_or_none() {
    const KEYS: u64 = 3_000;
    let dir = tempfile::tempdir().unwrap();
    let open = |at: At| {
        let store = Store::open(dir.path(), options().threads(2).shards(4).hot_rows(2_000).open_at(at)).unwrap();
        let schema = |name: &str| TableSchema::new(name, 2).optimizer(Optimizer::sgd(1.0)).initializer(Initializer::zeros());
        let tables = ["a", "b"].map(|name| store.create_table(schema(name)).unwrap());
        (store, tables)
    };
    let (store, tables) = open(At::Latest);
    let stop = AtomicBool::new(false);
    let commits: Vec<_> = std::thread::scope(|scope| {
        for half in 0..2u64 {
            let (store, stop, [a, b]) = (&store, &stop, &tables);
            scope.spawn(move || {
                let keys: Vec<u64> = (0..KEYS).map(|key| 2 * key + half).collect();
                let grads = vec![-1.0; keys.len() * 2];
                while !stop.load(Ordering::Relaxed) {
                    let (first, second) = if half == 0 { (a, b) } else { (b, a) };
                    let requests = [first, second].map(|table| GradientRequest::new(table, &keys, &grads));
                    store.apply_gradients_many(requests, &Update::at(T)).unwrap();
                }
            });
        }
        let trained = || value(&tables[0], 0) + value(&tables[0], 1);
        let mut commits = vec![store.commit(b"").unwrap()];
        let before = trained();
        commits.extend((0..10).map(|_| store.commit(b"").unwrap()));
        // On a busy machine the others may have done nothing by then.
        while trained() <= before {
            std::thread::yield_now();
        }
        commits.push(store.commit(b"").unwrap());
        stop.store(true, Ordering::Relaxed);
        commits
    });
    let last = value(&tables[0], 0) + value(&tables[0], 1);
    drop((tables, store));
    let mut seen = Vec::new();
    for id in commits {
        seen.push(check(dir.path(), At::Commit(id)));
    }
    assert!(seen.windows(2).all(|pair| pair[0] <= pair[1]) && seen[11] <= last, "{seen:?} {last}");
    assert!(seen[0] < seen[11], "nothing was trained between the commits: {seen:?}");
}

fn value(table: &Table, key: u64) -> f32 {
    let mut row = [0.0; 2];
    table.lookup(&[key], &mut row).unwrap();
    row[0]
}

/// Both tables show the same value for all keys of a half. Returns the sum over the halves.
fn check(dir: &Path, at: At) -> f32 {
    let store = Store::open(dir, options().open_at(at)).unwrap();
    let first = [0, 1].map(|half| store.table("a").map_or(0.0, |table| value(&table, half)));
    for table in store.tables() {
        table
            .for_each_row(|key, _, row, _| {
                assert_eq!(row, [first[(key % 2) as usize]; 2], "key {key} of {}", table.name());
                Ok(())
            })
            .unwrap();
    }
    first[0] + first[1]
}
