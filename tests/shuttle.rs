//! Threads in every order that a scheduler can think of: batches, commits, checkpoints, demotion and prefetches on a simulated disk,
//! cut from power at any moment. Each commit must hold whole batches, all that had ended when it was cut and none that had not begun;
//! each that was reported durable must be there.
//!
//! `cargo test --release --no-default-features --features testing,shuttle --test shuttle -- --nocapture`
//!
//! `EMBEDROCK_SHUTTLE_SCHEDULES=20000` tries more orders; `EMBEDROCK_SHUTTLE_SEED` others; `EMBEDROCK_SHUTTLE_REPLAY=...` one again,
//! as a failure prints it (with `EMBEDROCK_SHUTTLE_CASE=pressure` or `failures` for those cases).
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use embedrock::testing::{Bug, CrashMode, FaultKind, FaultSpan, SimFs, plant};
use embedrock::{
    At, CommitPolicy, Expiry, GradientRequest, Initializer, LookupRequest, Optimizer, Result, Store, StoreOptions, TableSchema,
    Update, slot_of,
};
use shuttle::rand::Rng;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, FailurePersistence, Runner, thread};

const TABLES: [&str; 2] = ["a", "b"];
const WRITERS: u64 = 2;
/// Rows of a feature slot that expire while the writers move the clock, updated once, at this time, before any thread begins.
const PASSING: [u64; 3] = [9 << 48, 9 << 48 | 1, 9 << 48 | 2];
const PASSING_AT: u64 = 1;
const PASSING_SECS: u32 = 3;
/// Steps that PCT gives priorities to.
const DEPTH: usize = 4;

/// What a run is made of.
#[derive(Clone, Copy, Debug)]
struct Case {
    name: &'static str,
    dim: usize,
    /// Keys of one batch.
    group: u64,
    hot_rows: usize,
    batches: u64,
    /// One call to the disk fails, once.
    fails: bool,
}

/// Few rows stay hot, so every batch promotes and demotes.
const TIERS: Case = Case { name: "tiers", dim: 1, group: 3, hot_rows: 4, batches: 6, fails: false };
/// Two batches fill the pool for images that a commit still needs: the third waits.
const PRESSURE: Case = Case { name: "pressure", dim: 2048, group: 5, hot_rows: usize::MAX, batches: 3, fails: false };
const FAILURES: Case = Case { name: "failures", dim: 512, hot_rows: 4, fails: true, ..PRESSURE };
const CASES: [Case; 3] = [TIERS, PRESSURE, FAILURES];

/// Rows by table and key.
type Rows = BTreeMap<(usize, u64), f32>;

/// What batch `i` of a writer does: to which tables at once, which group, and whether it removes.
fn batch(writer: u64, i: u64) -> (&'static [usize], u64, bool) {
    // The first writer has one table alone and with the other, the second the other way round.
    let tables: &[usize] = match (writer, i % 3) {
        (0, 1) => &[0, 1],
        (_, 1) => &[1, 0],
        (0, _) => &[0],
        _ => &[1],
    };
    (tables, i % 2, i % 3 == 2)
}

impl Case {
    fn keys(self, writer: u64, group: u64) -> Vec<u64> {
        (0..self.group).map(|key| writer * 1000 + group * 100 + key).collect()
    }

    /// A writer's rows after so many batches.
    fn rows(self, writer: u64, batches: u64) -> Rows {
        let mut rows = Rows::new();
        for i in 0..batches {
            let (tables, group, removes) = batch(writer, i);
            for row in self.keys(writer, group).into_iter().flat_map(|key| tables.iter().map(move |table| (*table, key))) {
                if removes {
                    rows.remove(&row);
                } else {
                    *rows.entry(row).or_default() += 1.0;
                }
            }
        }
        rows
    }

