//! Pooled calls do what the plain ones do with the pooling written out, bit for bit.
//!
//! Method: random bags, empty and long ones among them, over stores of several threads, shards and tiers; outputs are compared with
//! rows looked up one by one and pooled here, digests with those of a store that learned the gradient of each key.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use embedrock::{Admission, Initializer, Missing, Optimizer, Pooling, Store, StoreOptions, Table, TableSchema, Update};
use proptest::prelude::*;

const T: u64 = 1_700_000_000;

struct Bags {
    keys: Vec<u64>,
    offsets: Vec<usize>,
}

fn bags(sizes: &[usize], range: u64, seed: u64) -> Bags {
    let mut offsets = vec![0];
    for size in sizes {
        offsets.push(offsets[offsets.len() - 1] + size);
    }
    let keys = (0..offsets[sizes.len()] as u64).map(|i| random(seed, i) % range).collect();
    Bags { keys, offsets }
}

fn random(seed: u64, number: u64) -> u64 {
    let mixed = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 31).wrapping_mul(0x94d0_49bb_1331_11eb) >> 8
}

fn value(seed: u64, number: u64) -> f32 {
    (random(seed, number) % 2_000_001) as f32 / 1e6 - 1.0
}

impl Bags {
    /// Of each bag its keys and where they stand.
    fn each(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        self.offsets.windows(2).map(|bounds| bounds[0]..bounds[1])
    }

    fn rows_a_bag(pooling: Pooling) -> usize {
        if let Pooling::First(rows) = pooling { rows } else { 1 }
    }

    /// The outputs, from rows of all keys.
    fn pool(&self, dim: usize, pooling: Pooling, rows: &[f32]) -> Vec<f32> {
        let mut out = Vec::new();
        for bag in self.each() {
            let size = bag.len() as f32;
            let bag: Vec<&[f32]> = rows[bag.start * dim..bag.end * dim].chunks(dim).collect();
            let sum = |lane: usize| bag.iter().fold(0.0, |sum, row| sum + row[lane]);
            match pooling {
                Pooling::Sum => out.extend((0..dim).map(sum)),
                Pooling::Mean if bag.is_empty() => out.extend(vec![0.0; dim]),
                Pooling::Mean => out.extend((0..dim).map(|lane| sum(lane) / size)),
                Pooling::First(most) => {
                    (0..most).for_each(|at| out.extend(bag.get(at).map_or(vec![0.0; dim], |row| row.to_vec())));
                }
            }
        }
        out
    }

    /// The keys that are trained, and the gradient of each.
    fn expand(&self, dim: usize, pooling: Pooling, grads: &[f32]) -> (Vec<u64>, Vec<f32>) {
        let (mut keys, mut expanded) = (Vec::new(), Vec::new());
        for (bag, grads) in self.each().zip(grads.chunks(Self::rows_a_bag(pooling) * dim)) {
            let size = bag.len() as f32;
            for (at, &key) in self.keys[bag].iter().enumerate() {
                match pooling {
                    Pooling::Sum => expanded.extend(grads),
                    Pooling::Mean => expanded.extend(grads.iter().map(|v| v / size)),
                    Pooling::First(most) if at < most => expanded.extend(&grads[at * dim..(at + 1) * dim]),
                    Pooling::First(_) => continue,
                }
                keys.push(key);
            }
        }
        (keys, expanded)
    }
}

fn schema(dim: usize, admission: u32) -> TableSchema {
    TableSchema::new("t", dim)
        .optimizer(Optimizer::adagrad(0.1))
        .initializer(Initializer::uniform(0.5))
        .admission(Admission::count(admission))
        .missing(if dim.is_multiple_of(2) { Missing::Zeros } else { Missing::Initial })
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![3 => Just(0usize), 3 => Just(1), 12 => 2usize..40, 1 => 500usize..3000];
    proptest::collection::vec(size, 0..60)
}

