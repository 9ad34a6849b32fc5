//! Options and text of any kind: what a store is opened with, and what the command line parses. Each is an error that says why,
//! or a store with the rows that it has.
#![no_main]

#[path = "../../tests/driver/mod.rs"]
mod driver;
#[path = "../shared/frames.rs"]
mod frames;
#[path = "../shared/stores.rs"]
mod stores;
#[path = "../../src/bin/embedrock/text.rs"]
mod text;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arbitrary::Arbitrary;
use embedrock::{At, CommitId, CommitPolicy, Digest, Optimizer, Retention, Store, StoreOptions, plan};
use frames::Number;
use libfuzzer_sys::fuzz_target;
use stores::{DIR, STORES, disk};

#[derive(Arbitrary, Debug)]
struct Input {
    text: String,
    memory: (u8, Number),
    hot_rows: Option<Number>,
    threads: Number,
    shards: Option<Number>,
    seed: u64,
    at: Option<(Number, Number)>,
    max_clock_step: u32,
    retention: (Number, u32),
    batches: Option<Number>,
    every_millis: Option<Number>,
    every_bytes: Option<Number>,
    ratio: Option<f64>,
    plan: (Number, Number),
}

static DIGEST: LazyLock<Digest> = LazyLock::new(|| {
    let fs = disk(&STORES[1]).expect("a sound store");
    Store::open(DIR, stores::options(&fs)).and_then(|store| store.digest()).expect("a sound store")
});

fn check_text(input: &str) {
    if let Ok(bytes) = text::size(input) {
        assert_eq!(text::size(&bytes.to_string()), Ok(bytes));
        assert!(!text::bytes(bytes as u64).is_empty() && text::count(bytes as u64).len() >= bytes.to_string().len());
    }
    if let Ok(id) = input.parse::<CommitId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    let _ = text::optimizer(input);
}

fuzz_target!(|input: Input| {
    check_text(&input.text);
    let rows = plan(input.plan.0.0, input.plan.1.0 as usize, &Optimizer::adam(0.1));
    assert!(rows.hot_row_bytes >= rows.row_bytes);
    let fs = disk(&STORES[1]).expect("a sound store");
    let mut policy = CommitPolicy::default();
    policy = input.batches.map_or(policy, |batches| policy.every_batches(batches.0));
    policy = input.every_millis.map_or(policy, |millis| policy.every(Duration::from_millis(millis.0)));
    policy = input.every_bytes.map_or(policy, |bytes| policy.every_bytes(bytes.0));
    // Budgets from nothing to more than there is; what is not used is not taken.
    let budget = if input.memory.1.0 < 8 { usize::from(input.memory.0) << 18 } else { input.memory.1.0 as usize };
    let mut options = StoreOptions::default()
        .simulated(Arc::new(fs.clone()))
        .memory_budget(budget)
        .threads(if input.threads.0 < 8 { 1 } else { input.threads.0 as usize })
        // Many shards of a large budget map much that is then not used.
        .shards(input.shards.map_or(2, |shards| shards.0 as usize))
        .seed(input.seed)
        .at_option(input.at)
        .max_clock_step(input.max_clock_step)
        .retention(Retention::default().bases(input.retention.0.0 as usize).seconds(input.retention.1))
        .commit_policy(policy);
    if let Some(rows) = input.hot_rows {
        options = options.hot_rows(rows.0 as usize);
    }
    if let Some(ratio) = input.ratio {
        options = options.checkpoint_ratio(ratio);
    }
    let Ok(store) = Store::open(DIR, options) else { return };
    if input.at.is_none() {
        assert_eq!(store.digest().expect("sound rows"), *DIGEST);
    }
    for table in store.tables() {
        let values = vec![0.5; 64 * table.dim()];
        let keys: Vec<u64> = (0..64).collect();
        let _ = table.apply_gradients(&keys, &values, &embedrock::Update::at(0));
        let _ = store.commit_if_due(|| b"due".to_vec()).map(|ticket| ticket.map(|ticket| ticket.wait()));
    }
    let digest = store.digest();
    if let (Ok(digest), Ok(_)) = (digest, store.commit(b"configured")) {
        drop(store);
        let again = Store::open(DIR, stores::options(&fs)).expect("a store that committed opens");
        assert_eq!(again.digest().expect("as before"), digest);
    }
});

trait AtOption {
    fn at_option(self, at: Option<(Number, Number)>) -> StoreOptions;
}

impl AtOption for StoreOptions {
    fn at_option(self, at: Option<(Number, Number)>) -> StoreOptions {
        match at {
            Some((timeline, sequence)) => self.open_at(At::Commit(CommitId { timeline: timeline.0, sequence: sequence.0 })),
            None => self,
        }
    }
}
