//! Text that people write and read: sizes, counts, optimizers by name.
#![forbid(unsafe_code)]

use std::time::Duration;

use embedrock::Optimizer;

/// Parses `64MiB`, `4GiB`, `1500000`.
pub(crate) fn size(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: usize = match &text[digits.len()..] {
        _ if digits.is_empty() => return Err(format!("'{text}' is no size: write e.g. 64MiB")),
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        other => return Err(format!("'{other}' is no unit: use KiB, MiB or GiB")),
    };
    let number: usize = digits.parse().map_err(|_| format!("'{text}' is no size: write e.g. 64MiB"))?;
    number.checked_mul(unit).ok_or_else(|| format!("'{text}' is too large"))
}

/// Parses `10s`, `500ms`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let millis = match &text[digits.len()..] {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err(format!("'{text}' is no time: write e.g. 10s, 500ms or 2m")),
    };
    let number: u64 = digits.parse().map_err(|_| format!("'{text}' is no time: write e.g. 10s, 500ms or 2m"))?;
    number
        .checked_mul(millis)
        .filter(|millis| *millis > 0)
        .map(Duration::from_millis)
        .ok_or_else(|| format!("'{text}' is out of range"))
}

/// `1.5 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    let units = [("GiB", 1u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match units.iter().find(|(_, unit)| count >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", count as f64 / *unit as f64),
        None => format!("{count} B"),
    }
}

/// `12,345,678`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// An optimizer by its name.
pub(crate) fn optimizer(name: &str) -> Result<Optimizer, String> {
    match name {
        "sgd" => Ok(Optimizer::sgd(0.01)),
        "adagrad" => Ok(Optimizer::adagrad(0.05)),
        "rowwise-adagrad" => Ok(Optimizer::rowwise_adagrad(0.05)),
        "adam" => Ok(Optimizer::adam(0.001)),
        "ftrl" => Ok(Optimizer::ftrl(0.05)),
        "adam-w" => Ok(Optimizer::adam_w(0.001)),
        "lazy-adam" => Ok(Optimizer::lazy_adam(0.001)),
        "amsgrad" => Ok(Optimizer::amsgrad(0.001)),
        "group-ftrl" => Ok(Optimizer::group_ftrl(0.05)),
        "group-adagrad" => Ok(Optimizer::group_adagrad(0.05)),
        "adagrad-w" => Ok(Optimizer::adagrad_w(0.05)),
        "adadelta" => Ok(Optimizer::adadelta(1.0)),
        "momentum" => Ok(Optimizer::momentum(0.01)),
        "moving-average" => Ok(Optimizer::moving_average()),
        "rmsprop" => Ok(Optimizer::rmsprop(0.01)),
        "rmsprop-v2" => Ok(Optimizer::rmsprop_v2(0.01)),
        "batch-softmax" => Ok(Optimizer::batch_softmax(0.01)),
        _ => Err(format!(
            "'{name}' is no optimizer: choose sgd, momentum, adagrad, adagrad-w, rowwise-adagrad, group-adagrad, adadelta, rmsprop, rmsprop-v2, \
             adam, adam-w, lazy-adam, amsgrad, ftrl, group-ftrl, moving-average or batch-softmax"
        )),
    }
}
