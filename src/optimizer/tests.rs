//! Every rule's bits, and upstream's defects by name. Formulas against an f64 reference, and settings, are in files of their own.

mod formulas;
mod settings;

use super::*;
use crate::simd::Cpu;

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
        Optimizer::adam(0.01).nesterov(true),
        Optimizer::adam_w(0.01),
        Optimizer::adam_w(0.01).weight_decay(0.2).betas(0.8, 0.99).epsilon(1e-4).nesterov(true),
        Optimizer::lazy_adam(0.01),
        Optimizer::lazy_adam(0.01).weight_decay(0.01).betas(0.5, 0.99),
        Optimizer::amsgrad(0.01),
        Optimizer::amsgrad(0.01).weight_decay(0.01).betas(0.8, 0.9).nesterov(true),
        Optimizer::group_ftrl(0.05),
        Optimizer::group_ftrl(0.05).group_lasso(1.5).l2(0.1).beta(0.5).initial_accumulator(0.2),
        Optimizer::group_adagrad(0.05),
        Optimizer::group_adagrad(0.05).group_lasso(0.5).beta(1.0).weight_decay(0.01).initial_accumulator(0.0),
        Optimizer::adagrad_w(0.05),
        Optimizer::adagrad_w(0.05).weight_decay(0.2).initial_accumulator(1.0),
        Optimizer::adadelta(1.0),
        Optimizer::adadelta(0.5).weight_decay(0.01).decay(0.95).epsilon(1e-4),
        Optimizer::momentum(0.01),
        Optimizer::momentum(0.01).decay(0.5).weight_decay(0.01).nesterov(true),
        Optimizer::moving_average(),
        Optimizer::moving_average().decay(0.5),
        Optimizer::rmsprop(0.01),
        Optimizer::rmsprop(0.01).decay(0.99).epsilon(1e-3).weight_decay(0.01),
        Optimizer::rmsprop_v2(0.01),
        Optimizer::rmsprop_v2(0.01).decay(0.5).weight_decay(0.01),
        Optimizer::batch_softmax(0.1),
        Optimizer::batch_softmax(0.02),
    ]
}

/// Those whose lanes do not know of each other.
fn of_single_lanes() -> impl Iterator<Item = Optimizer> {
    let of_rows = ["rowwise_adagrad", "group_adagrad", "group_ftrl", "batch_softmax"];
    all().into_iter().filter(move |optimizer| !of_rows.contains(&optimizer.name()))
}

fn dims(optimizer: &Optimizer) -> Vec<usize> {
    DIMS.into_iter().filter(|&dim| optimizer.validate_dim(dim).is_ok()).collect()
}

/// The number of a step, for rules that ask.
fn numbered(optimizer: &Optimizer, step: u64) -> Option<u64> {
    optimizer.rule.needs_number.then_some(step + 1)
}

fn apply(step: Step, row: &mut [f32], dim: usize, grad: &[f32]) {
    let (weights, state) = row.split_at_mut(dim);
    step.apply(weights, state, grad);
}

fn on(optimizer: &Optimizer, step: Step, cpu: Cpu) -> Step {
    Step { kernel: (optimizer.rule.kernel)(cpu), cpu, ..step }
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
        apply(optimizer.step(None, numbered(optimizer, step)), row, dim, &gradient(step, dim));
    }
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn a_copy_of_the_bytes_goes_on_bit_identically() {
    for optimizer in all() {
        let dim = *dims(&optimizer).last().unwrap();
        let mut row = new_row(&optimizer, dim);
        train(&optimizer, &mut row, dim, 0..100);
        let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect();
        let mut copy: Vec<f32> =
            bytes.chunks_exact(4).map(|b| f32::from_bits(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect();
        train(&optimizer, &mut row, dim, 100..300);
        train(&optimizer, &mut copy, dim, 100..300);
        assert_eq!(bits(&row), bits(&copy), "{optimizer}");
    }
}

/// A hash of all bits after 100 steps: equal on every CPU and in every build.
#[test]
fn the_bits_are_pinned() {
    let hash = |optimizer: &Optimizer| {
        let dim = optimizer.rule.only_dim.unwrap_or(19);
        let mut row = new_row(optimizer, dim);
        train(optimizer, &mut row, dim, 0..100);
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
        for dim in (1..=67).filter(|&dim| optimizer.validate_dim(dim).is_ok()) {
            let train = |cpu: Cpu| {
                let mut row = new_row(&optimizer, dim);
                for step in 0..8 {
                    let mut grad = gradient(step, dim);
                    if step > 4 {
                        grad[step as usize % dim] = odd[(dim + step as usize) % odd.len()];
                    }
                    let number = numbered(&optimizer, step).or((step % 2 == 0).then_some(step + 1));
                    apply(on(&optimizer, optimizer.step(None, number), cpu), &mut row, dim, &grad);
                }
                // Which NaN comes out is not defined, nor does any rule ask.
                row.iter().map(|v| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() }).collect::<Vec<_>>()
            };
            let portable = train(Cpu::all()[0]);
            Cpu::all().into_iter().for_each(|cpu| assert_eq!(train(cpu), portable, "{optimizer} dim {dim} {cpu:?}"));
        }
    }
}

const GOLDEN: [u32; 35] = [
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
    0x3a23_6d0f,
    0x2d8e_1cd5,
    0x4151_dda3,
    0x3135_9d5b,
    0x6704_e464,
    0x74bf_8583,
    0x3ae5_f635,
    0xa63e_a4ec,
    0x2f0f_cf23,
    0x02f8_2e8c,
    0xf087_45d0,
    0x987a_bcf1,
    0x79de_8ef2,
    0xb2b4_869e,
    0x2a08_99d3,
    0xc589_6ba1,
    0xbfaf_e7a0,
    0x6e4d_b1a2,
    0x6662_9285,
    0xa65d_d01e,
    0xd289_34f0,
    0xf96d_cc2a,
    0x8334_f381,
    0x0021_1568,
    0x2e82_93bd,
];

#[test]
fn row_wise_adagrad_adds_the_mean_square() {
    let optimizer = Optimizer::rowwise_adagrad(0.5).initial_accumulator(0.75).epsilon(1.0);
    // mean([1, 4, 4, 4]) = 3.25, n = 4, factor 0.5 / (2 + 1)
    let factor = 0.5f32 / 3.0;
    let mut row = [1.0, 1.0, 1.0, 1.0, 0.0];
    optimizer.init_state(4, &mut row[4..]);
    apply(optimizer.step(Some(0.5), None), &mut row, 4, &[1.0, 2.0, 2.0, 2.0]);
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
        apply(optimizer.step(Some(1.0), None), &mut row, 1, &[gradient]);
        assert_eq!(row[0], expected, "gradient {gradient}");
    }
}