    fn options(self, fs: &SimFs) -> StoreOptions {
        let options = StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(2 << 20).threads(1).shards(2);
        options.hot_rows(self.hot_rows).commit_policy(CommitPolicy::default().every_batches(2))
    }

    fn schema(self, name: &str) -> TableSchema {
        let schema = TableSchema::new(name, self.dim).optimizer(Optimizer::sgd(1.0)).initializer(Initializer::zeros());
        schema.slot_expiry(slot_of(PASSING[0]), Expiry::after_secs(PASSING_SECS))
    }

    /// After the first commit: in each later one they are alive, or expired by its clock, whenever they left memory.
    fn pass(self, store: &Store) {
        let rows = vec![7.0; PASSING.len() * self.dim];
        store.table(TABLES[0]).unwrap().assign(&PASSING, &rows, &Update::at(PASSING_AT)).unwrap();
    }

    fn write(self, store: &Store, progress: &Progress, writer: u64) -> Result<()> {
        let minus_one = vec![-1.0; self.group as usize * self.dim];
        for i in 0..self.batches {
            let (tables, group, removes) = batch(writer, i);
            let tables = tables.iter().map(|table| store.table(TABLES[*table])).collect::<Result<Vec<_>>>()?;
            let keys = self.keys(writer, group);
            progress.begun[writer as usize].fetch_add(1, SeqCst);
            if removes {
                tables[0].remove(&keys)?;
            } else {
                let requests = tables.iter().map(|table| GradientRequest::new(table, &keys, &minus_one));
                store.apply_gradients_many(requests, &Update::at(1 + i))?;
            }
            progress.ended[writer as usize].fetch_add(1, SeqCst);
        }
        Ok(())
    }

    /// The store is at a commit that holds what its state says.
    fn check(self, store: &Store) {
        let Some(commit) = store.last_commit() else { return };
        let mut rows = Rows::new();
        for (at, name) in TABLES.iter().enumerate() {
            let Ok(table) = store.table(name) else { continue };
            let visit = |key, _, row: &[f32], _: &[f32]| {
                assert!(row.iter().all(|lane| *lane == row[0]), "a row is torn");
                assert!(rows.insert((at, key), row[0]).is_none(), "key {key} was visited twice");
                Ok(())
            };
            table.for_each_row(visit).unwrap();
        }
        let alive = commit.id.sequence > 1 && u64::from(commit.clock.unwrap_or(0)) < PASSING_AT + u64::from(PASSING_SECS);
        let passing = PASSING.iter().filter(|key| rows.get(&(0, **key)) == Some(&7.0)).count();
        assert_eq!(passing, if alive { PASSING.len() } else { 0 }, "commit {} at {:?}", commit.id, commit.clock);
        for writer in 0..WRITERS {
            let counts: Vec<u64> = commit.state.as_chunks::<8>().0.iter().map(|count| u64::from_le_bytes(*count)).collect();
            let own: Rows = rows.iter().filter(|((_, key), _)| key / 1000 == writer).map(|(k, v)| (*k, *v)).collect();
            let (ended, begun) = (counts[writer as usize], counts[(WRITERS + writer) as usize]);
            let whole = (ended..=begun).any(|batches| self.rows(writer, batches) == own);
            assert!(whole, "commit {}: writer {writer} after {ended} to {begun} batches has {own:?}", commit.id);
        }
    }
}

/// How many batches each writer ended and began. Not the scheduler's atomics: looking at them is no step.
#[derive(Default)]
struct Progress {
    ended: [AtomicU64; WRITERS as usize],
    begun: [AtomicU64; WRITERS as usize],
    /// The last commit that was reported durable.
    durable: AtomicU64,
}

impl Progress {
    fn state(&self) -> Vec<u8> {
        self.ended.iter().chain(&self.begun).flat_map(|count| count.load(SeqCst).to_le_bytes()).collect()
    }

    fn acknowledge(&self, sequence: u64) {
        self.durable.fetch_max(sequence, SeqCst);
    }
}

