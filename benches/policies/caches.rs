//! The candidates: what each keeps of a stream of keys when it may keep so many.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use crate::policy::{FRESH, Ghosts, PROBATION, PROBATION_SHARE, passed, tried, used};
use crate::traces::Trace;

/// Rows leave at least this share at once, as in the store.
const DEMOTE_SHARE: usize = 32;
const ROWS_A_BUCKET: usize = 8;

/// Keeps up to so many rows.
pub(crate) trait Cache {
    /// A row is used, and brought in if it is not there; returns whether it was.
    fn access(&mut self, at: usize, key: u64, now: u32) -> bool;
    /// Rows looked at in the search for those that leave, and rows that left.
    fn cost(&self) -> (u64, u64);
}

fn mix(key: u64) -> u64 {
    let mixed = (key ^ key >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    mixed ^ mixed >> 33
}

#[derive(Clone, Copy)]
struct Row {
    key: u64,
    history: u16,
    time: u32,
}

/// What is tried in place of the store's policy: a hand, and a count of uses beside each row.
#[derive(Clone, Copy)]
pub(crate) enum Plain {
    /// A row leaves that was not used since the hand last passed.
    Clock,
    /// Uses are counted up to 3, and each pass takes one.
    Capped,
    /// Uses are counted, and each pass halves them: a frequency that decays.
    Halving,
}

impl Plain {
    fn used(self, history: u16) -> u16 {
        match self {
            Plain::Clock => 1,
            Plain::Capped => (history + 1).min(3),
            Plain::Halving => history.saturating_add(1),
        }
    }

    fn passed(self, history: u16) -> Option<u16> {
        match self {
            _ if history == 0 => None,
            Plain::Clock => Some(0),
            Plain::Capped => Some(history - 1),
            Plain::Halving => Some(history / 2),
        }
    }
}

/// The store's way: a hand over rows in the order of their hashes.
pub(crate) struct Hand {
    /// None for the store's own.
    plain: Option<Plain>,
    /// Whether a row's first use counts.
    eager: bool,
    /// Rows that expire after so long are absent then, and leave first if the policy looks for that.
    ttl: u32,
    expiry_first: bool,
    most: usize,
    buckets: Vec<Vec<Row>>,
    rows: usize,
    hand: usize,
    probation: VecDeque<u64>,
    ghosts: Ghosts,
    looked_at: u64,
    left: u64,
}

impl Hand {
    pub(crate) fn plain(plain: Plain, eager: bool, expiry_first: bool, most: usize, ttl: u32) -> Hand {
        Hand { plain: Some(plain), eager, ..Hand::new(expiry_first, most, ttl) }
    }

    pub(crate) fn new(expiry_first: bool, most: usize, ttl: u32) -> Hand {
        Hand {
            plain: None,
            eager: false,
            ttl,
            expiry_first,
            most,
            buckets: vec![Vec::new(); most.div_ceil(ROWS_A_BUCKET)],
            rows: 0,
            hand: 0,
            probation: VecDeque::new(),
            ghosts: Ghosts::default(),
            looked_at: 0,
            left: 0,
        }
    }

    fn home(&self, key: u64) -> usize {
        ((u128::from(mix(key)) * self.buckets.len() as u128) >> 64) as usize
    }

    fn make_room(&mut self, now: u32) {
        if self.ghosts.is_empty() && self.plain.is_none() {
            self.ghosts = Ghosts::of(self.most);
        }
        let until = self.rows - (self.most / DEMOTE_SHARE).max(1);
        while self.rows > until {
            if self.probation.len() > self.most / PROBATION_SHARE { self.end_probation(now) } else { self.pass(now) }
        }
    }

    fn end_probation(&mut self, now: u32) {
        let Some(key) = self.probation.pop_front() else { return };
        self.looked_at += 1;
        let home = self.home(key);
        let Some(place) = self.buckets[home].iter().position(|row| row.key == key && row.history & PROBATION != 0) else {
            return;
        };
        let row = &mut self.buckets[home][place];
        let gone = self.expiry_first && now.saturating_sub(row.time) >= self.ttl;
        match tried(row.history) {
            Some(history) if !gone => row.history = history,
            _ => {
                self.buckets[home].swap_remove(place);
                self.ghosts.push(mix(key));
                (self.rows, self.left) = (self.rows - 1, self.left + 1);
            }
        }
    }

    fn pass(&mut self, now: u32) {
        self.hand = (self.hand + 1) % self.buckets.len();
        let bucket = &mut self.buckets[self.hand];
        self.looked_at += bucket.len() as u64;
        let before = bucket.len();
        bucket.retain_mut(|row| {
            let gone = self.expiry_first && now.saturating_sub(row.time) >= self.ttl;
            if row.history & PROBATION != 0 && self.plain.is_none() && !gone {
                return true;
            }
            match self.plain.map_or_else(|| passed(row.history), |plain| plain.passed(row.history)) {
                Some(history) if !gone => {
                    row.history = history;
                    true
                }
                _ => false,
            }
        });
        let freed = before - bucket.len();
        (self.rows, self.left) = (self.rows - freed, self.left + freed as u64);
    }
}

impl Cache for Hand {
    fn access(&mut self, _: usize, key: u64, now: u32) -> bool {
        let home = self.home(key);
        let use_row = |history: u16| self.plain.map_or_else(|| used(history), |plain| plain.used(history));
        if let Some(row) = self.buckets[home].iter_mut().find(|row| row.key == key) {
            let lives = now.saturating_sub(row.time) < self.ttl;
            row.history = if lives { use_row(row.history) } else { 0 };
            row.time = now;
            return lives;
        }
        let first = if self.eager { use_row(0) } else { 0 };
        if self.rows >= self.most {
            self.make_room(now);
        }
        let history = if self.ghosts.is_empty() {
            first
        } else if self.ghosts.take(mix(key)) {
            used(FRESH)
        } else {
            self.probation.push_back(key);
            used(FRESH | PROBATION)
        };
        self.buckets[home].push(Row { key, history, time: now });
        self.rows += 1;
        false
    }

    fn cost(&self) -> (u64, u64) {
        (self.looked_at, self.left)
    }
}

/// LFU with decay: of a window of rows those leave that were used least, uses counted in 15 bits and halved with time.
pub(crate) struct LeastFrequent {
    most: usize,
    rows: HashMap<u64, (u32, u32)>,
    order: Vec<u64>,
    hand: usize,
    accesses: u64,
    looked_at: u64,
    left: u64,
}

/// Rows that the window holds for each that is to leave.
const WINDOW: usize = 8;

impl LeastFrequent {
    pub(crate) fn new(most: usize) -> LeastFrequent {
        LeastFrequent { most, rows: HashMap::new(), order: Vec::new(), hand: 0, accesses: 0, looked_at: 0, left: 0 }
    }

    /// A period in which each row is used about twice.
    fn period(&self) -> u32 {
        (self.accesses / (2 * self.most as u64).max(1)) as u32
    }

    fn make_room(&mut self) {
        let wanted = (self.most / DEMOTE_SHARE).max(1);
        let window = (wanted * WINDOW).min(self.order.len());
        let period = self.period();
        let mut places: Vec<(u32, usize)> = (0..window)
            .map(|i| {
                let place = (self.hand + i) % self.order.len();
                let (uses, since) = self.rows[&self.order[place]];
                (uses.checked_shr(period - since).unwrap_or(0), place)
            })
            .collect();
        self.hand = (self.hand + window) % self.order.len();
        self.looked_at += window as u64;
        places.sort_unstable();
        let mut leaving: Vec<usize> = places[..wanted].iter().map(|&(_, place)| place).collect();
        leaving.sort_unstable_by(|a, b| b.cmp(a));
        for place in leaving {
            // The last one takes the place: the order is none that means anything.
            self.rows.remove(&self.order.swap_remove(place));
            self.left += 1;
        }
        self.hand %= self.order.len().max(1);
    }
}

impl Cache for LeastFrequent {
    fn access(&mut self, _: usize, key: u64, _: u32) -> bool {
        self.accesses += 1;
        let period = self.period();
        if let Some((uses, since)) = self.rows.get_mut(&key) {
            (*uses, *since) = ((uses.checked_shr(period - *since).unwrap_or(0) + 1).min(1 << 15), period);
            return true;
        }
        if self.rows.len() >= self.most {
            self.make_room();
        }
        self.rows.insert(key, (0, period));
        self.order.push(key);
        false
    }

    fn cost(&self) -> (u64, u64) {
        (self.looked_at, self.left)
    }
}

/// S3-FIFO (Yang and others, SOSP 2023): a tenth in a queue for new rows, the rest in the main one, and the keys of as many that
/// left the first.
pub(crate) struct S3Fifo {
    most: usize,
    uses: HashMap<u64, u8>,
    small: VecDeque<u64>,
    main: VecDeque<u64>,
    ghosts: VecDeque<u64>,
    ghost_keys: HashSet<u64>,
    looked_at: u64,
    left: u64,
}

impl S3Fifo {
    pub(crate) fn new(most: usize) -> S3Fifo {
        S3Fifo {
            most,
            uses: HashMap::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: VecDeque::new(),
            ghost_keys: HashSet::new(),
            looked_at: 0,
            left: 0,
        }
    }

    fn make_room(&mut self) {
        let before = self.left;
        while self.left == before {
            if self.small.len() >= (self.most / 10).max(1) || self.main.is_empty() { self.pass_small() } else { self.pass_main() }
        }
    }

    fn pass_small(&mut self) {
        let Some(key) = self.small.pop_front() else { return };
        self.looked_at += 1;
        if self.uses[&key] > 1 {
            self.main.push_back(key);
            self.uses.insert(key, 0);
            return;
        }
        self.uses.remove(&key);
        self.left += 1;
        if self.ghost_keys.insert(key) {
            self.ghosts.push_back(key);
        }
        while self.ghosts.len() > self.most {
            self.ghosts.pop_front().iter().for_each(|key| {
                self.ghost_keys.remove(key);
            });
        }
    }

    fn pass_main(&mut self) {
        let Some(key) = self.main.pop_front() else { return };
        self.looked_at += 1;
        match self.uses.get_mut(&key) {
            Some(uses) if *uses > 0 => {
                *uses -= 1;
                self.main.push_back(key);
            }
            _ => {
                self.uses.remove(&key);
                self.left += 1;
            }
        }
    }
}

impl Cache for S3Fifo {
    fn access(&mut self, _: usize, key: u64, _: u32) -> bool {
        if let Some(uses) = self.uses.get_mut(&key) {
            *uses = (*uses + 1).min(3);
            return true;
        }
        if self.uses.len() >= self.most {
            self.make_room();
        }
        self.uses.insert(key, 0);
        if self.ghost_keys.remove(&key) {
            self.ghosts.retain(|ghost| *ghost != key);
            self.main.push_back(key);
        } else {
            self.small.push_back(key);
        }
        false
    }

    fn cost(&self) -> (u64, u64) {
        (self.looked_at, self.left)
    }
}

/// Least recently used, exactly: for comparison, as it would write a list at every use.
pub(crate) struct Recent {
    most: usize,
    last: HashMap<u64, usize>,
    order: BTreeMap<usize, u64>,
    left: u64,
}

impl Recent {
    pub(crate) fn new(most: usize) -> Recent {
        Recent { most, last: HashMap::new(), order: BTreeMap::new(), left: 0 }
    }
}

impl Cache for Recent {
    fn access(&mut self, at: usize, key: u64, _: u32) -> bool {
        let before = self.last.insert(key, at);
        if let Some(before) = before {
            self.order.remove(&before);
        } else if self.last.len() > self.most {
            self.order.pop_first().iter().for_each(|(_, key)| {
                self.last.remove(key);
            });
            self.left += 1;
        }
        self.order.insert(at, key);
        before.is_some()
    }

    fn cost(&self) -> (u64, u64) {
        (self.left, self.left)
    }
}

/// What knows the future: the row leaves whose next use is farthest. Nothing does better.
pub(crate) struct Clairvoyant {
    most: usize,
    next: Vec<usize>,
    rows: HashMap<u64, usize>,
    order: BTreeSet<(usize, u64)>,
    left: u64,
}

impl Clairvoyant {
    pub(crate) fn new(most: usize, trace: &Trace) -> Clairvoyant {
        let mut next = vec![usize::MAX; trace.uses.len()];
        let mut seen: HashMap<u64, usize> = HashMap::new();
        for (at, used) in trace.uses.iter().enumerate().rev() {
            next[at] = seen.insert(used.key, at).unwrap_or(usize::MAX);
        }
        Clairvoyant { most, next, rows: HashMap::new(), order: BTreeSet::new(), left: 0 }
    }
}

impl Cache for Clairvoyant {
    fn access(&mut self, at: usize, key: u64, _: u32) -> bool {
        let next = self.next[at];
        let before = self.rows.insert(key, next);
        if let Some(before) = before {
            self.order.remove(&(before, key));
        } else if self.rows.len() > self.most {
            self.order.pop_last().iter().for_each(|(_, key)| {
                self.rows.remove(key);
            });
            self.left += 1;
        }
        self.order.insert((next, key));
        before.is_some()
    }

    fn cost(&self) -> (u64, u64) {
        (self.left, self.left)
    }
}
