//! Rows in fewer bytes: what each codec keeps of a row's values, and how far what comes back may be off.
//!
//! For copies that are served from or sent far. A store's own rows are never quantised. The only file that names `half`.
#![forbid(unsafe_code)]

use half::bf16;
use half::f16;
use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};

/// Values converted at once.
const BLOCK: usize = 64;
/// The steps of 8 bits.
const STEPS: f32 = 255.0;

/// How the values of a row are kept in fewer bytes.
///
/// For a row `x` of `n` finite values that comes back as `y`, with `m` the largest `|x|` and `r` the largest `x` minus the smallest:
///
/// | codec | bytes a row | how far off |
/// |---|---|---|
/// | [`F16`](Self::F16) | 2 n | `\|y - x\| <= 2^-11 \|x\| + 2^-25`; beyond 65,504 it is 65,504 |
/// | [`Bf16`](Self::Bf16) | 2 n | `\|y - x\| <= 2^-8 \|x\| + 2^-134` |
/// | [`Int8`](Self::Int8) | n + 8 | `\|y - x\| <= r / 510 + 2^-21 m + 2^-140`: 256 even steps over the range of the row |
/// | [`OneBit`](Self::OneBit) | n / 8, rounded up, + 4 | `sum (y - x)^2 <= sum x^2 - sum y^2`, to 2^-18 of `sum x^2`: each value's sign, the row's mean `\|x\|` |
///
/// Encoding what came back gives the same bytes for `F16` and `Bf16`. Infinities and NaN stay what they are in these two; a row that
/// has one comes back all NaN from `Int8` and `OneBit`. Cost: one pass (a second one for the range or the mean).
///
/// Sources: ranges by row as in Check-N-Run (Eisenman et al. 2022), signs with the mean as scale as in XNOR-Net (Rastegari et al.
/// 2016).
///
/// ```
/// use embedrock::Quantization;
/// let (row, mut bytes, mut back) = ([0.5, -0.25, 0.125, 0.75], Vec::new(), [0.0; 4]);
/// Quantization::Int8.encode(&row, &mut bytes);
/// assert_eq!(bytes.len(), Quantization::Int8.encoded_bytes(4));
/// assert!(Quantization::Int8.decode(&bytes, &mut back));
/// assert!(row.iter().zip(back).all(|(x, y)| (x - y).abs() <= 1.001 / 510.0));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Quantization {
    /// IEEE 754 half precision: 11 significant bits, up to 65,504.
    F16,
    /// The upper half of an f32: 8 significant bits, the whole range.
    Bf16,
    /// 8 bits over the range of each row.
    Int8,
    /// The sign of each value and one scale a row.
    OneBit,
}

impl Quantization {
    /// All codecs.
    pub const ALL: [Quantization; 4] = [Quantization::F16, Quantization::Bf16, Quantization::Int8, Quantization::OneBit];

