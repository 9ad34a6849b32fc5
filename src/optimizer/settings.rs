//! An optimizer as users set it, with its way to the disk and back.
#![forbid(unsafe_code)]

use std::fmt;

use super::clip::Clip;
use super::rule::{Description, OWN, Own, Range, Rule};
use super::schedule::Schedule;
use super::step::Step;
use super::{Optimizer, RULES};
use crate::codec::Reader;
use crate::simd::Cpu;

/// Own parameters of the first five rules that a schema of version 1 knows.
const OWN_IN_VERSION_1: [usize; 5] = [0, 2, 2, 3, 4];

impl Optimizer {
    pub(super) fn new<R: Rule>(learning_rate: f32) -> Optimizer {
        Optimizer::of(R::DESCRIPTION, learning_rate)
    }

    fn of(rule: &'static Description, learning_rate: f32) -> Optimizer {
        Optimizer {
            learning_rate,
            weight_decay: rule.weight_decay.unwrap_or(0.0),
            rule,
            own: rule.defaults(),
            schedule: Schedule::constant(),
            clip: Clip::NONE,
            misapplied: None,
        }
    }

    fn set(mut self, name: &'static str, value: f32) -> Optimizer {
        match self.own.iter_mut().zip(self.rule.parameters).find(|(_, parameter)| parameter.name == name) {
            Some((own, _)) => *own = value,
            None => self.misapplied = Some(name),
        }
        self
    }

    /// The factor of the L2 penalty, or of the decoupled decay of [`adam_w`](Self::adam_w) and [`adagrad_w`](Self::adagrad_w).
    #[must_use]
    pub fn weight_decay(mut self, factor: f32) -> Optimizer {
        self.weight_decay = factor;
        if self.rule.weight_decay.is_none() {
            self.misapplied = Some("weight_decay");
        }
        self
    }

    /// What a new row's sums of squares start from. Adagrad and FTRL in all their forms.
    #[must_use]
    pub fn initial_accumulator(self, value: f32) -> Optimizer {
        self.set("initial_accumulator", value)
    }

    /// The decay of the first and of the second moment, each in [0, 1). Adam in all its forms.
    #[must_use]
    pub fn betas(self, first: f32, second: f32) -> Optimizer {
        let known = self.rule.parameters.iter().any(|parameter| parameter.name == "beta1");
        if known { self.set("beta1", first).set("beta2", second) } else { self.set("betas", first) }
    }

    /// What keeps the denominator from 0, positive.
    #[must_use]
    pub fn epsilon(self, value: f32) -> Optimizer {
        self.set("epsilon", value)
    }

    /// What stays of a moving average, or of the velocity, at each update, in [0, 1). Adadelta, momentum, moving average, RMSprop.
    #[must_use]
    pub fn decay(self, factor: f32) -> Optimizer {
        self.set("decay", factor)
    }

    /// Whether to look ahead by Nesterov's rule. Momentum, Adam in all its forms.
    #[must_use]
    pub fn nesterov(self, on: bool) -> Optimizer {
        self.set("nesterov", f32::from(on))
    }

    /// The strength of the L1 penalty, which makes values exactly 0. FTRL.
    #[must_use]
    pub fn l1(self, strength: f32) -> Optimizer {
        self.set("l1", strength)
    }

    /// The strength of the L2 penalty. FTRL, group FTRL.
    #[must_use]
    pub fn l2(self, strength: f32) -> Optimizer {
        self.set("l2", strength)
    }

    /// The strength of the group lasso, which makes rows exactly 0. Group Adagrad, group FTRL.
    #[must_use]
    pub fn group_lasso(self, strength: f32) -> Optimizer {
        self.set("group_lasso", strength)
    }

    /// What is added to the root of the sum of squares. FTRL, group FTRL, group Adagrad.
    #[must_use]
    pub fn beta(self, value: f32) -> Optimizer {
        self.set("beta", value)
    }

    /// How the learning rate changes from step to step. Every batch of gradients must then name its step or its rate.
    #[must_use]
    pub fn schedule(mut self, schedule: Schedule) -> Optimizer {
        self.schedule = schedule;
        self
    }

