//! Sums over a row in an order that no processor changes.
#![forbid(unsafe_code)]

const LANES: usize = 8;

/// The sum of the squares of `value(a, b)`, over eight lanes folded pairwise: lane j adds up the squares j, j + 8, j + 16, ... in
/// this order, then `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`.
#[inline(always)]
pub(super) fn sum_of_squares(a: &[f32], b: &[f32], value: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (whole_a, whole_b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let (last_a, last_b) = (whole_a.remainder(), whole_b.remainder());
    for (a, b) in whole_a.zip(whole_b) {
        add_squares(&mut lanes, a, b, &value);
    }
    add_squares(&mut lanes, last_a, last_b, &value);
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[inline(always)]
fn add_squares(lanes: &mut [f32; LANES], a: &[f32], b: &[f32], value: &impl Fn(f32, f32) -> f32) {
    for ((lane, &a), &b) in lanes.iter_mut().zip(a).zip(b) {
        let value = value(a, b);
        *lane += value * value;
    }
}