    /// The codec's name: `f16`, `bf16`, `int8`, `one-bit`.
    pub fn name(self) -> &'static str {
        match self {
            Quantization::F16 => "f16",
            Quantization::Bf16 => "bf16",
            Quantization::Int8 => "int8",
            Quantization::OneBit => "one-bit",
        }
    }

    /// Bytes of a row of `values`.
    pub fn encoded_bytes(self, values: usize) -> usize {
        match self {
            Quantization::F16 | Quantization::Bf16 => values.saturating_mul(2),
            Quantization::Int8 => values.saturating_add(8),
            Quantization::OneBit => values.div_ceil(8).saturating_add(4),
        }
    }

    /// Appends the encoded row to `out`.
    pub fn encode(self, row: &[f32], out: &mut Vec<u8>) {
        out.reserve(self.encoded_bytes(row.len()));
        match self {
            Quantization::F16 => out.extend(row.iter().flat_map(|x| {
                let most = if x.is_finite() { f16::MAX.to_f32() } else { f32::INFINITY };
                f16::from_f32(x.clamp(-most, most)).to_le_bytes()
            })),
            Quantization::Bf16 => out.extend(row.iter().flat_map(|x| {
                let most = if x.is_finite() { bf16::MAX.to_f32() } else { f32::INFINITY };
                bf16::from_f32(x.clamp(-most, most)).to_le_bytes()
            })),
            Quantization::Int8 => encode_int8(row, out),
            Quantization::OneBit => encode_one_bit(row, out),
        }
    }

    /// Decodes a row into `out`, whose length is that of the row; false, and an `out` of any content, if `bytes` are not as many as such
    /// a row has. Any bytes decode to something.
    #[must_use = "false says that the row was not decoded"]
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) -> bool {
        if bytes.len() != self.encoded_bytes(out.len()) {
            return false;
        }
        match self {
            Quantization::F16 => decode_halves(bytes, out, |bits, out| bits.reinterpret_cast::<f16>().convert_to_f32_slice(out)),
            Quantization::Bf16 => decode_halves(bytes, out, |bits, out| {
                out.iter_mut().zip(bits).for_each(|(out, bits)| *out = f32::from_bits(u32::from(*bits) << 16));
            }),
            Quantization::Int8 => return decode_int8(bytes, out).is_some(),
            Quantization::OneBit => return decode_one_bit(bytes, out).is_some(),
        }
        true
    }

    /// The codec's number in files.
    pub fn code(self) -> u8 {
        match self {
            Quantization::F16 => 1,
            Quantization::Bf16 => 2,
            Quantization::Int8 => 3,
            Quantization::OneBit => 4,
        }
    }

    /// The codec of a number in files.
    pub fn from_code(code: u8) -> Option<Quantization> {
        Quantization::ALL.into_iter().find(|codec| codec.code() == code)
    }
}

impl std::fmt::Display for Quantization {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for Quantization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Quantization::ALL.into_iter().find(|codec| codec.name() == text);
        found.ok_or_else(|| format!("'{text}' is no quantisation: use f16, bf16, int8 or one-bit"))
    }
}

fn decode_halves(bytes: &[u8], out: &mut [f32], convert: impl Fn(&[u16], &mut [f32])) {
    let mut block = [0u16; BLOCK];
    for (bytes, out) in bytes.chunks(2 * BLOCK).zip(out.chunks_mut(BLOCK)) {
        let bits = &mut block[..out.len()];
        bits.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(bits, pair)| *bits = u16::from_le_bytes([pair[0], pair[1]]));
        convert(bits, out);
    }
}

/// The middle of the range and the step, then the number of each value's step.
fn encode_int8(row: &[f32], out: &mut Vec<u8>) {
    let finite = row.iter().all(|x| x.is_finite());
    let (low, high) = row.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(low, high), x| (low.min(*x), high.max(*x)));
    // In f64: the range of a row of f32s need not be one.
    let (low, high) = if finite && !row.is_empty() { (f64::from(low), f64::from(high)) } else { (0.0, 0.0) };
    let middle = ((low + high) / 2.0) as f32;
    let step = ((high - low) / f64::from(STEPS)) as f32;
    out.extend_from_slice(&middle.to_le_bytes());
    out.extend_from_slice(&if finite { step } else { f32::NAN }.to_le_bytes());
    let inverse = if step > 0.0 { 1.0 / f64::from(step) } else { 0.0 };
    let number = |x: &f32| (f64::from(*x) - f64::from(middle)) * inverse + f64::from(STEPS / 2.0);
    // A value that is no number becomes 0, and one outside the range its end.
    out.extend(row.iter().map(|x| number(x).round() as u8));
}

fn decode_int8(bytes: &[u8], out: &mut [f32]) -> Option<()> {
    let (middle, rest) = bytes.split_first_chunk::<4>()?;
    let (step, numbers) = rest.split_first_chunk::<4>()?;
    let (middle, step) = (f32::from_le_bytes(*middle), f32::from_le_bytes(*step));
    for (out, number) in out.iter_mut().zip(numbers) {
        // From the middle, so that no product overflows; their sum may, by its rounding.
        *out = (middle + (f32::from(*number) - STEPS / 2.0) * step).clamp(f32::MIN, f32::MAX);
    }
    Some(())
}

