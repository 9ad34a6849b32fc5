//! The batches of a run: which keys, where their rows are known to be, what they hold, what updates make of them.
#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Keys drawn for each thread, in all its batches together: more than any cache holds rows of.
const KEYS_A_THREAD: usize = 2 << 20;
/// The gradient of every value.
pub(crate) const GRADIENT: f32 = 0.01;
pub(crate) const LEARNING_RATE: f32 = 0.05;
const INITIAL_ACCUMULATOR: f32 = 0.1;
const EPSILON: f32 = 1e-10;

/// What the candidates of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Site {
    pub(crate) dir: PathBuf,
    pub(crate) rows: u64,
    pub(crate) dim: usize,
    /// Whether rows carry the state of Adagrad: as many f32s again.
    pub(crate) trains: bool,
    pub(crate) threads: usize,
}

impl Site {
    /// f32s of a row.
    pub(crate) fn lanes(&self) -> usize {
        if self.trains { 2 * self.dim } else { self.dim }
    }

    /// Rows whose number leaves this remainder when divided by the threads: each thread has rows of its own.
    pub(crate) fn rows_of(&self, thread: usize) -> usize {
        (self.rows as usize + self.threads - 1 - thread) / self.threads
    }
}

/// How keys are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Distribution {
    Uniform,
    Zipf(f64),
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Distribution, String> {
        let exponent = |text: &str| text.parse().ok().filter(|s| (0.1..=4.0).contains(s) && *s != 1.0);
        match text.split_once(':') {
            None if text == "uniform" => Ok(Distribution::Uniform),
            Some(("zipf", text)) => {
                exponent(text).map(Distribution::Zipf).ok_or_else(|| "an exponent is 0.1 to 4, not 1".to_owned())
            }
            _ => Err("write uniform, or zipf:1.05".into()),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipf(exponent) => write!(f, "Zipf {exponent}"),
        }
    }
}

/// Some keys of one thread, and their places among that thread's rows.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) keys: Vec<u64>,
    pub(crate) places: Vec<u32>,
}

/// The batches of each thread, of present and of absent keys.
pub(crate) struct Workload {
    pub(crate) present: Vec<Vec<Batch>>,
    pub(crate) absent: Vec<Vec<Batch>>,
}

/// The key of a row: all 64 bits in use, each row its own.
pub(crate) fn key_of(row: u64) -> u64 {
    let mixed = (row ^ row >> 31).wrapping_mul(0x7fb5_d329_728e_a185);
    (mixed ^ mixed >> 27).wrapping_mul(0x81da_def4_bc2d_d44d)
}

/// What each value of a row's embedding is at first.
pub(crate) fn value_of(row: u64) -> f32 {
    (row % 1021 + 1) as f32
}

/// The accumulators of a row at first.
pub(crate) fn initial_state() -> f32 {
    INITIAL_ACCUMULATOR
}

/// Adagrad on one row, as anybody would write it.
#[inline(always)]
pub(crate) fn adagrad(weights: &mut [f32], sums: &mut [f32], gradients: &[f32]) {
    for ((weight, sum), gradient) in weights.iter_mut().zip(sums).zip(gradients) {
        *sum += gradient * gradient;
        *weight -= LEARNING_RATE * gradient / (sum.sqrt() + EPSILON);
    }
}

/// All rows of a thread, in order, for filling.
pub(crate) fn all_rows(site: &Site, thread: usize) -> impl Iterator<Item = (Batch, Vec<u64>)> + '_ {
    const A_BATCH: usize = 8192;
    let rows = site.rows_of(thread);
    (0..rows).step_by(A_BATCH).map(move |first| {
        let places: Vec<u32> = (first as u32..(first + A_BATCH).min(rows) as u32).collect();
        let rows: Vec<u64> = places.iter().map(|&place| u64::from(place) * site.threads as u64 + thread as u64).collect();
        (Batch { keys: rows.iter().map(|&row| key_of(row)).collect(), places }, rows)
    })
}

