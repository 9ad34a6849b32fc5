//! In how many bits a table keeps its embeddings: 32, or 16 with rounding that is right on average.
//!
//! Two values of 16 bits share a lane: value `i` is the low half of lane `i`, value `h + i` its high half, with `h` half of the
//! dimension, rounded up; so whole vectors are packed and unpacked without moving values among lanes. What lies below, logs, bases
//! and the cold tier, sees lanes and nothing else.
//!
//! Training rounds stochastically (Gupta, Agrawal, Gopalakrishnan, Narayanan 2015; Xiao et al. 2021 for embeddings): up with the
//! probability that keeps the mean, as steps smaller than half a unit in the last place would otherwise all be lost. The draw
//! is a hash of (store seed, table, key, batch number, value), so it depends on nothing else.
#![forbid(unsafe_code)]

use crate::simd::Loop;
use crate::types::{Key, mix};

/// In how many bits a table keeps its embeddings. Optimizer state is f32 always, as are gradients and what lookups give.
///
/// | | bytes a value | relative spacing of normal values | range of normal values |
/// |---|---|---|---|
/// | `F32` | 4 | 2^-23 | 1e-38 to 3e38 |
/// | `Bf16` | 2 | 2^-7 | 1e-38 to 3e38 |
/// | `F16` | 2 | 2^-10 | 6e-5 to 65,504 |
///
/// Assigned and initial values are rounded to the nearest, ties to even; updates by gradients and `assign_add` stochastically, to
/// the value below or above with the probability that keeps the mean. A finite value beyond the range becomes the largest finite one.
///
/// ```
/// use embedrock::{Optimizer, Precision, Store, StoreOptions, TableSchema, Update};
/// # let dir = std::env::temp_dir().join(format!("embedrock-doc-precision-{}", std::process::id()));
/// let store = Store::open(&dir, StoreOptions::default())?;
/// let schema = TableSchema::new("item", 64).optimizer(Optimizer::rowwise_adagrad(0.05)).precision(Precision::Bf16);
/// assert_eq!(schema.row_bytes(), 64 * 2 + 4);
/// let items = store.create_table(schema)?;
/// items.assign(&[7], &[0.5; 64], &Update::at(1_700_000_000))?;
/// let mut row = [0.0; 64];
/// items.lookup(&[7], &mut row)?;
/// assert_eq!(row, [0.5; 64]);
/// # drop((items, store)); std::fs::remove_dir_all(&dir).unwrap();
/// # Ok::<(), embedrock::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Precision {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// The upper half of binary32.
    Bf16,
    /// IEEE 754 binary16.
    F16,
}

/// What the draws of one row's rounding depend on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dither(u32, u32);

impl Dither {
    /// Of one key in one batch.
    pub(crate) fn new(seed: u64, table: u32, batch: u64, key: Key) -> Dither {
        const DOMAIN: u64 = 0x726f_756e_6469_6e67;
        let bits = mix(mix(mix(mix(seed ^ DOMAIN) ^ u64::from(table)) ^ batch) ^ key);
        Dither(bits as u32, (bits >> 32) as u32)
    }

    /// 32 bits for a value (the finalizer of MurmurHash3: Appleby 2011).
    #[inline(always)]
    fn bits(self, at: u32) -> u32 {
        let mut x = at.wrapping_mul(0x9e37_79b9).wrapping_add(self.0) ^ self.1;
        x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        x ^ (x >> 16)
    }
}

impl Precision {
    /// Lanes that an embedding of `dim` values takes in a row.
    pub(crate) fn lanes(self, dim: usize) -> usize {
        match self {
            Precision::F32 => dim,
            Precision::Bf16 | Precision::F16 => dim.div_ceil(2),
        }
    }

    /// Rounds values to the nearest that a row can hold.
    pub(crate) fn round(self, values: &mut [f32]) {
        let each = |values: &mut [f32], of: fn(f32) -> f32| values.iter_mut().for_each(|value| *value = of(*value));
        match self {
            Precision::F32 => {}
            Precision::Bf16 => each(values, |value| from_bf16(to_bf16(value, half_of_bf16(value)))),
            Precision::F16 => each(values, |value| from_f16(to_f16_nearest(value))),
        }
    }

    /// The number for the disk.
    pub(crate) fn encode(self) -> u8 {
        match self {
            Precision::F32 => 0,
            Precision::Bf16 => 1,
            Precision::F16 => 2,
        }
    }

    /// The inverse of [`encode`](Self::encode).
    pub(crate) fn decode(number: u8) -> Option<Precision> {
        [Precision::F32, Precision::Bf16, Precision::F16].into_iter().find(|precision| precision.encode() == number)
    }
}

/// Gives the values of a row's embedding.
pub(crate) struct Unpack<'a> {
    pub(crate) precision: Precision,
    pub(crate) lanes: &'a [f32],
    pub(crate) values: &'a mut [f32],
}

impl Loop for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        match self.precision {
            Precision::F32 => self.values.copy_from_slice(self.lanes),
            Precision::Bf16 => unpack(self.lanes, self.values, from_bf16),
            Precision::F16 => unpack(self.lanes, self.values, from_f16),
        }
    }
}

