//! The optimizers: how a gradient changes a row, fused into one pass over the row's embedding and optimizer state.
//!
//! A row is `[embedding: dim f32 | state: state_len(dim) f32]`. The loops run over split slices so that the compiler vectorises
//! them, with plain multiplications and additions (never fused), exact square roots and divisions, and sums over a fixed tree: a
//! row's bits after an update are the same on every CPU.
#![forbid(unsafe_code)]

mod adagrad;
mod adam;
mod ftrl;
mod rowwise_adagrad;
mod sgd;
#[cfg(test)]
mod tests;

use std::fmt;

use adagrad::Adagrad;
use adam::Adam;
use ftrl::Ftrl;
use rowwise_adagrad::RowwiseAdagrad;
use sgd::Sgd;

use crate::simd::{Cpu, Loop};

/// How gradients change a table's rows.
///
/// `g` is a key's gradient, summed over the batch; `w` its embedding; `D` the dimension. With weight decay `wd` the rules see
/// `g' = g + wd * w` (an L2 penalty, not decoupled), all but FTRL, which has penalties of its own.
///
/// | constructor | state, in f32 | defaults |
/// |---|---|---|
/// | [`sgd`](Self::sgd) | 0 | |
/// | [`adagrad`](Self::adagrad) | D | initial accumulator 0.1, eps 1e-10 |
/// | [`rowwise_adagrad`](Self::rowwise_adagrad) | 1 | initial accumulator 0.1, eps 1e-8 |
/// | [`adam`](Self::adam) | 2 D + 2 | betas 0.9 and 0.999, eps 1e-8 |
/// | [`ftrl`](Self::ftrl) | 2 D | initial accumulator 0.1, beta, l1 and l2 0 |
///
/// ```text
/// sgd               w -= lr g'
/// adagrad           n += g'^2;        w -= lr g' / (sqrt(n) + eps)
/// rowwise_adagrad   n += mean(g'^2);  w -= lr g' / (sqrt(n) + eps)
/// adam              m = b1 m + (1 - b1) g';  v = b2 v + (1 - b2) g'^2
///                   w -= lr sqrt(1 - p2) / (1 - p1) m / (sqrt(v) + eps);  p1 *= b1;  p2 *= b2
/// ftrl              n' = n + g^2;  z += g - (sqrt(n') - sqrt(n)) / lr w
///                   w = 0 if |z| <= l1, else lr (sign(z) l1 - z) / (sqrt(n') + beta + l2 lr)
/// ```
///
/// Weight decay is 0 unless set. A setter that the rule does not know is reported when the table is created, as are parameters
/// out of range. Gradients above about 1e18 in magnitude overflow in their square; clip them before.
///
/// ```
/// use embedrock::Optimizer;
/// let optimizer = Optimizer::adagrad(0.05).initial_accumulator(1.0).weight_decay(1e-5);
/// assert_eq!(optimizer.state_len(64), 64);
/// assert_eq!(Optimizer::adam(0.001).state_len(64), 130);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizer {
    learning_rate: f32,
    weight_decay: f32,
    rule: Rule,
    /// A setter that was called but does not apply to the rule.
    misapplied: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Sgd(Sgd),
    Adagrad(Adagrad),
    RowwiseAdagrad(RowwiseAdagrad),
    Adam(Adam),
    Ftrl(Ftrl),
}

/// What the updates of a batch have in common besides the rule's own parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    learning_rate: f32,
    weight_decay: f32,
    /// Powers of Adam's betas that stand for those of each row.
    powers: Option<[f32; 2]>,
    cpu: Cpu,
}

impl Step {
    /// Other instructions than the processor's best, for tests.
    #[cfg(test)]
    fn on(self, cpu: Cpu) -> Step {
        Step { cpu, ..self }
    }

    pub(crate) fn cpu(self) -> Cpu {
        self.cpu
    }

    /// `g + wd * w`; without decay g itself, whatever w is.
    #[inline(always)]
    fn decayed(self, gradient: f32, weight: f32) -> f32 {
        if self.weight_decay == 0.0 { gradient } else { gradient + self.weight_decay * weight }
    }
}

