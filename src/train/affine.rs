//! A fully connected layer as a candle operation: `x w + b` and its gradients, on one thread with a fixed order of sums.
//!
//! Candle's own matrix product is not used for two reasons. Its kernel and its order of sums follow the CPU's instructions, so
//! a resumed job on another kind of CPU would not be bit-identical; and candle 0.11 asks the system for the number of CPUs (it
//! reads `/proc/cpuinfo`) before each product, which takes longer than the product of a small batch. Here every product is a
//! plain multiplication and addition, in the order of the inner dimension, vectorised across the columns.
#![forbid(unsafe_code)]

use candle_core::{CpuStorage, CustomOp3, Device, Layout, Result, Shape, Tensor};

/// Rows and columns of the block whose sums are kept in registers.
const ROWS: usize = 4;
const COLUMNS: usize = 8;

/// `a b` for row-major `a` (`m x k`) and `b` (`k x n`); each sum runs over `k` in order.
pub(crate) fn product(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
    let mut c = vec![0.0; m * n];
    let whole = (m - m % ROWS, n - n % COLUMNS);
    for row in (0..whole.0).step_by(ROWS) {
        for column in (0..whole.1).step_by(COLUMNS) {
            let sums = block(&a[row * k..(row + ROWS) * k], b, [k, n, column]);
            for (at, sums) in sums.iter().enumerate() {
                let start = (row + at) * n + column;
                c[start..start + COLUMNS].copy_from_slice(sums);
            }
        }
        edge(&a[row * k..], b, &mut c[row * n..], [ROWS, k, n, whole.1]);
    }
    edge(&a[whole.0 * k..], b, &mut c[whole.0 * n..], [m - whole.0, k, n, 0]);
    c
}

/// The sums of one block of full size.
#[inline]
fn block(a: &[f32], b: &[f32], [k, n, column]: [usize; 3]) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0f32; COLUMNS]; ROWS];
    let (a0, rest) = a.split_at(k);
    let (a1, rest) = rest.split_at(k);
    let (a2, a3) = rest.split_at(k);
    let rows = a0.iter().zip(a1).zip(a2).zip(a3);
    for (b, (((x0, x1), x2), x3)) in b.chunks_exact(n.max(1)).zip(rows) {
        let Some(b) = b[column..].first_chunk::<COLUMNS>() else { break };
        for (sums, x) in sums.iter_mut().zip([x0, x1, x2, x3]) {
            for (sum, b) in sums.iter_mut().zip(b) {
                *sum += x * b;
            }
        }
    }
    sums
}

/// The first `rows` rows from a column on, in the same order of sums as a block.
fn edge(a: &[f32], b: &[f32], c: &mut [f32], [rows, k, n, from]: [usize; 4]) {
    if from == n || k == 0 {
        return;
    }
    for (a, c) in a.chunks_exact(k).zip(c.chunks_exact_mut(n)).take(rows) {
        for (x, b) in a.iter().zip(b.chunks_exact(n)) {
            for (sum, b) in c[from..].iter_mut().zip(&b[from..]) {
                *sum += x * b;
            }
        }
    }
}

/// `a` (`m x n`, row-major) with rows and columns exchanged.
fn transposed(a: &[f32], m: usize, n: usize) -> Vec<f32> {
    let mut out = vec![0.0; a.len()];
    for (row, values) in a.chunks_exact(n.max(1)).take(m).enumerate() {
        for (column, value) in values.iter().enumerate() {
            out[column * m + row] = *value;
        }
    }
    out
}

/// The operation: input (`samples x inputs`), weight (`inputs x outputs`), bias (`outputs`).
pub(crate) struct Affine;

/// The values of a contiguous tensor.
pub(crate) fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match layout.contiguous_offsets() {
        Some((from, to)) => Ok(&storage.as_slice::<f32>()?[from..to]),
        None => candle_core::bail!("an input is not contiguous"),
    }
}

/// A copy of a tensor's values, whatever its strides.
pub(crate) fn values(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

type Gradients = (Option<Tensor>, Option<Tensor>, Option<Tensor>);

impl CustomOp3 for Affine {
    fn name(&self) -> &'static str {
        "affine"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let ((samples, inputs), (rows, outputs)) = (input_layout.shape().dims2()?, weight_layout.shape().dims2()?);
        if inputs != rows || bias_layout.shape().dims1()? != outputs {
            candle_core::bail!("a layer of {rows} inputs got {inputs}");
        }
        let shape = [samples, inputs, outputs];
        let mut output = product(slice(input, input_layout)?, slice(weight, weight_layout)?, shape);
        let bias = slice(bias, bias_layout)?;
        for row in output.chunks_exact_mut(outputs) {
            row.iter_mut().zip(bias).for_each(|(output, bias)| *output += bias);
        }
        Ok((CpuStorage::F32(output), Shape::from((samples, outputs))))
    }

    fn bwd(&self, input: &Tensor, weight: &Tensor, _: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<Gradients> {
        let ((samples, inputs), (_, outputs)) = (input.dims2()?, weight.dims2()?);
        let (x, w, g) = (values(input)?, values(weight)?, values(gradient)?);
        let of_input = product(&g, &transposed(&w, inputs, outputs), [samples, outputs, inputs]);
        let of_weight = product(&transposed(&x, samples, inputs), &g, [inputs, samples, outputs]);
        let mut of_bias = vec![0.0f32; outputs];
        for row in g.chunks_exact(outputs) {
            of_bias.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
        }
        Ok((
            Some(Tensor::from_vec(of_input, (samples, inputs), &Device::Cpu)?),
            Some(Tensor::from_vec(of_weight, (inputs, outputs), &Device::Cpu)?),
            Some(Tensor::from_vec(of_bias, outputs, &Device::Cpu)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::data::synthetic::Counter;

    #[test]
    fn products_are_bit_for_bit_the_plain_sums() {
        let mut random = Counter::new(1);
        for [m, k, n] in [[1, 1, 1], [4, 3, 8], [5, 7, 9], [13, 32, 64], [8, 64, 1], [3, 5, 17], [12, 1, 24], [0, 3, 2]] {
            let mut draw = |length: usize| (0..length).map(|_| random.normal() as f32).collect::<Vec<_>>();
            let (a, b) = (draw(m * k), draw(k * n));
            let mut plain = vec![0.0f32; m * n];
            for (at, sum) in plain.iter_mut().enumerate() {
                for p in 0..k {
                    *sum += a[at / n * k + p] * b[p * n + at % n];
                }
            }
            let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&product(&a, &b, [m, k, n])), bits(&plain), "{m} {k} {n}");
            assert_eq!(transposed(&transposed(&a, m, k), k, m), a);
        }
    }
}
