//! A fixed, seeded workload on a simulated disk that can be stopped anywhere and gone on with from the last commit.
//!
//! Operation `i` is a function of `i` alone and each commit's state is the number of the next operation. So whatever crashes and
//! failures come in between, the rows at a commit must be those of the run without any.
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]
#![allow(dead_code, reason = "each test uses a part")]

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;

use embedrock::testing::{CrashMode, FaultKind, FaultSpan, SimFs, SyncClass};
use embedrock::{
    Admission, Error, Expiry, Initializer, Optimizer, Segment, Store, StoreOptions, Table, TableSchema, Ticket, Update,
};

const DIM: usize = 3;
const START: u64 = 1_700_000_000;

/// A hash of a number, for draws.
pub(crate) fn draw(x: u64) -> u64 {
    let x = (x ^ (x >> 31)).wrapping_mul(0x7fb5_d329_728e_a185);
    let x = (x ^ (x >> 27)).wrapping_mul(0x81da_def4_bc2d_d44d);
    x ^ (x >> 33)
}

/// What must hold after an interruption, and what is known by now.
#[derive(Clone, Default)]
pub(crate) struct Driver {
    /// Which of the workloads.
    script: u64,
    /// The rows at each commit seen so far, by its state.
    known: BTreeMap<u64, String>,
    /// The last commit that was reported durable, and those cut since.
    acked: u64,
    cut: Vec<u64>,
    tickets: VecDeque<(u64, Ticket)>,
}

struct Open {
    store: Store,
    tables: [Table; 2],
}

fn schemas() -> [TableSchema; 2] {
    [
        TableSchema::new("expiring", DIM).optimizer(Optimizer::adagrad(0.1)).expiry(Expiry::after_secs(40)),
        TableSchema::new("admitting", DIM)
            .segments([
                Segment::new(DIM - 1).optimizer(Optimizer::adam(0.01)).initializer(Initializer::normal(0.1)),
                Segment::new(1).optimizer(Optimizer::ftrl(0.1)).initializer(Initializer::constant(0.5)),
            ])
            .admission(Admission::count(2)),
    ]
}

impl Driver {
    /// A workload of its own.
    pub(crate) fn of(script: u64) -> Driver {
        Driver { script, ..Driver::default() }
    }

    fn open(&self, fs: &SimFs) -> Result<Open, Error> {
        let options = StoreOptions::default().simulated(Arc::new(fs.clone())).memory_budget(12 << 20).threads(1).shards(2);
        // In the caller, so that one seed makes the same calls again.
        let options = options.prefetch_threads(0);
        let store = Store::open("/disk/store", options.hot_rows(40))?;
        let [a, b] = schemas();
        let tables = [store.create_table(a)?, store.create_table(b)?];
        Ok(Open { store, tables })
    }

    /// Runs operations up to `end`, from the last commit on. `Err` is the first failure, or what recovery got wrong.
    pub(crate) fn run(&mut self, fs: &SimFs, end: u64) -> Result<Result<(), Error>, String> {
        let open = match self.open(fs) {
            Ok(open) => open,
            Err(error) => return Ok(Err(error)),
        };
        let next = match self.check(&open.store)? {
            Ok(next) => next,
            Err(error) => return Ok(Err(error)),
        };
        for i in next..end {
            let mut result = self.apply(&open, i);
            // Nothing changed, so the same call may be made again; unless the store says that it is lost.
            for _ in 0..2 {
                if matches!(&result, Err(error) if !matches!(error, Error::Poisoned { .. })) {
                    result = self.apply(&open, i);
                }
            }
            if let Err(error) = result {
                return Ok(Err(error));
            }
        }
        match self.commit(&open, end) {
            Err(error) => Ok(Err(error)),
            Ok(()) => Ok(Ok(())),
        }
    }

    /// The rows at the last commit, once all ran.
    pub(crate) fn outcome(&self) -> (u64, &str) {
        (self.acked, &self.known[&self.acked])
    }

    fn check(&mut self, store: &Store) -> Result<Result<u64, Error>, String> {
        let state = store.last_commit().map_or(0, |commit| u64::from_le_bytes(commit.state[..].try_into().unwrap()));
        if state != self.acked && !self.cut.contains(&state) {
            return Err(format!("at commit {state}, expected {} or one of {:?}", self.acked, self.cut));
        }
        if let Some(known) = self.known.get(&state) {
            match store.digest() {
                Ok(digest) if digest.to_string() == *known => {}
                Ok(digest) => return Err(format!("commit {state} has rows {digest}, expected {known}")),
                Err(error) => return Ok(Err(error)),
            }
        }
        self.acked = state;
        self.cut.clear();
        self.tickets.clear();
        Ok(Ok(state))
    }

