//! Means of runs of several seeds, and how sure they are.
#![forbid(unsafe_code)]

use serde::{Deserialize, Deserializer, Serialize};

/// Student's t for a two-sided interval of 95 %, by degrees of freedom from 1 on; beyond the table the normal distribution's 1.96 is
/// less than 5 % too small.
const T: [f64; 20] = [
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110,
    2.101, 2.093, 2.086,
];
const NORMAL: f64 = 1.96;

/// Values of one measure, a run each.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Their mean.
    #[serde(deserialize_with = "number")]
    pub mean: f64,
    /// Their standard deviation; 0 for a single run.
    #[serde(deserialize_with = "number")]
    pub deviation: f64,
    /// Half the width of the mean's 95 % confidence interval (Student's t); nothing for a single run.
    pub half_width: Option<f64>,
    /// How many there are.
    pub runs: usize,
}

/// A number of a file, where one that is none (NaN) is `null`.
pub(super) fn number<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Option::deserialize(from).map(|number| number.unwrap_or(f64::NAN))
}

impl Spread {
    /// Of values that are not empty; of none, all is 0.
    pub fn of(values: &[f64]) -> Spread {
        let runs = values.len();
        let mean = values.iter().sum::<f64>() / runs.max(1) as f64;
        let freedom = runs.saturating_sub(1);
        let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
        let deviation = (squares / freedom.max(1) as f64).sqrt();
        let t = freedom.checked_sub(1).map(|at| T.get(at).copied().unwrap_or(NORMAL));
        Spread { mean, deviation, half_width: t.map(|t| t * deviation / (runs as f64).sqrt()), runs }
    }

    /// Of the differences of runs of the same seeds.
    pub fn of_pairs(of: &[f64], minus: &[f64]) -> Spread {
        let differences: Vec<f64> = of.iter().zip(minus).map(|(a, b)| a - b).collect();
        Spread::of(&differences)
    }

    /// Whether the interval leaves out 0.
    pub fn is_clear(&self) -> bool {
        self.half_width.is_some_and(|half| self.mean.abs() > half)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_students() {
        let spread = Spread::of(&[1.0, 2.0, 3.0, 4.0, 5.0]);
        assert!((spread.mean - 3.0).abs() < 1e-12 && (spread.deviation - 2.5f64.sqrt()).abs() < 1e-12);
        // 3 +- 2.776 * 1.5811 / sqrt(5)
        assert!((spread.half_width.unwrap() - 1.963).abs() < 1e-3 && spread.is_clear());
        let paired = Spread::of_pairs(&[1.0, 2.0, 3.0], &[0.0, 3.0, 3.0]);
        assert!(paired.mean.abs() < 1e-12 && !paired.is_clear());
        assert_eq!(Spread::of(&[7.0]), Spread { mean: 7.0, deviation: 0.0, half_width: None, runs: 1 });
    }
}
