//! Which keys deserve a row: frequency filtering (Monolith 2.1), asked only for keys that have none yet.
//!
//! Counts are kept for keys not yet admitted, exactly here or in a filter of fixed size (`sliding.rs`). They are state: what changed
//! since the last commit goes into its delta.
#![forbid(unsafe_code)]

mod counts;
mod lines;
mod sliding;

pub(crate) use counts::Counts;
pub(crate) use lines::Seen;
pub(crate) use sliding::{IMAGE_BYTES, Images, PARTITIONS, Shape, SlidingFilter};

use std::fmt;

use crate::types::{Key, mix};

/// Which keys get a row when they are first updated.
///
/// | constructor | a key is admitted | memory |
/// |---|---|---|
/// | [`always`](Self::always) | at once | none |
/// | [`count`](Self::count) | by its n-th occurrence | about 20-40 B for each key not yet admitted |
/// | [`sliding`](Self::sliding) | by its n-th occurrence of late, one of 146 sooner | 2.5 B for each key of the capacity, always |
/// | [`probabilistic`](Self::probabilistic) | by each occurrence with probability 1/n, so after n on average | none |
///
/// All occurrences of a key in one batch count. The default is `always`.
///
/// ```
/// use embedrock::{Admission, Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-admission-{}", std::process::id()));
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let items = store.create_table(TableSchema::new("item", 1).admission(Admission::count(3)))?;
/// items.apply_gradients(&[7, 7], &[0.5; 2], &Update::at(1_700_000_000))?;
/// assert!(!items.contains(7)?);
/// items.apply_gradients(&[7], &[0.5], &Update::at(1_700_000_001))?; // its third occurrence
/// assert!(items.contains(7)?);
/// # drop((items, store)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Admission {
    /// Every key, at once.
    #[default]
    Always,
    /// A key with enough occurrences.
    Count {
        /// The occurrence that admits; 0 and 1 admit at once.
        threshold: u32,
    },
    /// A key with enough occurrences of late, counted in a fixed amount of memory.
    Sliding {
        /// The occurrence that admits, up to 65,536; 0 and 1 admit at once.
        threshold: u32,
        /// Seconds of event time, at least 3, after which the count of a key that was not seen is forgotten.
        window: u32,
        /// Keys without a row that are seen within a window.
        capacity: u64,
    },
    /// A key that is drawn.
    Probabilistic {
        /// The mean number of occurrences until a key is admitted; 0 and 1 admit at once.
        threshold: u32,
    },
}

/// What a probabilistic draw depends on besides the key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Draw {
    /// The store's seed.
    pub(crate) seed: u64,
    /// The table's number.
    pub(crate) table: u32,
    /// The batch's number within the store.
    pub(crate) batch: u64,
}

/// The most that a sliding count counts, and keys that it is made for.
const MAX_SLIDING_THRESHOLD: u32 = 1 << 16;
const MAX_SLIDING_CAPACITY: u64 = 1 << 36;

impl Admission {
    /// Every key, at once.
    pub fn always() -> Admission {
        Admission::Always
    }

    /// A key is admitted by its `n`-th occurrence; 0 and 1 admit at once. Counts are exact.
    pub fn count(n: u32) -> Admission {
        Admission::Count { threshold: n }
    }

    /// A key is admitted by its `n`-th occurrence (up to 65,536), as long as it is seen again and again within `window_secs` of event
    /// time: one that was not for two thirds of that, or at the latest for all of it, is forgotten.
    ///
    /// The counts take a fixed amount of memory, 2.52 B for each key of `capacity`: 757 MB for 300 million. Errors: of keys that were never
    /// seen at most one in 146 (56 cells compared by 13 bits) is taken for another one of the same two cache lines, and admitted with
    /// its count. With more keys than the capacity in a window the smallest counts among the oldest are dropped, and those keys are
    /// admitted later; within it fewer than one of a thousand. A count beyond 10 takes the room of two keys.
    ///
    /// Monolith's filter (Liu et al. 2022) takes 840 MB for so many keys, confuses about three times as many and counts up to 15.
    ///
    /// The threshold may change at open; with another window or capacity counting begins anew.
    pub fn sliding(n: u32, window_secs: u32, capacity: u64) -> Admission {
        Admission::Sliding { threshold: n, window: window_secs, capacity }
    }

