//! The session encoder: a sequence-to-sequence autoencoder over the events of a session.
//!
//! An event's row in the store is `[bias, vector...]`. A recurrent layer reads the vectors of a session's events, first to last; its
//! last state is the session's vector (the *code*). A second one begins there, is given nothing but the code, and has to say the
//! events, last to first (Srivastava et al. 2015, the unconditioned decoder): a linear layer turns its state into a vector, whose
//! products with the events' own vectors, plus their biases, are the log-odds among the distinct events of the batch. So there
//! is no fixed vocabulary: any key is an event.
//!
//! Rows get the gradient of the batch's *summed* log loss, the dense weights that of its mean an event.
#![forbid(unsafe_code)]

use std::collections::HashMap;

use candle_core::{Device, Result as CandleResult, Tensor, Var};

use super::gru::{Gru, tensor};
use crate::train::affine::{Affine, values};
use crate::train::bytes::{Reader, Writer};
use crate::train::data::synthetic::Counter;
use crate::train::dense::{Layer, Schedule, gradient_of, model};
use crate::{Key, Result};

/// The events of a batch of sessions.
pub(crate) struct Events {
    /// The distinct events, in order of their first appearance.
    pub(crate) keys: Vec<Key>,
    /// By session, the place of each event in `keys`.
    sessions: Vec<Vec<u32>>,
    /// The most events of a session.
    longest: usize,
}

impl Events {
    pub(crate) fn new<'a>(sessions: impl Iterator<Item = &'a [Key]>) -> Events {
        let (mut keys, mut places) = (Vec::new(), HashMap::new());
        let mut place = |key: &Key| {
            *places.entry(*key).or_insert_with(|| {
                keys.push(*key);
                keys.len() as u32 - 1
            })
        };
        let sessions: Vec<Vec<u32>> = sessions.map(|events| events.iter().map(&mut place).collect()).collect();
        let longest = sessions.iter().map(Vec::len).max().unwrap_or(0);
        Events { keys, sessions, longest }
    }

    fn count(&self) -> usize {
        self.sessions.iter().map(Vec::len).sum()
    }
}

/// How well a batch was said back.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Said {
    /// Sum of the events' log losses.
    pub(crate) loss: f64,
    /// Events that came first among those of the batch.
    pub(crate) right: u64,
    /// Events.
    pub(crate) events: u64,
}

impl Said {
    pub(crate) fn add(&mut self, other: Said) {
        self.loss += other.loss;
        self.right += other.right;
        self.events += other.events;
    }
}

pub(crate) struct Autoencoder {
    encoder: Gru,
    decoder: Gru,
    output: Layer,
    schedule: Schedule,
    rate: f32,
    vector: usize,
}

impl Autoencoder {
    /// Events of `vector` floats (their rows are one longer), sessions of `code`.
    pub(crate) fn new(vector: usize, code: usize, rate: f32, random: &mut Counter) -> Result<Autoencoder> {
        Ok(Autoencoder {
            encoder: Gru::new(vector, code, random)?,
            decoder: Gru::new(code, code, random)?,
            output: Layer::new(code, vector, random)?,
            schedule: Schedule::new(),
            rate,
            vector,
        })
    }

    pub(crate) fn weights(&self) -> usize {
        self.encoder.weights() + self.decoder.weights() + self.output.weights()
    }

    fn codes(&self, events: &Events, vectors: &Tensor) -> CandleResult<Tensor> {
        let mut state = self.encoder.zeros(events.sessions.len())?;
        for t in 0..events.longest {
            let places: Vec<u32> = events.sessions.iter().map(|session| session.get(t).copied().unwrap_or(0)).collect();
            let live = events.sessions.iter().map(|session| t < session.len()).collect();
            let input = vectors.index_select(&Tensor::from_vec(places, events.sessions.len(), &Device::Cpu)?, 0)?;
            state = self.encoder.step(&self.encoder.input(&input)?, &state, live)?;
        }
        Ok(state)
    }

