//! A replica beside its store: at every commit what a plain map holds, across the trainer's going back and across retention.
#![cfg(feature = "testing")]
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use embedrock::{
    Admission, At, Codecs, Initializer, Missing, Optimizer, Precision, Quantization, Replica, Segment, Store, StoreOptions,
    Table, TableSchema, Update,
};

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
    // A row of one value comes back from eight bits as it is.
    for codecs in [Codecs::default(), Codecs::all(Quantization::Int8)] {
        read_beside_the_follower(options().codecs(codecs));
    }
}

fn read_beside_the_follower(serving: StoreOptions) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().join("store"), options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    let keys: Vec<u64> = (0..60).collect();
    table.assign(&keys, &[0.0; 120], &Update::at(T)).unwrap();
    store.commit(b"").unwrap();
    let replica = Replica::open(dir.path().join("store"), dir.path().join("replica"), serving).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
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

/// What the store's row looks like after each segment's codec.
fn through(codecs: [Option<Quantization>; 3], row: &[f32]) -> Vec<f32> {
    let mut back = row.to_vec();
    for (codec, range) in codecs.into_iter().zip([0..3, 3..4, 4..13]) {
        let Some(codec) = codec else { continue };
        let mut bytes = Vec::new();
        codec.encode(&row[range.clone()], &mut bytes);
        assert!(codec.decode(&bytes, &mut back[range]));
    }
    back
}

#[test]
fn each_segment_is_served_by_its_codec_hot_cold_and_missing() {
    for (precision, missing) in [(Precision::F32, Missing::Initial), (Precision::Bf16, Missing::Zeros)] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let codecs = [Some(Quantization::OneBit), None, Some(Quantization::Int8)];
        let asked = Codecs::all(Quantization::Int8).table("t", Quantization::OneBit).segment("t", 1, None);
        let asked = asked.segment("t", 2, Quantization::Int8);
        let part =
            |dim: usize, rate: f32| Segment::new(dim).optimizer(Optimizer::adagrad(rate)).initializer(Initializer::normal(0.1));
        let schema = TableSchema::new("t", 13).segments([part(3, 0.1), part(1, 0.2), part(9, 0.3)]);
        let store = Store::open(path("store"), options()).unwrap();
        let table = store.create_table(schema.precision(precision).missing(missing)).unwrap();
        let serving = options().codecs(asked.clone());
        let replica = Replica::open(path("store"), path("replica"), serving.clone()).unwrap();
        for round in 0..8_u64 {
            let keys: Vec<u64> = (0..30).map(|i| (i * 3 + round * 7) % 80).collect();
            let grads: Vec<f32> = (0..390).map(|i| ((i * 37 + round * 11) % 17) as f32 * 0.1 - 0.8).collect();
            table.apply_gradients(&keys, &grads, &Update::at(T + round)).unwrap();
            table.remove(&keys[..3]).unwrap();
            store.commit(b"").unwrap();
            if round == 4 {
                store.checkpoint().unwrap();
                store.commit(b"").unwrap();
            }
            assert_eq!(replica.catch_up().unwrap().restarted, None);
            let anew = Replica::open(path("store"), path(&format!("anew-{round}")), serving.clone()).unwrap();
            let all: Vec<u64> = (0..80).collect();
            let (mut rows, mut served) = (vec![0.0; 80 * 13], vec![0.0; 80 * 13]);
            let (mut found, mut known) = (vec![false; 80], vec![false; 80]);
            let hits = table.lookup_found(&all, &mut rows, &mut known).unwrap();
            let mut trained_on = vec![f32::NAN; 80 * 13];
            assert_eq!(table.lookup_served(&all, &mut trained_on, &asked).unwrap(), hits);
            for replica in [&replica, &anew] {
                assert_eq!(replica.lookup_found("t", &all, &mut served, &mut found).unwrap(), hits);
                assert_eq!(found, known);
                assert_eq!(trained_on, served, "training saw what is served");
                for ((row, served), known) in rows.chunks(13).zip(served.chunks(13)).zip(&known) {
                    let expected = if *known { through(codecs, row) } else { row.to_vec() };
                    assert_eq!(served, expected, "in round {round}");
                }
            }
        }
        // A replica keeps 4 + 1, 4 and 9 + 8 bytes a row, the store 52 or 28 and its accumulators.
        assert!(replica.lookup("t", &[1], &mut [0.0; 12]).is_err(), "rows of another length");
        assert_eq!(replica.tables()[0].dim(), 13);
    }
}

