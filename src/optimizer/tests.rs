//! Every rule against an f64 reference written from its formula, its bits, and upstream's defects by name.

use super::*;

const DIMS: [usize; 5] = [1, 7, 8, 17, 64];
const STEPS: u64 = 400;

fn all() -> Vec<Optimizer> {
    vec![
        Optimizer::sgd(0.05),
        Optimizer::sgd(0.05).weight_decay(0.01),
        Optimizer::adagrad(0.05),
        Optimizer::adagrad(0.05).weight_decay(0.01).initial_accumulator(1.0).epsilon(1e-6),
        Optimizer::rowwise_adagrad(0.05),
        Optimizer::rowwise_adagrad(0.05).weight_decay(0.01).initial_accumulator(0.0),
        Optimizer::adam(0.01),
        Optimizer::adam(0.01).weight_decay(0.01).betas(0.8, 0.99).epsilon(1e-4),
        Optimizer::ftrl(0.05),
        Optimizer::ftrl(0.05).l1(0.5).l2(0.1).beta(1.0).initial_accumulator(0.2),
    ]
}

/// A number in [-1, 1) that is exact in f32, so that it is the same everywhere.
fn number(seed: u64, lane: usize) -> f32 {
    let word = crate::types::mix(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(lane as u64));
    ((word >> 44) as f32 - 524_288.0) / 524_288.0
}

fn gradient(step: u64, dim: usize) -> Vec<f32> {
    (0..dim).map(|lane| number(step + 1, lane) + 0.25).collect()
}

fn new_row(optimizer: &Optimizer, dim: usize) -> Vec<f32> {
    let mut row: Vec<f32> = (0..dim).map(|lane| number(0, lane)).collect();
    row.resize(dim + optimizer.state_len(dim), f32::NAN);
    optimizer.init_state(dim, &mut row[dim..]);
    row
}

fn train(optimizer: &Optimizer, row: &mut [f32], dim: usize, steps: std::ops::Range<u64>) {
    for step in steps {
        optimizer.apply(optimizer.step(None, None), row, dim, &gradient(step, dim));
    }
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|v| v.to_bits()).collect()
}

/// One update in f64, plainly, over the same layout.
fn reference(optimizer: &Optimizer, row: &mut [f64], dim: usize, grad: &[f32]) {
    let (kind, params) = optimizer.encode();
    let [lr, wd, a, b, c, d, _, _] = params.map(f64::from);
    let (w, state) = row.split_at_mut(dim);
    let grad: Vec<f64> = (0..dim).map(|i| f64::from(grad[i]) + wd * w[i]).collect();
    if kind == 2 {
        state[0] += grad.iter().map(|g| g * g).sum::<f64>() / dim as f64;
    }
    for (i, &g) in grad.iter().enumerate() {
        match kind {
            0 => w[i] -= lr * g,
            1 => {
                state[i] += g * g;
                w[i] -= lr * g / (state[i].sqrt() + b);
            }
            2 => w[i] -= lr * g / (state[0].sqrt() + b),
            3 => {
                state[i] = a * state[i] + (1.0 - a) * g;
                state[dim + i] = b * state[dim + i] + (1.0 - b) * g * g;
                let rate = lr * (1.0 - state[2 * dim + 1]).sqrt() / (1.0 - state[2 * dim]);
                w[i] -= rate * state[i] / (state[dim + i].sqrt() + c);
            }
            _ => {
                let (beta, l1, l2) = (b, c, d);
                let before = state[i];
                state[i] += g * g;
                state[dim + i] += g - (state[i].sqrt() - before.sqrt()) / lr * w[i];
                let z = state[dim + i];
                w[i] = if z.abs() <= l1 { 0.0 } else { lr * (l1 * z.signum() - z) / (state[i].sqrt() + beta + l2 * lr) };
            }
        }
    }
    if kind == 3 {
        state[2 * dim] *= a;
        state[2 * dim + 1] *= b;
    }
}

