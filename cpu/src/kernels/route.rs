//! Routing, one row of a router's numbers at a time. Meaning: `graph::ops::experts`.

use super::rms_norm::tree;
use super::{lanes, lanes_mut};
use crate::simd::{Isa, Kernel, LANES, exp};
use graph::Route;
use graph::math::SUM_LANES;
use graph::ops::experts::{self, rank};

/// Vectors that hold the partial sums.
const SUMS: usize = SUM_LANES / LANES;

/// One row; `chosen` is the second input of [`Route::Pick`].
pub(crate) struct Router<'a> {
    pub(crate) route: Route,
    pub(crate) x: &'a [f32],
    pub(crate) chosen: &'a [f32],
    pub(crate) out: &'a mut [f32],
}

impl Kernel for Router<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { route, x, chosen, out } = self;
        match route {
            Route::Softmax => softmax(isa, x, out),
            Route::Sigmoid => vectors(x, out, |x| {
                let one = isa.f_splat(1.0);
                let x = isa.f_mul(isa.f_load(x), isa.f_splat(-1.0));
                let mut y = [0.0; LANES];
                isa.f_store(isa.f_div(one, isa.f_add(one, exp(isa, x))), &mut y);
                y
            }),
            Route::TopK => top_k(x, out),
            Route::TopGroups { .. } | Route::Each | Route::Pick | Route::Normalise { .. } => {
                experts::route(route, x, chosen, out);
            }
        }
    }
}

/// Whole vectors of `x`, the last filled with zeros.
#[inline(always)]
fn vectors(x: &[f32], out: &mut [f32], f: impl Fn(&[f32; LANES]) -> [f32; LANES]) {
    for (x, out) in x.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let mut padded = [0.0; LANES];
        padded[..x.len()].copy_from_slice(x);
        out.copy_from_slice(&f(&padded)[..x.len()]);
    }
}

#[inline(always)]
fn softmax<I: Isa>(isa: I, x: &[f32], out: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, |max, x| if x > max { x } else { max });
    let max = isa.f_splat(max);
    vectors(x, out, |x| {
        let mut y = [0.0; LANES];
        isa.f_store(exp(isa, isa.f_sub(isa.f_load(x), max)), &mut y);
        y
    });
    let mut sums = [isa.f_splat(0.0); SUMS];
    let whole = out.len() / SUM_LANES * SUM_LANES;
    for block in out[..whole].chunks_exact(SUM_LANES) {
        for v in 0..SUMS {
            sums[v] = isa.f_add(sums[v], isa.f_load(lanes(block, v * LANES)));
        }
    }
    let mut partial = [0.0f32; SUM_LANES];
    for v in 0..SUMS {
        isa.f_store(sums[v], lanes_mut(&mut partial, v * LANES));
    }
    partial.iter_mut().zip(&out[whole..]).for_each(|(sum, x)| *sum += x);
    let sum = tree(isa, &partial);
    out.iter_mut().for_each(|x| *x /= sum);
}

/// Few of many: the next one is looked for among all that come behind the one before, in the order of rank and place.
#[inline(always)]
fn top_k(x: &[f32], out: &mut [f32]) {
    let mut before = None;
    for out in out {
        let mut best: Option<(u32, usize)> = None;
        for (i, &x) in x.iter().enumerate() {
            let rank = rank(x);
            let is_left = before.is_none_or(|(r, at)| rank < r || (rank == r && i > at));
            if is_left && best.is_none_or(|(r, _)| rank > r) {
                best = Some((rank, i));
            }
        }
        *out = best.map_or(0, |(_, i)| i) as f32;
        before = best;
    }
}
