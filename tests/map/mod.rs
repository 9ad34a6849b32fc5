//! Operations on a store and on a model of `BTreeMap`s, compared row by row. SGD keeps the model's arithmetic exact in f32.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(dead_code, reason = "fuzzing uses a part")]

mod moves;

use std::collections::BTreeMap;
#[cfg(feature = "testing")]
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
#[cfg(feature = "testing")]
use std::sync::Arc;

#[cfg(feature = "testing")]
use embedrock::Ticket;
#[cfg(feature = "testing")]
use embedrock::testing::{SimFs, verify_simulated};
use embedrock::{
    Admission, At, CommitId, Error, Expiry, Initializer, Optimizer, Store, StoreOptions, Table, TableSchema, Update,
    VerifyReport, restore, slot_of, verify,
};

const DIM: usize = 3;
const RATE: f32 = 0.5;
const INITIAL: f32 = 0.25;
const START: u32 = 1_000_000;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Gradients(Vec<(u64, i8)>, u16),
    Assign(Vec<(u64, i8)>, u16),
    AssignAdd(Vec<(u64, i8)>, u16),
    Remove(Vec<u64>),
    Prefetch(Vec<u64>),
    /// Some keys' cold rows are read ahead; the operations after it run while they are on their way.
    BeginPrefetch(Vec<u64>),
    /// They arrive.
    EndPrefetch,
    /// Some rows are on their way out; the operations after it run while they are written.
    BeginLeaving(usize),
    /// They were written, or could not be.
    EndLeaving(bool),
    /// The memory budget becomes so many MiB, as far as that is possible.
    Budget(usize),
    Commit,
    /// Cuts a commit; the operations after it run while it is written.
    BeginCommit,
    StepCommit(usize),
    Checkpoint,
    Crash {
        shards: usize,
        hot: Option<usize>,
    },
    OpenAt(usize),
    Restore(usize),
    Verify,
    /// Other settings from now on: threshold and time to live.
    Change(u32, u32),
    /// Frees expired rows.
    Sweep,
}

#[derive(Clone, Debug, PartialEq)]
struct Row {
    lanes: [f32; DIM],
    time: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    rows: BTreeMap<u64, Row>,
    /// Counts of keys without a row, and the third of a window in which each was seen last.
    counts: BTreeMap<u64, (u32, u32)>,
    clock: u32,
    rules: Rules,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rules {
    pub(crate) admission: u32,
    pub(crate) ttl: u32,
    /// Counts are those of a window of [`WINDOW`] seconds.
    pub(crate) sliding: bool,
    /// The keys of feature slot [`SLOT`] have rules of their own.
    pub(crate) slots: bool,
}

pub(crate) const SLOT: u16 = 7;
const SLOT_THRESHOLD: u32 = 2;
const SLOT_TTL: u32 = 45;
const WINDOW: u32 = 60;

impl Rules {
    fn threshold(self, key: u64) -> u32 {
        if self.slots && slot_of(key) == SLOT { SLOT_THRESHOLD } else { self.admission }
    }

    fn ttl(self, key: u64) -> u32 {
        if self.slots && slot_of(key) == SLOT { SLOT_TTL } else { self.ttl }
    }

    fn can_expire(self) -> bool {
        self.ttl > 0 || self.slots
    }
}

impl Model {
    fn live(&self, rules: Rules) -> BTreeMap<u64, Row> {
        let live = |key: u64, row: &Row| rules.ttl(key) == 0 || self.clock.saturating_sub(row.time) < rules.ttl(key);
        self.rows.iter().filter(|(key, row)| live(**key, row)).map(|(key, row)| (*key, row.clone())).collect()
    }

    /// Goes on by other rules: what is expired stays gone, though it might live by the new ones.
    fn change(&mut self, rules: Rules) {
        if self.rules != rules {
            self.rows = self.live(self.rules);
            self.rules = rules;
        }
    }

    fn count(&self, key: u64, rules: Rules) -> u32 {
        let third = self.clock / (WINDOW / 3);
        let known = self.counts.get(&key).filter(|(_, seen)| !rules.sliding || third - seen < 3);
        known.map_or(0, |(count, _)| *count)
    }

