//! The suites notice bugs: each of a list is planted, and one of them must fail.
//!
//! `EMBEDROCK_PROOF_CASES=5000` looks longer before it calls a bug unnoticed; `EMBEDROCK_PROOF_VERBOSE=1` tells who noticed each.

use std::panic::{AssertUnwindSafe, catch_unwind};

use embedrock::testing::{Bug, FaultKind, FaultSpan, SimFs, plant};
use embedrock::{At, CommitId, Store, StoreOptions, TableSchema, Update};

use crate::driver::{self, Driver, disk, draw, lives, reference, setting};
use crate::hostile;
use crate::map::{self, Op, Place, Rules};
use crate::{Figures, Plan};

/// Operations of a run in which one call fails.
const OPERATIONS: u64 = 90;

struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 += 1;
        draw(self.0) % limit
    }

    fn keys(&mut self, most: u64) -> Vec<u64> {
        (0..self.below(most)).map(|_| self.key()).collect()
    }

    fn key(&mut self) -> u64 {
        match self.below(9) {
            0..=4 => self.below(12),
            5..=7 => self.below(60),
            _ => u64::from(map::SLOT) << 48 | self.below(8),
        }
    }

    fn pairs(&mut self) -> Vec<(u64, i8)> {
        self.keys(12).into_iter().map(|key| (key, self.below(255) as i8)).collect()
    }

    fn step(&mut self) -> u16 {
        [0, 0, 0, 1, 3, 25][self.below(6) as usize]
    }

    fn op(&mut self) -> Op {
        match self.below(46) {
            0..=7 => Op::Gradients(self.pairs(), self.step()),
            8..=10 => Op::Assign(self.pairs(), self.step()),
            11 => Op::AssignAdd(self.pairs(), self.step()),
            12..=14 => Op::Remove(self.keys(6)),
            15 | 16 => Op::Prefetch(self.keys(6)),
            17..=20 => Op::Commit,
            21..=23 => Op::BeginCommit,
            24..=28 => Op::StepCommit(self.below(4) as usize),
            29 | 30 => Op::Checkpoint,
            31 | 32 => Op::Crash { shards: 1 + self.below(4) as usize, hot: Some(self.below(9) as usize).filter(|hot| *hot < 8) },
            34 | 35 => Op::Sweep,
            33 => Op::Change([1, 3][self.below(2) as usize], [0, 30, 200][self.below(3) as usize]),
            36 => Op::OpenAt(self.below(5) as usize),
            37 | 38 => Op::BeginLeaving(self.below(6) as usize),
            39 | 40 => Op::EndLeaving(self.below(4) > 0),
            41 | 42 => Op::BeginPrefetch(self.keys(6)),
            43 | 44 => Op::EndPrefetch,
            _ => Op::Budget(1 + self.below(23) as usize),
        }
    }
}

fn on_a_map(case: u64) {
    let mut draws = Draws(case << 32);
    let (admission, ttl) = ([1, 3][draws.below(2) as usize], [0, 30][draws.below(2) as usize]);
    let rules = Rules { admission, ttl, sliding: draws.below(2) == 0, slots: draws.below(2) == 0 };
    let ops: Vec<Op> = (0..20 + draws.below(60)).map(|_| draws.op()).collect();
    let fs = SimFs::new();
    fs.make_dirs("/disk".as_ref()).unwrap();
    map::run(&ops, rules, Place::Simulated(fs), Some(draws.below(9) as usize).filter(|hot| *hot < 8));
}

/// Rows that expire and are swept between a commit's cut and its writing are alive in that commit.
fn rows_owed_to_a_commit(case: u64) {
    let rules = Rules { admission: 1, ttl: 30, sliding: false, slots: false };
    let rows = |keys: std::ops::Range<u64>| keys.map(|key| (case * 100 + key, 7)).collect();
    let mut ops = vec![Op::Assign(rows(0..20), 1), Op::BeginCommit];
    ops.extend([20, 21].map(|key| Op::Assign(rows(key..key + 1), 25)));
    ops.push(Op::Sweep);
    ops.extend((0..20).map(|_| Op::StepCommit(3)));
    ops.push(Op::Crash { shards: 2, hot: None });
    let fs = SimFs::new();
    fs.make_dirs("/disk".as_ref()).unwrap();
    map::run(&ops, rules, Place::Simulated(fs), None);
}

fn power_cuts(case: u64, expected: &str) {
    lives(case, None, expected, &mut [0; 7]).unwrap();
}

fn a_failing_call(case: u64, expected: &str) {
    let (fs, mut driver) = (disk(), Driver::default());
    fs.fail_nth(1 + draw(case) % 700, FaultKind::Io, FaultSpan::Once);
    if driver.run(&fs, OPERATIONS).unwrap().is_err() {
        fs.heal();
        driver.run(&fs, OPERATIONS).unwrap().unwrap();
    }
    assert_eq!(driver.outcome(), (OPERATIONS, expected));
    driver.run(&fs.kill(), OPERATIONS).unwrap().unwrap();
}

/// A flipped bit is an error, or changes nothing.
fn flipped_bits(case: u64, (fs, driver): (&SimFs, &Driver)) {
    let files: Vec<_> = fs.files().into_iter().filter(|(path, _)| !path.starts_with("/disk/store/live")).collect();
    for flip in 0..40 {
        let random = draw(case << 8 | flip);
        let (path, bytes) = &files[random as usize % files.len()];
        let disk = fs.kill();
        disk.corrupt(path, (random >> 16) % (bytes.len() as u64).max(1), 1 << (random >> 60 & 7)).unwrap();
        let _ = driver.clone().run(&disk, OPERATIONS).unwrap();
    }
}

