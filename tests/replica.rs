//! A replica beside its store: at every commit what a plain map holds, across the trainer's going back and across retention.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use embedrock::{Admission, At, Initializer, Optimizer, Precision, Replica, Store, StoreOptions, Table, TableSchema, Update};

const T: u64 = 1_700_000_000;

fn options() -> StoreOptions {
    StoreOptions::default().memory_budget(24 << 20).threads(1).hot_rows(20).twin(true)
}

fn schema() -> TableSchema {
    TableSchema::new("t", 2).optimizer(Optimizer::adagrad(0.1)).initializer(Initializer::constant(9.0))
}

fn check(replica: &Replica, map: &BTreeMap<u64, f32>) {
    let keys: Vec<u64> = (0..60).collect();
    let mut rows = vec![f32::NAN; 120];
    let hits = replica.lookup("t", &keys, &mut rows).unwrap();
    assert_eq!(hits, map.len());
    for (key, row) in keys.iter().zip(rows.chunks(2)) {
        let value = map.get(key).copied().unwrap_or(9.0);
        assert_eq!(row, [value, value], "key {key} at {}", replica.at());
    }
}

fn changed(number: u64) -> Vec<u64> {
    (0..7).map(|i| (number * 13 + i * 5) % 60).collect()
}

fn change(table: &Table, map: &mut BTreeMap<u64, f32>, number: u64) {
    let keys = changed(number);
    let rows: Vec<f32> = keys.iter().flat_map(|key| [(number * 100 + key) as f32; 2]).collect();
    table.assign(&keys, &rows, &Update::at(T + number)).unwrap();
    table.remove(&keys[5..]).unwrap();
    change_map(map, number);
}

fn change_map(map: &mut BTreeMap<u64, f32>, number: u64) {
    let keys = changed(number);
    map.extend(keys.iter().map(|key| (*key, (number * 100 + key) as f32)));
    map.retain(|key, _| !keys[5..].contains(key));
}

#[test]
fn it_is_a_map_at_every_commit_also_after_the_trainer_went_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut store = Store::open(path("store"), options()).unwrap();
    let mut table = store.create_table(schema()).unwrap();
    let mut map = BTreeMap::new();
    let replica = Replica::open(path("store"), path("replica"), options()).unwrap();
    let mut at_commits = Vec::new();
    for number in 0..40 {
        change(&table, &mut map, number);
        let id = store.commit(b"").unwrap();
        at_commits.push((id, map.clone()));
        if number % 9 == 4 {
            store.checkpoint().unwrap();
            store.commit(b"").unwrap();
        }
        if number == 20 {
            let (back, then) = at_commits[18].clone();
            drop((table, store));
            store = Store::open(path("store"), options().open_at(At::Commit(back))).unwrap();
            table = store.table("t").unwrap();
            map = then;
            change(&table, &mut map, 99);
            store.commit(b"").unwrap();
        }
        // Sometimes it falls behind.
        if number % 7 < 5 {
            let report = replica.catch_up().unwrap();
            assert_eq!(report.restarted.is_some(), number == 20, "{report:?}");
            assert_eq!(replica.lag().unwrap().commits, Some(0));
            check(&replica, &map);
        }
    }
    drop(replica);
    let replica = Replica::open(path("store"), path("replica"), options()).unwrap();
    replica.catch_up().unwrap();
    check(&replica, &map);
    assert!(Replica::open(path("store"), path("replica"), options()).is_err(), "one replica a directory");
    assert_eq!(replica.tables()[0].lanes(), 2, "embeddings alone");
}

/// All rows of a batch have one value: readers beside the follower see one commit each.
#[test]
fn no_reader_sees_half_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    let keys: Vec<u64> = (0..60).collect();
    table.assign(&keys, &[0.0; 120], &Update::at(T)).unwrap();
    store.commit(b"").unwrap();
    let replica = Replica::open(dir.path().join("store"), dir.path().join("replica"), options()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut last = 0.0;
                while !done.load(Ordering::Relaxed) {
                    let mut rows = [f32::NAN; 120];
                    replica.lookup("t", &keys, &mut rows).unwrap();
                    assert!(rows.iter().all(|value| *value == rows[0]) && rows[0] >= last, "{rows:?} after {last}");
                    last = rows[0];
                }
            });
        }
        for number in 1..60 {
            table.assign(&keys, &[number as f32; 120], &Update::at(T)).unwrap();
            store.commit(b"").unwrap();
            replica.catch_up().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}

