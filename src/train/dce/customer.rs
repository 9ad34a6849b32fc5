//! The customer encoder: one recurrent layer over the vectors of a customer's sessions with the times between them, one over the
//! contexts at their logins, and a linear layer that foretells the vector of the next session from both and the time.
//!
//! At login `j`, with the states `h` and `c` of before: `c' = GRU(c, [context_j, time_j])`, `p_j = W [h, c', time_j] + b` foretells `s_j`;
//! after logout `h' = GRU(h, [s_j, time_j])`. The loss is the squared distance of `p_j` and `s_j`, whose lanes have mean 0 and
//! deviation 1 over the training part. It learns through windows of sessions that begin with states of zero.
#![forbid(unsafe_code)]

use candle_core::{Result as CandleResult, Tensor};

use super::gru::{Gru, tensor};
use super::moment::{Layout, TIME};
use crate::Result;
use crate::train::affine::values;
use crate::train::bytes::{Reader, Writer};
use crate::train::data::synthetic::Counter;
use crate::train::dense::{Layer, Schedule, model};

/// A session of each row of a batch: row-major `session`, `time` and `facts`; rows that are not live are passed over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Step {
    pub(crate) sessions: Vec<f32>,
    pub(crate) times: Vec<f32>,
    pub(crate) facts: Vec<f32>,
    pub(crate) live: Vec<bool>,
}

/// The states of a batch after a login or a logout, row-major.
pub(crate) struct States {
    pub(crate) sequence: Vec<f32>,
    pub(crate) context: Vec<f32>,
    /// The foretold vector of the session.
    pub(crate) foretold: Vec<f32>,
}

pub(crate) struct CustomerEncoder {
    sequence: Gru,
    context: Option<Gru>,
    foretell: Layer,
    schedule: Schedule,
    rate: f32,
    session: usize,
    facts: usize,
}

fn beside(left: &Tensor, right: &Tensor) -> CandleResult<Tensor> {
    Tensor::cat(&[left, right], 1)?.contiguous()
}

impl CustomerEncoder {
    pub(crate) fn new(layout: &Layout, rate: f32, random: &mut Counter) -> Result<CustomerEncoder> {
        let context = if layout.facts == 0 { None } else { Some(Gru::new(layout.facts + TIME, layout.context, random)?) };
        Ok(CustomerEncoder {
            sequence: Gru::new(layout.session + TIME, layout.sequence, random)?,
            context,
            foretell: Layer::new(layout.sequence + layout.context + TIME, layout.session, random)?,
            schedule: Schedule::new(),
            rate,
            session: layout.session,
            facts: layout.facts,
        })
    }

    pub(crate) fn weights(&self) -> usize {
        self.sequence.weights() + self.context.as_ref().map_or(0, Gru::weights) + self.foretell.weights()
    }

    /// The context's state after the login, and the foretold session.
    fn login(&self, step: &Step, sequence: &Tensor, context: Option<&Tensor>) -> CandleResult<(Option<Tensor>, Tensor)> {
        let times = tensor(&step.times, TIME)?;
        let (context, known) = match (&self.context, context) {
            (Some(gru), Some(state)) => {
                let input = gru.input(&beside(&tensor(&step.facts, self.facts)?, &times)?)?;
                let state = gru.step(&input, state, step.live.clone())?;
                let known = beside(sequence, &state)?;
                (Some(state), known)
            }
            _ => (None, sequence.clone()),
        };
        let foretold = self.foretell.apply(&beside(&known, &times)?)?;
        Ok((context, foretold))
    }

    fn logout(&self, step: &Step, sequence: &Tensor) -> CandleResult<Tensor> {
        let input = beside(&tensor(&step.sessions, self.session)?, &tensor(&step.times, TIME)?)?;
        self.sequence.step(&self.sequence.input(&input)?, sequence, step.live.clone())
    }

    /// A session of each row: the states after the login and the logout.
    pub(crate) fn visit(&self, step: &Step, sequence: &[f32], context: &[f32]) -> Result<States> {
        let run = || -> CandleResult<States> {
            let sequence = tensor(sequence, self.sequence.width())?;
            let before = self.context.as_ref().map(|gru| tensor(context, gru.width())).transpose()?;
            let (context, foretold) = self.login(step, &sequence, before.as_ref())?;
            let after = self.logout(step, &sequence)?;
            let context = context.map_or(Ok(Vec::new()), |context| values(&context))?;
            Ok(States { sequence: values(&after)?, context, foretold: values(&foretold)? })
        };
        run().map_err(model)
    }