/// Writes values into a row's lanes: with draws rounded stochastically, else to the nearest.
pub(crate) struct Pack<'a> {
    pub(crate) precision: Precision,
    pub(crate) values: &'a [f32],
    pub(crate) lanes: &'a mut [f32],
    pub(crate) dither: Option<Dither>,
}

impl Loop for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (values, lanes) = (self.values, self.lanes);
        match (self.precision, self.dither) {
            (Precision::F32, _) => lanes.copy_from_slice(values),
            (Precision::Bf16, None) => pack(values, lanes, |value, _| to_bf16(value, half_of_bf16(value))),
            (Precision::Bf16, Some(dither)) => pack(values, lanes, |value, at| to_bf16(value, dither.bits(at) >> 16)),
            (Precision::F16, None) => pack(values, lanes, |value, _| to_f16_nearest(value)),
            (Precision::F16, Some(dither)) => pack(values, lanes, |value, at| to_f16_drawn(value, dither.bits(at))),
        }
    }
}

#[inline(always)]
fn unpack(lanes: &[f32], values: &mut [f32], of: impl Fn(u32) -> f32) {
    let (low, high) = values.split_at_mut(lanes.len());
    low.iter_mut().zip(lanes).for_each(|(value, lane)| *value = of(lane.to_bits() & 0xffff));
    high.iter_mut().zip(lanes).for_each(|(value, lane)| *value = of(lane.to_bits() >> 16));
}

#[inline(always)]
fn pack(values: &[f32], lanes: &mut [f32], to: impl Fn(f32, u32) -> u32) {
    let (low, high) = values.split_at(lanes.len());
    for ((lane, &value), at) in lanes.iter_mut().zip(low).zip(0..) {
        *lane = f32::from_bits(to(value, at));
    }
    for ((lane, &value), at) in lanes.iter_mut().zip(high).zip(low.len() as u32..) {
        *lane = f32::from_bits(lane.to_bits() | to(value, at) << 16);
    }
}

#[inline(always)]
fn from_bf16(bits: u32) -> f32 {
    f32::from_bits(bits << 16)
}

/// What added to the bits rounds to the nearest, ties to even.
#[inline(always)]
fn half_of_bf16(value: f32) -> u32 {
    0x7fff + (value.to_bits() >> 16 & 1)
}

/// The upper half, after `add` (below 2^16) is added to the lower.
#[inline(always)]
fn to_bf16(value: f32, add: u32) -> u32 {
    const LARGEST: u32 = 0x7f7f;
    let bits = value.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    let rounded = ((magnitude + add) >> 16).min(LARGEST);
    // Infinities stay; of a number that is none a bit remains in the upper half.
    let special = magnitude >> 16 | if magnitude > 0x7f80_0000 { 0x40 } else { 0 };
    sign | if magnitude < 0x7f80_0000 { rounded } else { special }
}

/// 2^112, the distance of the two exponents.
const REBIAS: f32 = f32::from_bits(0x7780_0000);
/// The smallest normal value of binary16, 2^-14, and its largest value, as bits of binary32.
const F16_NORMAL: u32 = 0x3880_0000;
const F16_LARGEST: u32 = 0x7bff;

#[inline(always)]
fn from_f16(bits: u32) -> f32 {
    let magnitude = f32::from_bits((bits & 0x7fff) << 13);
    let finite = (magnitude * REBIAS).to_bits();
    let special = magnitude.to_bits() | 0x7f80_0000;
    f32::from_bits((bits & 0x8000) << 16 | if bits & 0x7c00 == 0x7c00 { special } else { finite })
}

#[inline(always)]
fn to_f16_nearest(value: f32) -> u32 {
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let normal = (magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13;
    // Adding 0.5 leaves the multiple of 2^-24 in the lowest bits, rounded by the addition.
    let small = (f32::from_bits(magnitude) + 0.5).to_bits() & 0x7ff;
    assemble_f16(value, normal, small)
}

#[inline(always)]
fn to_f16_drawn(value: f32, draw: u32) -> u32 {
    let magnitude = value.to_bits() & 0x7fff_ffff;
    let normal = (magnitude + (draw >> 19)) >> 13;
    // In units of 2^-24, below 1,024; the draw is a fraction of 13 bits, so that the sum is exact where it matters.
    let units = f32::from_bits(magnitude.min(F16_NORMAL)) * 16_777_216.0;
    let small = (units + (draw >> 19) as f32 / 8192.0) as u32;
    assemble_f16(value, normal, small)
}

/// `normal` is the magnitude if it is a normal value, its exponent not yet moved, `small` if it is not.
#[inline(always)]
fn assemble_f16(value: f32, normal: u32, small: u32) -> u32 {
    let bits = value.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    let finite = if magnitude < F16_NORMAL { small } else { normal.wrapping_sub(112 << 10).min(F16_LARGEST) };
    let special = 0x7c00 | if magnitude > 0x7f80_0000 { 0x200 } else { 0 };
    sign | if magnitude < 0x7f80_0000 { finite } else { special }
}

#[cfg(test)]
mod tests;
