//! A gated recurrent unit (Cho et al. 2014) on candle: two layers of `affine` and the gates between them as one operation.
//!
//! With `x` the input's part and `u` the hidden state's, each of three blocks of the width: `r = s(x_r + u_r)`, `z = s(x_z + u_z)`,
//! `n = tanh(x_n + r u_n)`, `h' = (1 - z) n + z h`, where `s` is the logistic function. Both are those of `libm`, so bits are
//! the same on every machine. A row that is not live keeps its state: sequences in a batch may be of unlike length.
#![forbid(unsafe_code)]

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result as CandleResult, Shape, Tensor};

use crate::Result;
use crate::train::affine::{slice, values};
use crate::train::bytes::{Reader, Writer};
use crate::train::data::synthetic::Counter;
use crate::train::dense::{Layer, Rate};
use crate::train::metrics::sigmoid;

pub(crate) use candle_core::backprop::GradStore;

/// A tensor of `rows x width` from row-major values.
pub(crate) fn tensor(values: &[f32], width: usize) -> CandleResult<Tensor> {
    Tensor::from_slice(values, (values.len() / width.max(1), width), &Device::Cpu)
}

/// A recurrent layer.
pub(crate) struct Gru {
    input: Layer,
    hidden: Layer,
    width: usize,
}

impl Gru {
    pub(crate) fn new(inputs: usize, width: usize, random: &mut Counter) -> Result<Gru> {
        Ok(Gru { input: Layer::new(inputs, 3 * width, random)?, hidden: Layer::new(width, 3 * width, random)?, width })
    }

    pub(crate) fn width(&self) -> usize {
        self.width
    }

    /// A state to begin with, of so many rows.
    pub(crate) fn zeros(&self, rows: usize) -> CandleResult<Tensor> {
        tensor(&vec![0.0; rows * self.width], self.width)
    }

    /// What an input adds to the gates; of use for several steps if they have the same input.
    pub(crate) fn input(&self, input: &Tensor) -> CandleResult<Tensor> {
        self.input.apply(input)
    }

    /// The state after an input, given by what it adds to the gates.
    pub(crate) fn step(&self, input: &Tensor, state: &Tensor, live: Vec<bool>) -> CandleResult<Tensor> {
        input.apply_op3(&self.hidden.apply(state)?, state, Gate { live })
    }

    pub(crate) fn learn(&mut self, grads: &GradStore, samples: f32, rate: Rate) -> CandleResult<()> {
        self.input.learn(grads, samples, rate)?;
        self.hidden.learn(grads, samples, rate)
    }

    pub(crate) fn weights(&self) -> usize {
        self.input.weights() + self.hidden.weights()
    }

    pub(crate) fn write(&self, out: &mut Writer) {
        self.input.write(out);
        self.hidden.write(out);
    }

    pub(crate) fn read(&mut self, from: &mut Reader<'_>) -> Result<()> {
        self.input.read(from)?;
        self.hidden.read(from)
    }
}

/// The gates: what the input adds (`rows x 3 width`), what the state adds, the state (`rows x width`).
struct Gate {
    live: Vec<bool>,
}

/// Lane `i` of a row's gates: reset, update, candidate.
fn gates(input: &[f32], hidden: &[f32], width: usize, i: usize) -> (f32, f32, f32) {
    let reset = sigmoid(input[i] + hidden[i]);
    let update = sigmoid(input[width + i] + hidden[width + i]);
    (reset, update, libm::tanhf(input[2 * width + i] + reset * hidden[2 * width + i]))
}

