//! DeepFM: first-order weights, pairwise products of factors, and a perceptron over the concatenated factors.
//!
//! A feature's row in the store is `[first-order weight, factors...]`. For one sample with rows `(w_f, v_f)` and dense numbers
//! `x`, the log-odds are `bias + sum w_f + a.x + sum over pairs of v_f.v_g + mlp(v_1 .. v_F, x)` (Guo et al. 2017). The
//! product part and its gradient are written out by hand, `d/dv_f = (sum v) - v_f`; the perceptron's comes from candle.
//! Rows get the gradient of the batch's *summed* log loss, so that a rare feature learns the same in any batch size; the
//! dense weights get that of its mean.
#![forbid(unsafe_code)]

use super::bytes::{Reader, Writer};
use super::data::synthetic::Counter;
use super::data::{Samples, Shape};
use super::dense::{Mlp, Schedule, Weights};
use super::metrics::sigmoid;
use crate::Result;

/// The shape of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Architecture {
    /// Keys and dense numbers of a sample.
    pub shape: Shape,
    /// Factors of a feature; its row is one longer.
    pub factors: usize,
    /// Widths of the perceptron's hidden layers.
    pub hidden: Vec<usize>,
}

/// The dense part of a DeepFM: all but the rows that live in the store.
pub struct DeepFm {
    architecture: Architecture,
    learning_rate: f32,
    schedule: Schedule,
    /// The bias, then a weight for each dense number.
    linear: Weights,
    mlp: Mlp,
}

impl DeepFm {
    /// A model whose dense weights are drawn from the generator.
    pub fn new(architecture: Architecture, learning_rate: f32, random: &mut Counter) -> Result<DeepFm> {
        let Shape { keys, dense } = architecture.shape;
        let mlp = Mlp::new(keys * architecture.factors + dense, &architecture.hidden, random)?;
        Ok(DeepFm { architecture, learning_rate, schedule: Schedule::new(), linear: Weights::new(vec![0.0; 1 + dense]), mlp })
    }

    /// Floats in a feature's row.
    pub fn row(&self) -> usize {
        1 + self.architecture.factors
    }

    /// The number of dense weights.
    pub fn weights(&self) -> usize {
        self.linear.values.len() + self.mlp.weights()
    }

    /// The perceptron's inputs: each sample's factors, then its dense numbers.
    fn inputs(&self, rows: &[f32], samples: &Samples) -> Vec<f32> {
        let Shape { keys, dense } = self.architecture.shape;
        let mut inputs = Vec::with_capacity(samples.len() * (keys * self.architecture.factors + dense));
        for (at, rows) in rows.chunks_exact(keys * self.row()).enumerate() {
            rows.chunks_exact(self.row()).for_each(|row| inputs.extend_from_slice(&row[1..]));
            inputs.extend_from_slice(&samples.dense[at * dense..(at + 1) * dense]);
        }
        inputs
    }

    /// The log-odds without the perceptron's, and the sum of the sample's factors.
    fn shallow(&self, rows: &[f32], dense: &[f32], sum: &mut [f32]) -> f32 {
        let mut logit = self.linear.values[0];
        logit += dense.iter().zip(&self.linear.values[1..]).map(|(x, a)| x * a).sum::<f32>();
        sum.fill(0.0);
        let mut squares = 0.0;
        for row in rows.chunks_exact(self.row()) {
            logit += row[0];
            for (sum, v) in sum.iter_mut().zip(&row[1..]) {
                *sum += v;
                squares += v * v;
            }
        }
        logit + 0.5 * (sum.iter().map(|s| s * s).sum::<f32>() - squares)
    }

    /// The log-odds of a batch; `rows` holds the row of each of its keys.
    pub fn predict(&self, rows: &[f32], samples: &Samples) -> Result<Vec<f32>> {
        let (mut logits, _) = self.mlp.forward(self.inputs(rows, samples))?;
        self.add_shallow(rows, samples, &mut logits);
        Ok(logits)
    }

    fn add_shallow(&self, rows: &[f32], samples: &Samples, logits: &mut [f32]) {
        let Shape { keys, dense } = self.architecture.shape;
        let mut sum = vec![0.0; self.architecture.factors];
        for (at, (rows, logit)) in rows.chunks_exact(keys * self.row()).zip(logits).enumerate() {
            *logit += self.shallow(rows, &samples.dense[at * dense..(at + 1) * dense], &mut sum);
        }
    }

    /// Predicts a batch, then learns it: steps the dense weights and fills the gradient of each row. Returns the log-odds, as
    /// they were before.
    pub fn train(&mut self, rows: &[f32], samples: &Samples, gradients: &mut Vec<f32>) -> Result<Vec<f32>> {
        self.train_with(rows, samples, 0.0, gradients)
    }