/// Tolerance: 1e-4 of the value plus 1e-5, after each of 400 steps, state included. FTRL's z is a sum whose terms cancel, and its
/// weight follows from z: plus 2e-4 there.
#[test]
fn every_rule_follows_its_formula() {
    for optimizer in all() {
        for dim in DIMS {
            let mut row = new_row(&optimizer, dim);
            let mut expected: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
            let slack = if optimizer.name() == "ftrl" { 2e-4 } else { 1e-5 };
            for step in 0..STEPS {
                train(&optimizer, &mut row, dim, step..step + 1);
                reference(&optimizer, &mut expected, dim, &gradient(step, dim));
                for (i, (&found, &expected)) in row.iter().zip(&expected).enumerate() {
                    let off = (f64::from(found) - expected).abs();
                    assert!(
                        off <= 1e-4 * expected.abs() + slack,
                        "{optimizer} dim {dim} step {step} value {i}: {found} {expected}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_copy_of_the_bytes_goes_on_bit_identically() {
    for optimizer in all() {
        let mut row = new_row(&optimizer, 17);
        train(&optimizer, &mut row, 17, 0..100);
        let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect();
        let mut copy: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_bits(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
        train(&optimizer, &mut row, 17, 100..300);
        train(&optimizer, &mut copy, 17, 100..300);
        assert_eq!(bits(&row), bits(&copy), "{optimizer}");
    }
}

/// A hash of all bits after 100 steps: equal on every CPU and in every build.
#[test]
fn the_bits_are_pinned() {
    let hash = |optimizer: &Optimizer| {
        let mut row = new_row(optimizer, 19);
        train(optimizer, &mut row, 19, 0..100);
        bits(&row).iter().fold(0u64, |hash, &b| crate::types::mix(hash ^ u64::from(b)).wrapping_add(1)) as u32
    };
    let found: Vec<u32> = all().iter().map(hash).collect();
    assert_eq!(found, GOLDEN, "{found:#010x?}");
}

/// Also values that are subnormal, huge or not finite: what an update makes of them must not depend on the processor either.
#[test]
fn every_kind_of_processor_makes_the_same_bits() {
    let odd = [f32::MIN_POSITIVE, 1e-42, -0.0, 1e30, f32::MAX, f32::INFINITY, f32::NAN];
    for optimizer in all() {
        for dim in 1..=67 {
            let train = |cpu: Cpu| {
                let mut row = new_row(&optimizer, dim);
                for step in 0..8 {
                    let mut grad = gradient(step, dim);
                    if step > 4 {
                        grad[step as usize % dim] = odd[(dim + step as usize) % odd.len()];
                    }
                    optimizer.apply(optimizer.step(None, (step % 2 == 0).then_some(step + 1)).on(cpu), &mut row, dim, &grad);
                }
                // Which NaN comes out is not defined, nor does any rule ask.
                row.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect::<Vec<_>>()
            };
            let portable = train(Cpu::all()[0]);
            Cpu::all().into_iter().for_each(|cpu| assert_eq!(train(cpu), portable, "{optimizer} dim {dim} {cpu:?}"));
        }
    }
}

const GOLDEN: [u32; 10] = [
    0x4fc4_cb30,
    0xd8ac_e490,
    0x089a_4511,
    0xefd6_b9f1,
    0xe621_67a8,
    0x9206_f40f,
    0xbdf1_2105,
    0x0a2a_bcae,
    0xfc98_99b8,
    0xe9c1_b82e,
];

#[test]
fn row_wise_adagrad_adds_the_mean_square() {
    let optimizer = Optimizer::rowwise_adagrad(0.5).initial_accumulator(0.75).epsilon(1.0);
    // mean([1, 4, 4, 4]) = 3.25, n = 4, factor 0.5 / (2 + 1)
    let factor = 0.5f32 / 3.0;
    let mut row = [1.0, 1.0, 1.0, 1.0, 0.0];
    optimizer.init_state(4, &mut row[4..]);
    optimizer.apply(optimizer.step(Some(0.5), None), &mut row, 4, &[1.0, 2.0, 2.0, 2.0]);
    let heavy = 1.0 - factor * 2.0;
    assert_eq!(row, [1.0 - factor, heavy, heavy, heavy, 4.0]);
}

#[test]
fn upstream_defect_1_adam_keeps_both_powers_across_a_round_trip() {
    let optimizer = Optimizer::adam(0.01).betas(0.5, 0.75);
    let mut row = new_row(&optimizer, 3);
    assert_eq!(row.len(), 3 + 2 * 3 + 2);
    assert_eq!(row[9..], [0.5, 0.75]);
    train(&optimizer, &mut row, 3, 0..3);
    assert_eq!(row[9..], [0.5f32.powi(4), 0.75f32.powi(4)]);
    let mut swapped = row.clone();
    swapped.copy_within(10..11, 9);
    train(&optimizer, &mut row, 3, 3..4);
    train(&optimizer, &mut swapped, 3, 3..4);
    assert_ne!(bits(&row[..3]), bits(&swapped[..3]), "the powers matter");
    train(&optimizer, &mut row, 3, 4..2000);
    assert_eq!(row[9..], [0.0, 0.0], "no subnormal powers");
    assert!(row.iter().all(|v| v.is_finite()));
}

#[test]
fn upstream_defect_2_ftrl_shrinks_by_the_true_sign() {
    let optimizer = Optimizer::ftrl(1.0).l1(0.5).initial_accumulator(0.0);
    for (gradient, expected) in [(2.0f32, -0.75f32), (-2.0, 0.75), (0.5, 0.0), (-0.5, 0.0), (0.25, 0.0)] {
        let mut row = [0.0; 3];
        optimizer.init_state(1, &mut row[1..]);
        optimizer.apply(optimizer.step(Some(1.0), None), &mut row, 1, &[gradient]);
        assert_eq!(row[0], expected, "gradient {gradient}");
    }
}

#[test]
fn upstream_defect_3_the_decayed_gradient_is_used_in_every_lane_and_dim() {
    for optimizer in all().into_iter().filter(|o| o.name() != "rowwise_adagrad") {
        let mut alone = vec![0.5; 1 + optimizer.state_len(1)];
        optimizer.init_state(1, &mut alone[1..]);
        optimizer.apply(optimizer.step(Some(0.05), None), &mut alone, 1, &[0.125]);
        for dim in 1..40 {
            let mut row = vec![0.5; dim + optimizer.state_len(dim)];
            optimizer.init_state(dim, &mut row[dim..]);
            optimizer.apply(optimizer.step(Some(0.05), None), &mut row, dim, &vec![0.125; dim]);
            assert!(row[..dim].iter().all(|w| w.to_bits() == alone[0].to_bits()), "{optimizer} dim {dim}");
        }
    }
    for optimizer in [Optimizer::sgd(0.1), Optimizer::adagrad(0.1), Optimizer::rowwise_adagrad(0.1), Optimizer::adam(0.1)] {
        let mut row = vec![1.0; 9 + optimizer.state_len(9)];
        let decaying = optimizer.weight_decay(0.5);
        decaying.init_state(9, &mut row[9..]);
        decaying.apply(decaying.step(Some(0.1), None), &mut row, 9, &[0.0; 9]);
        assert!(row[..9].iter().all(|&w| w < 1.0), "{optimizer}: decay alone moves the weight");
    }
}

#[test]
fn upstream_defect_4_the_callers_learning_rate_is_used() {
    for optimizer in all() {
        let (kind, mut params) = optimizer.encode();
        params[0] = 0.9;
        let other = Optimizer::decode(kind, params).unwrap();
        let (mut row, mut same) = (new_row(&optimizer, 8), new_row(&optimizer, 8));
        optimizer.apply(optimizer.step(Some(0.9), None), &mut row, 8, &gradient(0, 8));
        other.apply(other.step(None, None), &mut same, 8, &gradient(0, 8));
        assert_eq!(bits(&row), bits(&same), "{optimizer}");
        let mut stored = new_row(&optimizer, 8);
        optimizer.apply(optimizer.step(None, None), &mut stored, 8, &gradient(0, 8));
        assert_ne!(bits(&row), bits(&stored), "{optimizer}");
    }
}

#[test]
fn nothing_divides_by_zero() {
    let zero = [Optimizer::adagrad(1.0), Optimizer::rowwise_adagrad(1.0), Optimizer::ftrl(1.0)];
    for optimizer in zero.map(|o| o.initial_accumulator(0.0)).into_iter().chain([Optimizer::adam(1.0), Optimizer::sgd(1.0)]) {
        assert!(optimizer.validate().is_ok());
        for gradient in [0.0, -0.0, f32::MIN_POSITIVE, -1e-30, 1e-45, 1e18] {
            let mut row = new_row(&optimizer, 9);
            for _ in 0..3 {
                optimizer.apply(optimizer.step(Some(1.0), None), &mut row, 9, &[gradient; 9]);
                assert!(row.iter().all(|v| v.is_finite()), "{optimizer} {gradient:e}: {row:?}");
            }
        }
    }
}

#[test]
fn a_named_step_stands_for_the_count_of_each_row() {
    let optimizer = Optimizer::adam(0.01).betas(0.8, 0.99);
    let (mut counted, mut named) = (vec![0.5; 8 * 3 + 2], vec![0.5; 8 * 3 + 2]);
    optimizer.init_state(8, &mut counted[8..]);
    optimizer.init_state(8, &mut named[8..]);
    for number in 1..200 {
        let grad = gradient(number, 8);
        optimizer.apply(optimizer.step(None, None), &mut counted, 8, &grad);
        optimizer.apply(optimizer.step(None, Some(number)), &mut named, 8, &grad);
        let close = counted.iter().zip(&named).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs().max(1.0));
        assert!(close, "step {number}: {counted:?} {named:?}");
    }
    // A row that begins late in training takes the steps of its model, not first steps of its own.
    let (mut first, mut late) = (vec![0.0; 26], vec![0.0; 26]);
    optimizer.init_state(8, &mut first[8..]);
    optimizer.init_state(8, &mut late[8..]);
    optimizer.apply(optimizer.step(None, None), &mut first, 8, &[1.0; 8]);
    optimizer.apply(optimizer.step(None, Some(u64::MAX)), &mut late, 8, &[1.0; 8]);
    assert!((first[0] + 0.01).abs() < 1e-6 && (late[0] + 0.01 * 0.2 / 0.1).abs() < 1e-6, "{} {}", first[0], late[0]);
}

#[test]
fn adams_moments_do_not_stay_subnormal() {
    let optimizer = Optimizer::adam(0.01).betas(0.5, 0.5);
    let mut row = new_row(&optimizer, 9);
    train(&optimizer, &mut row, 9, 0..10);
    let settled = |row: &[f32]| row[9..].iter().all(|v| *v == 0.0 || v.is_normal());
    for _ in 0..300 {
        optimizer.apply(optimizer.step(Some(0.01), None), &mut row, 9, &[0.0; 9]);
        assert!(settled(&row), "{row:?}");
    }
    assert!(row[9..].iter().all(|&v| v == 0.0));
}

#[test]
fn disk_round_trip_layout_and_words() {
    for optimizer in all() {
        let (kind, params) = optimizer.encode();
        assert_eq!(Optimizer::decode(kind, params), Some(optimizer));
        assert!(optimizer.same_layout(&Optimizer::decode(kind, params.map(|v| v / 2.0)).unwrap()));
        assert_eq!(all().iter().filter(|o| o.same_layout(&optimizer)).count(), 2);
        assert!(optimizer.to_string().starts_with(optimizer.name()));
    }
    assert_eq!(Optimizer::decode(5, [0.1; 8]), None);
    assert_eq!(Optimizer::decode(0, [f32::NAN; 8]), None);
    let adagrad = Optimizer::adagrad(0.05).to_string();
    assert_eq!(adagrad, "adagrad (learning rate 0.05, initial accumulator 0.1, epsilon 1e-10)");
}

#[test]
fn parameters_out_of_range_and_setters_that_do_not_apply_are_named() {
    for (optimizer, what) in [
        (Optimizer::sgd(0.0), "learning rate"),
        (Optimizer::sgd(f32::NAN), "learning rate"),
        (Optimizer::sgd(1e-40), "learning rate"),
        (Optimizer::sgd(0.1).weight_decay(-1.0), "weight decay"),
        (Optimizer::adagrad(0.1).epsilon(0.0), "epsilon"),
        (Optimizer::rowwise_adagrad(0.1).initial_accumulator(f32::INFINITY), "initial accumulator"),
        (Optimizer::adam(0.1).betas(0.9, 1.0), "beta 1"),
        (Optimizer::adam(0.1).betas(f32::NAN, 0.9), "beta NaN"),
        (Optimizer::ftrl(0.1).l1(-1.0), "l1"),
        (Optimizer::ftrl(0.1).l2(f32::NAN), "l2"),
        (Optimizer::ftrl(0.1).weight_decay(0.1), "weight_decay does not apply to ftrl"),
        (Optimizer::sgd(0.1).l1(0.1), "l1 does not apply to sgd"),
        (Optimizer::adagrad(0.1).betas(0.9, 0.9), "betas does not apply to adagrad"),
        (Optimizer::ftrl(0.1).epsilon(0.1), "epsilon does not apply to ftrl"),
        (Optimizer::adam(0.1).initial_accumulator(0.1), "initial_accumulator does not apply to adam"),
    ] {
        let message = optimizer.validate().unwrap_err();
        assert!(message.contains(what), "{message}");
    }
    assert!(all().iter().all(|o| o.validate().is_ok()));
}
