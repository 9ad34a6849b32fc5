//! Every rule against an f64 reference written from its formula, plainly, over the same layout.
#![forbid(unsafe_code)]

use super::*;

/// A row in f64, taken apart.
struct Row<'a> {
    lr: f64,
    wd: f64,
    own: [f64; 6],
    number: f64,
    w: &'a mut [f64],
    state: &'a mut [f64],
    /// As given.
    raw: Vec<f64>,
    /// With weight decay.
    grad: Vec<f64>,
}

fn reference(optimizer: &Optimizer, row: &mut [f64], dim: usize, grad: &[f32], number: u64) {
    let (_, [lr, wd, own @ ..]) = optimizer.encode();
    let (lr, wd, own) = (f64::from(lr), f64::from(wd), own.map(f64::from));
    let (w, state) = row.split_at_mut(dim);
    let raw: Vec<f64> = grad.iter().map(|&g| g.into()).collect();
    let grad = raw.iter().zip(&*w).map(|(g, w)| g + wd * w).collect();
    let row = Row { lr, wd, own, number: number as f64, w, state, raw, grad };
    match optimizer.name() {
        "rowwise_adagrad" | "group_adagrad" | "group_ftrl" | "batch_softmax" => of_row(optimizer.name(), row),
        "adam" | "adam_w" | "lazy_adam" | "amsgrad" => adams(optimizer.name(), row),
        name => of_lanes(name, row),
    }
}

fn of_lanes(name: &str, Row { lr, wd, own: [a, b, c, d, ..], w, state, raw, grad, .. }: Row<'_>) {
    let dim = w.len();
    for i in 0..dim {
        let g = grad[i];
        match name {
            "sgd" => w[i] -= lr * g,
            "adagrad" => {
                state[i] += g * g;
                w[i] -= lr * g / (state[i].sqrt() + b);
            }
            "adagrad_w" => {
                state[i] += raw[i] * raw[i];
                w[i] -= lr * raw[i] / (state[i].sqrt() + b) + lr * wd * w[i];
            }
            "adadelta" => {
                state[i] = a * state[i] + (1.0 - a) * g * g;
                let update = (state[dim + i] + b).sqrt() / (state[i] + b).sqrt() * g;
                state[dim + i] = a * state[dim + i] + (1.0 - a) * update * update;
                w[i] -= lr * update;
            }
            "momentum" => {
                let velocity = a * state[i] - lr * g;
                w[i] += if b == 1.0 { -a * state[i] + (1.0 + a) * velocity } else { velocity };
                state[i] = velocity;
            }
            "moving_average" => w[i] = a * w[i] + (1.0 - a) * raw[i],
            "rmsprop" | "rmsprop_v2" => {
                let fresh = if name == "rmsprop" { 1.0 - a } else { 1.0 };
                state[i] = a * state[i] + fresh * g * g;
                w[i] -= lr * g / (state[i].sqrt() + b);
            }
            "ftrl" => {
                let (beta, l1, l2) = (b, c, d);
                let before = state[i];
                state[i] += g * g;
                state[dim + i] += g - (state[i].sqrt() - before.sqrt()) / lr * w[i];
                let z = state[dim + i];
                w[i] = if z.abs() <= l1 { 0.0 } else { lr * (l1 * z.signum() - z) / (state[i].sqrt() + beta + l2 * lr) };
            }
            _ => panic!("no reference for {name}"),
        }
    }
}

fn adams(name: &str, Row { lr, wd, own: [b1, b2, eps, nesterov, ..], number, w, state, raw, grad }: Row<'_>) {
    let dim = w.len();
    let last = state.len() - 2;
    let [p1, p2] = if name == "lazy_adam" { [b1.powf(number), b2.powf(number)] } else { [state[last], state[last + 1]] };
    for i in 0..dim {
        let g = if name == "adam_w" { raw[i] } else { grad[i] };
        state[i] = b1 * state[i] + (1.0 - b1) * g;
        state[dim + i] = b2 * state[dim + i] + (1.0 - b2) * g * g;
        let mut square = state[dim + i];
        if name == "amsgrad" {
            state[2 * dim + i] = state[2 * dim + i].max(square);
            square = state[2 * dim + i];
        }
        let ahead = if nesterov == 1.0 { b1 * state[i] + (1.0 - b1) * g } else { state[i] };
        if name == "adam_w" {
            w[i] -= lr * wd * w[i];
        }
        w[i] -= lr * (1.0 - p2).sqrt() / (1.0 - p1) * ahead / (square.sqrt() + eps);
    }
    if name != "lazy_adam" {
        state[last] *= b1;
        state[last + 1] *= b2;
    }
}