type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp3 for Gate {
    fn name(&self) -> &'static str {
        "gate"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        hidden: &CpuStorage,
        hidden_layout: &Layout,
        state: &CpuStorage,
        state_layout: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        let (rows, width) = state_layout.shape().dims2()?;
        let wanted = (rows, 3 * width);
        if input_layout.shape().dims2()? != wanted || hidden_layout.shape().dims2()? != wanted || self.live.len() != rows {
            candle_core::bail!("the gates of {rows} states of width {width} got other shapes");
        }
        let (input, hidden) = (slice(input, input_layout)?, slice(hidden, hidden_layout)?);
        let mut next = slice(state, state_layout)?.to_vec();
        for (row, state) in next.chunks_exact_mut(width).enumerate().filter(|(row, _)| self.live[*row]) {
            let part = row * 3 * width..(row + 1) * 3 * width;
            for (i, h) in state.iter_mut().enumerate() {
                let (_, z, n) = gates(&input[part.clone()], &hidden[part.clone()], width, i);
                *h = (1.0 - z) * n + z * *h;
            }
        }
        Ok((CpuStorage::F32(next), Shape::from((rows, width))))
    }

    fn bwd(&self, input: &Tensor, hidden: &Tensor, state: &Tensor, _: &Tensor, gradient: &Tensor) -> CandleResult<Gradients> {
        let (rows, width) = state.dims2()?;
        let (input, hidden, h, mut of_state) = (values(input)?, values(hidden)?, values(state)?, values(gradient)?);
        let (mut of_input, mut of_hidden) = (vec![0.0f32; input.len()], vec![0.0f32; hidden.len()]);
        for row in (0..rows).filter(|row| self.live[*row]) {
            let part = row * 3 * width..(row + 1) * 3 * width;
            let (input, hidden) = (&input[part.clone()], &hidden[part.clone()]);
            let (to_input, to_hidden) = (&mut of_input[part.clone()], &mut of_hidden[part]);
            for i in 0..width {
                let (r, z, n) = gates(input, hidden, width, i);
                let g = of_state[row * width + i];
                let of_n = g * (1.0 - z) * (1.0 - n * n);
                let of_z = g * (h[row * width + i] - n) * z * (1.0 - z);
                let of_r = of_n * hidden[2 * width + i] * r * (1.0 - r);
                (to_input[i], to_input[width + i], to_input[2 * width + i]) = (of_r, of_z, of_n);
                (to_hidden[i], to_hidden[width + i], to_hidden[2 * width + i]) = (of_r, of_z, of_n * r);
                of_state[row * width + i] = g * z;
            }
        }
        Ok((Some(tensor(&of_input, 3 * width)?), Some(tensor(&of_hidden, 3 * width)?), Some(tensor(&of_state, width)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::dense::gradient_of;
    use candle_core::Var;

    #[test]
    fn gradients_through_time_are_those_of_finite_differences() {
        let mut random = Counter::new(3);
        let gru = Gru::new(3, 4, &mut random).unwrap();
        let input: Vec<f32> = (0..2 * 3).map(|_| random.normal() as f32).collect();
        let state: Vec<f32> = (0..2 * 4).map(|_| 0.5 * random.normal() as f32).collect();
        let weights: Vec<f32> = (0..2 * 4).map(|_| random.normal() as f32).collect();
        // The second row ends a step earlier than the first.
        let run = |input: &Tensor, state: &Tensor| -> CandleResult<Tensor> {
            let x = gru.input(input)?;
            let state = gru.step(&x, state, vec![true, true])?;
            let state = gru.step(&x, &state, vec![true, false])?;
            state.mul(&tensor(&weights, 4)?)?.sum_all()
        };
        let loss = |input: &[f32], state: &[f32]| {
            f64::from(run(&tensor(input, 3).unwrap(), &tensor(state, 4).unwrap()).unwrap().to_scalar::<f32>().unwrap())
        };
        let (x, h) =
            (Var::from_tensor(&tensor(&input, 3).unwrap()).unwrap(), Var::from_tensor(&tensor(&state, 4).unwrap()).unwrap());
        let grads = run(&x, &h).unwrap().backward().unwrap();
        let check = |exact: Vec<f32>, at: &dyn Fn(usize, f32) -> f64| {
            for (i, exact) in exact.iter().enumerate() {
                let numeric = (at(i, 1e-2) - at(i, -1e-2)) / 2e-2;
                assert!((f64::from(*exact) - numeric).abs() < 2e-3, "{i}: {exact} {numeric}");
            }
        };
        let moved = |values: &[f32], i: usize, by: f32| {
            let mut values = values.to_vec();
            values[i] += by;
            values
        };
        check(gradient_of(&grads, &x).unwrap(), &|i, by| loss(&moved(&input, i, by), &state));
        check(gradient_of(&grads, &h).unwrap(), &|i, by| loss(&input, &moved(&state, i, by)));
    }

    #[test]
    fn a_row_that_is_not_live_keeps_its_state() {
        let gru = Gru::new(2, 3, &mut Counter::new(1)).unwrap();
        let state = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6];
        let x = gru.input(&tensor(&[1.0; 4], 2).unwrap()).unwrap();
        let next = values(&gru.step(&x, &tensor(&state, 3).unwrap(), vec![false, true]).unwrap()).unwrap();
        assert_eq!(next[..3], state[..3]);
        assert!(next[3..].iter().zip(&state[3..]).all(|(a, b)| a != b));
    }
}
