//! Commits and bases taken while two threads train, each restored elsewhere and compared, bit for bit, with a naive twin: plain maps
//! that know neither tiers nor logs.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use embedrock::{Admission, At, CommitId, Initializer, Optimizer, Store, StoreOptions, Table, TableSchema, Update, restore_with};

use crate::driver::draw;
use crate::{Figures, Plan};

const DIM: usize = 5;
const KEYS: u64 = 2500;
const COMMITS: u64 = 30;
const LEAST_RUNS: u64 = 6;
const RATE: f32 = 0.3;
const INITIAL: f32 = 0.25;
const ACCUMULATOR: f32 = 0.1;
const EPSILON: f32 = 1e-10;
const NAMES: [&str; 2] = ["a", "b"];

/// An embedding, then the squares of its gradients.
type Rows = BTreeMap<u64, [f32; 2 * DIM]>;

struct Batch {
    keys: Vec<u64>,
    values: Vec<f32>,
    kind: u64,
}

/// Batch `i` of a table is a function of `i`.
fn batch(seed: u64, i: u64) -> Batch {
    let random = draw(seed ^ draw(i));
    // Half of the batches among few keys, so that rows change again while they are written.
    let among = if random & 1 == 0 { 80 } else { KEYS };
    let keys: Vec<u64> = (0..1 + (random >> 8) % 60).map(|k| draw(random ^ k) % among).collect();
    let values = (0..keys.len() * DIM).map(|k| (draw(random ^ k as u64) % 33) as f32 / 16.0 - 1.0).collect();
    Batch { keys, values, kind: (random >> 4) % 16 }
}

fn apply(table: &Table, batch: &Batch) {
    let update = Update::at(1_700_000_000);
    match batch.kind {
        0 => drop(table.remove(&batch.keys).unwrap()),
        1 => drop(table.assign(&batch.keys, &batch.values, &update).unwrap()),
        _ => table.apply_gradients(&batch.keys, &batch.values, &update).unwrap(),
    }
}

fn apply_naively(rows: &mut Rows, batch: &Batch) {
    let mut sums: Vec<(u64, [f32; DIM])> = Vec::new();
    for (key, value) in batch.keys.iter().zip(batch.values.chunks(DIM)) {
        let value: [f32; DIM] = value.try_into().unwrap();
        match sums.iter_mut().find(|(seen, _)| seen == key) {
            Some((_, last)) if batch.kind == 1 => *last = value,
            Some((_, sum)) => sum.iter_mut().zip(value).for_each(|(sum, value)| *sum += value),
            None => sums.push((*key, value)),
        }
    }
    for (key, value) in sums {
        if batch.kind == 0 {
            rows.remove(&key);
            continue;
        }
        let fresh = || {
            let mut row = [INITIAL; 2 * DIM];
            row[DIM..].fill(ACCUMULATOR);
            row
        };
        let (weights, squares) = rows.entry(key).or_insert_with(fresh).split_at_mut(DIM);
        for ((weight, square), value) in weights.iter_mut().zip(squares).zip(value) {
            if batch.kind == 1 {
                *weight = value;
            } else {
                *square += value * value;
                *weight -= RATE * value / (square.sqrt() + EPSILON);
            }
        }
    }
}

fn options() -> StoreOptions {
    // So few hot rows that every batch promotes and demotes, uncommitted rows too.
    let options = StoreOptions::default().memory_budget(24 << 20).threads(2).shards(4).hot_rows(500);
    options.twin(!cfg!(feature = "rocksdb"))
}

fn schema(name: &str) -> TableSchema {
    let optimizer = Optimizer::adagrad(RATE).initial_accumulator(ACCUMULATOR).epsilon(EPSILON);
    TableSchema::new(name, DIM).optimizer(optimizer).initializer(Initializer::constant(INITIAL)).admission(Admission::always())
}

