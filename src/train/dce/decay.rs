//! The decayed mean of a customer's past sessions, with the decay that foretells the next one best: a baseline.
#![forbid(unsafe_code)]

use crate::UnixSeconds;

const DAY: f32 = 86_400.0;

/// What is left of a weight after a time, at a decay a day.
pub(crate) fn left(decay: f32, seconds: u32) -> f32 {
    libm::expf(-decay * (seconds as f32 / DAY))
}

/// Finds the decay a day by gradient descent (Adam) on its logarithm: the least squared distance between the decayed mean of a customer's
/// sessions so far and the next one. Takes each customer's sessions in order, all of one width.
pub(crate) fn learn(customers: &[Vec<(UnixSeconds, Vec<f32>)>]) -> f32 {
    const STEPS: i32 = 40;
    const RATE: f64 = 0.25;
    let (mut log, mut first, mut second) = (libm::log(0.05), 0.0f64, 0.0f64);
    for step in 1..=STEPS {
        let gradient = slope(customers, libm::exp(log));
        first = 0.9 * first + 0.1 * gradient;
        second = 0.99 * second + 0.01 * gradient * gradient;
        let (mean, square) = (first / (1.0 - libm::pow(0.9, f64::from(step))), second / (1.0 - libm::pow(0.99, f64::from(step))));
        log = (log - RATE * mean / (square.sqrt() + 1e-12)).clamp(-12.0, 6.0);
    }
    libm::exp(log) as f32
}

/// The derivative of the loss with respect to the logarithm of the decay, carried forward along each sequence.
fn slope(customers: &[Vec<(UnixSeconds, Vec<f32>)>], decay: f64) -> f64 {
    let mut slope = 0.0;
    for sessions in customers {
        let width = sessions.first().map_or(0, |(_, session)| session.len());
        let (mut sum, mut weight) = (vec![0.0f64; width], 0.0f64);
        let (mut sum_slope, mut weight_slope) = (vec![0.0f64; width], 0.0f64);
        let mut last = None;
        for (time, session) in sessions {
            if let Some(last) = last {
                for (lane, x) in session.iter().enumerate() {
                    let error = sum[lane] / weight - f64::from(*x);
                    slope += 2.0 * error * (sum_slope[lane] - sum[lane] * weight_slope / weight) / weight;
                }
                let days = f64::from(time.saturating_sub(last)) / f64::from(DAY);
                let (left, fall) = (libm::exp(-decay * days).max(1e-30), -decay * days);
                for (sum, slope) in sum.iter_mut().zip(&mut sum_slope) {
                    *slope = left * (*slope + fall * *sum);
                    *sum *= left;
                }
                weight_slope = left * (weight_slope + fall * weight);
                weight *= left;
            }
            sum.iter_mut().zip(session).for_each(|(sum, x)| *sum += f64::from(*x));
            weight += 1.0;
            last = Some(*time);
        }
    }
    slope
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::synthetic::Counter;

    fn customers(memory: bool) -> Vec<Vec<(UnixSeconds, Vec<f32>)>> {
        let mut random = Counter::new(8);
        (0..60)
            .map(|_| {
                let (mut level, mut time) = (random.normal(), 0);
                (0..30)
                    .map(|_| {
                        // A level that wanders calls for forgetting, one that stays calls for none.
                        level += if memory { 0.0 } else { random.normal() };
                        time += 86_400 + (random.unit() * 86_400.0) as u32;
                        (time, vec![(level + 0.3 * random.normal()) as f32])
                    })
                    .collect()
            })
            .collect()
    }

    #[test]
    fn the_slope_is_that_of_finite_differences() {
        let all = customers(false);
        let loss = |decay: f64| {
            let mut loss = 0.0;
            for sessions in &all {
                let (mut sum, mut weight, mut last) = (0.0, 0.0, None);
                for (time, session) in sessions {
                    if let Some(last) = last {
                        let error: f64 = sum / weight - f64::from(session[0]);
                        loss += error * error;
                        let left = libm::exp(-decay * f64::from(time - last) / 86_400.0);
                        (sum, weight) = (sum * left, weight * left);
                    }
                    (sum, weight, last) = (sum + f64::from(session[0]), weight + 1.0, Some(*time));
                }
            }
            loss
        };
        let (at, step) = (0.3f64, 1e-5);
        let numeric = (loss(at * libm::exp(step)) - loss(at * libm::exp(-step))) / (2.0 * step);
        assert!((slope(&all, at) / numeric - 1.0).abs() < 1e-4);
    }

    #[test]
    fn it_forgets_what_wanders_and_keeps_what_stays() {
        let (wandering, staying) = (learn(&customers(false)), learn(&customers(true)));
        assert!(wandering > 0.3 && staying < 0.05, "{wandering} {staying}");
    }
}
