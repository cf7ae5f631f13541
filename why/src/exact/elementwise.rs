//! Ops that compute each element by itself.

use crate::Tolerance;
use crate::bound::{Exact, TINY, U, U_F16};
use graph::Act;

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

/// `act(gate) · up`. An exp of f32 is right within two units in the last place, which is four roundings, and below e⁻⁸⁷
/// it is nothing.
pub(super) fn glu(act: Act, gate: &[f32], up: &[f32], tolerance: Tolerance) -> Exact {
    let mut exact = Exact::with_room(gate.len());
    for (&gate, &up) in gate.iter().zip(up) {
        let (x, up) = match act {
            Act::Silu | Act::GeluTanh => (f64::from(gate), f64::from(up)),
            Act::SwigluOai => (f64::from(gate).min(7.0), f64::from(up).clamp(-7.0, 7.0) + 1.0),
        };
        let (value, mut bound) = match act {
            Act::Silu => {
                let value = x / (1.0 + (-x).exp());
                (value, 16.0 * U * value.abs())
            }
            Act::GeluTanh => {
                let k = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
                let arg = k * (x + 0.044715 * x * x * x);
                let value = x / (1.0 + (-arg).exp());
                // What the exponent is wrong by is multiplied by the exponent.
                (value, (16.0 + 6.0 * arg.abs()) * U * value.abs())
            }
            Act::SwigluOai => {
                let arg = f64::from(1.702f32) * x;
                let value = x / (1.0 + (-arg).exp());
                (value, (18.0 + 6.0 * arg.abs()) * U * value.abs())
            }
        };
        if act == Act::GeluTanh && tolerance == Tolerance::Rounding {
            // A table from f16 to f16 in ggml; GELU is nowhere steeper than 1.13.
            bound += (1.13 * x.abs() + value.abs()) * U_F16 + 2.0 * U;
        }
        exact.push(value * up, (bound + 1e-36) * up.abs() + TINY, (value * up).abs());
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
