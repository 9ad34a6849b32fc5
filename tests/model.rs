//! A store behaves like a plain map, whatever the tier, shards, crashes and restores.
//!
//! Method: one list of operations runs on a store and on a model of `BTreeMap`s, over several configurations; after each
//! operation that could move or lose rows the two are compared row by row. Commits are remembered, so that a crash must bring
//! back exactly the last one, and an older one can be opened.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod map;

use map::{Op, Place, Rules, SLOT, run};
use proptest::prelude::*;

fn keys() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..12, 4 => 0u64..60, 1 => Just(u64::MAX), 1 => Just(1u64 << 63), 2 => (0u64..8).prop_map(|key| u64::from(SLOT) << 48 | key)]
}

fn pairs() -> impl Strategy<Value = Vec<(u64, i8)>> {
    proptest::collection::vec((keys(), any::<i8>()), 0..12)
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let step = prop_oneof![6 => Just(0u16), 3 => 1u16..5, 1 => 20u16..60];
    let op = prop_oneof![
        8 => (pairs(), step.clone()).prop_map(|(p, t)| Op::Gradients(p, t)),
        3 => (pairs(), step.clone()).prop_map(|(p, t)| Op::Assign(p, t)),
        2 => (pairs(), step).prop_map(|(p, t)| Op::AssignAdd(p, t)),
        3 => proptest::collection::vec(keys(), 0..6).prop_map(Op::Remove),
        2 => proptest::collection::vec(keys(), 0..6).prop_map(Op::Prefetch),
        2 => proptest::collection::vec(keys(), 0..6).prop_map(Op::BeginPrefetch),
        2 => Just(Op::EndPrefetch),
        1 => (1usize..24).prop_map(Op::Budget),
        2 => (0usize..6).prop_map(Op::BeginLeaving),
        2 => prop_oneof![3 => Just(true), 1 => Just(false)].prop_map(Op::EndLeaving),
        4 => Just(Op::Commit),
        4 => Just(Op::BeginCommit),
        8 => (0usize..4).prop_map(Op::StepCommit),
        2 => Just(Op::Checkpoint),
        3 => (1usize..5, proptest::option::of(0usize..8)).prop_map(|(shards, hot)| Op::Crash { shards, hot }),
        1 => (0usize..6).prop_map(Op::OpenAt),
        1 => (0usize..6).prop_map(Op::Restore),
        1 => Just(Op::Verify),
        2 => Just(Op::Sweep),
        1 => (threshold(), ttl()).prop_map(|(admission, ttl)| Op::Change(admission, ttl)),
    ];
    proptest::collection::vec(op, 1..60)
}

fn threshold() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(1u32), 4 => Just(3), 1 => Just(15)]
}

fn ttl() -> impl Strategy<Value = u32> {
    prop_oneof![4 => Just(0u32), 4 => Just(30), 1 => Just(200)]
}

fn rules() -> impl Strategy<Value = Rules> {
    (threshold(), ttl(), any::<bool>(), any::<bool>()).prop_map(|(admission, ttl, sliding, slots)| Rules {
        admission,
        ttl,
        sliding,
        slots,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[cfg(feature = "testing")]
    #[test]
    fn a_store_on_the_twin_is_a_map(ops in ops(), rules in rules(), hot in proptest::option::of(0usize..8)) {
        let dir = tempfile::tempdir().unwrap();
        run(&ops, rules, Place::Twin(dir.path().into()), hot);
    }
}

#[cfg(feature = "rocksdb")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_store_on_rocksdb_is_a_map(ops in ops(), rules in rules(), hot in proptest::option::of(0usize..8)) {
        let dir = tempfile::tempdir().unwrap();
        run(&ops, rules, Place::Real(dir.path().into()), hot);
    }
}
