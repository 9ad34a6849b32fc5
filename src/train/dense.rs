//! The dense part of a model: a multi-layer perceptron on candle, trained by Adam, whose whole state is plain `f32`s.
//!
//! Candle keeps the tensors and derives the gradients; the matrix products are those of `affine`. Everything runs on one thread, sums
//! in a fixed order, and initial weights follow from a seed: the same calls give the same bits on every machine.
#![forbid(unsafe_code)]

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{Activation, Module};

use super::affine::Affine;
use super::bytes::{Reader, Writer};
use super::data::synthetic::Counter;
use crate::{Error, Result};

const BETA1: f32 = 0.9;
const BETA2: f32 = 0.999;
const EPSILON: f32 = 1e-8;

pub(crate) fn model(error: impl std::fmt::Display) -> Error {
    Error::Model(error.to_string())
}

/// Weights with Adam's two moments.
#[derive(Clone, Debug)]
pub(crate) struct Weights {
    pub(crate) values: Vec<f32>,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Weights {
    pub(crate) fn new(values: Vec<f32>) -> Weights {
        let zeros = vec![0.0; values.len()];
        Weights { values, mean: zeros.clone(), square: zeros }
    }

    /// One step of Adam.
    pub(crate) fn step(&mut self, gradient: &[f32], rate: Rate) {
        for (((w, m), v), g) in self.values.iter_mut().zip(&mut self.mean).zip(&mut self.square).zip(gradient) {
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
            *w -= rate.scaled * *m / ((*v).sqrt() + rate.epsilon);
        }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        [&self.values, &self.mean, &self.square].into_iter().for_each(|values| out.f32s(values));
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        [&mut self.values, &mut self.mean, &mut self.square].into_iter().try_for_each(|values| from.f32s(values))
    }
}

/// Adam's step size, with its correction for the first steps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    scaled: f32,
    epsilon: f32,
}

/// Powers of Adam's betas, from which each step's size follows.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    power1: f64,
    power2: f64,
}

impl Schedule {
    pub(crate) fn new() -> Schedule {
        Schedule { power1: 1.0, power2: 1.0 }
    }

    pub(crate) fn next(&mut self, learning_rate: f32) -> Rate {
        self.power1 *= f64::from(BETA1);
        self.power2 *= f64::from(BETA2);
        let root = (1.0 - self.power2).sqrt();
        let scaled = f64::from(learning_rate) * root / (1.0 - self.power1);
        Rate { scaled: scaled as f32, epsilon: (f64::from(EPSILON) * root) as f32 }
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        out.f64(self.power1);
        out.f64(self.power2);
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        self.power1 = from.f64()?;
        self.power2 = from.f64()?;
        Ok(())
    }
}

/// One fully connected layer: candle's tensors and the plain copy that is trained and committed.
pub(crate) struct Layer {
    weight: Var,
    bias: Var,
    weights: Weights,
    biases: Weights,
}

impl Layer {
    /// Uniform weights in Glorot's bound; biases 0.
    pub(crate) fn new(inputs: usize, outputs: usize, random: &mut Counter) -> Result<Layer> {
        let bound = (6.0 / (inputs + outputs) as f64).sqrt();
        let values: Vec<f32> = (0..inputs * outputs).map(|_| ((2.0 * random.unit() - 1.0) * bound) as f32).collect();
        let weight = Var::from_vec(values.clone(), (inputs, outputs), &Device::Cpu).map_err(model)?;
        let bias = Var::zeros(outputs, DType::F32, &Device::Cpu).map_err(model)?;
        Ok(Layer { weight, bias, weights: Weights::new(values), biases: Weights::new(vec![0.0; outputs]) })
    }

    /// The outputs for row-major inputs.
    pub(crate) fn apply(&self, input: &Tensor) -> candle_core::Result<Tensor> {
        input.apply_op3(&self.weight, &self.bias, Affine)
    }