/// A rule applied to a row.
struct Application<'a> {
    rule: &'a Rule,
    step: Step,
    weights: &'a mut [f32],
    state: &'a mut [f32],
    grad: &'a [f32],
}

impl Loop for Application<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Application { rule, step, weights, state, grad } = self;
        match rule {
            Rule::Sgd(rule) => rule.apply(step, weights, grad),
            Rule::Adagrad(rule) => rule.apply(step, weights, state, grad),
            Rule::RowwiseAdagrad(rule) => rule.apply(step, weights, state, grad),
            Rule::Adam(rule) => rule.apply(step, weights, state, grad),
            Rule::Ftrl(rule) => rule.apply(step, weights, state, grad),
        }
    }
}

impl Optimizer {
    fn new(learning_rate: f32, rule: Rule) -> Optimizer {
        Optimizer { learning_rate, weight_decay: 0.0, rule, misapplied: None }
    }

    /// Stochastic gradient descent. No state.
    pub fn sgd(learning_rate: f32) -> Optimizer {
        Optimizer::new(learning_rate, Rule::Sgd(Sgd))
    }

    /// Adagrad (Duchi, Hazan, Singer 2011): a sum of squares for each value.
    pub fn adagrad(learning_rate: f32) -> Optimizer {
        Optimizer::new(learning_rate, Rule::Adagrad(Adagrad::DEFAULT))
    }

    /// Row-wise Adagrad (as in DLRM and FBGEMM): one sum of mean squares for the whole row.
    pub fn rowwise_adagrad(learning_rate: f32) -> Optimizer {
        Optimizer::new(learning_rate, Rule::RowwiseAdagrad(RowwiseAdagrad::DEFAULT))
    }

    /// Adam (Kingma, Ba 2015) for rows that are updated now and then: each row counts its own steps.
    pub fn adam(learning_rate: f32) -> Optimizer {
        Optimizer::new(learning_rate, Rule::Adam(Adam::DEFAULT))
    }

    /// FTRL-Proximal (McMahan et al. 2013). The embedding is a function of the state: the first update forgets the value a row
    /// was initialised with or assigned, so use it with `Initializer::zeros()`.
    pub fn ftrl(learning_rate: f32) -> Optimizer {
        Optimizer::new(learning_rate, Rule::Ftrl(Ftrl::DEFAULT))
    }

    fn set(mut self, name: &'static str, apply: impl FnOnce(&mut Optimizer) -> bool) -> Optimizer {
        if !apply(&mut self) {
            self.misapplied = Some(name);
        }
        self
    }

    /// The factor of the L2 penalty, default 0. All but FTRL.
    #[must_use]
    pub fn weight_decay(self, factor: f32) -> Optimizer {
        self.set("weight_decay", |o| {
            o.weight_decay = factor;
            !matches!(o.rule, Rule::Ftrl(_))
        })
    }

    /// What a new row's sums of squares start from, default 0.1. Adagrad, row-wise Adagrad, FTRL.
    #[must_use]
    pub fn initial_accumulator(self, value: f32) -> Optimizer {
        self.set("initial_accumulator", |o| {
            match &mut o.rule {
                Rule::Adagrad(rule) => rule.initial_accumulator = value,
                Rule::RowwiseAdagrad(rule) => rule.initial_accumulator = value,
                Rule::Ftrl(rule) => rule.initial_accumulator = value,
                _ => return false,
            }
            true
        })
    }

    /// The decay of the first and of the second moment, each in [0, 1); defaults 0.9 and 0.999. Adam.
    #[must_use]
    pub fn betas(self, first: f32, second: f32) -> Optimizer {
        self.set("betas", |o| {
            let Rule::Adam(rule) = &mut o.rule else { return false };
            (rule.beta1, rule.beta2) = (first, second);
            true
        })
    }

    /// What keeps the denominator from 0, positive; default 1e-10 for Adagrad, 1e-8 for row-wise Adagrad and Adam.
    #[must_use]
    pub fn epsilon(self, value: f32) -> Optimizer {
        self.set("epsilon", |o| {
            match &mut o.rule {
                Rule::Adagrad(rule) => rule.epsilon = value,
                Rule::RowwiseAdagrad(rule) => rule.epsilon = value,
                Rule::Adam(rule) => rule.epsilon = value,
                _ => return false,
            }
            true
        })
    }