    /// A key is admitted by each of its occurrences with probability 1/n, by k of them with 1 - (1 - 1/n)^k. Keeps nothing;
    /// the draw is a hash of (store seed, table, key, batch number).
    pub fn probabilistic(n: u32) -> Admission {
        Admission::Probabilistic { threshold: n }
    }

    /// The same with another threshold.
    pub(crate) fn with_threshold(self, threshold: u32) -> Admission {
        match self {
            Admission::Always => Admission::Always,
            Admission::Count { .. } => Admission::Count { threshold },
            Admission::Sliding { window, capacity, .. } => Admission::Sliding { threshold, window, capacity },
            Admission::Probabilistic { .. } => Admission::Probabilistic { threshold },
        }
    }

    /// Says what is wrong with the parameters, if anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        match *self {
            Admission::Sliding { threshold, .. } if threshold > MAX_SLIDING_THRESHOLD => {
                Err(format!("a sliding count goes up to {MAX_SLIDING_THRESHOLD}, not {threshold}: use Admission::count"))
            }
            Admission::Sliding { window, .. } if window < sliding::GENERATIONS => {
                Err(format!("a window of {window} s is shorter than {} s", sliding::GENERATIONS))
            }
            Admission::Sliding { capacity, .. } if !(1..=MAX_SLIDING_CAPACITY).contains(&capacity) => {
                Err(format!("a capacity of {capacity} keys is not within 1 to {MAX_SLIDING_CAPACITY}"))
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller must count, in [`Counts`] or in a [`SlidingFilter`].
    pub(crate) fn counts(&self) -> bool {
        matches!(self, Admission::Count { threshold: 2.. } | Admission::Sliding { threshold: 2.., .. })
    }

    /// Whether a [`SlidingFilter`] counts.
    pub(crate) fn is_sliding(&self) -> bool {
        matches!(self, Admission::Sliding { .. })
    }

    /// What the table's [`SlidingFilter`] must be.
    pub(crate) fn filter_shape(&self) -> Shape {
        match *self {
            Admission::Sliding { window, capacity, .. } => Shape::for_keys(window, capacity),
            _ => Shape::default(),
        }
    }

    /// Whether `key`, which has no row, gets one by `occurrences` more in this batch, `counted` having been counted before.
    /// Pure; an occurrence count of 0 admits nothing except where keys are always admitted.
    pub(crate) fn admits(&self, draw: &Draw, key: Key, occurrences: u32, counted: u32) -> bool {
        match *self {
            Admission::Always => true,
            Admission::Count { threshold } | Admission::Sliding { threshold, .. } => {
                counted.saturating_add(occurrences) >= threshold
            }
            Admission::Probabilistic { threshold: 0 | 1 } => true,
            Admission::Probabilistic { threshold } => draw.unit(key) < 1.0 - power(1.0 - 1.0 / f64::from(threshold), occurrences),
        }
    }

    /// The kind and the threshold, for the disk.
    pub(crate) fn encode(&self) -> (u8, u32) {
        match *self {
            Admission::Always => (0, 0),
            Admission::Count { threshold } => (1, threshold),
            Admission::Probabilistic { threshold } => (2, threshold),
            Admission::Sliding { threshold, .. } => (3, threshold),
        }
    }

    /// The inverse of [`encode`](Self::encode), but for what else a sliding one needs; `None` for an unknown kind.
    pub(crate) fn decode(kind: u8, threshold: u32) -> Option<Admission> {
        match kind {
            0 => Some(Admission::Always),
            1 => Some(Admission::Count { threshold }),
            2 => Some(Admission::Probabilistic { threshold }),
            3 => Some(Admission::Sliding { threshold, window: 0, capacity: 0 }),
            _ => None,
        }
    }
}

impl fmt::Display for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Admission::Always => write!(f, "always"),
            Admission::Count { threshold } => write!(f, "count({threshold})"),
            Admission::Probabilistic { threshold } => write!(f, "probabilistic({threshold})"),
            Admission::Sliding { threshold, window, capacity } => {
                write!(f, "sliding({threshold}, {window} s, {capacity} keys)")
            }
        }
    }
}