    fn apply(&mut self, open: &Open, i: u64) -> Result<(), Error> {
        let random = draw(i ^ draw(self.script));
        let table = &open.tables[(random >> 8 & 1) as usize];
        let keys: Vec<u64> = (0..random >> 16 & 31).map(|k| draw(random ^ k) % 150).collect();
        let values: Vec<f32> = (0..keys.len() * DIM).map(|k| (draw(random ^ k as u64) % 17) as f32 / 8.0 - 1.0).collect();
        let update = Update::at(START + i);
        match random % 16 {
            0..=7 => table.apply_gradients(&keys, &values, &update),
            8 => table.assign(&keys, &values, &update).map(drop),
            9 => table.assign_add(&keys, &values, &update).map(drop),
            10 => table.remove(&keys[..keys.len() / 2]).map(drop),
            11 => table.prefetch(&keys),
            12 => self.commit(open, i + 1),
            13 => self.begin(open, i + 1),
            14 => {
                let step = open.store.step_commit(random as usize >> 40 & 15);
                self.settle();
                step
            }
            _ => open.store.checkpoint().map(drop),
        }
    }

    fn note(&mut self, open: &Open, state: u64) -> Result<(), Error> {
        let digest = open.store.digest()?.to_string();
        if let Some(known) = self.known.insert(state, digest.clone()) {
            assert_eq!(known, digest, "going on from an older commit gave other rows at operation {state}");
        }
        self.cut.push(state);
        Ok(())
    }

    fn commit(&mut self, open: &Open, state: u64) -> Result<(), Error> {
        self.note(open, state)?;
        open.store.commit(&state.to_le_bytes())?;
        self.acked = state;
        self.cut.clear();
        self.tickets.clear();
        Ok(())
    }

    fn begin(&mut self, open: &Open, state: u64) -> Result<(), Error> {
        self.note(open, state)?;
        self.tickets.push_back((state, open.store.begin_commit(&state.to_le_bytes())?));
        self.settle();
        Ok(())
    }

    fn settle(&mut self) {
        let durable = self.tickets.iter().take_while(|(_, ticket)| ticket.is_durable()).count();
        if let Some((state, _)) = self.tickets.drain(..durable).next_back() {
            self.acked = state;
            self.cut.retain(|cut| *cut > state);
        }
    }
}

/// An empty simulated disk with a place for the store.
pub(crate) fn disk() -> SimFs {
    let fs = SimFs::new();
    fs.make_dirs(Path::new("/disk")).unwrap();
    fs
}

/// The rows after the first `end` operations, with no failure.
pub(crate) fn reference(end: u64) -> String {
    let mut driver = Driver::default();
    driver.run(&disk(), end).unwrap().unwrap();
    driver.outcome().1.to_owned()
}

/// A number from the environment.
pub(crate) fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Operations of a store's lives under power cuts.
pub(crate) const LIVES_OPERATIONS: u64 = 160;

/// One store's lives from its creation to the end of its work; returns how many cuts it met.
pub(crate) fn lives(seed: u64, broken: Option<SyncClass>, expected: &str, met: &mut [u64; 7]) -> Result<u64, String> {
    let (mut fs, mut driver, mut cuts) = (disk(), Driver::default(), 0);
    loop {
        let random = draw(seed ^ draw(cuts));
        if cuts < 40 {
            fs.fail_nth(1 + random % 400, FaultKind::Io, FaultSpan::Forever);
        }
        if let Some(class) = broken {
            fs.ignore_syncs(class);
        }
        match driver.run(&fs, LIVES_OPERATIONS)? {
            Ok(()) if driver.outcome().1 == expected => return Ok(cuts),
            Ok(()) => return Err("the work ended with other rows".into()),
            Err(_) if cuts < 40 => {}
            Err(error) => return Err(format!("without a fault: {error}")),
        }
        // The seventh way is the death of the process alone.
        let mode = (random >> 32) % 7;
        met[mode as usize] += 1;
        fs = CrashMode::ALL.get(mode as usize).map_or_else(|| SimFs::kill(&fs), |mode| fs.crash(*mode, random >> 16));
        cuts += 1;
    }
}