/// What the checksums cannot tell the history must.
fn hostile_commits(case: u64) {
    let sequence = if case == 0 { u64::MAX } else { draw(case) };
    assert!(hostile::open_with_commit(hostile::files(40), sequence).is_err());
}

/// A history that went back to a commit which another had left behind.
fn timelines(_: u64) {
    let options = || StoreOptions::default().twin(true).memory_budget(12 << 20).threads(1);
    let dir = tempfile::tempdir().unwrap();
    let raise_at = |at: At| -> (CommitId, f32) {
        let store = Store::open(dir.path().join("s"), options().open_at(at)).unwrap();
        let table = store.create_table(TableSchema::new("t", 1)).unwrap();
        let mut row = [0.0];
        table.lookup(&[1], &mut row).unwrap();
        table.assign(&[1], &[row[0].round() + 1.0], &Update::at(1)).unwrap();
        (store.commit(b"").unwrap(), row[0].round())
    };
    let first = raise_at(At::Latest).0;
    let second = raise_at(At::Latest).0;
    let (other, before) = raise_at(At::Commit(first));
    assert!(other.sequence == second.sequence && other.timeline != second.timeline && before == 1.0);
    assert_eq!(raise_at(At::Commit(second)).1, 2.0);
    let store = Store::open(dir.path().join("s"), options()).unwrap();
    assert!(store.commits().unwrap().contains(&second) && !store.commits().unwrap().contains(&other));
}

/// More keys than an index begins with.
fn many_keys(_: u64) {
    let options = StoreOptions::default().simulated(std::sync::Arc::new(disk())).memory_budget(12 << 20).threads(1).shards(1);
    let table = Store::open("/disk/store", options).unwrap().create_table(TableSchema::new("t", 1)).unwrap();
    let keys: Vec<u64> = (0..200_000).collect();
    let values: Vec<f32> = keys.iter().map(|key| *key as f32).collect();
    for part in 0..20 {
        let part = part * 10_000..(part + 1) * 10_000;
        table.assign(&keys[part.clone()], &values[part], &Update::at(1)).unwrap();
    }
    let mut found = vec![0.0; keys.len()];
    assert_eq!(table.lookup(&keys, &mut found).unwrap(), keys.len());
    assert_eq!(found, values);
}

/// Rows that are read ahead, change and leave before they arrive. A map's own checks look rows up, which keeps the changed ones.
fn rows_in_flight(_: u64) {
    let options = StoreOptions::default().simulated(std::sync::Arc::new(disk())).memory_budget(12 << 20).threads(1).hot_rows(64);
    let table = Store::open("/disk/store", options).unwrap().create_table(TableSchema::new("t", 1)).unwrap();
    let (keys, zeros): (Vec<u64>, Vec<f32>) = (0..500).map(|key| (key, 0.0)).unzip();
    table.assign(&keys, &zeros, &Update::at(1)).unwrap();
    for key in 0..50 {
        table.begin_prefetch(&[key]).unwrap();
        table.assign_add(&[key], &[1.0], &Update::at(1)).unwrap();
        table.assign_add(&keys[100..], &zeros[100..], &Update::at(1)).unwrap();
        table.end_prefetch();
        let mut row = [0.0];
        table.lookup(&[key], &mut row).unwrap();
        assert_eq!(row, [1.0], "key {key}");
    }
}

type Suite<'a> = (&'static str, &'a dyn Fn(u64));

/// The suite that fails, and after how many of its cases.
fn noticed<'a>(suites: &[Suite<'a>], cases: u64) -> Option<(&'static str, u64)> {
    (0..cases).find_map(|case| {
        // Each suite takes its turn: what one cannot see another does.
        suites
            .iter()
            .find(|(_, suite)| catch_unwind(AssertUnwindSafe(|| suite(case))).is_err())
            .map(|(name, _)| (*name, case + 1))
    })
}

pub(crate) fn run(_: &Plan) -> Figures {
    let (cut, failed) = (reference(driver::LIVES_OPERATIONS), reference(OPERATIONS));
    let on_cuts = |case| power_cuts(case, &cut);
    let on_failures = |case| a_failing_call(case, &failed);
    let (whole, mut driver) = (disk(), Driver::default());
    driver.run(&whole, OPERATIONS)?.map_err(|error| error.to_string())?;
    let on_flips = |case| flipped_bits(case, (&whole, &driver));
    let suites: [Suite<'_>; 9] = [
        ("a map", &on_a_map),
        ("rows owed to a commit", &rows_owed_to_a_commit),
        ("rows in flight", &rows_in_flight),
        ("power cuts", &on_cuts),
        ("failing calls", &on_failures),
        ("many keys", &many_keys),
        ("timelines", &timelines),
        ("flipped bits", &on_flips),
        ("hostile commits", &hostile_commits),
    ];
    if let Some((suite, case)) = noticed(&suites, 3) {
        return Err(format!("without a bug {suite} fails in case {case}"));
    }
    // What fails on purpose need not say so.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let (mut unnoticed, mut latest) = (Vec::new(), 0);
    for bug in Bug::ALL {
        plant(Some(bug));
        let result = noticed(&suites, setting("EMBEDROCK_PROOF_CASES", 400));
        plant(None);
        match result {
            Some((suite, cases)) => {
                latest = latest.max(cases);
                if std::env::var_os("EMBEDROCK_PROOF_VERBOSE").is_some() {
                    println!("{bug:?}: noticed by {suite} in case {cases}");
                }
            }
            None => unnoticed.push(bug),
        }
    }
    std::panic::set_hook(hook);
    if !unnoticed.is_empty() {
        return Err(format!("nobody noticed {unnoticed:?}"));
    }
    Ok(format!("{0} noticed of {0}, the last after {latest} cases", Bug::ALL.len()))
}