    fn set_ftrl(self, name: &'static str, apply: impl FnOnce(&mut Ftrl)) -> Optimizer {
        self.set(name, |o| {
            let Rule::Ftrl(rule) = &mut o.rule else { return false };
            apply(rule);
            true
        })
    }

    /// The strength of the L1 penalty, which makes values exactly 0; default 0. FTRL.
    #[must_use]
    pub fn l1(self, strength: f32) -> Optimizer {
        self.set_ftrl("l1", |rule| rule.l1 = strength)
    }

    /// The strength of the L2 penalty, default 0. FTRL.
    #[must_use]
    pub fn l2(self, strength: f32) -> Optimizer {
        self.set_ftrl("l2", |rule| rule.l2 = strength)
    }

    /// What is added to the root of the sum of squares, default 0. FTRL.
    #[must_use]
    pub fn beta(self, value: f32) -> Optimizer {
        self.set_ftrl("beta", |rule| rule.beta = value)
    }

    /// The number of f32 values of optimizer state that a row of this dimension has.
    pub fn state_len(&self, dim: usize) -> usize {
        match self.rule {
            Rule::Sgd(_) => 0,
            Rule::Adagrad(_) => dim,
            Rule::RowwiseAdagrad(_) => 1,
            Rule::Adam(_) => dim.saturating_mul(2).saturating_add(2),
            Rule::Ftrl(_) => dim.saturating_mul(2),
        }
    }

    /// The learning rate, unless an update brings its own.
    pub fn learning_rate(&self) -> f32 {
        self.learning_rate
    }

    /// Writes the state of a row that was never updated. `state` has [`state_len`](Self::state_len) values.
    pub(crate) fn init_state(&self, dim: usize, state: &mut [f32]) {
        debug_assert_eq!(state.len(), self.state_len(dim));
        match &self.rule {
            Rule::Sgd(_) => {}
            Rule::Adagrad(rule) => state.fill(rule.initial_accumulator),
            Rule::RowwiseAdagrad(rule) => state.fill(rule.initial_accumulator),
            Rule::Adam(rule) => rule.init_state(dim, state),
            Rule::Ftrl(rule) => rule.init_state(dim, state),
        }
    }

    /// What the updates of a batch have in common: another learning rate than the optimizer's, and the number of the step.
    pub(crate) fn step(&self, learning_rate: Option<f32>, number: Option<u64>) -> Step {
        let powers = match &self.rule {
            Rule::Adam(rule) => number.map(|number| rule.powers(number)),
            _ => None,
        };
        let learning_rate = learning_rate.unwrap_or(self.learning_rate);
        Step { learning_rate, weight_decay: self.weight_decay, powers, cpu: Cpu::detect() }
    }

    /// Applies one gradient. `row` is the embedding and the state behind it, `grad` has `dim` values.
    #[inline]
    pub(crate) fn apply(&self, step: Step, row: &mut [f32], dim: usize, grad: &[f32]) {
        debug_assert_eq!((row.len(), grad.len()), (dim + self.state_len(dim), dim));
        let (weights, state) = row.split_at_mut(dim);
        step.cpu.run(Application { rule: &self.rule, step, weights, state, grad });
    }

    /// Whether rows of the one can go on with the other: same rule, so same state. Its parameters may differ.
    pub(crate) fn same_layout(&self, other: &Optimizer) -> bool {
        self.encode().0 == other.encode().0
    }

    /// Says what is wrong with a learning rate: it must be a positive, finite (and not subnormal) number.
    pub(crate) fn validate_learning_rate(learning_rate: f32) -> Result<(), String> {
        positive("learning rate", learning_rate)
    }

