//! The memory budget is kept: as accounted, and as the system counts, with more rows than fit coming, going and being read ahead.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

#[cfg(feature = "rocksdb")]
mod cgroup;

use embedrock::{Error, Optimizer, Store, StoreOptions, Table, TableSchema, Update, plan};

const DIM: usize = 32;
/// What the cold tier takes of the smallest budgets.
const COLD: usize = if cfg!(feature = "rocksdb") { 8 << 20 } else { 0 };
/// The least that it may be given.
const COLD_FLOOR: usize = 8 << 20;

fn options(budget: usize) -> StoreOptions {
    StoreOptions::default().memory_budget(budget).threads(2)
}

fn schema() -> TableSchema {
    TableSchema::new("t", DIM).optimizer(Optimizer::sgd(1.0))
}

fn draw(at: u64) -> u64 {
    let mixed = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 20
}

/// A batch of keys: half of them of a few, half of all.
fn keys(batch: u64, rows: u64) -> Vec<u64> {
    (0..2048).map(|i| draw(batch << 12 | i) % if i % 2 == 0 { rows / 50 } else { rows }).collect()
}

fn count(table: &Table, keys: &[u64], batch: u64) {
    table.assign_add(keys, &vec![1.0; keys.len() * DIM], &Update::at(1 + batch)).unwrap();
}

/// Counts uses of keys in more rows than fit, read ahead; returns the most that was accounted.
fn churn(store: &Store, table: &Table, rows: u64, batches: u64) -> usize {
    let mut most = 0;
    for batch in 0..batches {
        table.prefetch(&keys(batch + 4, rows)).unwrap();
        // Most are brought in beside the batches, some before them however busy the machine is.
        while batch % 4 == 0 && store.stats().prefetches_waiting > 0 {
            std::thread::yield_now();
        }
        count(table, &keys(batch, rows), batch);
        most = most.max(store.stats().memory_bytes);
        if batch % 16 == 15 {
            store.commit(b"").unwrap();
        }
    }
    most
}

fn check(table: &Table, rows: u64, batches: u64) {
    let mut uses = vec![0f32; rows as usize];
    (0..batches).flat_map(|batch| keys(batch, rows)).for_each(|key| uses[key as usize] += 1.0);
    let (mut embedding, mut initial) = (vec![0.0; DIM], vec![0.0; DIM]);
    for key in (0..rows).step_by(7) {
        // A key that nobody knows begins where this one did.
        let found = table.lookup(&[key], &mut embedding).unwrap() == 1;
        assert_eq!(found, uses[key as usize] > 0.0, "key {key}");
        initial.copy_from_slice(&embedding);
        let uniform = embedding.windows(2).all(|lanes| found && lanes[0] == lanes[1]);
        assert!(!found || uniform && embedding[0] == uses[key as usize], "key {key}: {embedding:?}, {} uses", uses[key as usize]);
    }
}

#[test]
fn rows_that_come_and_go_ahead_of_their_use_keep_the_budget_and_their_content() {
    let dir = tempfile::tempdir().unwrap();
    let budget = COLD + (8 << 20);
    let store = Store::open(dir.path().join("s"), options(budget)).unwrap();
    let table = store.create_table(schema().initializer(embedrock::Initializer::zeros())).unwrap();
    let (rows, batches) = (150_000, 120);
    let most = churn(&store, &table, rows, batches);
    let stats = &store.stats().tables[0];
    assert!(most <= budget, "{most} bytes of {budget}");
    assert!(stats.demoted > 10_000 && stats.prefetched > 100 && stats.prefetched_used > 50, "{stats:?}");
    check(&table, rows, batches);
}

#[test]
fn the_budget_changes_while_the_store_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("s"), options(64 << 20)).unwrap();
    let table = store.create_table(schema().initializer(embedrock::Initializer::zeros())).unwrap();
    let (rows, batches) = (60_000, 60);
    churn(&store, &table, rows, batches);
    let (digest, hot) = (store.digest().unwrap(), store.stats().tables[0].hot_rows);
    for budget in [COLD + (12 << 20), COLD + (8 << 20), 40 << 20] {
        store.set_memory_budget(budget).unwrap();
        let stats = store.stats();
        assert!(stats.memory_bytes <= budget && stats.memory_budget == budget, "{stats:?}");
        assert_eq!(store.digest().unwrap(), digest, "at {budget}");
    }
    assert!(store.stats().tables[0].hot_rows < hot);
    let error = store.set_memory_budget(1 << 20).unwrap_err();
    assert!(matches!(error, Error::BudgetTooSmall { needed, budget } if needed > budget && budget == 1 << 20), "{error}");
    assert_eq!((store.stats().memory_budget, store.digest().unwrap()), (40 << 20, digest));
    check(&table, rows, batches);
    count(&table, &keys(batches, rows), batches);
    check(&table, rows, batches + 1);
}

#[test]
fn the_cold_tier_takes_what_it_is_given() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let held = |options: StoreOptions| Store::open(&path, options).map(|store| store.stats().memory_bytes);
    let refused = held(options(64 << 20).cold_memory(COLD_FLOOR - 1)).unwrap_err();
    assert!(matches!(&refused, Error::InvalidOption { option: "cold_memory", what } if what.contains("8388608")), "{refused}");
    if cfg!(feature = "rocksdb") {
        for given in [64 << 20, usize::MAX] {
            let refused = held(options(64 << 20).cold_memory(given)).unwrap_err();
            assert!(
                matches!(refused, Error::BudgetTooSmall { needed, budget } if needed > budget && budget == 64 << 20),
                "{refused}"
            );
        }
    }
    assert!(!path.exists(), "what is refused leaves nothing behind");
    let by_default = held(options(128 << 20)).unwrap();
    assert_eq!(held(options(128 << 20).cold_memory(16 << 20)).unwrap(), by_default);
    let more = held(options(128 << 20).cold_memory(96 << 20)).unwrap() - by_default;
    assert_eq!(more, if cfg!(feature = "rocksdb") { 80 << 20 } else { 0 });
}