fn of_row(name: &str, Row { lr, own: [_, b, c, d, ..], number, w, state, raw, grad, .. }: Row<'_>) {
    let dim = w.len();
    let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
    match name {
        "rowwise_adagrad" => {
            state[0] += grad.iter().map(|g| g * g).sum::<f64>() / dim as f64;
            w.iter_mut().zip(&grad).for_each(|(w, g)| *w -= lr * g / (state[0].sqrt() + b));
        }
        "group_adagrad" => {
            state[0] += grad.iter().map(|g| g * g).fold(0.0, f64::max);
            let rate = lr / (b + state[0].sqrt());
            let z: Vec<f64> = grad.iter().zip(&*w).map(|(g, w)| g - w / rate).collect();
            let shrunk = (norm(&z) - c).max(0.0) / norm(&z);
            w.iter_mut().zip(&z).for_each(|(w, z)| *w = -rate * shrunk * z);
        }
        "group_ftrl" => {
            let (beta, lasso, l2) = (b, c, d);
            for i in 0..dim {
                let before = state[i];
                state[i] += raw[i] * raw[i];
                state[dim + i] += raw[i] - (state[i].sqrt() - before.sqrt()) / lr * w[i];
            }
            let norm = norm(&state[dim..]);
            for i in 0..dim {
                let scale = if norm < lasso { 0.0 } else { (lasso - norm) / norm };
                w[i] = lr * state[dim + i] * scale / (beta + state[i].sqrt() + l2 * lr);
            }
        }
        _ => {
            w[0] = (1.0 - lr) * w[0] + lr * (number - state[1]);
            state[1] = number;
        }
    }
}

/// Tolerance: 1e-4 of the value plus 1e-5, after each of 400 steps, state included. The z of both FTRLs is a sum whose terms cancel,
/// and their weights follow from z: plus 2e-4 there.
#[test]
fn every_rule_follows_its_formula() {
    for optimizer in all() {
        for dim in dims(&optimizer) {
            let mut row = new_row(&optimizer, dim);
            let mut expected: Vec<f64> = row.iter().map(|&v| f64::from(v)).collect();
            let slack = if optimizer.name().contains("ftrl") { 2e-4 } else { 1e-5 };
            for step in 0..STEPS {
                train(&optimizer, &mut row, dim, step..step + 1);
                reference(&optimizer, &mut expected, dim, &gradient(step, dim), step + 1);
                for (i, (&found, &expected)) in row.iter().zip(&expected).enumerate() {
                    let off = (f64::from(found) - expected).abs();
                    let near = off <= 1e-4 * expected.abs() + slack;
                    assert!(near, "{optimizer} dim {dim} step {step} value {i}: {found} {expected}");
                }
            }
        }
    }
}

/// Upstream forgets what was assigned at the next update: the weight is worked out from z alone.
#[test]
fn ftrl_goes_on_from_weights_that_were_set() {
    let rules = [
        Optimizer::ftrl(0.1),
        Optimizer::ftrl(0.1).l1(0.5).l2(0.2).beta(1.0),
        Optimizer::group_ftrl(0.1),
        Optimizer::group_ftrl(0.1).group_lasso(0.7).l2(0.2),
    ];
    for optimizer in rules {
        let mut row = new_row(&optimizer, 9);
        train(&optimizer, &mut row, 9, 0..20);
        let set: Vec<f32> = (0..9).map(|lane| if lane == 4 { 0.0 } else { number(77, lane) }).collect();
        row[..9].copy_from_slice(&set);
        let (weights, state) = row.split_at_mut(9);
        optimizer.step(None, None).follow(weights, state);
        apply(optimizer.step(None, None), &mut row, 9, &[0.0; 9]);
        for (found, set) in row[..9].iter().zip(&set) {
            assert!((found - set).abs() <= 2e-6 * set.abs().max(0.1), "{optimizer}: {set} became {found}");
        }
        row[..9].fill(0.0);
        let (weights, state) = row.split_at_mut(9);
        optimizer.step(None, None).follow(weights, state);
        assert_eq!(row[18..], [0.0; 9], "{optimizer}");
    }
}

