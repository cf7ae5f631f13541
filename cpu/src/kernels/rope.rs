//! Rotary position embedding. Meaning: `graph::ops::rope`, whose loop it runs with this machine's instructions.

use crate::simd::{Isa, Kernel};
use graph::RopePairs;
use graph::math::fma;

/// One row in place.
pub(crate) struct Rope<'a> {
    pub(crate) row: &'a mut [f32],
    pub(crate) head_dim: usize,
    pub(crate) pairs: RopePairs,
    /// Cosine and sine of each pair.
    pub(crate) angles: &'a [(f32, f32)],
}

impl Kernel for Rope<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        let n = self.angles.len();
        for head in self.row.chunks_exact_mut(self.head_dim) {
            match self.pairs {
                RopePairs::Adjacent => {
                    for (pair, &(cos, sin)) in head.chunks_exact_mut(2).zip(self.angles) {
                        (pair[0], pair[1]) = rotate(pair[0], pair[1], cos, sin);
                    }
                }
                RopePairs::Halves => {
                    let (low, high) = head.split_at_mut(n);
                    for ((x0, x1), &(cos, sin)) in low.iter_mut().zip(high).zip(self.angles) {
                        (*x0, *x1) = rotate(*x0, *x1, cos, sin);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn rotate(x0: f32, x1: f32, cos: f32, sin: f32) -> (f32, f32) {
    (fma(x0, cos, -(x1 * sin)), fma(x0, sin, x1 * cos))
}