    /// The log-odds of the batch's distinct events at each event, and which of them it is.
    fn decode(&self, events: &Events, codes: &Tensor, vectors: &Tensor, biases: &Tensor) -> CandleResult<(Tensor, Vec<u32>)> {
        let sessions = events.sessions.len();
        let input = self.decoder.input(codes)?;
        let (mut state, mut states) = (codes.clone(), Vec::with_capacity(events.longest));
        let (mut places, mut targets) = (Vec::with_capacity(events.count()), Vec::with_capacity(events.count()));
        for t in 0..events.longest {
            state = self.decoder.step(&input, &state, vec![true; sessions])?;
            states.push(state.clone());
            for (row, session) in events.sessions.iter().enumerate().filter(|(_, session)| t < session.len()) {
                places.push((t * sessions + row) as u32);
                targets.push(session[session.len() - 1 - t]);
            }
        }
        let count = places.len();
        let states = Tensor::cat(&states, 0)?.index_select(&Tensor::from_vec(places, count, &Device::Cpu)?, 0)?;
        let output = self.output.apply(&states)?;
        Ok((output.apply_op3(&vectors.t()?.contiguous()?, biases, Affine)?, targets))
    }

    /// The vector of each session; `rows` are those of its distinct events.
    pub(crate) fn encode(&self, events: &Events, rows: &[f32]) -> Result<Vec<f32>> {
        let run = || values(&self.codes(events, &tensor(&self.split(rows).0, self.vector)?)?);
        run().map_err(model)
    }

    /// Says the sessions back, without learning.
    pub(crate) fn say(&self, events: &Events, rows: &[f32]) -> Result<Said> {
        if events.longest == 0 {
            return Ok(Said::default());
        }
        let run = || -> CandleResult<Said> {
            let (vectors, biases) = self.split(rows);
            let (vectors, biases) = (tensor(&vectors, self.vector)?, Tensor::from_slice(&biases, biases.len(), &Device::Cpu)?);
            let (logits, targets) = self.decode(events, &self.codes(events, &vectors)?, &vectors, &biases)?;
            Ok(softmax(&mut values(&logits)?, &targets, events.keys.len()))
        };
        run().map_err(model)
    }

    /// Learns a batch; fills the gradient of each distinct event's row.
    pub(crate) fn train(&mut self, events: &Events, rows: &[f32], gradients: &mut Vec<f32>) -> Result<Said> {
        gradients.clear();
        gradients.resize(rows.len(), 0.0);
        if events.longest == 0 {
            return Ok(Said::default());
        }
        let mut run = || -> CandleResult<Said> {
            let (vectors, biases) = self.split(rows);
            let vectors = Var::from_tensor(&tensor(&vectors, self.vector)?)?;
            let biases = Var::from_slice(&biases, biases.len(), &Device::Cpu)?;
            let (logits, targets) = self.decode(events, &self.codes(events, &vectors)?, &vectors, &biases)?;
            let mut errors = values(&logits)?;
            let said = softmax(&mut errors, &targets, events.keys.len());
            let grads = logits.mul(&tensor(&errors, events.keys.len())?)?.sum_all()?.backward()?;
            let (rate, count) = (self.schedule.next(self.rate), targets.len() as f32);
            self.encoder.learn(&grads, count, rate)?;
            self.decoder.learn(&grads, count, rate)?;
            self.output.learn(&grads, count, rate)?;
            let (of_vectors, of_biases) = (gradient_of(&grads, &vectors)?, gradient_of(&grads, &biases)?);
            let parts = of_biases.iter().zip(of_vectors.chunks_exact(self.vector));
            for (row, (bias, vector)) in gradients.chunks_exact_mut(1 + self.vector).zip(parts) {
                row[0] = *bias;
                row[1..].copy_from_slice(vector);
            }
            Ok(said)
        };
        run().map_err(model)
    }

    /// Vectors and biases of rows.
    fn split(&self, rows: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let rows = rows.chunks_exact(1 + self.vector);
        (rows.clone().flat_map(|row| row[1..].iter().copied()).collect(), rows.map(|row| row[0]).collect())
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        self.schedule.write(out);
        self.encoder.write(out);
        self.decoder.write(out);
        self.output.write(out);
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        self.schedule.read(from)?;
        self.encoder.read(from)?;
        self.decoder.read(from)?;
        self.output.read(from)
    }
}

