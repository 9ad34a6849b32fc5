//! Setters, schedules, clipping, and the way to the disk and back.
#![forbid(unsafe_code)]

use super::*;

#[test]
fn disk_round_trip_layout_and_words() {
    for optimizer in all() {
        let (kind, params) = optimizer.encode();
        assert_eq!(Optimizer::decode(kind, params), Some(optimizer));
        assert_eq!(all().iter().filter(|o| o.same_layout(&optimizer)).count(), if kind == 3 { 3 } else { 2 });
        assert!(optimizer.to_string().starts_with(optimizer.name()));
        let known = Optimizer::decode_version_1(kind, params);
        assert_eq!(known == Some(optimizer), optimizer.is_version_1(), "{optimizer}");
        assert_eq!(optimizer.is_version_1(), kind <= 4 && !optimizer.to_string().contains("nesterov"), "{optimizer}");
    }
    assert_eq!(Optimizer::decode(RULES.len() as u8, [0.1; 8]), None);
    assert_eq!(Optimizer::decode(0, [f32::NAN; 8]), None);
    assert_eq!(
        Optimizer::decode_version_1(3, [0.5; 8]),
        Some(Optimizer::adam(0.5).weight_decay(0.5).betas(0.5, 0.5).epsilon(0.5))
    );
    let adagrad = Optimizer::adagrad(0.05).to_string();
    assert_eq!(adagrad, "adagrad (learning rate 0.05, initial accumulator 0.1, epsilon 1e-10)");
    let momentum = Optimizer::momentum(0.05).nesterov(true).clip_norm(2.0).schedule(Schedule::cosine(9, 0.5).warm_up(3));
    let words =
        "momentum (learning rate 0.05, decay 0.9, nesterov, warm-up in 3 steps, cosine to 0.5 in 9 steps, norms clipped to 2)";
    assert_eq!(momentum.to_string(), words);
}

#[test]
fn kinds_and_names_are_the_rules_own() {
    for (at, rule) in (0u8..).zip(RULES) {
        assert_eq!(rule.kind, at);
        assert!(rule.parameters.len() <= super::super::rule::OWN);
        assert_eq!(RULES.iter().filter(|other| other.name == rule.name).count(), 1);
        assert!(all().iter().any(|optimizer| optimizer.rule == rule), "{} is in no test", rule.name);
    }
}

fn schedules() -> [Schedule; 8] {
    [
        Schedule::constant(),
        Schedule::constant().warm_up(10),
        Schedule::polynomial(100, 0.25, 2.0).warm_up(5),
        Schedule::polynomial(1, 0.0, 0.5),
        Schedule::exponential(10, 0.5),
        Schedule::staircase(10, 0.5).warm_up(1),
        Schedule::cosine(100, 0.1).warm_up(50),
        Schedule::inverse_sqrt(16),
    ]
}

#[test]
fn schedules_and_clips_come_back_from_the_disk() {
    for (schedule, clip) in schedules().into_iter().zip([0.0f32, 0.5, 1.0, 2.0].into_iter().cycle()) {
        let optimizer = Optimizer::adagrad(0.1).schedule(schedule).clip_value(clip).clip_norm(2.0 * clip);
        assert_eq!(optimizer.has_more(), optimizer != Optimizer::adagrad(0.1));
        let mut bytes = Vec::new();
        optimizer.encode_more(&mut bytes);
        assert_eq!(Optimizer::adagrad(0.1).decode_more(&mut crate::codec::Reader::new(&bytes)), Some(optimizer));
        for length in 0..bytes.len() {
            assert_eq!(Optimizer::adagrad(0.1).decode_more(&mut crate::codec::Reader::new(&bytes[..length])), None);
        }
        bytes[4] = 6;
        assert_eq!(Optimizer::adagrad(0.1).decode_more(&mut crate::codec::Reader::new(&bytes)), None, "an unknown kind");
    }
}

