use half::{bf16, f16};
use proptest::prelude::*;

use super::*;
use crate::simd::Cpu;

fn packed(precision: Precision, values: &[f32], dither: Option<Dither>) -> Vec<f32> {
    let mut of_all = Cpu::all().into_iter().map(|cpu| {
        let mut lanes = vec![f32::from_bits(0xdead_beef); precision.lanes(values.len())];
        cpu.run(Pack { precision, values, lanes: &mut lanes, dither });
        lanes
    });
    let first = of_all.next().unwrap();
    let bits = |lanes: &[f32]| lanes.iter().map(|lane| lane.to_bits()).collect::<Vec<_>>();
    assert!(of_all.all(|lanes| bits(&lanes) == bits(&first)));
    first
}

fn back(precision: Precision, lanes: &[f32], dim: usize) -> Vec<f32> {
    let mut of_all = Cpu::all().into_iter().map(|cpu| {
        let mut values = vec![7.0; dim];
        cpu.run(Unpack { precision, lanes, values: &mut values });
        values.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
    });
    let first = of_all.next().unwrap();
    assert!(of_all.all(|values| values == first));
    first.into_iter().map(f32::from_bits).collect()
}

/// What the well-known crate makes of it; the largest finite value in the place of an overflow.
fn nearest(precision: Precision, value: f32) -> f32 {
    let (rounded, largest) = match precision {
        Precision::F32 => (value, f32::MAX),
        Precision::Bf16 => (bf16::from_f32(value).to_f32(), bf16::MAX.to_f32()),
        Precision::F16 => (f16::from_f32(value).to_f32(), f16::MAX.to_f32()),
    };
    if value.is_finite() { rounded.clamp(-largest, largest) } else { rounded }
}

const HALVES: [Precision; 2] = [Precision::Bf16, Precision::F16];

#[test]
fn every_value_of_16_bits_survives() {
    for precision in HALVES {
        let all: Vec<f32> = (0..=u16::MAX)
            .map(|bits| if precision == Precision::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() })
            .filter(|value| !value.is_nan())
            .collect();
        for dither in [None, Some(Dither::new(1, 2, 3, 4))] {
            let found = back(precision, &packed(precision, &all, dither), all.len());
            let differ = all.iter().zip(&found).find(|(a, b)| a.to_bits() != b.to_bits());
            assert_eq!(differ, None, "{precision:?} {dither:?}");
        }
        let odd = back(precision, &packed(precision, &[f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)], None), 3);
        assert!(odd.iter().all(|value| value.is_nan()));
    }
}

proptest! {
    #[test]
    fn rounds_to_the_nearest_as_others_do(bits in prop::collection::vec(any::<u32>(), 1..70)) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|value| !value.is_nan()).collect();
        for precision in [Precision::F32, Precision::Bf16, Precision::F16] {
            let found = back(precision, &packed(precision, &values, None), values.len());
            for (&value, &found) in values.iter().zip(&found) {
                prop_assert_eq!(found.to_bits(), nearest(precision, value).to_bits(), "{:?} {}", precision, value);
            }
        }
    }

    #[test]
    fn draws_one_of_the_two_neighbours(bits in prop::collection::vec(any::<u32>(), 1..70), key: u64) {
        let values: Vec<f32> = bits.into_iter().map(f32::from_bits).filter(|value| value.is_finite()).collect();
        for precision in HALVES {
            let drawn = back(precision, &packed(precision, &values, Some(Dither::new(0, 1, 2, key))), values.len());
            for (&value, &drawn) in values.iter().zip(&drawn) {
                let spacing = match precision {
                    Precision::F16 => (value.abs() * 2f32.powi(-10)).max(2f32.powi(-24)),
                    _ => (value.abs() * 2f32.powi(-7)).max(f32::from_bits(1 << 16)),
                };
                let largest = nearest(precision, f32::MAX);
                let within = (drawn - value.clamp(-largest, largest)).abs() <= spacing;
                prop_assert!(within && drawn.is_sign_positive() == value.is_sign_positive(), "{:?} {} {}", precision, value, drawn);
            }
        }
    }
}

/// The mean of many draws is the value, within what chance allows: five deviations of a mean of coin tosses.
#[test]
fn draws_are_right_on_average() {
    let draws = if cfg!(miri) { 100 } else { 40_000 };
    for precision in HALVES {
        // Near a power of two, between, where f16 has no normal values, and under half of the smallest spacing.
        for value in [0.1f32, -0.3, 1.0 + 1.0 / 300.0, 1.999, 1234.567, 3.1e-5, -4.0e-6, 1.3e-8] {
            let mut values = vec![value; 16];
            let mut sum = 0.0f64;
            let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
            for batch in 0..draws / 16 {
                values.fill(value);
                for drawn in back(precision, &packed(precision, &values, Some(Dither::new(9, 0, batch, 77))), 16) {
                    sum += f64::from(drawn);
                    (low, high) = (low.min(drawn.into()), high.max(drawn.into()));
                }
            }
            let mean = sum / f64::from(draws as u32 / 16 * 16);
            let allowed = 5.0 * 0.5 * (high - low) / f64::from(draws as u32).sqrt() + f64::from(value.abs()) * 1e-7;
            assert!((mean - f64::from(value)).abs() <= allowed, "{precision:?} {value}: {mean}, allowed {allowed}");
        }
    }
}

/// Steps far below half of the spacing: nearest rounding stands still, draws arrive.
#[test]
fn small_steps_are_not_lost() {
    for precision in HALVES {
        let (mut still, mut drawn) = (packed(precision, &[1.0; 64], None), packed(precision, &[1.0; 64], None));
        let steps = 2000;
        for batch in 0..steps {
            let step = |lanes: &[f32]| back(precision, lanes, 64).into_iter().map(|w| w + 1e-4).collect::<Vec<_>>();
            still = packed(precision, &step(&still), None);
            drawn = packed(precision, &step(&drawn), Some(Dither::new(3, 1, batch, 5)));
        }
        let mean = back(precision, &drawn, 64).iter().map(|&w| f64::from(w)).sum::<f64>() / 64.0;
        assert!((mean - 1.2).abs() < 0.01, "{precision:?}: {mean}");
        assert!(back(precision, &still, 64).iter().all(|&w| w == 1.0), "{precision:?}");
    }
}

#[test]
fn numbers_on_disk_go_both_ways() {
    for number in 0..=255 {
        assert!(Precision::decode(number).is_none_or(|precision| precision.encode() == number));
    }
    assert_eq!((Precision::Bf16.lanes(5), Precision::F32.lanes(5)), (3, 5));
}