/// Turns log-odds into the gradient of the log loss with respect to them, row by row.
pub(crate) fn softmax(logits: &mut [f32], targets: &[u32], classes: usize) -> Said {
    let mut said = Said { events: targets.len() as u64, ..Said::default() };
    for (row, target) in logits.chunks_exact_mut(classes.max(1)).zip(targets) {
        let target = *target as usize;
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        said.right += u64::from(row[target] == most);
        let mut sum = 0.0f32;
        for x in row.iter_mut() {
            *x = libm::expf(*x - most);
            sum += *x;
        }
        row.iter_mut().for_each(|x| *x /= sum);
        said.loss -= libm::log(f64::from(row[target].max(f32::MIN_POSITIVE)));
        row[target] -= 1.0;
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case() -> (Autoencoder, Events, Vec<f32>) {
        let mut random = Counter::new(5);
        let model = Autoencoder::new(4, 6, 0.01, &mut random).unwrap();
        let sessions: [&[Key]; 4] = [&[7, 8, 7, 9], &[9], &[], &[8, 11]];
        let events = Events::new(sessions.into_iter());
        let rows = (0..events.keys.len() * 5).map(|_| 0.5 * random.normal() as f32).collect();
        (model, events, rows)
    }

    #[test]
    fn row_gradients_are_those_of_finite_differences() {
        let (mut model, events, rows) = case();
        assert_eq!(events.keys, [7, 8, 9, 11]);
        let loss = |rows: &[f32]| model.say(&events, rows).unwrap().loss;
        let numeric: Vec<f64> = (0..rows.len())
            .map(|at| {
                let (mut up, mut down) = (rows.clone(), rows.clone());
                up[at] += 1e-2;
                down[at] -= 1e-2;
                (loss(&up) - loss(&down)) / 2e-2
            })
            .collect();
        let mut gradients = Vec::new();
        model.train(&events, &rows, &mut gradients).unwrap();
        for (exact, numeric) in gradients.iter().zip(numeric) {
            assert!((f64::from(*exact) - numeric).abs() < 3e-3, "{exact} {numeric}");
        }
    }

    #[test]
    fn it_learns_to_say_sessions_back_and_a_restored_one_goes_on_with_the_same_bits() {
        let (mut model, events, mut rows) = case();
        let before = model.say(&events, &rows).unwrap();
        let mut gradients = Vec::new();
        let mut learn = |model: &mut Autoencoder, rows: &mut Vec<f32>, steps: usize| {
            for _ in 0..steps {
                model.train(&events, rows, &mut gradients).unwrap();
                rows.iter_mut().zip(&gradients).for_each(|(w, g)| *w -= 0.05 * g);
            }
        };
        learn(&mut model, &mut rows, 150);
        let after = model.say(&events, &rows).unwrap();
        assert!(after.loss < 0.2 * before.loss && after.right == 7, "{before:?} {after:?}");
        let mut out = Writer::default();
        model.write(&mut out);
        let (mut restored, ..) = case();
        let mut reader = Reader::new(&out.bytes);
        restored.read(&mut reader).unwrap();
        reader.end().unwrap();
        let mut other = rows.clone();
        learn(&mut model, &mut rows, 3);
        learn(&mut restored, &mut other, 3);
        assert_eq!((&rows, model.encode(&events, &rows).unwrap()), (&other, restored.encode(&events, &other).unwrap()));
    }

    #[test]
    fn a_code_depends_on_its_own_session_only() {
        let (model, events, rows) = case();
        let all = model.encode(&events, &rows).unwrap();
        let alone = Events::new([&[8, 11][..]].into_iter());
        let of = |key: &Key| events.keys.iter().position(|k| k == key).unwrap();
        let own: Vec<f32> = alone.keys.iter().flat_map(|key| rows[of(key) * 5..][..5].to_vec()).collect();
        assert_eq!(model.encode(&alone, &own).unwrap(), all[18..]);
        assert_eq!(all[12..18], [0.0; 6]);
    }
}