    fn update(&mut self, op: &Op, batch: &[(u64, i8)], time: u32, rules: Rules) {
        self.clock = self.clock.max(time);
        let live = self.live(rules);
        let mut order: Vec<u64> = Vec::new();
        for (key, _) in batch {
            if !order.contains(key) {
                order.push(*key);
            }
        }
        for key in order {
            let values: Vec<[f32; DIM]> = batch.iter().filter(|(k, _)| *k == key).map(|(_, v)| lanes(*v)).collect();
            if !live.contains_key(&key) {
                let count = self.count(key, rules) + values.len() as u32;
                if count < rules.threshold(key) {
                    self.counts.insert(key, (count, self.clock / (WINDOW / 3)));
                    continue;
                }
                self.rows.insert(key, Row { lanes: [INITIAL; DIM], time: 0 });
            }
            self.counts.remove(&key);
            let row = self.rows.get_mut(&key).unwrap();
            let mut sum = values[0];
            for value in &values[1..] {
                (0..DIM).for_each(|i| sum[i] += value[i]);
            }
            for i in 0..DIM {
                match op {
                    Op::Gradients(..) => row.lanes[i] -= RATE * sum[i],
                    Op::Assign(..) => row.lanes[i] = values[values.len() - 1][i],
                    _ => row.lanes[i] += sum[i],
                }
            }
            row.time = row.time.max(time);
        }
    }
}

fn lanes(value: i8) -> [f32; DIM] {
    [f32::from(value) / 16.0, f32::from(value) / 7.0, 1.0]
}

/// Where the store is, and on what cold tier.
pub(crate) enum Place {
    /// In a directory, on RocksDB.
    Real(PathBuf),
    /// In a directory, on the twin.
    #[cfg(feature = "testing")]
    Twin(PathBuf),
    /// On a simulated disk, on the twin.
    #[cfg(feature = "testing")]
    Simulated(SimFs),
}

struct Run {
    place: Place,
    rules: Rules,
    /// Some rows could expire at some time: `len` counts those that were not reclaimed.
    could_expire: bool,
    restores: usize,
    store: Option<Store>,
    table: Option<Table>,
    model: Model,
    now: u32,
    commits: Vec<(CommitId, Model)>,
    #[cfg(feature = "testing")]
    pending: VecDeque<(Ticket, Model)>,
}

impl Run {
    fn dir(&self) -> &Path {
        match &self.place {
            Place::Real(dir) => dir,
            #[cfg(feature = "testing")]
            Place::Twin(dir) => dir,
            #[cfg(feature = "testing")]
            Place::Simulated(_) => Path::new("/disk"),
        }
    }

    fn options(&self) -> StoreOptions {
        let options = StoreOptions::default().memory_budget(24 << 20).threads(1).prefetch_threads(0);
        match &self.place {
            Place::Real(_) => options,
            #[cfg(feature = "testing")]
            Place::Twin(_) => options.twin(true),
            #[cfg(feature = "testing")]
            Place::Simulated(fs) => options.simulated(Arc::new(fs.clone())),
        }
    }

    fn schema(&self) -> TableSchema {
        let Rules { admission, ttl, sliding, slots } = self.rules;
        let schema = TableSchema::new("t", DIM)
            .optimizer(Optimizer::sgd(RATE))
            .initializer(Initializer::constant(INITIAL))
            .admission(if sliding { Admission::sliding(admission, WINDOW, 4000) } else { Admission::count(admission) })
            .expiry(if ttl == 0 { Expiry::never() } else { Expiry::after_secs(ttl) });
        if !slots {
            return schema;
        }
        schema.slot_threshold(SLOT, SLOT_THRESHOLD).slot_expiry(SLOT, Expiry::after_secs(SLOT_TTL))
    }