/// What a replica of a directory's log starts with: the names of its files.
fn first_segment(store: &Path) -> String {
    let names = std::fs::read_dir(store.join("log")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.min().unwrap()
}

#[test]
fn behind_retention_it_begins_anew_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(path("store"), options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    let mut map = BTreeMap::new();
    change(&table, &mut map, 0);
    let behind = store.commit(b"").unwrap();
    let replica = Replica::open(path("store"), path("replica"), options()).unwrap();
    let (early, first) = (map.clone(), first_segment(&path("store")));
    for number in 1..20 {
        change(&table, &mut map, number);
        store.commit(b"").unwrap();
        if number % 4 == 0 {
            store.checkpoint().unwrap();
        }
    }
    assert!(first_segment(&path("store")) > first, "retention removed nothing");
    assert!(!store.commits().unwrap().contains(&behind));
    check(&replica, &early);
    let lag = replica.lag().unwrap();
    assert!(lag.commits.is_some_and(|commits| commits >= 19) && lag.seconds > 0.0, "{lag:?}");
    let report = replica.catch_up().unwrap();
    let why = report.restarted.unwrap();
    assert!(why.contains(&behind.to_string()) && why.contains("not in the store's history any more"), "{why}");
    assert_eq!((report.at, replica.lag().unwrap().commits), (store.last_commit().unwrap().id, Some(0)));
    check(&replica, &map);
    let again = replica.catch_up().unwrap();
    assert_eq!((again.commits, again.restarted), (0, None));
    assert_eq!(std::fs::read_dir(path("replica").join("spill")).unwrap().count(), 1, "the rows before are gone");
}

#[test]
fn tables_that_come_and_go_with_filters_counts_and_16_bits_are_served_as_the_store_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(path("store"), options()).unwrap();
    let plain = |name: &str| TableSchema::new(name, 5).optimizer(Optimizer::adam(0.1)).initializer(Initializer::normal(0.1));
    let first = [
        plain("counted").admission(Admission::count(2)),
        plain("sliding").admission(Admission::sliding(2, 3600, 1000)),
        plain("short").precision(Precision::Bf16),
    ];
    let replica = Replica::open(path("store"), path("replica"), options()).unwrap();
    let names = ["counted", "sliding", "short", "late"];
    for round in 0..6_u64 {
        for schema in first.iter().filter(|_| round == 0).cloned().chain((round == 3).then(|| plain("late"))) {
            store.create_table(schema).unwrap();
        }
        if round == 5 {
            store.drop_table("counted").unwrap();
        }
        for table in names.iter().filter_map(|name| store.table(name).ok()) {
            let keys: Vec<u64> = (0..30).map(|i| (i * (round + 1)) % 80).collect();
            let grads: Vec<f32> = (0..150).map(|i| (i as f32 + round as f32) * 0.01 - 0.7).collect();
            table.apply_gradients(&keys, &grads, &Update::at(T + round)).unwrap();
        }
        store.commit(b"").unwrap();
        if round % 2 == 1 {
            store.checkpoint().unwrap();
            store.commit(b"").unwrap();
        }
        assert_eq!(replica.catch_up().unwrap().restarted, None);
        let anew = Replica::open(path("store"), path(&format!("anew-{round}")), options()).unwrap();
        for name in names {
            let (keys, mut expected, mut found) = ((0..80).collect::<Vec<u64>>(), vec![0.0; 400], vec![0.0; 400]);
            let Ok(table) = store.table(name) else {
                assert!(replica.lookup(name, &keys, &mut found).is_err(), "{name} is not there in round {round}");
                continue;
            };
            let hits = table.lookup(&keys, &mut expected).unwrap();
            for replica in [&replica, &anew] {
                assert_eq!(replica.lookup(name, &keys, &mut found).unwrap(), hits, "{name} in round {round}");
                assert_eq!(found, expected, "{name} in round {round}");
            }
        }
    }
}

#[test]
fn a_directory_that_is_a_store_is_refused_and_litter_goes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    drop(Store::open(path("store"), options()).unwrap());
    let refused = Replica::open(path("store"), path("store"), options()).unwrap_err().to_string();
    assert!(refused.contains("is a store"), "{refused}");
    std::fs::create_dir_all(path("replica/spill/embedrock-1-0/live")).unwrap();
    let _replica = Replica::open(path("store"), path("replica"), options()).unwrap();
    assert!(!path("replica/spill/embedrock-1-0").exists());
    assert!(matches!(Replica::open(path("none"), path("other"), options()), Err(embedrock::Error::NotAStore { .. })));
}

