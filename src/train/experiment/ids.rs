//! Ids folded into fewer rows, as tables of a fixed size do it: what a collisionless table is compared with.
#![forbid(unsafe_code)]

use std::collections::HashSet;

use md5::{Digest, Md5};

use super::learner::{Learns, Rows};
use crate::{Key, Result, Table, UnixSeconds, Update};

/// Bits of a key below its slot.
const VALUE_BITS: u32 = 48;
/// Apart from the remainder's row: the quotient's.
const QUOTIENT: Key = 1 << 47;

/// The row of an id in a table of so many: the MD5 of its decimal digits, with what makes this draw another one before them, modulo `rows`.
pub fn md5_row(draw: &str, id: u64, rows: u64) -> u64 {
    let digest = Md5::digest(format!("{draw}{id}"));
    let number = digest.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    (number % u128::from(rows.max(1))) as u64
}

/// What folding does to a set of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Folded {
    /// Ids.
    pub ids: u64,
    /// Rows that they use.
    pub rows: u64,
    /// Ids that share their row with another one.
    pub sharing: u64,
}

impl Folded {
    /// The row of each id, as [`md5_row`] has it.
    pub fn of(ids: impl Iterator<Item = u64>, row: impl Fn(u64) -> u64) -> Folded {
        let mut rows: Vec<u64> = ids.map(row).collect();
        rows.sort_unstable();
        let groups = rows.chunk_by(|a, b| a == b);
        let (used, alone) = groups.fold((0, 0), |(used, alone), group| (used + 1, alone + u64::from(group.len() == 1)));
        Folded { ids: rows.len() as u64, rows: used, sharing: rows.len() as u64 - alone }
    }

    /// The share of ids that have no row of their own left, the paper's collision rate: 1 - rows / ids.
    pub fn lost(&self) -> f64 {
        1.0 - self.rows as f64 / self.ids.max(1) as f64
    }
}

/// The rows of a table into which so many ids must be hashed for a share of them to be lost: `1 - (1 - exp(-a)) / a` for `a` ids a row.
pub(super) fn rows_for(ids: u64, lost: f64) -> u64 {
    let of = |a: f64| 1.0 - (1.0 - libm::exp(-a)) / a;
    let (mut low, mut high) = (1e-9f64, 1e9f64);
    for _ in 0..200 {
        let middle = (low * high).sqrt();
        if of(middle) < lost { low = middle } else { high = middle }
    }
    ((ids as f64 / low).round() as u64).max(1)
}

/// How a key finds its row. Sizes are those of each slot.
#[derive(Clone, Debug)]
pub(super) enum Ids {
    /// Each key has a row of its own.
    Own,
    /// MD5 modulo so many rows.
    Hashed { draw: String, rows: Vec<u64> },
    /// The sum of two rows, each out of so many: MD5 modulo their square, its remainder and its quotient.
    QuotientRemainder { draw: String, rows: Vec<u64> },
}

impl Ids {
    /// The rows of a key: one, or two the same.
    pub(super) fn rows_of(&self, key: Key) -> [Key; 2] {
        let (slot, id) = ((key >> VALUE_BITS) as usize, key & ((1 << VALUE_BITS) - 1));
        let (draw, rows) = match self {
            Ids::Own => return [key; 2],
            Ids::Hashed { draw, rows } | Ids::QuotientRemainder { draw, rows } => (draw, rows.get(slot).copied().unwrap_or(1)),
        };
        let of_slot = (slot as u64) << VALUE_BITS;
        if let Ids::Hashed { .. } = self {
            return [of_slot | md5_row(draw, id, rows); 2];
        }
        let place = md5_row(draw, id, rows.saturating_mul(rows));
        let (remainder, quotient) = (place % rows.max(1), place / rows.max(1));
        [of_slot | remainder, of_slot | QUOTIENT | quotient]
    }

    pub(super) fn is_sum(&self) -> bool {
        matches!(self, Ids::QuotientRemainder { .. })
    }
}