impl Draw {
    /// A number in [0, 1) with 53 random bits, apart from those the initializer draws.
    fn unit(&self, key: Key) -> f64 {
        let store = mix(self.seed.wrapping_add(0x2545_f491_4f6c_dd1d));
        let table = mix(store ^ u64::from(self.table));
        let batch = mix(table.wrapping_add(self.batch));
        (mix(batch ^ mix(key.wrapping_add(0x8cb9_2ba7_2f3d_8dd7))) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// `base ^ exponent` by squaring: multiplications only, so the same on every CPU.
fn power(base: f64, exponent: u32) -> f64 {
    let (mut square, mut rest, mut result) = (base, exponent, 1.0);
    while rest > 0 {
        if rest & 1 == 1 {
            result *= square;
        }
        square *= square;
        rest >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const DRAW: Draw = Draw { seed: 7, table: 1, batch: 0 };

    #[test]
    fn the_nth_occurrence_admits_and_those_of_one_batch_all_count() {
        let three = Admission::count(3);
        assert!(three.counts() && !Admission::count(1).counts() && !Admission::probabilistic(9).counts());
        let mut counts = Counts::default();
        for key in [0, u64::MAX] {
            assert!(!three.admits(&DRAW, key, 2, counts.get(key)));
            assert_eq!(counts.add(key, 2), 2);
            assert!(three.admits(&DRAW, key, 1, counts.get(key)));
            assert_eq!(counts.take(key), 2);
            assert_eq!((counts.get(key), counts.take(key)), (0, 0));
            assert!(three.admits(&DRAW, key, 3, 0) && !three.admits(&DRAW, key, 0, 2));
        }
        assert!(Admission::count(0).admits(&DRAW, 5, 1, 0) && Admission::count(1).admits(&DRAW, 5, 1, 0));
        assert!(Admission::count(u32::MAX).admits(&DRAW, 5, u32::MAX, 7), "saturates");
        assert_eq!((counts.add(1, u32::MAX), counts.add(1, 1), counts.add(2, 0), counts.len()), (u32::MAX, u32::MAX, 0, 1));
    }

    #[test]
    fn probabilistic_admission_has_its_stated_probability() {
        for (n, occurrences) in [(2u32, 1u32), (10, 1), (10, 10), (1000, 500)] {
            let admitted = (0..100_000u64)
                .filter(|&i| {
                    let draw = Draw { batch: i >> 4, ..DRAW };
                    Admission::probabilistic(n).admits(&draw, i & 15, occurrences, 0)
                })
                .count() as f64;
            let expected = 1.0 - (1.0 - 1.0 / f64::from(n)).powi(occurrences as i32);
            let sigma = (expected * (1.0 - expected) / 100_000.0).sqrt();
            assert!((admitted / 100_000.0 - expected).abs() < 5.0 * sigma, "n {n} k {occurrences}: {admitted} for {expected}");
        }
        assert!(Admission::probabilistic(1).admits(&DRAW, 3, 1, 0) && Admission::probabilistic(0).admits(&DRAW, 3, 1, 0));
        assert!((0..1000).all(|key| !Admission::probabilistic(2).admits(&DRAW, key, 0, 0)));
        assert!((0..1000).all(|key| Admission::probabilistic(2).admits(&DRAW, key, 1000, 0)));
    }

    #[test]
    fn draws_depend_on_seed_table_key_and_batch_and_are_pinned() {
        let pattern = |draw: Draw| (0..64u64).fold(0u64, |bits, key| bits << 1 | u64::from(draw.unit(key) < 0.5));
        let draws = [DRAW, Draw { seed: 8, ..DRAW }, Draw { table: 2, ..DRAW }, Draw { batch: 1, ..DRAW }];
        let distinct: HashSet<u64> = draws.into_iter().map(pattern).collect();
        assert_eq!(distinct.len(), 4);
        assert_eq!(pattern(DRAW), 0x7f83_dbdc_4f79_0115);
    }

    #[test]
    fn disk_round_trip() {
        for admission in [Admission::always(), Admission::count(3), Admission::probabilistic(u32::MAX)] {
            let (kind, threshold) = admission.encode();
            assert_eq!(Admission::decode(kind, threshold), Some(admission));
        }
        assert_eq!(Admission::decode(4, 1), None);
    }
}