/// A prime above any number of rows that fit, so each rank has a place of its own, and the most frequent ones lie apart from each
/// other.
pub(crate) fn place(rank: u64, rows: u64) -> u64 {
    (u128::from(rank) * 1_000_000_000_039 % u128::from(rows)) as u64
}

impl Workload {
    pub(crate) fn new(site: &Site, distribution: Distribution, batch: usize) -> Workload {
        let mut random = Random::new(7);
        let mut draw = |thread: usize, first: u64| {
            let rows = site.rows_of(thread) as u64;
            let zipf = match distribution {
                Distribution::Uniform => None,
                Distribution::Zipf(exponent) => Some(Zipf::new(rows, exponent)),
            };
            let count = (KEYS_A_THREAD.min(site.rows as usize * 4) / batch).max(2);
            let mut one = || {
                let mut drawn = Batch::default();
                for _ in 0..batch {
                    let rank = match &zipf {
                        Some(zipf) => zipf.rank(&mut random),
                        None => random.bits() % rows,
                    };
                    let place = place(rank, rows);
                    drawn.keys.push(key_of(first + place * site.threads as u64 + thread as u64));
                    drawn.places.push(place as u32);
                }
                drawn
            };
            (0..count).map(|_| one()).collect::<Vec<_>>()
        };
        let present = (0..site.threads).map(|thread| draw(thread, 0)).collect();
        let absent = (0..site.threads).map(|thread| draw(thread, site.rows)).collect();
        Workload { present, absent }
    }
}

/// A counter, mixed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        key_of(self.0)
    }

    /// Uniform in 0..1.
    fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Draws Zipf ranks exactly, by rejection from the integral (Hoermann, Derflinger 1996).
pub(crate) struct Zipf {
    ranks: f64,
    exponent: f64,
    low: f64,
    high: f64,
    squeeze: f64,
}

impl Zipf {
    pub(crate) fn new(ranks: u64, exponent: f64) -> Zipf {
        let mut zipf = Zipf { ranks: ranks as f64, exponent, low: 0.0, high: 0.0, squeeze: 0.0 };
        zipf.low = zipf.integral(1.5) - 1.0;
        zipf.high = zipf.integral(zipf.ranks + 0.5);
        zipf.squeeze = 2.0 - zipf.inverse(zipf.integral(2.5) - 2f64.powf(-exponent));
        zipf
    }

    fn integral(&self, x: f64) -> f64 {
        (x.powf(1.0 - self.exponent) - 1.0) / (1.0 - self.exponent)
    }

    fn inverse(&self, y: f64) -> f64 {
        (1.0 + y * (1.0 - self.exponent)).powf(1.0 / (1.0 - self.exponent))
    }

    /// A rank, from 0.
    pub(crate) fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let y = self.high + random.unit() * (self.low - self.high);
            let x = self.inverse(y);
            let rank = x.round().clamp(1.0, self.ranks);
            if rank - x <= self.squeeze || y >= self.integral(rank + 0.5) - rank.powf(-self.exponent) {
                return rank as u64 - 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn zipf_ranks_have_their_probabilities() {
        for exponent in [1.05, 1.15, 0.8] {
            let (zipf, mut random) = (super::Zipf::new(1000, exponent), super::Random::new(1));
            let mut counts = [0u32; 1000];
            (0..200_000).for_each(|_| counts[zipf.rank(&mut random) as usize] += 1);
            let sum: f64 = (1..=1000).map(|k| f64::from(k).powf(-exponent)).sum();
            for k in [1usize, 2, 3, 10, 100] {
                let expected = 200_000.0 * (k as f64).powf(-exponent) / sum;
                let found = f64::from(counts[k - 1]);
                assert!((found - expected).abs() < 5.0 * expected.sqrt(), "{exponent} {k}: {found} for {expected}");
            }
        }
    }
}