fn commit(store: &Store, progress: &Progress) -> Result<()> {
    let state = || progress.state();
    let ticket = store.commit_in_background(state)?;
    let next = store.commit_in_background(state)?;
    progress.acknowledge(next.wait()?.sequence);
    assert!(ticket.is_durable(), "a commit is durable and the one before it is not");
    progress.acknowledge(store.commit_with(state)?.sequence);
    if let Some(ticket) = store.commit_if_due(state)? {
        progress.acknowledge(ticket.wait()?.sequence);
    }
    Ok(())
}

type Work = Box<dyn FnOnce(&Store, &Progress) -> Result<()> + Send>;

/// Lets the threads work, and cuts the power once, at any moment; returns what was durable then, and the disk after it.
fn work(case: Case, fs: &SimFs, store: &Arc<Store>, progress: &Arc<Progress>) -> (u64, SimFs) {
    let mut works: Vec<Work> = Vec::new();
    for writer in 0..WRITERS {
        works.push(Box::new(move |store, progress| case.write(store, progress, writer)));
    }
    works.push(Box::new(commit));
    works.push(Box::new(|store, _| store.checkpoint().and_then(|_| store.checkpoint()).map(drop)));
    works.push(Box::new(move |store, _| {
        let tables = [store.table(TABLES[0])?, store.table(TABLES[1])?];
        let mut rows = [vec![0.0; case.group as usize * case.dim], vec![0.0; case.group as usize * case.dim]];
        (0..2).try_for_each(|group| {
            let keys = case.keys(group, group);
            tables[0].prefetch(&keys)?;
            let requests = tables.iter().zip(&mut rows).map(|(table, rows)| LookupRequest::new(table, &keys, rows));
            store.lookup_many(requests).map(drop)
        })
    }));
    let cut = {
        let (fs, progress) = (fs.clone(), Arc::clone(progress));
        thread::spawn(move || {
            (0..shuttle::rand::thread_rng().gen_range(0..400)).for_each(|_| thread::yield_now());
            let durable = progress.durable.load(SeqCst);
            (durable, fs.crash(CrashMode::DropUnsynced, 0))
        })
    };
    let spawn = |work: Work| {
        let (store, progress) = (Arc::clone(store), Arc::clone(progress));
        thread::spawn(move || work(&store, &progress))
    };
    let threads: Vec<_> = works.into_iter().map(spawn).collect();
    for thread in threads {
        let result = thread.join().unwrap();
        assert!(case.fails || result.is_ok(), "{result:?}");
    }
    cut.join().unwrap()
}

/// One execution, whose order the scheduler chooses.
fn run(case: Case) {
    let fs = SimFs::new();
    fs.make_dirs(Path::new("/disk")).unwrap();
    let store = Arc::new(Store::open("/disk/store", case.options(&fs)).unwrap());
    TABLES.iter().for_each(|name| drop(store.create_table(case.schema(name)).unwrap()));
    let progress = Arc::new(Progress::default());
    // Nothing has changed since: a base begun now may count as valid by itself.
    progress.acknowledge(store.commit(&progress.state()).unwrap().sequence);
    case.pass(&store);
    if case.fails {
        fs.fail_nth(shuttle::rand::thread_rng().gen_range(1..120), FaultKind::Io, FaultSpan::Once);
    }
    let (durable, after_cut) = work(case, &fs, &store, &progress);
    fs.heal();
    match store.commit(&progress.state()) {
        Ok(_) => case.check(&store),
        Err(error) => assert!(case.fails, "{error}"),
    }
    let open = |fs: &SimFs, at| Store::open("/disk/store", case.options(fs).open_at(at)).unwrap();
    let check_after = |fs: &SimFs, durable| {
        let store = open(fs, At::Latest);
        let found = store.last_commit().map_or(0, |commit| commit.id.sequence);
        assert!(found >= durable, "commit {durable} was reported durable, and there is {found}");
        case.check(&store);
        store.commits().unwrap()
    };
    let last = store.last_commit().map_or(0, |commit| commit.id.sequence);
    drop(store);
    let ids = check_after(&fs, last.max(progress.durable.load(SeqCst)));
    ids.iter().for_each(|id| case.check(&open(&fs, At::Commit(*id))));
    check_after(&after_cut, durable);
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    config.silence_warnings = true;
    config
}

