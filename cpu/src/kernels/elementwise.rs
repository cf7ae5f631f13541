//! Ops on each element by itself. Meaning: `graph::ops::elementwise`.

use super::{lanes, lanes_mut};
use crate::simd::{Isa, Kernel, LANES, exp};
use graph::math::{GELU_C, GELU_K, OAI_K, OAI_LIMIT};
use graph::{Act, Unary};

/// What is done to each element.
#[derive(Clone, Copy)]
pub(crate) enum Map {
    /// `a + b`
    Add,
    /// `a · b`
    Mul,
    /// `a · by`; `b` is not read.
    Scale(f32),
    /// A function of `a`; `b` is not read.
    Unary(Unary),
    /// `act(a) · b`
    Glu(Act),
    /// `cap · tanh(a / cap)`; `b` is not read.
    Softcap(f32),
}

/// `out = map(a, b)`, all of one length.
pub(crate) struct Elementwise<'a> {
    pub(crate) map: Map,
    pub(crate) a: &'a [f32],
    pub(crate) b: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Elementwise<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let n = self.out.len();
        let whole = n / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            let y =
                apply(isa, self.map, isa.f_load(lanes(self.a, i)), isa.f_load(lanes(self.b, i)));
            isa.f_store(y, lanes_mut(self.out, i));
        }
        if whole < n {
            let (mut a, mut b, mut y) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
            a[..n - whole].copy_from_slice(&self.a[whole..]);
            b[..n - whole].copy_from_slice(&self.b[whole..]);
            isa.f_store(apply(isa, self.map, isa.f_load(&a), isa.f_load(&b)), &mut y);
            self.out[whole..].copy_from_slice(&y[..n - whole]);
        }
    }
}

/// One vector of it.
#[inline(always)]
pub(super) fn apply<I: Isa>(isa: I, map: Map, a: I::F, b: I::F) -> I::F {
    match map {
        Map::Add => isa.f_add(a, b),
        Map::Mul => isa.f_mul(a, b),
        Map::Scale(by) => isa.f_mul(a, isa.f_splat(by)),
        Map::Unary(Unary::GeluTanh) => gelu_tanh(isa, a),
        Map::Unary(Unary::ReluSquared) => {
            let positive = isa.f_lt(isa.f_splat(0.0), a, a, isa.f_splat(0.0));
            isa.f_mul(positive, positive)
        }
        Map::Unary(Unary::Clamp { limit }) => {
            let (low, high) = (isa.f_splat(-limit), isa.f_splat(limit));
            let a = isa.f_lt(a, low, low, a);
            isa.f_lt(high, a, high, a)
        }
        Map::Glu(Act::Silu) => {
            let minus = isa.f_mul(a, isa.f_splat(-1.0));
            isa.f_mul(isa.f_div(a, isa.f_add(isa.f_splat(1.0), exp(isa, minus))), b)
        }
        Map::Glu(Act::GeluTanh) => isa.f_mul(gelu_tanh(isa, a), b),
        Map::Glu(Act::SwigluOai) => swiglu_oai(isa, a, b),
        Map::Softcap(cap) => softcap(isa, a, cap),
    }
}

/// `graph::math::gelu_tanh`.
#[inline(always)]
fn gelu_tanh<I: Isa>(isa: I, x: I::F) -> I::F {
    let u = isa.f_fma(isa.f_mul(isa.f_splat(GELU_C), isa.f_mul(x, x)), x, x);
    let e = exp(isa, isa.f_mul(isa.f_splat(GELU_K), u));
    isa.f_div(x, isa.f_add(isa.f_splat(1.0), e))
}

/// `graph::math::swiglu_oai`.
#[inline(always)]
fn swiglu_oai<I: Isa>(isa: I, gate: I::F, up: I::F) -> I::F {
    let (one, most) = (isa.f_splat(1.0), isa.f_splat(OAI_LIMIT));
    let least = isa.f_splat(-OAI_LIMIT);
    let gate = isa.f_lt(most, gate, most, gate);
    let up = isa.f_lt(most, up, most, up);
    let up = isa.f_lt(up, least, least, up);
    let e = exp(isa, isa.f_mul(isa.f_splat(OAI_K), gate));
    isa.f_mul(isa.f_div(gate, isa.f_add(one, e)), isa.f_add(up, one))
}

/// `graph::math::softcap`.
#[inline(always)]
pub(crate) fn softcap<I: Isa>(isa: I, x: I::F, cap: f32) -> I::F {
    let (one, two, cap) = (isa.f_splat(1.0), isa.f_splat(2.0), isa.f_splat(cap));
    let e = exp(isa, isa.f_mul(two, isa.f_div(x, cap)));
    isa.f_mul(cap, isa.f_sub(one, isa.f_div(two, isa.f_add(one, e))))
}
