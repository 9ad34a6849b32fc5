//! The optimizers: how a gradient changes a row, fused into one pass over the row's embedding and optimizer state.
//!
//! Each rule is a file: its formula, its parameters, its state, its constructor. What they have in common is in `rule` (what a rule
//! says about itself), `step` (what the updates of a batch share), `settings` (setters, disk), `schedule`, `clip` and `sums`.
#![forbid(unsafe_code)]

mod adadelta;
mod adagrad;
mod adagrad_w;
mod adam;
mod adam_w;
mod amsgrad;
mod batch_softmax;
mod clip;
mod ftrl;
mod group_adagrad;
mod group_ftrl;
mod lazy_adam;
mod momentum;
mod moving_average;
mod rmsprop;
mod rmsprop_v2;
mod rowwise_adagrad;
mod rule;
mod schedule;
mod settings;
mod sgd;
mod step;
mod sums;
#[cfg(test)]
mod tests;

pub use schedule::Schedule;
pub(crate) use step::Step;

use clip::Clip;
use rule::{Description, Own, Rule};

/// The rules that a schema can name.
static RULES: [&Description; 17] = [
    sgd::Sgd::DESCRIPTION,
    adagrad::Adagrad::DESCRIPTION,
    rowwise_adagrad::RowwiseAdagrad::DESCRIPTION,
    adam::Adam::DESCRIPTION,
    ftrl::Ftrl::DESCRIPTION,
    adam_w::AdamW::DESCRIPTION,
    lazy_adam::LazyAdam::DESCRIPTION,
    amsgrad::Amsgrad::DESCRIPTION,
    group_ftrl::GroupFtrl::DESCRIPTION,
    group_adagrad::GroupAdagrad::DESCRIPTION,
    adagrad_w::AdagradW::DESCRIPTION,
    adadelta::Adadelta::DESCRIPTION,
    momentum::Momentum::DESCRIPTION,
    moving_average::MovingAverage::DESCRIPTION,
    rmsprop::Rmsprop::DESCRIPTION,
    rmsprop_v2::RmspropV2::DESCRIPTION,
    batch_softmax::BatchSoftmax::DESCRIPTION,
];

/// How gradients change a table's rows. Formulas, state, defaults and sources of all of them: `docs/optimizers.md`.
///
/// `g` is a key's gradient, summed over the batch; `w` its embedding; `D` the dimension. With weight decay `wd` the rules see
/// `g' = g + wd * w` (an L2 penalty) unless they say otherwise.
///
/// | constructor | state, in f32 | defaults |
/// |---|---|---|
/// | [`sgd`](Self::sgd) | 0 | |
/// | [`momentum`](Self::momentum) | D | decay 0.9 |
/// | [`adagrad`](Self::adagrad), [`adagrad_w`](Self::adagrad_w) | D | initial accumulator 0.1, eps 1e-10 |
/// | [`rowwise_adagrad`](Self::rowwise_adagrad) | 1 | initial accumulator 0.1, eps 1e-8 |
/// | [`group_adagrad`](Self::group_adagrad) | 1 | initial accumulator 0.1, beta 0, group lasso 0 |
/// | [`adadelta`](Self::adadelta) | 2 D | decay 0.9, eps 1e-6 |
/// | [`rmsprop`](Self::rmsprop), [`rmsprop_v2`](Self::rmsprop_v2) | D | decay 0.9, eps 1 |
/// | [`adam`](Self::adam), [`adam_w`](Self::adam_w) | 2 D + 2 | betas 0.9 and 0.999, eps 1e-8 |
/// | [`lazy_adam`](Self::lazy_adam) | 2 D | the same |
/// | [`amsgrad`](Self::amsgrad) | 3 D + 2 | the same |
/// | [`ftrl`](Self::ftrl) | 2 D | initial accumulator 0.1, beta, l1 and l2 0 |
/// | [`group_ftrl`](Self::group_ftrl) | 2 D | initial accumulator 0.1, beta 1, group lasso and l2 0 |
/// | [`moving_average`](Self::moving_average) | 0 | decay 0.9 |
/// | [`batch_softmax`](Self::batch_softmax) | 2 | |
///
/// Weight decay is 0 unless set, 0.01 for the two decoupled rules. A setter that the rule does not know is reported when the table
/// is created, as are parameters out of range. Gradients above about 1e18 in magnitude overflow in their square; clip them
/// ([`clip_value`](Self::clip_value), [`clip_norm`](Self::clip_norm),
/// [`Update::clip_global_norm`](crate::Update::clip_global_norm)).
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
    rule: &'static Description,
    own: Own,
    schedule: Schedule,
    clip: Clip,
    /// A setter that was called but does not apply to the rule.
    misapplied: Option<&'static str>,
}