    /// Steps the weights by their gradient, divided by the number of samples it is the sum of.
    pub(crate) fn learn(&mut self, grads: &GradStore, samples: f32, rate: Rate) -> candle_core::Result<()> {
        let mean = |var: &Var| gradient_of(grads, var).map(|all| all.into_iter().map(|g| g / samples).collect::<Vec<_>>());
        self.weights.step(&mean(&self.weight)?, rate);
        self.biases.step(&mean(&self.bias)?, rate);
        self.publish()
    }

    /// Takes a share off each weight (not the biases); the next step makes it count.
    pub(crate) fn shrink(&mut self, share: f32) {
        self.weights.values.iter_mut().for_each(|w| *w -= share * *w);
    }

    /// The number of weights.
    pub(crate) fn weights(&self) -> usize {
        self.weights.values.len() + self.biases.values.len()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        self.weights.write(out);
        self.biases.write(out);
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        self.weights.read(from)?;
        self.biases.read(from)?;
        self.publish().map_err(model)
    }

    /// Gives candle the plain copy's values.
    fn publish(&self) -> candle_core::Result<()> {
        self.weight.set(&Tensor::from_slice(&self.weights.values, self.weight.shape(), &Device::Cpu)?)?;
        self.bias.set(&Tensor::from_slice(&self.biases.values, self.bias.shape(), &Device::Cpu)?)
    }
}

/// The loss's gradient with respect to a variable; zeros where it has none.
pub(crate) fn gradient_of(grads: &GradStore, var: &Var) -> candle_core::Result<Vec<f32>> {
    match grads.get(var) {
        Some(gradient) => gradient.flatten_all()?.to_vec1(),
        None => Ok(vec![0.0; var.elem_count()]),
    }
}

/// A multi-layer perceptron with one output and ReLU between its layers.
pub(crate) struct Mlp {
    inputs: usize,
    layers: Vec<Layer>,
}

/// A forward pass that waits for its gradient.
pub(crate) struct Pass {
    input: Var,
    output: Tensor,
}

impl Mlp {
    /// Layers of these sizes, initialised from the generator (uniform, Glorot's bound; biases 0).
    pub(crate) fn new(inputs: usize, hidden: &[usize], random: &mut Counter) -> Result<Mlp> {
        let mut layers = Vec::new();
        let mut width = inputs;
        for outputs in hidden.iter().copied().chain([1]) {
            layers.push(Layer::new(width, outputs, random)?);
            width = outputs;
        }
        Ok(Mlp { inputs, layers })
    }

    /// The outputs for a batch (row-major inputs), and what the backward pass needs.
    pub(crate) fn forward(&self, inputs: Vec<f32>) -> Result<(Vec<f32>, Pass)> {
        let samples = inputs.len() / self.inputs;
        let forward = || -> candle_core::Result<_> {
            let input = Var::from_vec(inputs, (samples, self.inputs), &Device::Cpu)?;
            let mut output = input.as_tensor().clone();
            for (at, layer) in self.layers.iter().enumerate() {
                output = layer.apply(&output)?;
                if at + 1 < self.layers.len() {
                    output = Activation::Relu.forward(&output)?;
                }
            }
            let output = output.squeeze(1)?;
            Ok((output.to_vec1()?, Pass { input, output }))
        };
        forward().map_err(model)
    }

    /// Takes the loss's gradient with respect to each output; steps the weights by its mean over the batch, and returns the
    /// gradient with respect to the inputs.
    pub(crate) fn backward(&mut self, pass: &Pass, gradient: &[f32], rate: Rate) -> Result<Vec<f32>> {
        let layers = &mut self.layers;
        let mut backward = || -> candle_core::Result<_> {
            let samples = gradient.len().max(1) as f32;
            let gradient = Tensor::from_slice(gradient, gradient.len(), &Device::Cpu)?;
            let grads = pass.output.mul(&gradient)?.sum_all()?.backward()?;
            layers.iter_mut().try_for_each(|layer| layer.learn(&grads, samples, rate))?;
            gradient_of(&grads, &pass.input)
        };
        backward().map_err(model)
    }