/// In the trainer's process: the store's directory; the commit to go back to.
const TRAINS: &str = "EMBEDROCK_TEST_REPLICA_TRAINS";
const GOES_BACK: &str = "EMBEDROCK_TEST_REPLICA_GOES_BACK";
/// The first change after going back; those before it stay below.
const BRANCH: u64 = 1000;

/// Trains until it is killed. Row 0 of the table `history` says what has been done: up to which change before it went back, or -1, and
/// the last one.
fn train(dir: &Path) {
    let back = std::env::var(GOES_BACK).ok().map(|id| id.parse().unwrap());
    let store = Store::open(dir, back.map_or(options(), |id| options().open_at(At::Commit(id)))).unwrap();
    let table = store.create_table(schema()).unwrap();
    let history = store.create_table(TableSchema::new("history", 2)).unwrap();
    let mut done = [-1.0; 2];
    let known = history.lookup(&[0], &mut done).unwrap();
    let mut number = if known == 0 { 0 } else { done[1] as u64 + 1 };
    let mut went_back = if known == 0 { -1.0 } else { done[0] };
    if back.is_some() {
        (went_back, number) = (done[1], BRANCH);
    }
    while number != BRANCH - 1 && number < 2 * BRANCH {
        change(&table, &mut BTreeMap::new(), number);
        history.assign(&[0], &[went_back, number as f32], &Update::at(T + number)).unwrap();
        store.commit(b"").unwrap();
        if number % 9 == 4 {
            store.checkpoint().unwrap();
        }
        number += 1;
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// Killed when this goes.
struct Trainer(Child);

impl Trainer {
    fn start(test: &str, store: &Path, back: Option<String>) -> Trainer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", test]).env(TRAINS, store).stdout(std::process::Stdio::null());
        command.envs(back.map(|id| (GOES_BACK, id)));
        Trainer(command.spawn().unwrap())
    }
}

impl Drop for Trainer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What `history` says, and whether all rows are those of a plain map to which the same was done.
fn done(replica: &Replica) -> (f32, u64) {
    let mut history = [0.0; 2];
    let known = replica.lookup("history", &[0], &mut history).unwrap();
    assert_eq!(known, 1);
    let (went_back, number, mut map) = (history[0], history[1] as u64, BTreeMap::new());
    let before = if went_back < 0.0 { 0..number + 1 } else { 0..went_back as u64 + 1 };
    let after = if went_back < 0.0 { 0..0 } else { BRANCH..number + 1 };
    before.chain(after).for_each(|number| change_map(&mut map, number));
    check(replica, &map);
    (went_back, number)
}

#[test]
fn it_follows_a_process_that_is_killed_goes_on_and_goes_back() {
    if let Some(store) = std::env::var_os(TRAINS) {
        return train(Path::new(&store));
    }
    let test = "it_follows_a_process_that_is_killed_goes_on_and_goes_back";
    let dir = tempfile::tempdir().unwrap();
    let (store, own) = (dir.path().join("store"), dir.path().join("replica"));
    drop(Store::open(&store, options()).unwrap());
    let replica = Replica::open(&store, &own, options()).unwrap();
    let (mut went_back, mut last) = (-1.0, 0);
    for life in 0..7 {
        let read_only = || Store::open(&store, options().read_only(true)).unwrap();
        let back = (life == 4).then(|| read_only().commits().unwrap()[1].to_string());
        let mut trainer = Trainer::start(test, &store, back);
        let end = if life >= 4 { BRANCH + 15 * (life - 3) } else { 15 * (life + 1) };
        while last < end {
            assert!(trainer.0.try_wait().unwrap().is_none(), "the trainer ended in life {life}");
            let report = replica.catch_up().unwrap();
            if report.at.sequence > 0 && replica.tables().len() == 2 {
                let seen = done(&replica);
                assert!(seen.0 == went_back || report.restarted.is_some(), "went back unnoticed: {report:?}");
                assert!(seen.1 >= last, "from {last} to {seen:?}");
                (went_back, last) = seen;
            }
        }
        drop(trainer);
        replica.catch_up().unwrap();
        (went_back, last) = done(&replica);
        assert_eq!(replica.at(), read_only().last_commit().unwrap().id);
    }
    assert!(went_back > 0.0 && last > BRANCH);
}