    /// Clips each value of a row's gradient to [-limit, limit], after equal keys were summed; 0, the default, for no limit.
    #[must_use]
    pub fn clip_value(mut self, limit: f32) -> Optimizer {
        self.clip.value = limit;
        self
    }

    /// Scales a row's gradient down to this Euclidean norm, after equal keys were summed and values clipped; 0, the default, for no
    /// limit.
    #[must_use]
    pub fn clip_norm(mut self, limit: f32) -> Optimizer {
        self.clip.norm = limit;
        self
    }

    /// The number of f32 values of optimizer state that a row of this dimension has.
    pub fn state_len(&self, dim: usize) -> usize {
        (self.rule.state_len)(dim)
    }

    /// The learning rate, before any schedule.
    pub fn learning_rate(&self) -> f32 {
        self.learning_rate
    }

    /// Writes the state of a row that was never updated. `state` has [`state_len`](Self::state_len) values.
    pub(crate) fn init_state(&self, dim: usize, state: &mut [f32]) {
        debug_assert_eq!(state.len(), self.state_len(dim));
        (self.rule.init_state)(&self.own, dim, state);
    }

    /// What the updates of a batch have in common: another learning rate than the optimizer's, and the number of the step.
    pub(crate) fn step(&self, learning_rate: Option<f32>, number: Option<u64>) -> Step {
        let scheduled = || number.map_or(self.learning_rate, |number| self.learning_rate * self.schedule.factor(number));
        let cpu = Cpu::detect();
        Step {
            // A schedule may take a tiny rate below what rules can divide by.
            learning_rate: learning_rate.unwrap_or_else(scheduled).max(f32::MIN_POSITIVE),
            weight_decay: self.weight_decay,
            own: self.own,
            number,
            of_number: number.map(|number| (self.rule.of_number)(&self.own, number)),
            clip: self.clip,
            kernel: (self.rule.kernel)(cpu),
            follow: self.rule.follow,
            cpu,
        }
    }

    /// Says what a batch of gradients lacks, if anything.
    pub(crate) fn check_step(&self, learning_rate: Option<f32>, number: Option<u64>) -> Result<(), String> {
        let scheduled = self.schedule != Schedule::constant() && learning_rate.is_none();
        match number {
            None if self.rule.needs_number => Err(format!("{} needs the number of the step", self.name())),
            None if scheduled => Err("the schedule of the learning rate needs the number of the step, or a rate".into()),
            _ => Ok(()),
        }
    }

    /// Whether rows of the one can go on with the other: same rule, so same state. Its parameters may differ.
    pub(crate) fn same_layout(&self, other: &Optimizer) -> bool {
        self.rule == other.rule
    }

    /// Says what is wrong with a learning rate: it must be a positive, finite (and not subnormal) number.
    pub(crate) fn validate_learning_rate(learning_rate: f32) -> Result<(), String> {
        Range::Positive.check("learning rate", learning_rate)
    }

    /// Says what is wrong with the parameters, if anything.
    pub(crate) fn validate(&self) -> Result<(), String> {
        if let Some(name) = self.misapplied {
            return Err(format!("{name} does not apply to {}", self.name()));
        }
        Optimizer::validate_learning_rate(self.learning_rate)?;
        Range::NotNegative.check("weight decay", self.weight_decay)?;
        for (value, parameter) in self.own.iter().zip(self.rule.parameters) {
            parameter.range.check(&words(parameter.name), *value)?;
        }
        self.schedule.validate()?;
        self.clip.validate()
    }

    /// Says what is wrong with a dimension, if anything.
    pub(crate) fn validate_dim(&self, dim: usize) -> Result<(), String> {
        match self.rule.only_dim {
            Some(only) if only != dim => Err(format!("{} is for dim {only}, not {dim}", self.name())),
            _ => Ok(()),
        }
    }

    /// The rule's number and its parameters for the disk: learning rate, weight decay, the rule's own, then zeros.
    pub(crate) fn encode(&self) -> (u8, [f32; 8]) {
        let [a, b, c, d, e, f] = self.own;
        (self.rule.kind, [self.learning_rate, self.weight_decay, a, b, c, d, e, f])
    }