#[test]
fn schedules_follow_their_formulas() {
    let [constant, warm, polynomial, root, exponential, staircase, cosine, inverse] = schedules();
    let points = [
        (constant, 0, 1.0),
        (constant, u64::MAX, 1.0),
        (warm, 1, 0.1),
        (warm, 9, 0.9),
        (warm, 10, 1.0),
        (warm, 1000, 1.0),
        (polynomial, 4, 0.8),
        (polynomial, 5, 1.0),
        (polynomial, 55, 0.75 * 0.25 + 0.25),
        (polynomial, 105, 0.25),
        (polynomial, u64::MAX, 0.25),
        (root, 1, 1.0),
        (root, 2, 1e-6),
        (exponential, 1, 1.0),
        (exponential, 6, 0.5f64.sqrt()),
        (exponential, 21, 0.25),
        (exponential, u64::MAX, 1e-6),
        (staircase, 10, 1.0),
        (staircase, 11, 0.5),
        (staircase, 20, 0.5),
        (staircase, 21, 0.25),
        (cosine, 25, 0.5),
        (cosine, 50, 1.0),
        (cosine, 75, 0.1 + 0.45 * (1.0 + 0.5f64.sqrt())),
        (cosine, 100, 0.55),
        (cosine, 150, 0.1),
        (inverse, 1, 1.0),
        (inverse, 49, 0.5),
    ];
    for (schedule, step, expected) in points {
        let factor = f64::from(schedule.factor(step));
        assert!((factor - expected).abs() <= 1e-6, "{schedule} at {step}: {factor}, expected {expected}");
    }
    for schedule in schedules() {
        let factors: Vec<f32> = (0..400).map(|step| schedule.factor(step)).collect();
        assert!(factors.iter().all(|factor| (1e-6..=1.0).contains(factor)), "{schedule}");
        let mut falling = factors.iter().skip_while(|factor| **factor < 1.0);
        let mut last = falling.next().copied().unwrap();
        assert!(falling.all(|factor| std::mem::replace(&mut last, *factor) >= *factor), "{schedule} rises after its warm-up");
    }
}

#[test]
fn a_schedule_sets_the_rate_of_numbered_steps_unless_the_batch_names_one() {
    let plain = Optimizer::sgd(0.5);
    let scheduled = plain.schedule(Schedule::constant().warm_up(10));
    let weight = |optimizer: Optimizer, rate, number| {
        let mut row = [1.0];
        apply(optimizer.step(rate, number), &mut row, 1, &[1.0]);
        row[0]
    };
    assert_eq!(weight(scheduled, None, Some(1)), 1.0 - 0.05);
    assert_eq!(weight(scheduled, None, Some(10)), 0.5);
    assert_eq!(weight(scheduled, Some(0.25), Some(1)), 0.75);
    assert!(scheduled.check_step(None, None).unwrap_err().contains("number of the step"));
    assert!(scheduled.check_step(Some(0.1), None).is_ok() && scheduled.check_step(None, Some(1)).is_ok());
    assert!(plain.check_step(None, None).is_ok());
    assert!(Optimizer::lazy_adam(0.1).check_step(Some(0.1), None).unwrap_err().contains("lazy_adam"));
}