    /// The number of weights.
    pub(crate) fn weights(&self) -> usize {
        self.layers.iter().map(Layer::weights).sum()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        self.layers.iter().for_each(|layer| layer.write(out));
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        self.layers.iter_mut().try_for_each(|layer| layer.read(from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trains a perceptron large enough for candle to split its products, and hashes its state.
    fn trained() -> String {
        let mut random = Counter::new(3);
        let mut mlp = Mlp::new(624, &[256, 64], &mut random).unwrap();
        let mut schedule = Schedule::new();
        let mut hash = blake3::Hasher::new();
        for _ in 0..3 {
            let input: Vec<f32> = (0..512 * 624).map(|_| random.normal() as f32).collect();
            let (output, pass) = mlp.forward(input).unwrap();
            let back = mlp.backward(&pass, &output, schedule.next(1e-3)).unwrap();
            for g in back {
                hash.update(&g.to_le_bytes());
            }
        }
        let mut out = Writer::default();
        mlp.write(&mut out);
        hash.update(&out.bytes).finalize().to_hex().to_string()
    }

    #[test]
    fn bits_do_not_depend_on_the_number_of_threads() {
        const CHILD: &str = "EMBEDROCK_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            println!("bits {}", trained());
            return;
        }
        let run = |threads: &str| {
            let mut command = std::process::Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "--nocapture", "train::dense::tests::bits_do_not_depend_on_the_number_of_threads"]);
            let output = command.env(CHILD, "1").env("RAYON_NUM_THREADS", threads).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.split("bits ").nth(1).unwrap().split_whitespace().next().unwrap().to_string()
        };
        let expected = trained();
        for threads in ["1", "2", "5"] {
            assert_eq!(run(threads), expected, "{threads} threads");
        }
    }

    #[test]
    fn input_gradients_are_those_of_finite_differences() {
        let mut random = Counter::new(9);
        let mut mlp = Mlp::new(6, &[8, 4], &mut random).unwrap();
        let input: Vec<f32> = (0..3 * 6).map(|_| random.normal() as f32).collect();
        let weights = [0.5f32, -1.5, 2.0];
        let loss = |mlp: &Mlp, input: &[f32]| {
            let (output, _) = mlp.forward(input.to_vec()).unwrap();
            output.iter().zip(weights).map(|(o, w)| f64::from(o * w)).sum::<f64>()
        };
        let numeric: Vec<f64> = (0..input.len())
            .map(|at| {
                let (mut up, mut down) = (input.clone(), input.clone());
                up[at] += 1e-2;
                down[at] -= 1e-2;
                (loss(&mlp, &up) - loss(&mlp, &down)) / 2e-2
            })
            .collect();
        let (_, pass) = mlp.forward(input).unwrap();
        let exact = mlp.backward(&pass, &weights, Schedule::new().next(0.0)).unwrap();
        for (exact, numeric) in exact.iter().zip(numeric) {
            assert!((f64::from(*exact) - numeric).abs() < 2e-3, "{exact} {numeric}");
        }
    }

    #[test]
    fn adam_follows_its_formula() {
        let mut weights = Weights::new(vec![1.0]);
        let mut schedule = Schedule::new();
        let (mut w, mut m, mut v) = (1.0f64, 0.0f64, 0.0f64);
        for t in 1..=20 {
            let g = (t as f64 * 0.7).sin();
            weights.step(&[g as f32], schedule.next(0.01));
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            w -= 0.01 * (m / (1.0 - 0.9f64.powi(t))) / ((v / (1.0 - 0.999f64.powi(t))).sqrt() + 1e-8);
        }
        assert!((f64::from(weights.values[0]) - w).abs() < 1e-5);
    }
}