    /// The inverse of [`encode`](Self::encode); `None` for an unknown rule or parameters that are not valid.
    pub(crate) fn decode(kind: u8, params: [f32; 8]) -> Option<Optimizer> {
        let rule = RULES.into_iter().find(|rule| rule.kind == kind)?;
        let [learning_rate, weight_decay, a, b, c, d, e, f] = params;
        let mut own: Own = [a, b, c, d, e, f];
        own[rule.parameters.len()..].fill(0.0);
        let optimizer = Optimizer { weight_decay, own, ..Optimizer::of(rule, learning_rate) };
        optimizer.validate().ok().map(|()| optimizer)
    }

    /// As [`decode`](Self::decode), for a schema of version 1, which knows fewer rules and parameters.
    pub(crate) fn decode_version_1(kind: u8, mut params: [f32; 8]) -> Option<Optimizer> {
        let own = OWN_IN_VERSION_1.get(usize::from(kind))?;
        params[8 - OWN + own..].fill(0.0);
        Optimizer::decode(kind, params)
    }

    /// Whether a schema of version 1 can hold it: a rule and parameters that it knows, no schedule, no clipping.
    pub(crate) fn is_version_1(&self) -> bool {
        let own = OWN_IN_VERSION_1.get(usize::from(self.rule.kind));
        own.is_some_and(|&own| self.own[own..].iter().all(|value| *value == 0.0)) && !self.has_more()
    }

    /// Whether there is something for [`encode_more`](Self::encode_more).
    pub(crate) fn has_more(&self) -> bool {
        self.schedule != Schedule::constant() || self.clip != Clip::NONE
    }

    /// Schedule and clipping, for the disk.
    pub(crate) fn encode_more(&self, out: &mut Vec<u8>) {
        let (warm_up, kind, steps, parameters) = self.schedule.encode();
        out.extend_from_slice(&warm_up.to_le_bytes());
        out.push(kind);
        out.extend_from_slice(&steps.to_le_bytes());
        for value in parameters.into_iter().chain([self.clip.value, self.clip.norm]) {
            out.extend_from_slice(&value.to_le_bytes());
        }
    }

    /// Takes over what [`encode_more`](Self::encode_more) wrote; `None` for anything else.
    pub(crate) fn decode_more(self, reader: &mut Reader<'_>) -> Option<Optimizer> {
        let (warm_up, kind, steps) = (reader.u32()?, reader.u8()?, reader.u32()?);
        let schedule = Schedule::decode(warm_up, kind, steps, [reader.f32()?, reader.f32()?])?;
        let clip = Clip { value: reader.f32()?, norm: reader.f32()? };
        let optimizer = Optimizer { schedule, clip, ..self };
        optimizer.validate().ok().map(|()| optimizer)
    }

    /// The rule's name.
    pub(crate) fn name(&self) -> &'static str {
        self.rule.name
    }

    /// The rule and all its parameters in words.
    pub(crate) fn describe(&self) -> String {
        let mut text = format!("{} (learning rate {}", self.name(), self.learning_rate);
        if self.weight_decay != 0.0 {
            text += &format!(", weight decay {}", self.weight_decay);
        }
        for (value, parameter) in self.own.iter().zip(self.rule.parameters) {
            match parameter.range {
                Range::Switch if *value == 0.0 => {}
                Range::Switch => text += &format!(", {}", words(parameter.name)),
                Range::Positive => text += &format!(", {} {value:e}", words(parameter.name)),
                _ => text += &format!(", {} {value}", words(parameter.name)),
            }
        }
        if self.schedule != Schedule::constant() {
            text += &format!(", {}", self.schedule);
        }
        for (name, limit) in [("values", self.clip.value), ("norms", self.clip.norm)] {
            if limit != 0.0 {
                text += &format!(", {name} clipped to {limit}");
            }
        }
        text + ")"
    }
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

impl fmt::Display for Optimizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}