/// A table whose keys are folded.
pub(super) struct Folding {
    pub(super) table: Table,
    pub(super) ids: Ids,
}

impl Folding {
    fn keys(&self, keys: &[Key]) -> (Vec<Key>, Option<Vec<Key>>) {
        let both: Vec<[Key; 2]> = keys.iter().map(|key| self.ids.rows_of(*key)).collect();
        let part = |part: usize| both.iter().map(|rows| rows[part]).collect::<Vec<_>>();
        (part(0), self.ids.is_sum().then(|| part(1)))
    }
}

impl Rows for Folding {
    fn lookup(&self, keys: &[Key], rows: &mut [f32]) -> Result<()> {
        let (first, second) = self.keys(keys);
        self.table.lookup(&first, rows)?;
        if let Some(second) = second {
            let mut more = vec![0.0; rows.len()];
            self.table.lookup(&second, &mut more)?;
            rows.iter_mut().zip(more).for_each(|(row, more)| *row += more);
        }
        Ok(())
    }
}

impl Learns for Folding {
    fn update(&self, keys: &[Key], gradients: &[f32], time: UnixSeconds) -> Result<()> {
        let (mut first, second) = self.keys(keys);
        let update = Update::at(u64::from(time));
        match second {
            None => self.table.apply_gradients(&first, gradients, &update),
            // The gradient of a sum is that of both its parts.
            Some(second) => {
                first.extend(second);
                self.table.apply_gradients(&first, &[gradients, gradients].concat(), &update)
            }
        }
    }
}

/// Distinct ids of each slot of samples.
pub(super) fn ids_by_slot(keys: &[Key], slots: usize) -> Vec<Vec<u64>> {
    let mut sets = vec![HashSet::new(); slots];
    for key in keys {
        if let Some(set) = sets.get_mut((key >> VALUE_BITS) as usize) {
            set.insert(key & ((1 << VALUE_BITS) - 1));
        }
    }
    sets.into_iter()
        .map(|set| {
            let mut ids: Vec<u64> = set.into_iter().collect();
            ids.sort_unstable();
            ids
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_modulo_a_million_gives_the_counts_of_monoliths_table_1() {
        let of = |ids: u64| Folded::of(0..ids, |id| md5_row("", id, 1_000_000));
        let (users, movies) = (of(162_541), of(59_047));
        assert_eq!((users.rows, movies.rows), (149_970, 57_361));
        assert_eq!((users.sharing, movies.sharing), (24_463, 3_340));
        assert!((users.lost() - 0.0773).abs() < 5e-5 && (movies.lost() - 0.0286).abs() < 5e-5);
    }

    #[test]
    fn a_table_for_a_share_of_lost_ids_loses_about_that() {
        for lost in [0.0286, 0.25, 0.5, 0.75] {
            let rows = rows_for(20_000, lost);
            let found = Folded::of(0..20_000, |id| md5_row("7:", id, rows)).lost();
            assert!((found - lost).abs() < 0.01, "{lost}: {found}");
        }
    }

    #[test]
    fn quotient_and_remainder_tell_ids_apart_that_a_hash_does_not() {
        let (draw, rows) = ("1:".to_owned(), vec![300; 2]);
        let hashed = Ids::Hashed { draw: draw.clone(), rows: vec![600; 2] };
        let sum = Ids::QuotientRemainder { draw, rows };
        let distinct = |ids: &Ids| (0..1_000u64).map(|id| ids.rows_of(1 << 48 | id)).collect::<HashSet<_>>().len();
        assert!(distinct(&hashed) <= 600 && distinct(&sum) > 980, "{} {}", distinct(&hashed), distinct(&sum));
        let keys: HashSet<Key> = (0..1_000u64).flat_map(|id| sum.rows_of(1 << 48 | id)).collect();
        assert!(keys.len() <= 600 && keys.iter().all(|key| key >> 48 == 1));
        assert_eq!(Ids::Own.rows_of(1 << 48 | 5), [1 << 48 | 5; 2]);
    }
}
