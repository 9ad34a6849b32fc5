//! Schedules of the learning rate: pure functions of the number of the step.
#![forbid(unsafe_code)]

use std::fmt;

use super::rule::Range;

/// No schedule goes below this part of the learning rate: some rules divide by the rate.
const LOWEST: f64 = 1e-6;

/// How the learning rate changes from step to step; the factor of a step multiplies the optimizer's rate.
///
/// Steps are those that batches name ([`Update::step`](crate::Update::step)), from 1 on; a batch that names a rate of its own gets
/// that one. Warm-up goes linearly from `1 / steps` to 1. The decay begins after it; below, `t` counts the steps since then.
///
/// | constructor | factor | source |
/// |---|---|---|
/// | [`constant`](Self::constant) | 1 | |
/// | [`polynomial`](Self::polynomial) | `(1 - end) * (1 - min(t, steps) / steps)^power + end` | TensorFlow's PolynomialDecay, as Monolith uses |
/// | [`exponential`](Self::exponential) | `rate^(t / steps)` | |
/// | [`staircase`](Self::staircase) | `rate^floor(t / steps)` | |
/// | [`cosine`](Self::cosine) | `end + (1 - end) * (1 + cos(pi * min(t, steps) / steps)) / 2` | Loshchilov, Hutter 2017 |
/// | [`inverse_sqrt`](Self::inverse_sqrt) | `sqrt(steps / (steps + t))` | Vaswani et al. 2017 |
///
/// No factor is below 1e-6.
///
/// ```
/// use embedrock::{Optimizer, Schedule};
/// let schedule = Schedule::polynomial(10_000, 0.1, 1.0).warm_up(100);
/// assert_eq!((schedule.factor(1), schedule.factor(100), schedule.factor(1_000_000)), (0.01, 1.0, 0.1));
/// let optimizer = Optimizer::adagrad(0.05).schedule(schedule);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    pub(super) warm_up: u32,
    pub(super) decay: Decay,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Decay {
    None,
    Polynomial { steps: u32, end: f32, power: f32 },
    Exponential { steps: u32, rate: f32 },
    Staircase { steps: u32, rate: f32 },
    Cosine { steps: u32, end: f32 },
    InverseSqrt { steps: u32 },
}

impl Default for Schedule {
    fn default() -> Schedule {
        Schedule::constant()
    }
}

impl Schedule {
    /// The same rate at every step.
    pub fn constant() -> Schedule {
        Schedule { warm_up: 0, decay: Decay::None }
    }

    /// Down to the part `end` within `steps`, along a polynomial of this power; 1 is a straight line.
    pub fn polynomial(steps: u32, end: f32, power: f32) -> Schedule {
        Schedule { warm_up: 0, decay: Decay::Polynomial { steps, end, power } }
    }

    /// Times `rate` every `steps`, smoothly.
    pub fn exponential(steps: u32, rate: f32) -> Schedule {
        Schedule { warm_up: 0, decay: Decay::Exponential { steps, rate } }
    }

    /// Times `rate` every `steps`, at once.
    pub fn staircase(steps: u32, rate: f32) -> Schedule {
        Schedule { warm_up: 0, decay: Decay::Staircase { steps, rate } }
    }

    /// Down to the part `end` within `steps`, along half a cosine.
    pub fn cosine(steps: u32, end: f32) -> Schedule {
        Schedule { warm_up: 0, decay: Decay::Cosine { steps, end } }
    }

    /// With the inverse of the root of the step.
    pub fn inverse_sqrt(steps: u32) -> Schedule {
        Schedule { warm_up: 0, decay: Decay::InverseSqrt { steps } }
    }

    /// Begins with this many steps of a rate that grows from near 0.
    #[must_use]
    pub fn warm_up(self, steps: u32) -> Schedule {
        Schedule { warm_up: steps, ..self }
    }