/// Trains, and returns how many batches of each table each commit may hold at least.
fn train(dir: &Path, seed: u64) -> BTreeMap<CommitId, [u64; 2]> {
    let store = Store::open(dir, options()).unwrap();
    let tables = NAMES.map(|name| store.create_table(schema(name)).unwrap());
    let (done, stop) = ([AtomicU64::new(0), AtomicU64::new(0)], AtomicBool::new(false));
    let mut commits = BTreeMap::new();
    std::thread::scope(|scope| {
        for (at, table) in tables.iter().enumerate() {
            let (done, stop) = (&done[at], &stop);
            scope.spawn(move || {
                for i in 0.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    apply(table, &batch(seed + at as u64, i));
                    done.store(i + 1, Ordering::SeqCst);
                }
            });
        }
        for i in 0..COMMITS {
            let mut counts = [0; 2];
            let state = || {
                counts = [0, 1].map(|at: usize| done[at].load(Ordering::SeqCst));
                Vec::new()
            };
            let id = if i % 3 == 0 {
                store.commit_with(state).unwrap()
            } else {
                store.commit_in_background(state).unwrap().wait().unwrap()
            };
            commits.insert(id, counts);
            if i % 4 == 1 {
                store.checkpoint_in_background().unwrap();
            }
            std::thread::sleep(std::time::Duration::from_millis(draw(seed ^ i) % 8));
        }
        stop.store(true, Ordering::SeqCst);
    });
    drop(tables);
    store.close().unwrap();
    commits
}

fn rows_of(table: &Table) -> Rows {
    let mut rows = Rows::new();
    let read = |key, _, embedding: &[f32], state: &[f32]| {
        let row: Vec<f32> = embedding.iter().chain(state).copied().collect();
        assert!(rows.insert(key, row.try_into().unwrap()).is_none(), "key {key} is there twice");
        Ok(())
    };
    table.for_each_row(read).unwrap();
    rows
}

/// The twin of one table, which only goes on.
struct Twin {
    seed: u64,
    batches: u64,
    rows: Rows,
}

impl Twin {
    /// Whether it is at `rows` after `batches` batches, or one more: the one that was applied and not yet counted.
    fn meets(&mut self, batches: u64, rows: &Rows) -> bool {
        for count in [batches, batches + 1] {
            while self.batches < count {
                apply_naively(&mut self.rows, &batch(self.seed, self.batches));
                self.batches += 1;
            }
            if self.rows == *rows {
                return true;
            }
        }
        false
    }
}

pub(crate) fn run(plan: &Plan) -> Figures {
    let (mut compared, mut runs, mut rows_compared) = (0, 0, 0);
    for round in plan.rounds(LEAST_RUNS) {
        let seed = plan.seed << 32 | round << 1;
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let commits = train(&store, seed);
        let kept = Store::open(&store, options()).unwrap().commits().unwrap();
        assert!(kept.len() > 2 && commits.contains_key(kept.last().unwrap()), "{kept:?}");
        let mut twins = [0, 1].map(|at| Twin { seed: seed + at, batches: 0, rows: Rows::new() });
        for id in kept.into_iter().filter(|id| commits.contains_key(id)) {
            let target = dir.path().join("restored");
            let opened = if cfg!(feature = "rocksdb") {
                restore_with(&store, At::Commit(id), &target, &options()).unwrap();
                Store::open(&target, options().create(false)).unwrap()
            } else {
                Store::open(&store, options().open_at(At::Commit(id))).unwrap()
            };
            for (at, name) in NAMES.into_iter().enumerate() {
                let rows = rows_of(&opened.table(name).unwrap());
                if !twins[at].meets(commits[&id][at], &rows) {
                    return Err(format!("run {seed:#x}: table {name} at commit {id} is not its twin"));
                }
                rows_compared += rows.len();
            }
            drop(opened);
            if target.exists() {
                std::fs::remove_dir_all(&target).unwrap();
            }
            compared += 1;
        }
        runs += 1;
    }
    Ok(format!(
        "{compared} commits of {runs} runs on two threads, with bases back to back, restored and compared with a naive twin: equal \
         {compared} ({rows_compared} rows, bit for bit)"
    ))
}