    /// Says what is wrong with the parameters, if anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if let Some(name) = self.misapplied {
            return Err(format!("{name} does not apply to {}", self.name()));
        }
        Optimizer::validate_learning_rate(self.learning_rate)?;
        not_negative("weight decay", self.weight_decay)?;
        match &self.rule {
            Rule::Sgd(_) => Ok(()),
            Rule::Adagrad(rule) => rule.validate(),
            Rule::RowwiseAdagrad(rule) => rule.validate(),
            Rule::Adam(rule) => rule.validate(),
            Rule::Ftrl(rule) => rule.validate(),
        }
    }

    /// The rule's number and its parameters for the disk: learning rate, weight decay, the rule's own, then zeros.
    pub(crate) fn encode(&self) -> (u8, [f32; 8]) {
        let (kind, own) = match &self.rule {
            Rule::Sgd(_) => (0, [0.0; 4]),
            Rule::Adagrad(rule) => (1, [rule.initial_accumulator, rule.epsilon, 0.0, 0.0]),
            Rule::RowwiseAdagrad(rule) => (2, [rule.initial_accumulator, rule.epsilon, 0.0, 0.0]),
            Rule::Adam(rule) => (3, [rule.beta1, rule.beta2, rule.epsilon, 0.0]),
            Rule::Ftrl(rule) => (4, [rule.initial_accumulator, rule.beta, rule.l1, rule.l2]),
        };
        let [a, b, c, d] = own;
        (kind, [self.learning_rate, self.weight_decay, a, b, c, d, 0.0, 0.0])
    }

    /// The inverse of [`encode`](Self::encode); `None` for an unknown rule or parameters that are not valid.
    pub(crate) fn decode(kind: u8, params: [f32; 8]) -> Option<Optimizer> {
        let [learning_rate, weight_decay, a, b, c, d, _, _] = params;
        let rule = match kind {
            0 => Rule::Sgd(Sgd),
            1 => Rule::Adagrad(Adagrad { initial_accumulator: a, epsilon: b }),
            2 => Rule::RowwiseAdagrad(RowwiseAdagrad { initial_accumulator: a, epsilon: b }),
            3 => Rule::Adam(Adam { beta1: a, beta2: b, epsilon: c }),
            4 => Rule::Ftrl(Ftrl { initial_accumulator: a, beta: b, l1: c, l2: d }),
            _ => return None,
        };
        let optimizer = Optimizer { learning_rate, weight_decay, rule, misapplied: None };
        optimizer.validate().ok().map(|()| optimizer)
    }

    /// The rule's name.
    pub(crate) fn name(&self) -> &'static str {
        match self.rule {
            Rule::Sgd(_) => "sgd",
            Rule::Adagrad(_) => "adagrad",
            Rule::RowwiseAdagrad(_) => "rowwise_adagrad",
            Rule::Adam(_) => "adam",
            Rule::Ftrl(_) => "ftrl",
        }
    }

    /// The rule and all its parameters in words.
    pub(crate) fn describe(&self) -> String {
        let (name, lr) = (self.name(), self.learning_rate);
        let decay = if self.weight_decay == 0.0 { String::new() } else { format!(", weight decay {}", self.weight_decay) };
        let own = match &self.rule {
            Rule::Sgd(_) => String::new(),
            Rule::Adagrad(Adagrad { initial_accumulator, epsilon })
            | Rule::RowwiseAdagrad(RowwiseAdagrad { initial_accumulator, epsilon }) => {
                format!(", initial accumulator {initial_accumulator}, epsilon {epsilon:e}")
            }
            Rule::Adam(rule) => format!(", betas {} and {}, epsilon {:e}", rule.beta1, rule.beta2, rule.epsilon),
            Rule::Ftrl(Ftrl { initial_accumulator, beta, l1, l2 }) => {
                format!(", initial accumulator {initial_accumulator}, beta {beta}, l1 {l1}, l2 {l2}")
            }
        };
        format!("{name} (learning rate {lr}{decay}{own})")
    }
}

impl fmt::Display for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

fn not_negative(name: &str, value: f32) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 { Ok(()) } else { Err(format!("{name} {value} is not a finite number of at least 0")) }
}

fn positive(name: &str, value: f32) -> Result<(), String> {
    if value.is_normal() && value > 0.0 { Ok(()) } else { Err(format!("{name} {value} is not a finite number above 0")) }
}
