//! Layers of experts (arXiv 1701.06538): a router gives each token a weight for every expert, the best few are chosen, and
//! only their matrices are read. What the chosen experts make of a token stands side by side in one row, a *slot* for each.
//! Fast versions: `cpu/src/experts.rs`, `cpu/src/kernels/route.rs`; `experts/*.wgsl` in `gpu/src/kernels/`, and the
//! `mat_vec_*.wgsl` of products with `EXPERTS`.

use crate::math::{exp, sum_strided};
use crate::{Arithmetic, Route, Weight};

/// One row of a router's numbers. `chosen` is the second input of [`Route::Pick`].
pub fn route(route: Route, x: &[f32], chosen: &[f32], out: &mut [f32]) {
    match route {
        Route::Softmax => softmax(x, out),
        Route::Sigmoid => out.iter_mut().zip(x).for_each(|(out, &x)| *out = sigmoid(x)),
        Route::TopGroups { groups, used } => top_groups(x, groups, used, out),
        Route::TopK => top_k(x, out),
        Route::Each => out.iter_mut().enumerate().for_each(|(i, out)| *out = i as f32),
        Route::Pick => {
            out.iter_mut().zip(chosen).for_each(|(out, &expert)| *out = x[expert as usize]);
        }
        Route::Normalise { at_least } => {
            let sum: f32 = x.iter().fold(0.0, |sum, &x| sum + x);
            let sum = if sum < at_least { at_least } else { sum };
            out.iter_mut().zip(x).for_each(|(out, &x)| *out = x / sum);
        }
    }
}

/// `e^(x - max) / Σ e^(x - max)`. The exponentials are added in strided partial sums, as RMSNorm adds its squares.
fn softmax(x: &[f32], out: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max });
    out.iter_mut().zip(x).for_each(|(out, &x)| *out = exp(x - max));
    let sum = sum_strided(out, |sum, x| sum + x);
    out.iter_mut().for_each(|x| *x /= sum);
}

/// `1 / (1 + e⁻ˣ)`.
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Elements of the best `used` of `groups` groups as they are, -∞ for those of the others.
pub fn top_groups(x: &[f32], groups: usize, used: usize, out: &mut [f32]) {
    let each = (x.len() / groups.max(1)).max(1);
    let worth: Vec<u32> = x.chunks(each).map(|group| rank(best_two(group))).collect();
    for (i, (x, out)) in x.chunks(each).zip(out.chunks_mut(each)).enumerate() {
        let better = |(j, &other): (usize, &u32)| other > worth[i] || (other == worth[i] && j < i);
        if worth.iter().enumerate().filter(|&at| better(at)).count() < used {
            out.copy_from_slice(x);
        } else {
            out.fill(f32::NEG_INFINITY);
        }
    }
}

/// The sum of the two largest elements.
fn best_two(x: &[f32]) -> f32 {
    let (mut first, mut second) = (x[0], x[1]);
    if rank(second) > rank(first) {
        (first, second) = (second, first);
    }
    for &x in &x[2..] {
        if rank(x) > rank(first) {
            (first, second) = (x, first);
        } else if rank(x) > rank(second) {
            second = x;
        }
    }
    first + second
}

/// The places of the largest elements, as many as `out` has room for, the largest first. Of equals the first comes first.
/// A NaN is smaller than every number, so that each place comes once, whatever the numbers are.
fn top_k(x: &[f32], out: &mut [f32]) {
    let mut order: Vec<usize> = (0..x.len()).collect();
    // Stable: equals keep their order.
    order.sort_by_key(|&i| std::cmp::Reverse(rank(x[i])));
    out.iter_mut().zip(order).for_each(|(out, i)| *out = i as f32);
}

/// Numbers as integers in the same order: +0 and -0 are one, and NaN is below all.
pub fn rank(x: f32) -> u32 {
    let bits = x.to_bits();
    if x.is_nan() {
        0
    } else if x == 0.0 {
        0x8000_0000
    } else if bits >> 31 == 1 {
        !bits
    } else {
        bits | 0x8000_0000
    }
}

/// What a product over chosen matrices reads.
#[derive(Clone, Copy)]
pub struct Chosen<'a> {
    /// The activations: for each row of `experts` one row of `n_in` that all slots read, or one for each slot.
    pub x: &'a [f32],
    /// The matrix of each slot of each row.
    pub experts: &'a [f32],
    /// Slots of a row.
    pub slots: usize,
}

/// For each slot the product of its activations and its matrix: `out` is `[rows, slots · n_out]`.
pub fn mat_mul_id(
    arithmetic: Arithmetic,
    weight: &Weight,
    bytes: &[u8],
    chosen: Chosen<'_>,
    out: &mut [f32],
) {
    let Chosen { x, experts, slots } = chosen;
    let (n_in, rows) = (weight.n_in, experts.len() / slots.max(1));
    let slots_each = if x.len() == rows * n_in { slots } else { 1 };
    let mat_bytes = weight.dtype.row_bytes(n_in) * weight.n_out;
    for ((i, &expert), out) in experts.iter().enumerate().zip(out.chunks_mut(weight.n_out)) {
        let x = &x[i / slots_each * n_in..][..n_in];
        let bytes = &bytes[expert as usize * mat_bytes..][..mat_bytes];
        super::mat_mul::mat_mul(arithmetic, weight, bytes, x, out);
    }
}

