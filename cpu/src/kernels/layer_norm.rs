//! LayerNorm. Meaning: `graph::ops::layer_norm`. The contract's 64 strided sums are four vectors.

use super::rms_norm::strided;
use super::{lanes, lanes_mut};
use crate::simd::{Isa, Kernel, LANES};
use graph::math::fma;
use graph::ops::layer_norm::Affine;

/// Rows of whole groups.
pub(crate) struct LayerNorm<'a> {
    pub(crate) x: &'a [f32],
    /// Of a group's columns, or of a whole row's.
    pub(crate) affine: Affine<'a>,
    pub(crate) group: usize,
    pub(crate) eps: f32,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { x, affine, group, eps, out } = self;
        for (g, (x, out)) in x.chunks_exact(group).zip(out.chunks_exact_mut(group)).enumerate() {
            let of = |all: &'_ [f32]| g * group % all.len();
            let w = affine.w.map(|w| &w[of(w)..][..group]);
            let b = affine.b.map(|b| &b[of(b)..][..group]);
            let n = group as f32;
            let mean = strided(isa, x, |acc, x| isa.f_add(acc, x), |acc, x| acc + x) / n;
            let means = isa.f_splat(mean);
            let squares = strided(
                isa,
                x,
                |acc, x| {
                    let d = isa.f_sub(x, means);
                    isa.f_fma(d, d, acc)
                },
                |acc, x| fma(x - mean, x - mean, acc),
            );
            let scale = 1.0 / (squares / n + eps).sqrt();
            write(isa, &Scaled { x, mean, scale, affine: Affine { w, b } }, out);
        }
    }
}

/// A group and what its norm found.
struct Scaled<'a> {
    x: &'a [f32],
    mean: f32,
    scale: f32,
    /// Of this group.
    affine: Affine<'a>,
}

#[inline(always)]
fn write<I: Isa>(isa: I, scaled: &Scaled<'_>, out: &mut [f32]) {
    let &Scaled { x, mean, scale, affine: Affine { w, b } } = scaled;
    let (means, scales) = (isa.f_splat(mean), isa.f_splat(scale));
    let whole = x.len() / LANES * LANES;
    for i in (0..whole).step_by(LANES) {
        let y = isa.f_mul(isa.f_sub(isa.f_load(lanes(x, i)), means), scales);
        let at = |all: &[f32]| isa.f_load(lanes(all, i));
        let y = match (w.map(at), b.map(at)) {
            (Some(w), Some(b)) => isa.f_fma(y, w, b),
            (Some(w), None) => isa.f_mul(y, w),
            (None, _) => y,
        };
        isa.f_store(y, lanes_mut(out, i));
    }
    for i in whole..x.len() {
        let y = (x[i] - mean) * scale;
        out[i] = match (w.map(|w| w[i]), b.map(|b| b[i])) {
            (Some(w), Some(b)) => fma(y, w, b),
            (Some(w), None) => y * w,
            (None, _) => y,
        };
    }
}