/// The mean magnitude, then a bit for each value below zero.
fn encode_one_bit(row: &[f32], out: &mut Vec<u8>) {
    let sum: f64 = row.iter().map(|x| f64::from(x.abs())).sum();
    let mean = if row.is_empty() { 0.0 } else { (sum / row.len() as f64) as f32 };
    let scale = if sum.is_finite() { mean } else { f32::NAN };
    out.extend_from_slice(&scale.to_le_bytes());
    out.extend(row.chunks(8).map(|eight| eight.iter().rev().fold(0u8, |bits, x| bits << 1 | u8::from(*x < 0.0))));
}

fn decode_one_bit(bytes: &[u8], out: &mut [f32]) -> Option<()> {
    let (scale, bits) = bytes.split_first_chunk::<4>()?;
    let scale = f32::from_le_bytes(*scale);
    for (eight, bits) in out.chunks_mut(8).zip(bits) {
        eight.iter_mut().enumerate().for_each(|(at, out)| *out = if bits >> at & 1 == 1 { -scale } else { scale });
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(codec: Quantization, row: &[f32]) -> Vec<f32> {
        let mut bytes = Vec::new();
        codec.encode(row, &mut bytes);
        assert_eq!(bytes.len(), codec.encoded_bytes(row.len()));
        let mut back = vec![1234.5; row.len()];
        assert!(codec.decode(&bytes, &mut back));
        back
    }

    /// Rows of one magnitude, and rows of any bits.
    fn rows() -> impl Strategy<Value = Vec<f32>> {
        let magnitude = -140i32..127;
        let scaled = (magnitude, prop::collection::vec(-1.0f32..=1.0, 0..150));
        let of_a_kind = scaled.prop_map(|(power, row)| row.iter().map(|x| (f64::from(*x) * 2f64.powi(power)) as f32).collect());
        let finite = |x: f32| if x.is_finite() { x } else { 0.0 };
        let any = prop::collection::vec(any::<u32>().prop_map(move |bits| finite(f32::from_bits(bits))), 0..150);
        prop_oneof![of_a_kind, any]
    }

    /// How far a value may be off by the table of [`Quantization`].
    fn bound(codec: Quantization, row: &[f32], x: f64) -> f64 {
        let most = row.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max);
        let high = row.iter().copied().fold(f32::MIN, f32::max);
        let low = row.iter().copied().fold(f32::MAX, f32::min);
        match codec {
            Quantization::F16 if x.abs() > 65_504.0 => x.abs() - 65_504.0,
            Quantization::F16 => 2f64.powi(-11) * x.abs() + 2f64.powi(-25),
            // The largest f32s have no neighbour above them to be rounded to.
            Quantization::Bf16 => 2f64.powi(-8) * x.abs() + 2f64.powi(-134),
            Quantization::Int8 => (f64::from(high) - f64::from(low)) / 510.0 + 2f64.powi(-21) * most + 2f64.powi(-140),
            Quantization::OneBit => most,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 2000 }, failure_persistence: None, ..Default::default() })]

        #[test]
        fn values_come_back_as_near_as_is_said(row in rows()) {
            for codec in Quantization::ALL {
                let back = through(codec, &row);
                for (x, y) in row.iter().zip(&back) {
                    let off = (f64::from(*y) - f64::from(*x)).abs();
                    prop_assert!(y.is_finite() && off <= bound(codec, &row, f64::from(*x)), "{codec}: {x:e} came back as {y:e}");
                }
            }
        }

        #[test]
        fn one_bit_a_value_leaves_no_more_than_its_scale_does_not_explain(row in rows()) {
            let back = through(Quantization::OneBit, &row);
            let square = |x: f32| f64::from(x) * f64::from(x);
            let (xs, ys): (f64, f64) = (row.iter().map(|x| square(*x)).sum(), back.iter().map(|y| square(*y)).sum());
            let off: f64 = row.iter().zip(&back).map(|(x, y)| (f64::from(*y) - f64::from(*x)).powi(2)).sum();
            // The scale itself is an f32: below 2^-126 it has fewer bits.
            let tiny = row.len() as f64 * (2f64.powi(-148) * f64::from(back.first().map_or(0.0, |y| y.abs())) + 2f64.powi(-290));
            prop_assert!(off <= xs - ys + xs * 2f64.powi(-18) + tiny, "{off:e} of {xs:e}, scale {ys:e}");
        }

        #[test]
        fn what_came_back_encodes_to_itself(row in rows()) {
            for codec in [Quantization::F16, Quantization::Bf16] {
                let back = through(codec, &row);
                prop_assert_eq!(through(codec, &back), back);
            }
        }

        #[test]
        fn any_bytes_decode_if_they_are_as_many(bytes in prop::collection::vec(any::<u8>(), 1..200), values in 0usize..200) {
            for codec in Quantization::ALL {
                let mut out = vec![0.0; values];
                prop_assert_eq!(codec.decode(&bytes, &mut out), bytes.len() == codec.encoded_bytes(values));
                let fitting: Vec<u8> = bytes.iter().copied().cycle().take(codec.encoded_bytes(values)).collect();
                prop_assert!(codec.decode(&fitting, &mut out));
            }
        }
    }

    #[test]
    fn what_is_not_finite_never_becomes_a_number() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let row = [1.0, odd, -2.0];
            for codec in [Quantization::F16, Quantization::Bf16] {
                let back = through(codec, &row);
                assert_eq!((back[0], back[2]), (1.0, -2.0));
                assert!(back[1] == odd || odd.is_nan() && back[1].is_nan(), "{codec}: {odd} came back as {}", back[1]);
            }
            for codec in [Quantization::Int8, Quantization::OneBit] {
                assert!(through(codec, &row).iter().all(|y| y.is_nan()), "{codec}: {odd}");
            }
        }
    }

    #[test]
    fn rows_of_one_value_and_of_the_largest_come_back() {
        let largest = [f32::MAX, f32::MIN, 0.0];
        for codec in Quantization::ALL {
            assert_eq!(through(codec, &[0.0; 9]), [0.0; 9], "{codec}");
            assert_eq!(through(codec, &[0.5; 9]), [0.5; 9], "{codec}");
            assert!(through(codec, &largest).iter().all(|y| y.is_finite()), "{codec}");
        }
        assert_eq!(through(Quantization::F16, &[1e6, -1e6]), [65_504.0, -65_504.0]);
        assert_eq!(through(Quantization::OneBit, &[3.0, -1.0, -1.0, 3.0]), [2.0, -2.0, -2.0, 2.0]);
    }

    /// Bytes that may lie on a disk: they are these for ever.
    #[test]
    fn the_bytes_are_those_of_the_format() {
        let expected: [(Quantization, &[u8]); 4] = [
            (Quantization::F16, &[0x00, 0x3c, 0x00, 0xb8, 0x00, 0x00]),
            (Quantization::Bf16, &[0x80, 0x3f, 0x00, 0xbf, 0x00, 0x00]),
            (Quantization::Int8, &[0x00, 0x00, 0x80, 0x3e, 0xc1, 0xc0, 0xc0, 0x3b, 0xff, 0x00, 0x55]),
            (Quantization::OneBit, &[0x00, 0x00, 0x00, 0x3f, 0x02]),
        ];
        for (codec, bytes) in expected {
            let mut found = Vec::new();
            codec.encode(&[1.0, -0.5, 0.0], &mut found);
            assert_eq!(found, bytes, "{codec}");
            assert_eq!(Quantization::from_code(codec.code()), Some(codec));
            assert_eq!(codec.name().parse(), Ok(codec));
        }
        assert_eq!((Quantization::from_code(0), Quantization::from_code(5)), (None, None));
        assert!("int4".parse::<Quantization>().unwrap_err().contains("one-bit"));
    }
}