#[test]
fn upstream_defect_3_the_decayed_gradient_is_used_in_every_lane_and_dim() {
    for optimizer in of_single_lanes() {
        let step = optimizer.step(Some(0.05), Some(1));
        let mut alone = vec![0.5; 1 + optimizer.state_len(1)];
        optimizer.init_state(1, &mut alone[1..]);
        apply(step, &mut alone, 1, &[0.125]);
        for dim in 1..40 {
            let mut row = vec![0.5; dim + optimizer.state_len(dim)];
            optimizer.init_state(dim, &mut row[dim..]);
            apply(step, &mut row, dim, &vec![0.125; dim]);
            assert!(row[..dim].iter().all(|w| w.to_bits() == alone[0].to_bits()), "{optimizer} dim {dim}");
        }
    }
    for optimizer in all().into_iter().filter(|optimizer| optimizer.rule.weight_decay.is_some()) {
        let mut row = vec![1.0; 9 + optimizer.state_len(9)];
        let decaying = optimizer.weight_decay(0.5);
        decaying.init_state(9, &mut row[9..]);
        apply(decaying.step(Some(0.1), Some(1)), &mut row, 9, &[0.0; 9]);
        assert!(row[..9].iter().all(|&w| w < 1.0), "{optimizer}: decay alone moves the weight");
    }
}

#[test]
fn upstream_defect_4_the_callers_learning_rate_is_used() {
    for optimizer in all().into_iter().filter(|optimizer| optimizer.name() != "moving_average") {
        let (kind, mut params) = optimizer.encode();
        params[0] = 0.9;
        let other = Optimizer::decode(kind, params).unwrap();
        let (dim, number) = (dims(&optimizer)[0], Some(3));
        let (mut row, mut same) = (new_row(&optimizer, dim), new_row(&optimizer, dim));
        apply(optimizer.step(Some(0.9), number), &mut row, dim, &gradient(0, dim));
        apply(other.step(None, number), &mut same, dim, &gradient(0, dim));
        assert_eq!(bits(&row), bits(&same), "{optimizer}");
        let mut stored = new_row(&optimizer, dim);
        apply(optimizer.step(None, number), &mut stored, dim, &gradient(0, dim));
        assert_eq!(bits(&row) == bits(&stored), optimizer.learning_rate == 0.9, "{optimizer}");
    }
}

#[test]
fn nothing_divides_by_zero() {
    let begin_at_zero = |optimizer: Optimizer| {
        let zero = optimizer.initial_accumulator(0.0).beta(0.0);
        let other = optimizer.initial_accumulator(0.0);
        [zero, other].into_iter().find(|o| o.misapplied.is_none()).unwrap_or(optimizer)
    };
    for optimizer in all().into_iter().filter(|o| o.validate_dim(9).is_ok()).map(begin_at_zero) {
        assert!(optimizer.validate().is_ok());
        for gradient in [0.0, -0.0, f32::MIN_POSITIVE, -1e-30, 1e-45, 1e18] {
            let mut row = new_row(&optimizer, 9);
            for number in 1..4 {
                apply(optimizer.step(Some(1.0), Some(number)), &mut row, 9, &[gradient; 9]);
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
        apply(optimizer.step(None, None), &mut counted, 8, &grad);
        apply(optimizer.step(None, Some(number)), &mut named, 8, &grad);
        let close = counted.iter().zip(&named).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs().max(1.0));
        assert!(close, "step {number}: {counted:?} {named:?}");
    }
    // A row that begins late in training takes the steps of its model, not first steps of its own.
    let (mut first, mut late) = (vec![0.0; 26], vec![0.0; 26]);
    optimizer.init_state(8, &mut first[8..]);
    optimizer.init_state(8, &mut late[8..]);
    apply(optimizer.step(None, None), &mut first, 8, &[1.0; 8]);
    apply(optimizer.step(None, Some(u64::MAX)), &mut late, 8, &[1.0; 8]);
    assert!((first[0] + 0.01).abs() < 1e-6 && (late[0] + 0.01 * 0.2 / 0.1).abs() < 1e-6, "{} {}", first[0], late[0]);
}

#[test]
fn adams_moments_do_not_stay_subnormal() {
    let optimizer = Optimizer::adam(0.01).betas(0.5, 0.5);
    let mut row = new_row(&optimizer, 9);
    train(&optimizer, &mut row, 9, 0..10);
    let settled = |row: &[f32]| row[9..].iter().all(|v| *v == 0.0 || v.is_normal());
    for _ in 0..300 {
        apply(optimizer.step(Some(0.01), None), &mut row, 9, &[0.0; 9]);
        assert!(settled(&row), "{row:?}");
    }
    assert!(row[9..].iter().all(|&v| v == 0.0));
}
