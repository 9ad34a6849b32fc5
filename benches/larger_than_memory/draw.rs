//! Rows drawn one by one, for runs that are too long to draw before.
#![forbid(unsafe_code)]

use crate::workload::{Distribution, Random, Zipf, key_of, place};

/// Draws row numbers one by one, for runs that are too long to draw before.
pub(crate) struct Draw {
    rows: u64,
    zipf: Option<Zipf>,
    random: Random,
}

impl Draw {
    pub(crate) fn new(rows: u64, distribution: Distribution, seed: u64) -> Draw {
        let zipf = match distribution {
            Distribution::Uniform => None,
            Distribution::Zipf(exponent) => Some(Zipf::new(rows, exponent)),
        };
        Draw { rows, zipf, random: Random::new(key_of(seed)) }
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.random.bits()
    }

    pub(crate) fn row(&mut self) -> u64 {
        let rank = match &self.zipf {
            Some(zipf) => zipf.rank(&mut self.random),
            None => self.random.bits() % self.rows,
        };
        place(rank, self.rows)
    }
}

/// The inverse of [`key_of`].
pub(crate) fn row_of(key: u64) -> u64 {
    let mixed = key.wrapping_mul(0x4d6d_ff26_c61d_8485);
    let mixed = (mixed ^ mixed >> 27 ^ mixed >> 54).wrapping_mul(0x4c5f_f459_6f4a_2f4d);
    mixed ^ mixed >> 31 ^ mixed >> 62
}