#[test]
fn group_rules_make_whole_rows_exactly_zero() {
    for optimizer in [Optimizer::group_adagrad(0.1).group_lasso(50.0), Optimizer::group_ftrl(0.1).group_lasso(50.0)] {
        let mut row = new_row(&optimizer, 9);
        train(&optimizer, &mut row, 9, 0..3);
        assert_eq!(row[..9], [0.0; 9], "{optimizer}");
        train(&optimizer, &mut row, 9, 3..STEPS);
        assert!(row[..9].iter().all(|w| *w != 0.0) || optimizer.name() == "group_adagrad", "{optimizer}: {row:?}");
    }
}

#[test]
fn amsgrad_never_forgets_a_large_gradient() {
    let (ams, adam) = (Optimizer::amsgrad(0.1).betas(0.0, 0.5), Optimizer::adam(0.1).betas(0.0, 0.5));
    let moves = |optimizer: &Optimizer| {
        let mut row = vec![0.0; 1 + optimizer.state_len(1)];
        optimizer.init_state(1, &mut row[1..]);
        apply(optimizer.step(None, None), &mut row, 1, &[100.0]);
        for _ in 0..60 {
            apply(optimizer.step(None, None), &mut row, 1, &[1.0]);
        }
        let before = row[0];
        apply(optimizer.step(None, None), &mut row, 1, &[1.0]);
        before - row[0]
    };
    assert!((moves(&adam) - 0.1).abs() < 1e-4, "{}", moves(&adam));
    assert!((moves(&ams) - 0.1 / 5000f32.sqrt()).abs() < 1e-6, "{}", moves(&ams));
}

#[test]
fn batch_softmax_learns_the_gap_between_an_items_steps() {
    let optimizer = Optimizer::batch_softmax(0.05);
    for (begin, gap) in [(1, 1), (3, 7), ((1 << 24) - 50, 25), ((1 << 40) + 1, 1000)] {
        let mut row = [1.0, 0.0, 0.0];
        apply(optimizer.step(Some(1.0), Some(begin)), &mut row, 1, &[f32::NAN]);
        row[0] = 1.0;
        for occurrence in 1..400 {
            apply(optimizer.step(None, Some(begin + occurrence * gap)), &mut row, 1, &[f32::NAN]);
        }
        assert!((row[0] - gap as f32).abs() < 1e-4 * gap as f32, "from {begin} every {gap}: {row:?}");
        assert_eq!(f64::from(row[1]) * 16_777_216.0 + f64::from(row[2]), (begin + 399 * gap) as f64);
    }
    let mut row = [5.0, 0.0, 9.0];
    apply(optimizer.step(Some(0.5), Some(4)), &mut row, 1, &[0.0]);
    assert_eq!(row, [2.5, 0.0, 4.0], "a step that goes back is no gap");
}

#[test]
fn lazy_adam_is_adam_whose_batches_name_their_steps() {
    let (lazy, adam) = (Optimizer::lazy_adam(0.01), Optimizer::adam(0.01));
    let (mut a, mut b) = (new_row(&lazy, 8), new_row(&adam, 8));
    for number in [1, 2, 5, 90, 91, 4000] {
        apply(lazy.step(None, Some(number)), &mut a, 8, &gradient(number, 8));
        apply(adam.step(None, Some(number)), &mut b, 8, &gradient(number, 8));
        assert_eq!(bits(&a), bits(&b[..24]), "step {number}");
    }
}