    /// As [`DeepFm::train`], with `offset` added to the log-odds where they meet the labels, not to those returned.
    pub(crate) fn train_with(
        &mut self,
        rows: &[f32],
        samples: &Samples,
        offset: f32,
        gradients: &mut Vec<f32>,
    ) -> Result<Vec<f32>> {
        let (mut logits, pass) = self.mlp.forward(self.inputs(rows, samples))?;
        self.add_shallow(rows, samples, &mut logits);
        let errors: Vec<f32> = logits.iter().zip(&samples.labels).map(|(logit, label)| sigmoid(logit + offset) - label).collect();
        let rate = self.schedule.next(self.learning_rate);
        let of_inputs = self.mlp.backward(&pass, &errors, rate)?;
        self.row_gradients(rows, &errors, &of_inputs, gradients);
        let dense = self.architecture.shape.dense;
        let mut linear = vec![0.0; 1 + dense];
        for (at, error) in errors.iter().enumerate() {
            let error = error / errors.len() as f32;
            linear[0] += error;
            let inputs = &samples.dense[at * dense..(at + 1) * dense];
            linear[1..].iter_mut().zip(inputs).for_each(|(g, x)| *g += error * x);
        }
        self.linear.step(&linear, rate);
        Ok(logits)
    }

    fn row_gradients(&self, rows: &[f32], errors: &[f32], of_inputs: &[f32], gradients: &mut Vec<f32>) {
        let (Shape { keys, dense }, factors) = (self.architecture.shape, self.architecture.factors);
        gradients.clear();
        let mut sum = vec![0.0; factors];
        let inputs = of_inputs.chunks_exact(keys * factors + dense);
        for ((rows, error), deep) in rows.chunks_exact(keys * self.row()).zip(errors).zip(inputs) {
            sum.fill(0.0);
            for row in rows.chunks_exact(self.row()) {
                sum.iter_mut().zip(&row[1..]).for_each(|(sum, v)| *sum += v);
            }
            for (row, deep) in rows.chunks_exact(self.row()).zip(deep.chunks_exact(factors)) {
                gradients.push(*error);
                gradients.extend(row[1..].iter().zip(&sum).zip(deep).map(|((v, sum), deep)| error * (sum - v) + deep));
            }
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        self.schedule.write(out);
        self.linear.write(out);
        self.mlp.write(out);
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        self.schedule.read(from)?;
        self.linear.read(from)?;
        self.mlp.read(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(dense: usize) -> (DeepFm, Vec<f32>, Samples) {
        let mut random = Counter::new(4);
        let architecture = Architecture { shape: Shape { keys: 3, dense }, factors: 4, hidden: vec![7, 5] };
        let model = DeepFm::new(architecture, 0.01, &mut random).unwrap();
        let rows = (0..5 * 3 * 5).map(|_| random.normal() as f32 * 0.5).collect();
        let labels = vec![1.0, 0.0, 0.0, 1.0, 1.0];
        let dense = (0..5 * dense).map(|_| random.normal() as f32).collect();
        (model, rows, Samples { labels, times: vec![0; 5], keys: vec![0; 15], dense })
    }

    fn loss(model: &DeepFm, rows: &[f32], samples: &Samples) -> f64 {
        let one = |(logit, label): (&f32, &f32)| (f64::from(*logit).exp()).ln_1p() - f64::from(logit * label);
        model.predict(rows, samples).unwrap().iter().zip(&samples.labels).map(one).sum()
    }

    #[test]
    fn row_gradients_are_those_of_finite_differences() {
        for dense in [0, 2] {
            let (mut model, rows, samples) = case(dense);
            let numeric: Vec<f64> = (0..rows.len())
                .map(|at| {
                    let (mut up, mut down) = (rows.clone(), rows.clone());
                    up[at] += 5e-3;
                    down[at] -= 5e-3;
                    (loss(&model, &up, &samples) - loss(&model, &down, &samples)) / 1e-2
                })
                .collect();
            let mut gradients = Vec::new();
            model.train(&rows, &samples, &mut gradients).unwrap();
            assert_eq!(gradients.len(), rows.len());
            for (exact, numeric) in gradients.iter().zip(numeric) {
                assert!((f64::from(*exact) - numeric).abs() < 2e-3, "{exact} {numeric}");
            }
        }
    }

    #[test]
    fn training_lowers_the_loss_of_the_dense_part() {
        let (mut model, rows, samples) = case(2);
        let before = loss(&model, &rows, &samples);
        for _ in 0..100 {
            model.train(&rows, &samples, &mut Vec::new()).unwrap();
        }
        assert!(loss(&model, &rows, &samples) < 0.5 * before);
    }

    #[test]
    fn a_restored_model_goes_on_with_the_same_bits() {
        let (mut model, rows, samples) = case(2);
        let mut gradients = Vec::new();
        for _ in 0..5 {
            model.train(&rows, &samples, &mut gradients).unwrap();
        }
        let mut out = Writer::default();
        model.write(&mut out);
        let (mut restored, _, _) = case(2);
        let mut reader = Reader::new(&out.bytes);
        restored.read(&mut reader).unwrap();
        reader.end().unwrap();
        for _ in 0..3 {
            let mut other = Vec::new();
            let (a, b) = (model.train(&rows, &samples, &mut gradients), restored.train(&rows, &samples, &mut other));
            assert_eq!((a.unwrap(), &gradients), (b.unwrap(), &other));
        }
    }
}