fn explore(case: Case, scheduler: impl Scheduler + 'static) -> usize {
    Runner::new(scheduler, config()).run(move || run(case))
}

/// Bugs are planted in the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn commits_hold_whole_batches_in_any_order_of_threads() {
    let _alone = alone();
    if let Ok(schedule) = std::env::var("EMBEDROCK_SHUTTLE_REPLAY") {
        let name = std::env::var("EMBEDROCK_SHUTTLE_CASE").unwrap_or(TIERS.name.to_owned());
        let case = CASES.into_iter().find(|case| case.name == name).unwrap();
        return shuttle::replay(move || run(case), &schedule);
    }
    let (schedules, seed) = (setting("EMBEDROCK_SHUTTLE_SCHEDULES", 200) as usize, setting("EMBEDROCK_SHUTTLE_SEED", 1));
    for case in CASES {
        let random = explore(case, RandomScheduler::new_from_seed(seed, schedules));
        let pct = explore(case, PctScheduler::new_from_seed(seed, DEPTH, schedules));
        println!("{}: {random} random schedules, {pct} of PCT", case.name);
    }
}

/// The first schedule that fails, of so many random ones and, where none does, as many with priorities that change: some orders are all
/// but never drawn at random.
fn first_failure(bug: Option<Bug>, schedules: usize) -> Option<u64> {
    // The scheduler puts a hook of its own before this one.
    std::panic::set_hook(Box::new(|_| ()));
    plant(bug);
    let found = first_failing(RandomScheduler::new_from_seed(1, schedules))
        .or_else(|| first_failing(PctScheduler::new_from_seed(1, DEPTH, schedules)));
    plant(None);
    found
}

fn first_failing(scheduler: impl Scheduler + 'static) -> Option<u64> {
    let tried = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&tried);
    let mut quiet = config();
    quiet.failure_persistence = FailurePersistence::None;
    let found = catch_unwind(AssertUnwindSafe(|| {
        Runner::new(scheduler, quiet).run(move || {
            count.fetch_add(1, SeqCst);
            run(TIERS);
        })
    }));
    found.is_err().then(|| tried.load(SeqCst))
}

#[test]
fn planted_bugs_are_found() {
    let _alone = alone();
    let bugs = Bug::OF_THREADS.into_iter().chain([
        Bug::NoCopyOnUpdate,
        Bug::OwedImageLost,
        Bug::DemotedImageLost,
        Bug::OneUncommittedBit,
        Bug::EarlyFramesIgnored,
        Bug::EarlyFramesInPlace,
        Bug::BaseValidTooEarly,
        Bug::RemovedRowUncovered,
        Bug::SweptRowUncovered,
        Bug::CommitNotSynced,
        Bug::SegmentNameNotSynced,
        Bug::OldTrainerState,
    ]);
    let schedules = setting("EMBEDROCK_SHUTTLE_SCHEDULES", 1000) as usize;
    let hook = std::panic::take_hook();
    let mut unnoticed = Vec::new();
    for bug in bugs {
        match first_failure(Some(bug), schedules) {
            Some(schedule) => println!("{bug:?}: found in schedule {schedule}"),
            None => unnoticed.push(bug),
        }
        // What was found is the bug's doing, not the one's before.
        assert_eq!(first_failure(None, 5), None, "without a bug");
    }
    std::panic::set_hook(hook);
    assert_eq!(unnoticed, [], "planted bugs that no schedule showed");
}