    fn open(&mut self, options: StoreOptions) {
        self.table = None;
        self.store = None;
        let store = Store::open(self.dir().join("store"), options).unwrap();
        self.table = Some(store.create_table(self.schema()).unwrap());
        self.store = Some(store);
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn table(&self) -> &Table {
        self.table.as_ref().unwrap()
    }

    fn compare(&self) {
        let expected = self.model.live(self.rules);
        assert_eq!(rows_of(self.table()), expected);
        if !self.could_expire {
            assert_eq!(self.table().len(), expected.len() as u64);
        }
        let keys: Vec<u64> =
            (0..61).chain([u64::MAX, 1 << 63, 17]).chain((0..8).map(|key| u64::from(SLOT) << 48 | key)).collect();
        let mut rows = vec![f32::NAN; keys.len() * DIM];
        let mut found = vec![true; keys.len()];
        let hits = self.table().lookup_found(&keys, &mut rows, &mut found).unwrap();
        assert_eq!(hits, found.iter().filter(|f| **f).count());
        for (i, key) in keys.iter().enumerate() {
            let lanes = expected.get(key).map_or([INITIAL; DIM], |row| row.lanes);
            assert_eq!(rows[i * DIM..(i + 1) * DIM], lanes, "key {key}");
            assert_eq!(found[i], expected.contains_key(key), "key {key}");
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Gradients(batch, step) | Op::Assign(batch, step) | Op::AssignAdd(batch, step) => {
                self.now += u32::from(*step);
                let keys: Vec<u64> = batch.iter().map(|(key, _)| *key).collect();
                let values: Vec<f32> = batch.iter().flat_map(|(_, value)| lanes(*value)).collect();
                let update = Update::at(self.now.into());
                match op {
                    Op::Gradients(..) => self.table().apply_gradients(&keys, &values, &update).unwrap(),
                    Op::Assign(..) => drop(self.table().assign(&keys, &values, &update).unwrap()),
                    _ => drop(self.table().assign_add(&keys, &values, &update).unwrap()),
                }
                let (now, rules) = (self.now, self.rules);
                self.model.update(op, batch, now, rules);
            }
            Op::Remove(keys) => {
                let live = self.model.live(self.rules);
                let mut distinct = keys.clone();
                distinct.sort_unstable();
                distinct.dedup();
                let expected = distinct.iter().filter(|key| live.contains_key(key)).count();
                assert_eq!(self.table().remove(keys).unwrap(), expected);
                distinct.iter().for_each(|key| {
                    self.model.rows.remove(key);
                });
            }
            Op::Prefetch(keys) => self.table().prefetch(keys).unwrap(),
            Op::Commit => {
                let state = self.commits.len().to_string();
                let id = self.store().commit(state.as_bytes()).unwrap();
                self.settle();
                self.commits.push((id, self.model.clone()));
            }
            Op::Budget(mib) => match self.store().set_memory_budget(mib << 20) {
                Ok(()) => assert!(self.store().stats().memory_bytes <= mib << 20),
                Err(error) => assert!(matches!(error, Error::BudgetTooSmall { .. }), "{error}"),
            },
            Op::BeginPrefetch(keys) => self.begin_prefetch(keys),
            Op::EndPrefetch => self.end_prefetch(),
            Op::BeginLeaving(rows) => self.begin_leaving(*rows),
            Op::EndLeaving(written) => self.end_leaving(*written),
            Op::BeginCommit => self.begin_commit(),
            Op::StepCommit(keys) => self.step_commit(*keys),
            Op::Checkpoint => drop(self.store().checkpoint().unwrap()),
            Op::Crash { shards, hot } => {
                let options = hot.map_or(self.options(), |hot| self.options().hot_rows(hot));
                self.open(options.shards(*shards));
                self.back_to_last_commit();
            }
            Op::OpenAt(back) => self.open_at(*back),
            Op::Restore(back) => self.restore(*back),
            Op::Verify => self.verify(),
            Op::Change(admission, ttl) => {
                self.rules = Rules { admission: *admission, ttl: *ttl, ..self.rules };
                self.could_expire |= self.rules.can_expire();
                self.table = Some(self.store().create_table(self.schema()).unwrap());
                self.settle();
                self.model.change(self.rules);
            }
            Op::Sweep => self.sweep(),
        }
    }

    #[cfg(feature = "testing")]
    fn begin_commit(&mut self) {
        let ticket = self.store().begin_commit(b"in steps").unwrap();
        self.settle();
        self.pending.push_back((ticket, self.model.clone()));
    }

    /// What is expired and in a commit leaves memory.
    #[cfg(feature = "testing")]
    fn sweep(&self) {
        self.store().sweep_expired();
        if self.pending.is_empty() && self.store().stats().uncommitted_rows == 0 {
            let live = self.model.live(self.rules).len();
            // Rows on their way out are nobody else's to free.
            let most = live + self.table().leaving_rows();
            assert!(self.store().stats().tables[0].hot_rows <= most as u64, "{live} rows live");
        }
    }

    #[cfg(not(feature = "testing"))]
    fn sweep(&self) {}

    #[cfg(feature = "testing")]
    fn step_commit(&mut self, keys: usize) {
        self.store().step_commit(keys).unwrap();
        self.settle();
    }

    /// A pending commit counts from when its ticket says so, with the rows that there were at its cut.
    #[cfg(feature = "testing")]
    fn settle(&mut self) {
        let durable = self.pending.iter().take_while(|(ticket, _)| ticket.is_durable()).count();
        self.commits.extend(self.pending.drain(..durable).map(|(ticket, model)| (ticket.id(), model)));
    }

    #[cfg(not(feature = "testing"))]
    fn begin_commit(&mut self) {}

    #[cfg(not(feature = "testing"))]
    fn step_commit(&mut self, _: usize) {}

    #[cfg(not(feature = "testing"))]
    fn settle(&mut self) {}

    /// A pending commit that came into the log may come back, with those before it, although nobody was told that it is durable.
    #[cfg(feature = "testing")]
    fn settle_what_came_back(&mut self) {
        let last = self.store().last_commit().map(|commit| commit.id);
        let came = self.pending.iter().position(|(ticket, _)| Some(ticket.id()) == last).map_or(0, |at| at + 1);
        self.commits.extend(self.pending.drain(..came).map(|(ticket, model)| (ticket.id(), model)));
        self.pending.clear();
    }

    #[cfg(not(feature = "testing"))]
    fn settle_what_came_back(&mut self) {}

    /// A crash forgets what no commit holds; event time goes on, as the clock of the world does.
    fn back_to_last_commit(&mut self) {
        self.settle_what_came_back();
        self.model = self.commits.last().map(|(_, model)| model.clone()).unwrap_or_default();
        self.model.change(self.rules);
        assert_eq!(self.store().last_commit().map(|commit| commit.id), self.commits.last().map(|(id, _)| *id));
        self.now = self.now.min(self.model.clock.max(START) + 1000);
    }

    fn open_at(&mut self, back: usize) {
        let Some(at) = self.commits.len().checked_sub(1 + back) else { return };
        let id = self.commits[at].0;
        if !self.store().commits().unwrap().contains(&id) {
            return;
        }
        self.open(self.options().open_at(At::Commit(id)));
        self.commits.truncate(at + 1);
        self.back_to_last_commit();
        self.compare();
        // Going back is final with the next commit: a crash before it would come back at the newest one.
        let next = self.store().commit(b"after going back").unwrap();
        if back > 0 {
            assert_ne!(next.timeline, id.timeline);
        }
        self.commits.push((next, self.model.clone()));
    }

    fn restore(&mut self, back: usize) {
        let Some(at) = self.commits.len().checked_sub(1 + back) else { return };
        let (id, model) = self.commits[at].clone();
        if !self.store().commits().unwrap().contains(&id) {
            return;
        }
        let target = self.dir().join(format!("restored-{}", self.restores));
        self.restores += 1;
        self.table = None;
        self.store = None;
        if !matches!(self.place, Place::Real(_)) {
            // `restore` is for real stores; the twin's is covered by `open_at`.
            let options = self.options();
            self.open(options);
            self.back_to_last_commit();
            return;
        }
        restore(self.dir().join("store"), At::Commit(id), &target).unwrap();
        let restored = Store::open(&target, self.options().create(false)).unwrap();
        assert_eq!(restored.last_commit().unwrap().id, id);
        match restored.table("t") {
            Ok(table) => assert_eq!(rows_of(&table), model.live(model.rules)),
            Err(error) => assert!(matches!(error, Error::UnknownTable { .. }) && model.rows.is_empty()),
        }
        drop(restored);
        let options = self.options();
        self.open(options);
        self.back_to_last_commit();
    }

    fn verified(&self) -> VerifyReport {
        match &self.place {
            #[cfg(feature = "testing")]
            Place::Simulated(fs) => verify_simulated(fs, &self.dir().join("store")).unwrap(),
            _ => verify(self.dir().join("store")).unwrap(),
        }
    }

    fn verify(&mut self) {
        self.table = None;
        self.store = None;
        assert_eq!(self.verified().damage, []);
        let options = self.options();
        self.open(options);
        self.back_to_last_commit();
    }
}

fn rows_of(table: &Table) -> BTreeMap<u64, Row> {
    let mut rows = BTreeMap::new();
    table
        .for_each_row(|key, time, embedding, state| {
            assert!(state.is_empty());
            let before = rows.insert(key, Row { lanes: embedding.try_into().unwrap(), time });
            assert!(before.is_none(), "key {key} was visited twice");
            Ok(())
        })
        .unwrap();
    rows
}

/// Runs operations from an empty store on.
pub(crate) fn run(ops: &[Op], rules: Rules, place: Place, hot: Option<usize>) {
    let mut run = Run {
        place,
        rules,
        could_expire: rules.can_expire(),
        restores: 0,
        store: None,
        table: None,
        model: Model { rules, ..Model::default() },
        now: START,
        commits: Vec::new(),
        #[cfg(feature = "testing")]
        pending: VecDeque::new(),
    };
    let options = hot.map_or(run.options(), |hot| run.options().hot_rows(hot));
    run.open(options.shards(2));
    for op in ops {
        run.apply(op);
        run.compare();
    }
}
