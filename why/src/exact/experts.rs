//! Layers of experts: the steps of a router, products with the chosen matrices, and what joins their slots.

use super::mat_mul;
use super::weights::Tensor;
use crate::Tolerance;
use crate::bound::{Exact, TINY, U, gamma};
use graph::ops::experts::Chosen;
use graph::{Arithmetic, Route, Weight};

/// A router's numbers, `cols` to a row, of which `out` are wanted. `chosen` is the second input of [`Route::Pick`].
pub(super) struct Router<'a> {
    pub(super) route: Route,
    pub(super) x: &'a [f32],
    pub(super) cols: usize,
    pub(super) chosen: &'a [f32],
    pub(super) out: usize,
}

/// What is chosen and picked is exact: no other order of steps makes another choice of the same numbers.
pub(super) fn route(router: &Router<'_>) -> Exact {
    let Router { route, x, cols, chosen, out } = *router;
    let mut exact = Exact::with_room(x.len());
    for (t, x) in x.chunks(cols.max(1)).enumerate() {
        match route {
            Route::Softmax => softmax(x, &mut exact),
            Route::Sigmoid => x.iter().for_each(|&x| {
                let y = 1.0 / (1.0 + (-f64::from(x)).exp());
                exact.push(y, 16.0 * U * y + TINY, 0.0);
            }),
            Route::TopGroups { .. } | Route::TopK | Route::Each | Route::Pick => {
                let (mut row, n) = (vec![0.0; out], out.min(chosen.len()));
                graph::ops::experts::route(route, x, &chosen[t * n..][..n], &mut row);
                row.iter().for_each(|&x| exact.push(f64::from(x), 0.0, 0.0));
            }
            Route::Normalise { at_least } => {
                let sum: f64 = x.iter().map(|&x| f64::from(x)).sum();
                let size: f64 = x.iter().map(|&x| f64::from(x.abs())).sum();
                let (sum, by) = (sum.max(f64::from(at_least)), gamma(x.len() + 2));
                for &x in x {
                    let y = f64::from(x) / sum;
                    exact.push(y, y.abs() * (by * size / sum + 2.0 * U) + TINY, y.abs());
                }
            }
        }
    }
    exact
}

/// An exponential is wrong by some roundings and by what its argument is wrong by; the sum by that of its terms, and by one
/// rounding for each.
fn softmax(x: &[f32], exact: &mut Exact) {
    let max = x.iter().fold(f64::NEG_INFINITY, |max, &x| max.max(f64::from(x)));
    let terms = x.iter().map(|&x| f64::from(x) - max);
    let share = |d: f64| (16.0 + 2.0 * d.abs()) * U;
    let (mut sum, mut off) = (0.0, 0.0);
    for d in terms.clone() {
        sum += d.exp();
        off += d.exp() * share(d);
    }
    let of_sum = off / sum + gamma(x.len() + 8);
    for d in terms {
        let y = d.exp() / sum;
        exact.push(y, y * (share(d) + of_sum + 4.0 * U) + TINY, y);
    }
}

/// Each slot's product is one of its matrix.
pub(super) fn mat_mul_id(
    arithmetic: Arithmetic,
    Tensor { weight, bytes }: Tensor<'_>,
    chosen: Chosen<'_>,
    tolerance: Tolerance,
) -> Exact {
    let Chosen { x, experts, slots } = chosen;
    let one = Weight { n_mats: 1, ..weight.clone() };
    let (n_in, rows) = (weight.n_in, experts.len() / slots.max(1));
    let slots_each = if x.len() == rows * n_in { slots } else { 1 };
    let mat_bytes = weight.dtype.row_bytes(n_in) * weight.n_out;
    let mut exact = Exact::with_room(experts.len() * weight.n_out);
    for (i, &expert) in experts.iter().enumerate() {
        let x = &x[i / slots_each * n_in..][..n_in];
        let bytes = &bytes[expert as usize * mat_bytes..][..mat_bytes];
        let product = mat_mul::mat_mul(arithmetic, Tensor { weight: &one, bytes }, x, tolerance);
        exact.value.extend(product.value);
        exact.bound.extend(product.bound);
    }
    exact
}

/// `x + b[expert]` in each slot.
pub(super) fn add_id(x: &[f32], biases: &[f64], n: usize, experts: &[f32]) -> Exact {
    let mut exact = Exact::with_room(x.len());
    for (x, &expert) in x.chunks(n.max(1)).zip(experts) {
        for (&x, b) in x.iter().zip(&biases[expert as usize * n..]) {
            let y = f64::from(x) + b;
            exact.push(y, y.abs() * U + TINY, y.abs());
        }
    }
    exact
}

/// Each slot times its weight.
pub(super) fn weighted(x: &[f32], weights: &[f32]) -> Exact {
    let n = x.len() / weights.len().max(1);
    let mut exact = Exact::with_room(x.len());
    for (x, &by) in x.chunks(n.max(1)).zip(weights) {
        for &x in x {
            let y = f64::from(x) * f64::from(by);
            exact.push(y, y.abs() * U + TINY, y.abs());
        }
    }
    exact
}

/// The sum of a row's slots: a rounding for each.
pub(super) fn sum_slots(x: &[f32], cols: usize, slots: usize) -> Exact {
    let mut exact = Exact::with_room(x.len() / slots.max(1));
    for row in x.chunks(cols * slots) {
        for c in 0..cols {
            let slots_of = || row.iter().skip(c).step_by(cols).map(|&x| f64::from(x));
            let (sum, size) = (slots_of().sum::<f64>(), slots_of().map(f64::abs).sum::<f64>());
            exact.push(sum, size * gamma(slots) + TINY, size);
        }
    }
    exact
}