    /// What the learning rate is multiplied by at a step, from 1 on. Worked out in f64 by software, so the same everywhere.
    pub fn factor(&self, step: u64) -> f32 {
        let step = step.max(1);
        if step < u64::from(self.warm_up) {
            return (step as f64 / f64::from(self.warm_up)).max(LOWEST) as f32;
        }
        let since = (step - u64::from(self.warm_up).max(1)) as f64;
        let part = |steps: u32| (since / f64::from(steps)).min(1.0);
        let factor = match self.decay {
            Decay::None => 1.0,
            Decay::Polynomial { steps, end, power } => {
                (1.0 - f64::from(end)) * libm::pow(1.0 - part(steps), power.into()) + f64::from(end)
            }
            Decay::Exponential { steps, rate } => libm::pow(rate.into(), since / f64::from(steps)),
            Decay::Staircase { steps, rate } => libm::pow(rate.into(), libm::floor(since / f64::from(steps))),
            Decay::Cosine { steps, end } => {
                let end = f64::from(end);
                end + (1.0 - end) * (1.0 + libm::cos(std::f64::consts::PI * part(steps))) / 2.0
            }
            Decay::InverseSqrt { steps } => libm::sqrt(f64::from(steps) / (f64::from(steps) + since)),
        };
        factor.max(LOWEST) as f32
    }

    pub(super) fn validate(&self) -> Result<(), String> {
        let (steps, part) = match self.decay {
            Decay::None => (1, 0.0),
            Decay::InverseSqrt { steps } => (steps, 0.0),
            Decay::Polynomial { steps, end, power } => {
                Range::Positive.check("the schedule's power", power)?;
                (steps, end)
            }
            Decay::Cosine { steps, end } => (steps, end),
            Decay::Exponential { steps, rate } | Decay::Staircase { steps, rate } => {
                Range::Positive.check("the schedule's rate", rate)?;
                (steps, rate)
            }
        };
        if steps == 0 {
            return Err("the schedule decays within 0 steps".into());
        }
        if (0.0..=1.0).contains(&part) { Ok(()) } else { Err(format!("the schedule's end or rate {part} is not in [0, 1]")) }
    }

    /// Warm-up, kind, steps, end or rate, power, for the disk.
    pub(super) fn encode(&self) -> (u32, u8, u32, [f32; 2]) {
        let (kind, steps, parameters) = match self.decay {
            Decay::None => (0, 0, [0.0; 2]),
            Decay::Polynomial { steps, end, power } => (1, steps, [end, power]),
            Decay::Exponential { steps, rate } => (2, steps, [rate, 0.0]),
            Decay::Staircase { steps, rate } => (3, steps, [rate, 0.0]),
            Decay::Cosine { steps, end } => (4, steps, [end, 0.0]),
            Decay::InverseSqrt { steps } => (5, steps, [0.0; 2]),
        };
        (self.warm_up, kind, steps, parameters)
    }

    /// The inverse of [`encode`](Self::encode); `None` for an unknown kind or parameters that are not valid.
    pub(super) fn decode(warm_up: u32, kind: u8, steps: u32, [a, b]: [f32; 2]) -> Option<Schedule> {
        let decay = match kind {
            0 => Decay::None,
            1 => Decay::Polynomial { steps, end: a, power: b },
            2 => Decay::Exponential { steps, rate: a },
            3 => Decay::Staircase { steps, rate: a },
            4 => Decay::Cosine { steps, end: a },
            5 => Decay::InverseSqrt { steps },
            _ => return None,
        };
        let schedule = Schedule { warm_up, decay };
        schedule.validate().ok().map(|()| schedule)
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.warm_up > 0 {
            write!(f, "warm-up in {} steps, ", self.warm_up)?;
        }
        match self.decay {
            Decay::None => write!(f, "constant"),
            Decay::Polynomial { steps, end, power } => write!(f, "polynomial to {end} in {steps} steps, power {power}"),
            Decay::Exponential { steps, rate } => write!(f, "exponential by {rate} in {steps} steps"),
            Decay::Staircase { steps, rate } => write!(f, "staircase by {rate} every {steps} steps"),
            Decay::Cosine { steps, end } => write!(f, "cosine to {end} in {steps} steps"),
            Decay::InverseSqrt { steps } => write!(f, "inverse root of {steps} steps"),
        }
    }
}
