//! What batches take from the heap once their buffers have grown: `cargo bench --features cli,testing --bench allocations`.
//!
//! Allocations of the calling thread, by batch. Without further threads there is none but that a buffer still grows now and then, for the
//! most keys that a shard ever got, which is checked; with some there are those with which the pool hands work over. Under `cargo test` it runs with fewer and smaller batches.

use allocation_counter::{AllocationInfo, measure};
use embedrock::{
    GradientRequest, Key, LookupRequest, Optimizer, Pooling, Precision, Result, Store, StoreOptions, Table, TableSchema, Update,
};

const DIM: usize = 16;
const ROWS: u64 = 20_000;
/// Batches before counting begins. Large ones come first, as buffers grow with the most keys that a shard got so far.
const WARM_UP: usize = 200;
/// Batches for each allocation that a call may make where it should make none.
const BATCHES_A_GROWTH: u64 = 100;

/// What a row of the table is about.
struct Call {
    name: &'static str,
    /// Whether it may allocate nothing where one thread does all.
    is_free: bool,
    run: fn(&Store, &Table, &mut Batch),
}

const CALLS: &[Call] = &[
    Call { name: "lookup", is_free: true, run: |_, table, batch| done(table.lookup(&batch.keys, &mut batch.rows)) },
    Call {
        name: "lookup_found",
        is_free: true,
        run: |_, table, batch| done(table.lookup_found(&batch.keys, &mut batch.rows, &mut batch.found)),
    },
    Call {
        name: "lookup of keys without rows",
        is_free: true,
        run: |_, table, batch| {
            batch.keys.iter_mut().for_each(|key| *key += ROWS);
            done(table.lookup(&batch.keys, &mut batch.rows));
        },
    },
    Call {
        name: "apply_gradients",
        is_free: true,
        run: |_, table, batch| done(table.apply_gradients(&batch.keys, &batch.rows, &at())),
    },
    Call { name: "assign", is_free: true, run: |_, table, batch| done(table.assign(&batch.keys, &batch.rows, &at())) },
    Call { name: "assign_add", is_free: true, run: |_, table, batch| done(table.assign_add(&batch.keys, &batch.rows, &at())) },
    Call {
        name: "lookup_pooled",
        is_free: true,
        run: |_, table, batch| {
            let out = &mut batch.rows[..(batch.offsets.len() - 1) * DIM];
            done(table.lookup_pooled(&batch.keys, &batch.offsets, Pooling::Sum, out));
        },
    },
    Call {
        name: "apply_pooled_gradients",
        is_free: true,
        run: |_, table, batch| {
            let grads = &batch.rows[..(batch.offsets.len() - 1) * DIM];
            done(table.apply_pooled_gradients(&batch.keys, &batch.offsets, Pooling::Sum, grads, &at()));
        },
    },
    Call {
        name: "lookup_many, 1 table: the list it returns",
        is_free: false,
        run: |store, table, batch| done(store.lookup_many([LookupRequest::new(table, &batch.keys, &mut batch.rows)])),
    },
    Call {
        name: "apply_gradients_many, 1 table",
        is_free: true,
        run: |store, table, batch| {
            done(store.apply_gradients_many([GradientRequest::new(table, &batch.keys, &batch.rows)], &at()))
        },
    },
];

/// What the caller brings: allocated once, refilled for each batch.
struct Batch {
    keys: Vec<Key>,
    rows: Vec<f32>,
    found: Vec<bool>,
    offsets: Vec<usize>,
    drawn: u64,
}

impl Batch {
    fn new(keys: usize) -> Batch {
        let offsets = (0..=keys / 8).map(|bag| bag * 8).collect();
        Batch { keys: vec![0; keys], rows: vec![0.0; keys * DIM], found: vec![false; keys], offsets, drawn: 0 }
    }

    fn draw(&mut self) {
        for key in &mut self.keys {
            self.drawn = self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *key = (self.drawn >> 33) % ROWS;
        }
    }
}

fn at() -> Update {
    Update::at(1)
}

fn done<T>(result: Result<T>) {
    if let Err(error) = result {
        panic!("{error}");
    }
}

fn open(dir: &std::path::Path, threads: usize, precision: Precision) -> Result<(Store, Table)> {
    let store = Store::open(dir, StoreOptions::default().threads(threads))?;
    let schema = TableSchema::new("rows", DIM).optimizer(Optimizer::adagrad(0.05)).precision(precision);
    let table = store.create_table(schema)?;
    let keys: Vec<Key> = (0..ROWS).collect();
    table.assign(&keys, &vec![0.5; keys.len() * DIM], &at())?;
    Ok((store, table))
}

fn count(store: &Store, table: &Table, call: &Call, (keys, batches): (usize, usize)) -> AllocationInfo {
    let mut batch = Batch::new(keys);
    let mut run = |batches: usize| {
        for _ in 0..batches {
            batch.draw();
            (call.run)(store, table, &mut batch);
        }
    };
    run(WARM_UP);
    measure(|| run(batches))
}

fn main() -> Result<()> {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let (batches, sizes): (usize, &[usize]) = if is_bench { (1000, &[65_536, 4096, 256]) } else { (30, &[2048, 256]) };
    println!("| call | rows | keys a batch | threads | allocations a batch | bytes a batch |");
    println!("|---|---|---|---|---|---|");
    for (threads, precision) in [(1, Precision::F32), (1, Precision::Bf16), (2, Precision::F32)] {
        let site = tempfile::tempdir().unwrap_or_else(|error| panic!("a directory for the store: {error}"));
        let (store, table) = open(site.path(), threads, precision)?;
        for call in CALLS {
            for &keys in sizes {
                let info = count(&store, &table, call, (keys, batches));
                let (times, bytes) = (info.count_total as f64 / batches as f64, info.bytes_total as f64 / batches as f64);
                println!("| {} | {precision:?} | {keys} | {threads} | {times:.2} | {bytes:.0} |", call.name);
                let name = call.name;
                let most = (batches as u64).div_ceil(BATCHES_A_GROWTH);
                assert!(!call.is_free || threads > 1 || info.count_total <= most, "{name}: {} allocations", info.count_total);
            }
        }
    }
    Ok(())
}