    /// Learns a batch of windows, step by step. Returns the sum of the squared distances and the number of lanes.
    pub(crate) fn train(&mut self, steps: &[Step]) -> Result<(f64, u64)> {
        let rows = steps.first().map_or(0, |step| step.live.len());
        if rows == 0 {
            return Ok((0.0, 0));
        }
        let mut run = || -> CandleResult<(f64, u64)> {
            let mut sequence = self.sequence.zeros(rows)?;
            let mut context = self.context.as_ref().map(|gru| gru.zeros(rows)).transpose()?;
            let (mut foretold, mut errors) = (Vec::new(), Vec::new());
            let (mut loss, mut lanes) = (0.0f64, 0u64);
            for step in steps {
                let (after, guess) = self.login(step, &sequence, context.as_ref())?;
                context = after;
                sequence = self.logout(step, &sequence)?;
                for ((guess, truth), live) in
                    values(&guess)?.chunks_exact(self.session).zip(step.sessions.chunks_exact(self.session)).zip(&step.live)
                {
                    let weight = f32::from(u8::from(*live));
                    errors.extend(guess.iter().zip(truth).map(|(a, b)| weight * (a - b)));
                    lanes += if *live { self.session as u64 } else { 0 };
                }
                foretold.push(guess);
            }
            errors.iter().for_each(|error| loss += f64::from(error * error));
            let all = Tensor::cat(&foretold, 0)?;
            let grads = all.mul(&tensor(&errors, self.session)?)?.sum_all()?.backward()?;
            let (rate, count) = (self.schedule.next(self.rate), (lanes as f32).max(1.0));
            self.sequence.learn(&grads, count, rate)?;
            if let Some(gru) = &mut self.context {
                gru.learn(&grads, count, rate)?;
            }
            self.foretell.learn(&grads, count, rate)?;
            Ok((loss, lanes))
        };
        run().map_err(model)
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        self.schedule.write(out);
        self.sequence.write(out);
        if let Some(gru) = &self.context {
            gru.write(out);
        }
        self.foretell.write(out);
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        self.schedule.read(from)?;
        self.sequence.read(from)?;
        if let Some(gru) = &mut self.context {
            gru.read(from)?;
        }
        self.foretell.read(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { session: 3, counted: 1, classes: 2, facts: 2, sequence: 8, context: 4 };

    /// Sessions that alternate by row and step, with a context that says which comes.
    fn steps(rows: usize, length: usize, told: bool, random: &mut Counter) -> Vec<Step> {
        let step = |t: usize| {
            let mut step = Step { live: (0..rows).map(|row| t < length - row % 2).collect(), ..Step::default() };
            for row in 0..rows {
                let side = if (t + row).is_multiple_of(2) { 1.0 } else { -1.0 };
                step.sessions.extend([side, -side, 0.5 * side]);
                step.times.extend([0.1; TIME]);
                step.facts.extend([if told { side } else { random.normal() as f32 }, 0.3]);
            }
            step
        };
        (0..length).map(step).collect()
    }

    fn learned(told: bool, length: usize) -> (CustomerEncoder, f64) {
        let mut random = Counter::new(2);
        let mut encoder = CustomerEncoder::new(&LAYOUT, 0.02, &mut random).unwrap();
        let mut last = 0.0;
        for _ in 0..120 {
            let (loss, lanes) = encoder.train(&steps(6, length, told, &mut random)).unwrap();
            last = loss / lanes as f64;
        }
        (encoder, last)
    }

    #[test]
    fn it_foretells_from_the_sequence_and_from_the_context() {
        // A first session can be foretold from the context alone, so with windows of one only that helps.
        assert!(learned(true, 2).1 < 0.05);
        let (_, alone) = learned(false, 8);
        assert!(alone < 0.25, "{alone}");
    }

    #[test]
    fn a_visit_is_a_step_of_training_and_a_restored_encoder_the_same() {
        let (encoder, _) = learned(true, 4);
        let mut out = Writer::default();
        encoder.write(&mut out);
        let mut other = CustomerEncoder::new(&LAYOUT, 0.02, &mut Counter::new(9)).unwrap();
        let mut reader = Reader::new(&out.bytes);
        other.read(&mut reader).unwrap();
        reader.end().unwrap();
        let all = steps(4, 3, true, &mut Counter::new(1));
        let run = |encoder: &CustomerEncoder, rows: usize| {
            let (mut sequence, mut context) = (vec![0.0; rows * 8], vec![0.0; rows * 4]);
            let mut foretold = Vec::new();
            for step in &all {
                let step = Step {
                    sessions: step.sessions[..rows * 3].to_vec(),
                    times: step.times[..rows * TIME].to_vec(),
                    facts: step.facts[..rows * 2].to_vec(),
                    live: step.live[..rows].to_vec(),
                };
                let states = encoder.visit(&step, &sequence, &context).unwrap();
                (sequence, context, foretold) = (states.sequence, states.context, states.foretold);
            }
            (sequence, context, foretold)
        };
        let (sequence, context, foretold) = run(&encoder, 4);
        assert_eq!(run(&other, 4), (sequence.clone(), context.clone(), foretold.clone()));
        // Nobody's state depends on who else is in the batch.
        assert_eq!(run(&encoder, 1), (sequence[..8].to_vec(), context[..4].to_vec(), foretold[..3].to_vec()));
    }
}