#[test]
fn gradients_are_clipped_by_value_then_by_norm_alike_on_every_processor() {
    let clipped = |optimizer: Optimizer, cpu: Cpu, grad: &[f32]| {
        let mut grad = grad.to_vec();
        on(&optimizer, optimizer.step(None, None), cpu).adjust(&mut grad);
        grad
    };
    for cpu in Cpu::all() {
        assert_eq!(clipped(Optimizer::sgd(0.1).clip_value(1.0), cpu, &[3.0, -0.5, -1.5, 1.0]), [1.0, -0.5, -1.0, 1.0]);
        assert_eq!(clipped(Optimizer::sgd(0.1).clip_norm(2.5), cpu, &[3.0, -4.0]), [1.5, -2.0]);
        assert_eq!(clipped(Optimizer::sgd(0.1).clip_norm(5.0), cpu, &[3.0, -4.0]), [3.0, -4.0]);
        assert_eq!(clipped(Optimizer::sgd(0.1).clip_value(3.0).clip_norm(1.5), cpu, &[9.0, 0.0]), [1.5, 0.0]);
        // Squares that overflow or vanish, and nothing at all.
        assert_eq!(clipped(Optimizer::sgd(0.1).clip_norm(1.0), cpu, &[1e30, 0.0, 0.0]), [1.0, 0.0, 0.0]);
        assert_eq!(clipped(Optimizer::sgd(0.1).clip_norm(1.0), cpu, &[1e-30, 0.0]), [1e-30, 0.0]);
        assert_eq!(clipped(Optimizer::sgd(0.1).clip_norm(1.0), cpu, &[0.0; 9]), [0.0; 9]);
        for dim in 1..70 {
            let optimizer = Optimizer::sgd(0.1).clip_value(0.75).clip_norm(1.25);
            let found = clipped(optimizer, cpu, &gradient(3, dim));
            assert_eq!(bits(&found), bits(&clipped(optimizer, Cpu::all()[0], &gradient(3, dim))), "{cpu:?} dim {dim}");
            let norm = found.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            assert!(norm <= 1.25 * (1.0 + 1e-6) && found.iter().all(|g| g.abs() <= 0.75), "dim {dim}: {norm}");
        }
    }
    assert!(!Optimizer::sgd(0.1).step(None, None).adjusts());
    assert!(Optimizer::sgd(0.1).clip_norm(1.0).step(None, None).adjusts());
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
        (Optimizer::adam(0.1).betas(0.9, 1.0), "beta2 1"),
        (Optimizer::adam(0.1).betas(f32::NAN, 0.9), "beta1 NaN"),
        (Optimizer::ftrl(0.1).l1(-1.0), "l1"),
        (Optimizer::ftrl(0.1).l2(f32::NAN), "l2"),
        (Optimizer::ftrl(0.1).weight_decay(0.1), "weight_decay does not apply to ftrl"),
        (Optimizer::sgd(0.1).l1(0.1), "l1 does not apply to sgd"),
        (Optimizer::adagrad(0.1).betas(0.9, 0.9), "betas does not apply to adagrad"),
        (Optimizer::ftrl(0.1).epsilon(0.1), "epsilon does not apply to ftrl"),
        (Optimizer::adam(0.1).initial_accumulator(0.1), "initial_accumulator does not apply to adam"),
        (Optimizer::rmsprop(0.1).nesterov(true), "nesterov does not apply to rmsprop"),
        (Optimizer::moving_average().weight_decay(0.1), "weight_decay does not apply to moving_average"),
        (Optimizer::moving_average().decay(1.0), "decay 1 is not in [0, 1)"),
        (Optimizer::group_ftrl(0.1).l1(0.1), "l1 does not apply to group_ftrl"),
        (Optimizer::group_ftrl(0.1).group_lasso(-0.1), "group lasso -0.1"),
        (Optimizer::adam_w(0.1).weight_decay(f32::NAN), "weight decay NaN"),
        (Optimizer::sgd(0.1).clip_value(-1.0), "clip_value -1"),
        (Optimizer::sgd(0.1).clip_norm(f32::INFINITY), "clip_norm inf"),
        (Optimizer::sgd(0.1).schedule(Schedule::polynomial(0, 0.1, 1.0)), "0 steps"),
        (Optimizer::sgd(0.1).schedule(Schedule::cosine(9, 1.5)), "1.5 is not in [0, 1]"),
        (Optimizer::sgd(0.1).schedule(Schedule::polynomial(9, 0.1, 0.0)), "power 0"),
        (Optimizer::sgd(0.1).schedule(Schedule::exponential(9, f32::NAN)), "rate NaN"),
    ] {
        let message = optimizer.validate().unwrap_err();
        assert!(message.contains(what), "{message}");
    }
    assert!(all().iter().all(|o| o.validate().is_ok()));
}

#[test]
fn batch_softmax_is_for_single_values() {
    assert!(Optimizer::batch_softmax(0.1).validate_dim(1).is_ok());
    assert_eq!(Optimizer::batch_softmax(0.1).validate_dim(2).unwrap_err(), "batch_softmax is for dim 1, not 2");
    assert!(Optimizer::sgd(0.1).validate_dim(2).is_ok());
}