#[test]
fn rows_outlive_little_and_much_cold_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (budget, rows, batches) = (24 << 20, 60_000, 40);
    for (at, cold) in [COLD_FLOOR, 16 << 20].into_iter().enumerate() {
        let store = Store::open(dir.path().join(at.to_string()), options(budget).cold_memory(cold)).unwrap();
        let table = store.create_table(schema().initializer(embedrock::Initializer::zeros())).unwrap();
        let most = churn(&store, &table, rows, batches);
        let stats = store.stats();
        assert!(
            most <= budget && stats.cold_memory_bytes <= cold,
            "{most} bytes of {budget}, {} of {cold}",
            stats.cold_memory_bytes
        );
        check(&table, rows, batches);
    }
}

#[test]
fn what_was_planned_is_what_it_takes() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("s"), options(96 << 20)).unwrap();
    let before = store.stats().memory_bytes;
    let table = store.create_table(schema()).unwrap();
    let rows = 300_000;
    for first in (0..rows).step_by(5000) {
        count(&table, &(first..first + 5000).collect::<Vec<_>>(), 0);
    }
    store.commit(b"").unwrap();
    let (taken, planned) = (store.stats().memory_bytes - before, plan(rows, DIM, &Optimizer::sgd(1.0)).memory_bytes as usize);
    let ratio = taken as f64 / planned as f64;
    assert!((0.95..1.3).contains(&ratio), "{taken} bytes taken, {planned} planned");
}

/// Beside its budget a process has its program, threads, the log's buffers and those of a batch.
#[cfg(feature = "rocksdb")]
const BESIDE: usize = 40 << 20;
#[cfg(feature = "rocksdb")]
const LIMITED: usize = 64 << 20;

/// `EMBEDROCK_BUDGET_SECONDS=3600` goes on for an hour.
#[cfg(feature = "rocksdb")]
#[test]
fn a_store_lives_in_a_control_group_of_its_budget() {
    let group = match cgroup::Cgroup::with_limit(LIMITED + LIMITED / 20 + BESIDE) {
        Ok(group) => group,
        Err(why) => return eprintln!("SKIPPED: no control group with a limit on memory: {why}"),
    };
    let dir = tempfile::tempdir().unwrap();
    let mut command = group.command(&std::env::current_exe().unwrap());
    command.args(["--exact", "lives_in_a_control_group", "--ignored", "--nocapture"]);
    let output = command.env("EMBEDROCK_BUDGET_DIR", dir.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    println!("{}", text.lines().find(|line| line.contains("resident")).unwrap());
}

/// The process in the group: it dies where the limit is not kept.
#[cfg(feature = "rocksdb")]
#[test]
#[ignore = "run by the test above"]
fn lives_in_a_control_group() {
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
    embedrock::limit_arenas(2);
    let dir = std::path::PathBuf::from(std::env::var_os("EMBEDROCK_BUDGET_DIR").unwrap());
    let seconds: u64 = std::env::var("EMBEDROCK_BUDGET_SECONDS").map_or(5, |seconds| seconds.parse().unwrap());
    let resident = || -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    };
    let (most, ended) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Relaxed) {
                most.fetch_max(resident(), Relaxed);
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        });
        let store = Store::open(dir.join("s"), options(LIMITED)).unwrap();
        let table = store.create_table(schema().initializer(embedrock::Initializer::zeros())).unwrap();
        let (begun, rows, mut accounted, mut batches) = (std::time::Instant::now(), 1_500_000, 0, 0);
        // Keys come and go: those of each round begin where half of the round before were.
        while begun.elapsed().as_secs() < seconds || store.stats().tables[0].demoted < 100_000 {
            let first = batches / 400 * (rows / 2);
            let shifted = |batch| keys(batch, rows).into_iter().map(|key| first + key).collect::<Vec<u64>>();
            table.prefetch(&shifted(batches + 4)).unwrap();
            count(&table, &shifted(batches), batches);
            accounted = accounted.max(store.stats().memory_bytes);
            batches += 1;
            if batches % 100 == 0 {
                store.commit(b"").unwrap();
            }
            if batches % 1000 == 0 {
                store.checkpoint().unwrap();
            }
        }
        ended.store(true, Relaxed);
        let stats = store.stats();
        let lists = stats.tables[0].hot_rows as usize * 20;
        assert!(accounted <= LIMITED + lists, "{accounted} bytes accounted of {LIMITED}");
        let most = most.load(Relaxed);
        println!(
            "{} MiB resident at most, {} accounted, of {}; {batches} batches, {} rows, {} demoted, {} prefetched, {} s",
            most >> 20,
            accounted >> 20,
            LIMITED >> 20,
            stats.tables[0].rows,
            stats.tables[0].demoted,
            stats.tables[0].prefetched,
            begun.elapsed().as_secs()
        );
        assert!(most <= LIMITED + LIMITED / 20 + BESIDE, "{most} bytes resident");
    });
}
