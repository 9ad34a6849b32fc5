//! The traffic: which keys a batch asks for, and how it trains them. Batch `n` is a function of `n` alone.

use embedrock::{Admission, Expiry, Initializer, Optimizer, Table, TableSchema, Update};

use crate::Failure;

/// Feature slots: ids that live for some days, and those that are seen once.
const LASTING: u64 = 1;
const PASSING: u64 = 2;
const DAY_SECS: u64 = 86_400;
/// Event-days in which as many ids arrive as are wanted at one time, and for which rows live after their last update.
const LIFE_DAYS: u64 = 3;
/// The share of passing ids.
const PASSING_SHARE: f64 = 0.3;
const ZIPF: f64 = 1.05;
const START: u64 = 1_700_000_000;

pub(crate) struct Traffic {
    ids: u64,
    dim: usize,
    batch: usize,
    day: u64,
}

/// What batches need again and again.
pub(crate) struct Batches<'a> {
    traffic: &'a Traffic,
    rows: Vec<f32>,
    gradients: Vec<f32>,
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn key(slot: u64, id: u64) -> u64 {
    slot << 48 | mix(id) >> 16
}

impl Traffic {
    pub(crate) fn new(ids: u64, dim: usize, batch: usize, day: u64) -> Traffic {
        Traffic { ids, dim, batch, day }
    }

    pub(crate) fn schema(&self) -> TableSchema {
        let passing = self.batch as f64 * self.day as f64 * PASSING_SHARE;
        let capacity = self.ids / LIFE_DAYS + passing as u64;
        TableSchema::new("feature", self.dim)
            .optimizer(Optimizer::adagrad(0.05))
            .initializer(Initializer::uniform(0.05))
            .admission(Admission::sliding(2, DAY_SECS as u32, capacity))
            .slot_threshold(PASSING as u16, 5)
            .expiry(Expiry::after_secs((LIFE_DAYS * DAY_SECS) as u32))
            .slot_expiry(PASSING as u16, Expiry::after_secs(DAY_SECS as u32))
    }

    pub(crate) fn batches(&self) -> Batches<'_> {
        let values = self.batch * self.dim;
        let gradients = (0..values).map(|i| 1e-3 + (i % 7) as f32 * 1e-3).collect();
        Batches { traffic: self, rows: vec![0.0; values], gradients }
    }
}

impl Batches<'_> {
    pub(crate) fn next_keys(&self, number: u64) -> Vec<u64> {
        let Traffic { ids, batch, day, .. } = *self.traffic;
        // Ids that have arrived: the newest is wanted most.
        let newest = ids + number * ids / (LIFE_DAYS * day);
        let mut random = mix(number ^ 0x9e37_79b9_7f4a_7c15);
        let mut unit = || {
            random = mix(random.wrapping_add(0x9e37_79b9_7f4a_7c15));
            (random >> 11) as f64 / (1u64 << 53) as f64
        };
        // The inverse of the distribution's integral, as if ranks were real numbers.
        let (low, power) = ((ids as f64).powf(1.0 - ZIPF) - 1.0, 1.0 / (1.0 - ZIPF));
        (0..batch)
            .map(|_| {
                let (kind, at) = (unit(), unit());
                if kind < PASSING_SHARE {
                    return key(PASSING, (at * (1u64 << 53) as f64) as u64);
                }
                let rank = ((at * low + 1.0).powf(power) as u64).clamp(1, ids);
                key(LASTING, newest - rank)
            })
            .collect()
    }

    /// Looks the keys up and trains them.
    pub(crate) fn train(&mut self, table: &Table, keys: &[u64], number: u64) -> Result<(), Failure> {
        table.lookup(keys, &mut self.rows)?;
        let time = START + number * DAY_SECS / self.traffic.day;
        table.apply_gradients(keys, &self.gradients, &Update::at(time))?;
        Ok(())
    }
}
