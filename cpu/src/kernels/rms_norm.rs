//! RMS norm. Meaning: `graph::ops::rms_norm`. The contract's 64 strided sums are four vectors.

use super::{lanes, lanes_mut};
use crate::simd::{Isa, Kernel, LANES};
use graph::math::{SUM_LANES, fma};

/// Vectors that hold the partial sums.
const SUMS: usize = SUM_LANES / LANES;

/// Rows of whole groups: `x`, `out` are `[n, w.len()]`.
pub(crate) struct RmsNorm<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) w: &'a [f32],
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let n = self.w.len();
        for (x, out) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            let squares = strided(isa, x, |sum, x| isa.f_fma(x, x, sum), |sum, x| fma(x, x, sum));
            let scale = 1.0 / (squares / n as f32 + self.eps).sqrt();
            let scales = isa.f_splat(scale);
            let whole = n / LANES * LANES;
            for i in (0..whole).step_by(LANES) {
                let y = isa.f_mul(
                    isa.f_mul(isa.f_load(lanes(x, i)), scales),
                    isa.f_load(lanes(self.w, i)),
                );
                isa.f_store(y, lanes_mut(out, i));
            }
            for i in whole..n {
                out[i] = (x[i] * scale) * self.w[i];
            }
        }
    }
}

/// The contract's strided sum of a group, `graph::math::sum_strided`: one step of 16 sums, and the same of one.
#[inline(always)]
pub(super) fn strided<I: Isa>(
    isa: I,
    x: &[f32],
    step: impl Fn(I::F, I::F) -> I::F,
    step_of_one: impl Fn(f32, f32) -> f32,
) -> f32 {
    let mut sums = [isa.f_splat(0.0); SUMS];
    let whole = x.len() / SUM_LANES * SUM_LANES;
    for block in x[..whole].chunks_exact(SUM_LANES) {
        for v in 0..SUMS {
            sums[v] = step(sums[v], isa.f_load(lanes(block, v * LANES)));
        }
    }
    let mut partial = [0.0f32; SUM_LANES];
    for v in 0..SUMS {
        isa.f_store(sums[v], lanes_mut(&mut partial, v * LANES));
    }
    for (sum, x) in partial.iter_mut().zip(&x[whole..]) {
        *sum = step_of_one(*sum, *x);
    }
    tree(isa, &partial)
}

/// The halving tree over 64 partial sums.
#[inline(always)]
pub(crate) fn tree<I: Isa>(isa: I, partial: &[f32; SUM_LANES]) -> f32 {
    let v = |i: usize| isa.f_load(lanes(partial, i * LANES));
    let mut last = [0.0; LANES];
    isa.f_store(isa.f_add(isa.f_add(v(0), v(2)), isa.f_add(v(1), v(3))), &mut last);
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            last[i] += last[i + half];
        }
        half /= 2;
    }
    last[0]
}
