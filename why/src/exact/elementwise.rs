//! Ops that compute each element by itself.

use crate::Tolerance;
use crate::bound::{Exact, TINY, U, U_F16};
use graph::{Act, Unary};

/// `x · by`, rounded once; a factor of another engine may be rounded too.
pub(super) fn scale(x: &[f32], by: f32) -> Exact {
    each(x.iter().map(|&x| f64::from(x) * f64::from(by)), 2.0)
}

/// `a + b`, rounded once.
pub(super) fn add(a: &[f32], b: &[f32]) -> Exact {
    each(a.iter().zip(b).map(|(&a, &b)| f64::from(a) + f64::from(b)), 1.0)
}

/// `a · b`, rounded once.
pub(super) fn mul(a: &[f32], b: &[f32]) -> Exact {
    each(a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)), 1.0)
}

/// `x + bias` on every row.
pub(super) fn add_bias(x: &[f32], bias: &[f64]) -> Exact {
    let row =
        |x: &[f32]| -> Vec<f64> { x.iter().zip(bias).map(|(&x, b)| f64::from(x) + b).collect() };
    each(x.chunks(bias.len().max(1)).flat_map(row), 1.0)
}

fn each(values: impl Iterator<Item = f64>, roundings: f64) -> Exact {
    let mut exact = Exact::default();
    values.for_each(|v| exact.push(v, v.abs() * roundings * U + TINY, v.abs()));
    exact
}

/// A function of each element.
pub(super) fn unary(unary: Unary, x: &[f32], tolerance: Tolerance) -> Exact {
    let mut exact = Exact::with_room(x.len());
    for &x in x {
        let x = f64::from(x);
        let Near { value, bound } = match unary {
            Unary::GeluTanh => gelu_tanh(x, tolerance),
            Unary::ReluSquared => {
                let value = x.max(0.0).powi(2);
                Near { value, bound: 2.0 * U * value }
            }
            // It rounds nothing.
            Unary::Clamp { limit } => {
                Near { value: x.clamp(-f64::from(limit), limit.into()), bound: 0.0 }
            }
        };
        exact.push(value, bound + TINY, value.abs());
    }
    exact
}

/// A number, and how far from it a right one may be.
struct Near {
    value: f64,
    bound: f64,
}

/// An exp of f32 is right within two units in the last place, which is four roundings, and below e⁻⁸⁷ it is nothing.
fn silu(x: f64) -> Near {
    let value = x / (1.0 + (-x).exp());
    Near { value, bound: 16.0 * U * value.abs() + 1e-36 }
}

fn gelu_tanh(x: f64, tolerance: Tolerance) -> Near {
    let k = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
    let arg = k * (x + 0.044715 * x * x * x);
    let value = x / (1.0 + (-arg).exp());
    // A table from f16 to f16 in ggml; GELU is nowhere steeper than 1.13.
    let table = match tolerance {
        Tolerance::Rounding => (1.13 * x.abs() + value.abs()) * U_F16 + 2.0 * U,
        Tolerance::Bits => 0.0,
    };
    // What the exponent is wrong by is multiplied by the exponent.
    Near { value, bound: (16.0 + 6.0 * arg.abs()) * U * value.abs() + table + 1e-36 }
}

/// The gate's part of gpt-oss' unit.
fn swiglu_oai(gate: f64) -> Near {
    let x = gate.min(7.0);
    let arg = f64::from(1.702f32) * x;
    let value = x / (1.0 + (-arg).exp());
    Near { value, bound: (18.0 + 6.0 * arg.abs()) * U * value.abs() + 1e-36 }
}

/// `act(gate) · up`.
pub(super) fn glu(act: Act, gate: &[f32], up: &[f32], tolerance: Tolerance) -> Exact {
    let mut exact = Exact::with_room(gate.len());
    for (&gate, &up) in gate.iter().zip(up) {
        let up = f64::from(up);
        let (Near { value, bound }, up) = match act {
            Act::Silu => (silu(gate.into()), up),
            Act::GeluTanh => (gelu_tanh(gate.into(), tolerance), up),
            Act::SwigluOai => (swiglu_oai(gate.into()), up.clamp(-7.0, 7.0) + 1.0),
        };
        exact.push(value * up, bound * up.abs() + TINY, (value * up).abs());
    }
    exact
}

/// `cap · tanh(x / cap)`: wrong by some roundings of `cap`, whatever is left after tanh's difference.
pub(super) fn softcap(x: &[f32], cap: f32) -> Exact {
    let cap = f64::from(cap);
    let mut exact = Exact::with_room(x.len());
    for &x in x {
        exact.push(cap * (f64::from(x) / cap).tanh(), 16.0 * U * cap, 0.0);
    }
    exact
}