/// `x + b[expert]` in each slot; `biases` has a row for each expert.
pub fn add_id(biases: &[f32], n: usize, x: &[f32], experts: &[f32], out: &mut [f32]) {
    for ((x, out), &expert) in x.chunks(n).zip(out.chunks_mut(n)).zip(experts) {
        super::elementwise::add(x, &biases[expert as usize * n..][..n], out);
    }
}

/// Each slot times its weight; `weights` has one for each slot.
pub fn weighted(x: &[f32], weights: &[f32], out: &mut [f32]) {
    let n = x.len() / weights.len().max(1);
    for ((x, out), &by) in x.chunks(n.max(1)).zip(out.chunks_mut(n.max(1))).zip(weights) {
        super::elementwise::scale(x, by, out);
    }
}

/// The sum of a row's slots, in their order. `x` is `[rows, slots · cols]`, `out` is `[rows, cols]`.
pub fn sum_slots(x: &[f32], cols: usize, slots: usize, out: &mut [f32]) {
    for (x, out) in x.chunks(cols * slots).zip(out.chunks_mut(cols)) {
        out.copy_from_slice(&x[..cols]);
        for slot in x.chunks(cols).skip(1) {
            out.iter_mut().zip(slot).for_each(|(out, &x)| *out += x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equals_is_chosen_first_and_every_place_once() {
        let mut out = [9.0; 4];
        route(Route::TopK, &[0.25, 0.5, 0.25, 0.5, 0.1, 0.25], &[], &mut out);
        assert_eq!(out, [1.0, 3.0, 0.0, 2.0]);
        let mut all = [9.0; 5];
        let nan = f32::NAN;
        route(Route::TopK, &[nan, 0.0, f32::NEG_INFINITY, -0.0, -nan], &[], &mut all);
        assert_eq!(all, [1.0, 3.0, 2.0, 0.0, 4.0]);
    }

    #[test]
    fn a_router_s_numbers_become_weights() {
        let mut probs = [0.0; 3];
        // e⁰ : e^ln 2 : e^ln 5
        route(Route::Softmax, &[1.0, 1.0 + 2f32.ln(), 1.0 + 5f32.ln()], &[], &mut probs);
        for (got, want) in probs.iter().zip([0.125, 0.25, 0.625]) {
            assert!((got - want).abs() < 1e-6, "{probs:?}");
        }
        let mut picked = [0.0; 2];
        route(Route::Pick, &[0.125, 0.25, 0.625], &[2.0, 0.0], &mut picked);
        assert_eq!(picked, [0.625, 0.125]);
        let mut normal = [0.0; 2];
        route(Route::Normalise { at_least: 6.103_515_6e-5 }, &picked, &[], &mut normal);
        assert_eq!(normal, [0.625 / 0.75, 0.125 / 0.75]);
        // A sum below the least is the least.
        route(Route::Normalise { at_least: 0.5 }, &[0.125, 0.25], &[], &mut normal);
        assert_eq!(normal, [0.25, 0.5]);
        assert_eq!(sigmoid(0.0), 0.5);
    }

    /// Four groups of three; their best two add up to 3, 7, 7 and 4: of the equal ones the first is better.
    #[test]
    fn the_best_groups_stay() {
        let x = [1.0, 2.0, 0.5, 3.0, 0.0, 4.0, 6.0, 0.25, 1.0, -1.0, 5.0, -2.0];
        let mut out = [0.0; 12];
        route(Route::TopGroups { groups: 4, used: 1 }, &x, &[], &mut out);
        let no = f32::NEG_INFINITY;
        assert_eq!(out, [no, no, no, 3.0, 0.0, 4.0, no, no, no, no, no, no]);
        route(Route::TopGroups { groups: 4, used: 3 }, &x, &[], &mut out);
        assert_eq!(out[..3], [no; 3]);
        assert_eq!(out[3..], x[3..]);
    }

    #[test]
    fn slots_are_weighted_and_added_in_order() {
        let mut out = [0.0; 6];
        weighted(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2.0, 10.0, 100.0], &mut out);
        assert_eq!(out, [2.0, 4.0, 30.0, 40.0, 500.0, 600.0]);
        let mut sum = [0.0; 2];
        sum_slots(&out, 2, 3, &mut sum);
        assert_eq!(sum, [532.0, 644.0]);
        let mut biased = [0.0; 4];
        add_id(&[1.0, 2.0, 10.0, 20.0], 2, &[0.5; 4], &[1.0, 0.0], &mut biased);
        assert_eq!(biased, [10.5, 20.5, 1.5, 2.5]);
    }
}
