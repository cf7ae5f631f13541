//! Ops that compute each element by itself. Fast versions: `cpu/src/kernels/elementwise.rs`.

use crate::{Act, Unary, math};

/// `a + b`.
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    for i in 0..out.len() {
        out[i] = a[i] + b[i];
    }
}

/// `a · b`.
pub fn mul(a: &[f32], b: &[f32], out: &mut [f32]) {
    for i in 0..out.len() {
        out[i] = a[i] * b[i];
    }
}

/// `x · by`.
pub fn scale(x: &[f32], by: f32, out: &mut [f32]) {
    for i in 0..out.len() {
        out[i] = x[i] * by;
    }
}

/// A function of each element.
pub fn unary(unary: Unary, x: &[f32], out: &mut [f32]) {
    for i in 0..out.len() {
        out[i] = match unary {
            Unary::GeluTanh => math::gelu_tanh(x[i]),
            Unary::ReluSquared => math::relu_squared(x[i]),
            Unary::Clamp { limit } => math::clamp(x[i], limit),
        };
    }
}

/// `act(gate) · up`.
pub fn glu(act: Act, gate: &[f32], up: &[f32], out: &mut [f32]) {
    for i in 0..out.len() {
        out[i] = match act {
            Act::Silu => math::silu(gate[i]) * up[i],
            Act::GeluTanh => math::gelu_tanh(gate[i]) * up[i],
            Act::SwigluOai => math::swiglu_oai(gate[i], up[i]),
        };
    }
}

/// `cap · tanh(x / cap)`.
pub fn softcap(x: &[f32], cap: f32, out: &mut [f32]) {
    for i in 0..out.len() {
        out[i] = math::softcap(x[i], cap);
    }
}