fn poolings() -> impl Strategy<Value = Pooling> {
    prop_oneof![Just(Pooling::Sum), Just(Pooling::Mean), (1usize..6).prop_map(Pooling::First)]
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// One batch through both tables: the pooled calls on `pooled`, the plain ones on `plain`.
fn step(pooled: &Table, plain: &Table, bags: &Bags, pooling: Pooling, number: u64) {
    let dim = plain.dim();
    let mut rows = vec![f32::NAN; bags.keys.len() * dim];
    let mut found = vec![false; bags.keys.len()];
    plain.lookup_found(&bags.keys, &mut rows, &mut found).unwrap();
    let read = |bag: std::ops::Range<usize>| match pooling {
        Pooling::First(most) => bag.start..bag.end.min(bag.start + most),
        _ => bag,
    };
    let expected = bags.pool(dim, pooling, &rows);
    let mut out = vec![f32::NAN; expected.len()];
    let hits = pooled.lookup_pooled(&bags.keys, &bags.offsets, pooling, &mut out).unwrap();
    assert_eq!(hits, bags.each().flat_map(read).filter(|&at| found[at]).count());
    assert!(bits(&out) == bits(&expected), "{pooling:?}");
    let grads: Vec<f32> = (0..expected.len() as u64).map(|i| value(number, i)).collect();
    pooled.apply_pooled_gradients(&bags.keys, &bags.offsets, pooling, &grads, &Update::at(T + number)).unwrap();
    let (keys, grads) = bags.expand(dim, pooling, &grads);
    plain.apply_gradients(&keys, &grads, &Update::at(T + number)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn pooled_calls_are_the_plain_ones_pooled(
        batches in proptest::collection::vec((sizes(), poolings()), 1..4),
        dim in 1usize..20,
        range in prop_oneof![Just(3u64), Just(50), Just(5_000)],
        admission in 1u32..3,
        (threads, shards) in (1usize..4, 1usize..9),
        hot in proptest::option::of(0usize..40),
        seed in any::<u64>(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, options: StoreOptions| {
            let store = Store::open(dir.path().join(name), options.memory_budget(64 << 20).seed(seed).twin(true)).unwrap();
            let table = store.create_table(schema(dim, admission)).unwrap();
            (store, table)
        };
        let options = StoreOptions::default().threads(threads).shards(shards);
        let (pooled, of_pooled) = open("pooled", match hot { Some(rows) => options.hot_rows(rows), None => options });
        let (plain, of_plain) = open("plain", StoreOptions::default().threads(1).shards(2));
        for ((sizes, pooling), number) in batches.iter().zip(0..) {
            step(&of_pooled, &of_plain, &bags(sizes, range, seed ^ number), *pooling, number);
        }
        prop_assert_eq!(pooled.digest().unwrap().to_string(), plain.digest().unwrap().to_string());
    }
}

/// Threads divide the bags where rows of the output end: all the ways that bags can lie around a share of a thread.
#[test]
fn bags_of_any_length_may_lie_across_the_shares_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let open = |name: &str, threads: usize| {
        let options = StoreOptions::default().memory_budget(64 << 20).threads(threads).twin(true);
        let store = Store::open(dir.path().join(name), options).unwrap();
        let table = store.create_table(schema(3, 1)).unwrap();
        (store, table)
    };
    let ((_a, pooled), (_b, plain)) = (open("pooled", 4), open("plain", 1));
    let shapes: [&[usize]; 7] = [
        &[9_000],
        &[1_023, 1, 1_025, 0, 1_024, 1],
        &[1_024, 1_024, 1_024],
        &[0, 0, 3_000, 0, 0],
        &[1_025],
        &[1, 5_000, 1],
        &[1; 3_000],
    ];
    for (sizes, number) in shapes.into_iter().zip(0..) {
        for pooling in [Pooling::Sum, Pooling::Mean, Pooling::First(1), Pooling::First(1_500)] {
            step(&pooled, &plain, &bags(sizes, 700, number), pooling, number);
        }
    }
}
