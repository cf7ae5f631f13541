//! Quantises activations to 15 bits and a sign. Meaning: `graph::ops::quantize_q16`.
//!
//! Kernels multiply bytes, so a quant is cut in two, `q = 128 · high + low`, both within -127 ..= 127. The tokens of a step
//! lie in groups side by side, as those of [`super::quantize_q8`] do.

use super::lanes;
use super::rounded::{Activations, Groups, largest, nearest, words};
use crate::pool::Workers;
use crate::simd::{Isa, Kernel, LANES};
use graph::ops::quantize_q16::{BLOCK, MAX, TINY};

/// Quantised activations of all tokens of a step.
pub(crate) type Q16Rows = Groups<Q16Group>;

/// Some tokens' rows; in every field the tokens lie side by side: entry `i` of token t stands at `i · tokens + t`.
#[derive(Clone, Default)]
pub(crate) struct Q16Group {
    /// Tokens of this group.
    pub(crate) tokens: usize,
    /// The high parts of four quants to an i32, little-endian: `[n_in / 4]`.
    pub(crate) high: Vec<i32>,
    /// The low parts.
    pub(crate) low: Vec<i32>,
    /// Of each 16 quants.
    pub(crate) runs16: Runs,
    /// Of each 32 quants.
    pub(crate) runs32: Runs,
}

/// What kernels want to know of a run of quants.
#[derive(Clone, Default)]
pub(crate) struct Runs {
    /// The scale.
    pub(crate) d: Vec<f32>,
    /// The sum of the quants.
    pub(crate) sums: Vec<i32>,
    /// `d · Σq`
    pub(crate) s: Vec<f32>,
}

impl Runs {
    fn resize(&mut self, n: usize) {
        self.d.resize(n, 0.0);
        self.sums.resize(n, 0);
        self.s.resize(n, 0.0);
    }

    #[inline(always)]
    fn put(&mut self, at: usize, d: f32, sum: i32) {
        self.d[at] = d;
        self.sums[at] = sum;
        self.s[at] = d * sum as f32;
    }
}

impl Q16Rows {
    /// Quantises `x`.
    pub(crate) fn quantize(&mut self, x: Activations<'_>, workers: Workers<'_>) {
        let (level, n_in) = (workers.level, x.n_in);
        self.fill(x, workers, |group, x| {
            group.resize(n_in, x.len() / n_in);
            level.run(Quantize { x, n_in, group });
        });
    }
}

impl Q16Group {
    fn resize(&mut self, n_in: usize, tokens: usize) {
        self.tokens = tokens;
        self.high.resize(n_in / 4 * tokens, 0);
        self.low.resize(n_in / 4 * tokens, 0);
        self.runs16.resize(n_in / 16 * tokens);
        self.runs32.resize(n_in / 32 * tokens);
    }
}

struct Quantize<'a> {
    x: &'a [f32],
    n_in: usize,
    group: &'a mut Q16Group,
}

impl Kernel for Quantize<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        for (t, x) in self.x.chunks_exact(self.n_in).enumerate() {
            row(isa, x, t, self.group);
        }
    }
}

/// The quants of 16 elements: their parts as words of four, and their sum.
struct Sixteen {
    high: [i32; 4],
    low: [i32; 4],
    sum: i32,
}

#[inline(always)]
fn sixteen<I: Isa>(isa: I, x: I::F, id: f32) -> Sixteen {
    let q = nearest(isa, isa.f_mul(x, isa.f_splat(id)));
    // Any split will do whose parts are signed bytes: the sum of both products is the same integer.
    let high = nearest(isa, isa.f_mul(isa.f_from_i(q), isa.f_splat(1.0 / 128.0)));
    let low = isa.i_sub(q, isa.i_shl::<7>(high));
    Sixteen { high: words(isa, high), low: words(isa, low), sum: isa.i_total(q) }
}

#[inline(always)]
fn row<I: Isa>(isa: I, x: &[f32], t: usize, group: &mut Q16Group) {
    let n = group.tokens;
    let (mut first, mut rest) = (0, x);
    // Sixteen blocks at a time, so that their scales are one vector.
    while !rest.is_empty() {
        let (x, more) = rest.split_at(rest.len().min(BLOCK * LANES));
        rest = more;
        let (mut ids, mut ds) = ([0.0; LANES], [0.0; LANES]);
        let (zero, max) = (isa.f_splat(0.0), largest(isa, x));
        let (tiny, most) = (isa.f_splat(TINY), isa.f_splat(MAX));
        // Not finite: infinity is not below itself, and NaN is below nothing.
        let finite = |yes, no| isa.f_lt(max, isa.f_splat(f32::INFINITY), yes, no);
        let d = finite(isa.f_div(max, most), isa.f_splat(f32::NAN));
        isa.f_store(isa.f_lt(max, tiny, zero, d), &mut ds);
        isa.f_store(finite(isa.f_lt(max, tiny, zero, isa.f_div(most, max)), zero), &mut ids);
        for (i, x) in x.chunks_exact(BLOCK).enumerate() {
            let b = first + i;
            // Quants of zeros where the scale is NaN, whatever NaN times 0 is.
            let load = |at: usize| {
                let x = isa.f_load(lanes(x, at));
                if ids[i] == 0.0 { zero } else { x }
            };
            let halves = [sixteen(isa, load(0), ids[i]), sixteen(isa, load(LANES), ids[i])];
            for (h, half) in halves.iter().enumerate() {
                for j in 0..4 {
                    group.high[(8 * b + 4 * h + j) * n + t] = half.high[j];
                    group.low[(8 * b + 4 * h + j) * n + t] = half.low[j];
                }
                group.runs16.put((2 * b + h) * n + t, ds[i], half.sum);
            }
            group.runs32.put(b * n + t, ds[i], halves[0].sum + halves[1].sum);
        }
        first += LANES;
    }
}
