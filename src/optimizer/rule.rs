//! What every rule says about itself, and how it is found by the number that it has on disk.
#![forbid(unsafe_code)]

use super::step::Step;
use crate::simd::{Cpu, Picked, RowLoop};

/// The most parameters that a rule has of its own: as many as a schema has room for.
pub(super) const OWN: usize = 6;

/// A rule's own parameters, in the order of its [`Rule::PARAMETERS`], then zeros.
pub(super) type Own = [f32; OWN];

/// A parameter of a rule.
#[derive(Debug)]
pub(super) struct Parameter {
    /// As the setter is called.
    pub(super) name: &'static str,
    pub(super) default: f32,
    pub(super) range: Range,
}

impl Parameter {
    pub(super) const fn new(name: &'static str, default: f32, range: Range) -> Parameter {
        Parameter { name, default, range }
    }
}

/// The values that a parameter may have.
#[derive(Debug)]
pub(super) enum Range {
    NotNegative,
    /// Above 0, finite, not subnormal.
    Positive,
    /// [0, 1).
    BelowOne,
    /// 0 or 1.
    Switch,
}

impl Range {
    pub(super) fn check(&self, name: &str, value: f32) -> Result<(), String> {
        let (good, range) = match self {
            Range::NotNegative => (value.is_finite() && value >= 0.0, "a finite number of at least 0"),
            Range::Positive => (value.is_normal() && value > 0.0, "a finite number above 0"),
            Range::BelowOne => ((0.0..1.0).contains(&value), "in [0, 1)"),
            Range::Switch => (value == 0.0 || value == 1.0, "0 or 1"),
        };
        if good { Ok(()) } else { Err(format!("{name} {value} is not {range}")) }
    }
}

/// A rule: how the gradient of a row changes its weights and state. Each is a file of its own and a line in [`RULES`](super::RULES).
///
/// `apply` must be `#[inline(always)]`, with plain multiplications and additions (never fused), exact roots and divisions and sums
/// over a fixed tree, so that it makes the same bits on every processor.
pub(super) trait Rule: Sized + 'static {
    /// Its number in schemas, for ever.
    const KIND: u8;
    const NAME: &'static str;
    const PARAMETERS: &'static [Parameter];
    /// The default of the weight decay; `None` if the rule has none.
    const WEIGHT_DECAY: Option<f32> = Some(0.0);
    /// Whether it cannot work without the number of the step.
    const NEEDS_NUMBER: bool = false;
    /// The only dimension that it knows.
    const ONLY_DIM: Option<usize> = None;
    const DESCRIPTION: &'static Description = &Description::of::<Self>();

    /// f32s of state of a row. Inlined, as `apply` is.
    fn state_len(dim: usize) -> usize;

    /// Writes the state of a row that was never updated.
    fn init_state(own: &Own, dim: usize, state: &mut [f32]);

    /// Two numbers that follow from that of the step, worked out once for all rows.
    fn of_number(_own: &Own, _number: u64) -> [f32; 2] {
        [0.0; 2]
    }

    fn apply(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]);

    /// Brings the state in line with weights that were set. Only for rules whose weights are a function of their state.
    const FOLLOW: Option<Follow> = None;
}

/// See [`Rule::FOLLOW`].
pub(super) type Follow = fn(step: &Step, weights: &[f32], state: &mut [f32]);

/// A rule's kernel.
struct Kernel<R>(std::marker::PhantomData<R>);

impl<R: Rule> RowLoop for Kernel<R> {
    type Step = Step;

    #[inline(always)]
    fn run(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
        match weights.len() {
            16 => apply_as::<R, 16>(step, weights, state, grad),
            32 => apply_as::<R, 32>(step, weights, state, grad),
            64 => apply_as::<R, 64>(step, weights, state, grad),
            128 => apply_as::<R, 128>(step, weights, state, grad),
            _ => R::apply(step, weights, state, grad),
        }
    }
}

/// For the usual dimensions, so that the compiler knows them.
#[inline(always)]
fn apply_as<R: Rule, const D: usize>(step: &Step, weights: &mut [f32], state: &mut [f32], grad: &[f32]) {
    R::apply(step, &mut weights[..D], &mut state[..R::state_len(D)], &grad[..D]);
}

/// A [`Rule`] as a value.
#[derive(Debug)]
pub(super) struct Description {
    pub(super) kind: u8,
    pub(super) name: &'static str,
    pub(super) parameters: &'static [Parameter],
    pub(super) weight_decay: Option<f32>,
    pub(super) needs_number: bool,
    pub(super) only_dim: Option<usize>,
    pub(super) state_len: fn(usize) -> usize,
    pub(super) init_state: fn(&Own, usize, &mut [f32]),
    pub(super) of_number: fn(&Own, u64) -> [f32; 2],
    pub(super) kernel: fn(Cpu) -> Picked<Step>,
    pub(super) follow: Option<Follow>,
}

impl Description {
    const fn of<R: Rule>() -> Description {
        Description {
            kind: R::KIND,
            name: R::NAME,
            parameters: R::PARAMETERS,
            weight_decay: R::WEIGHT_DECAY,
            needs_number: R::NEEDS_NUMBER,
            only_dim: R::ONLY_DIM,
            state_len: R::state_len,
            init_state: R::init_state,
            of_number: R::of_number,
            kernel: Picked::of::<Kernel<R>>,
            follow: R::FOLLOW,
        }
    }

    pub(super) fn defaults(&self) -> Own {
        let mut own = [0.0; OWN];
        own.iter_mut().zip(self.parameters).for_each(|(value, parameter)| *value = parameter.default);
        own
    }
}

impl PartialEq for Description {
    fn eq(&self, other: &Description) -> bool {
        self.kind == other.kind
    }
}