/// Damage in what it has read long ago would be seen by whoever reads the log from its beginning.
#[test]
fn it_reads_from_its_own_commit_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let store = Store::open(path("store"), options()).unwrap();
    let table = store.create_table(schema()).unwrap();
    let mut map = BTreeMap::new();
    for number in 0..10 {
        change(&table, &mut map, number);
        store.commit(b"").unwrap();
    }
    let replica = Replica::open(path("store"), path("replica"), options()).unwrap();
    change(&table, &mut map, 10);
    store.commit(b"").unwrap();
    let report = replica.catch_up().unwrap();
    assert_eq!(report.commits, 1);
    let log = path("store").join("log").join(first_segment(&path("store")));
    let whole = std::fs::read(&log).unwrap();
    assert!(report.bytes > 0 && report.bytes * 5 < whole.len() as u64, "{report:?} of {}", whole.len());
    let damage = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::os::unix::fs::FileExt::write_all_at(&std::fs::File::options().write(true).open(&log).unwrap(), &bytes, 0).unwrap();
    };
    damage(200);
    assert!(Replica::open(path("store"), path("other"), options()).is_err());
    change(&table, &mut map, 11);
    store.commit(b"").unwrap();
    let report = replica.catch_up().unwrap();
    assert_eq!((report.commits, report.restarted), (1, None));
    check(&replica, &map);
}

#[cfg(feature = "remote")]
#[test]
fn copies_elsewhere_feed_it_chunk_by_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let mut store = Store::open(path("store"), options()).unwrap();
    let mut table = store.create_table(schema()).unwrap();
    let remote = || embedrock::Remote::open(path("copies").to_str().unwrap()).unwrap();
    assert!(Replica::open_copies(remote(), path("replica"), options()).is_err(), "no copy yet");
    let mut map = BTreeMap::new();
    let step = |store: &Store, table: &Table, map: &mut BTreeMap<u64, f32>, number: u64| {
        change(table, map, number);
        store.commit(b"").unwrap();
        store.upload(&remote(), &mut |_| ()).unwrap();
    };
    step(&store, &table, &mut map, 0);
    let mut replica = Replica::open_copies(remote(), path("replica"), options()).unwrap();
    check(&replica, &map);
    for number in 1..20 {
        if number == 12 {
            let (back, then) = (store.last_commit().unwrap().id, map.clone());
            change(&table, &mut map, 77);
            store.commit(b"").unwrap();
            // Only what goes back behind a copy is noticed by who follows copies.
            store.upload(&remote(), &mut |_| ()).unwrap();
            assert_eq!(replica.catch_up().unwrap().commits, 1);
            check(&replica, &map);
            drop((table, store));
            store = Store::open(path("store"), options().open_at(At::Commit(back))).unwrap();
            (table, map) = (store.table("t").unwrap(), then);
        }
        step(&store, &table, &mut map, number);
        assert_eq!(replica.lag().unwrap().commits, if number == 12 { None } else { Some(1) });
        let report = replica.catch_up().unwrap();
        assert_eq!(report.restarted.is_some(), number == 12, "{number}: {report:?}");
        assert!(report.bytes > 0);
        check(&replica, &map);
        assert_eq!(replica.lag().unwrap().commits, Some(0));
        assert_eq!(replica.catch_up().unwrap().bytes, 0, "nothing new");
        match number % 6 {
            2 => drop(store.checkpoint().unwrap()),
            3 => {
                drop(replica);
                replica = Replica::open_copies(remote(), path("replica"), options()).unwrap();
                check(&replica, &map);
            }
            _ => {}
        }
    }
    // A fetch that fails leaves what is served, and the next one mends it.
    step(&store, &table, &mut map, 40);
    let failing = remote();
    let own = Replica::open_copies(remote(), path("other"), options()).unwrap();
    check(&own, &map);
    drop(own);
    failing.fail_from(4);
    assert!(Replica::open_copies(failing, path("failing"), options()).is_err());
    let own = Replica::open_copies(remote(), path("failing"), options()).unwrap();
    check(&own, &map);
    // Quantised copies hold the commit alone.
    store.upload_as(&remote(), &embedrock::Upload::default().quantize(Quantization::Bf16), &mut |_| ()).unwrap();
    assert!(own.catch_up().unwrap().commits == 0);
    let mut row = [0.0; 2];
    own.lookup("t", &[changed(40)[0]], &mut row).unwrap();
    let exact = map[&changed(40)[0]];
    assert!((row[0] - exact).abs() <= exact / 256.0, "{row:?} of {exact}");
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
