//! A causal convolution of few rows. Meaning: `graph::ops::ssm_conv`; lanes are columns.

use super::{lanes, lanes_mut};
use crate::simd::{Isa, Kernel, LANES};
use graph::math::fma;
use graph::ops::ssm_conv::Rows;

/// The convolution of the rows from `first` on of a sequence's step, `out` being `[n, rows.cols]`.
pub(crate) struct SsmConv<'a> {
    /// `[cols, d_conv]`
    pub(crate) w: &'a [f32],
    pub(crate) rows: Rows<'a>,
    pub(crate) first: usize,
    pub(crate) out: &'a mut [f32],
}

impl Kernel for SsmConv<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { w, rows, first, out } = self;
        let cols = rows.cols;
        let d_conv = w.len() / cols;
        out.fill(0.0);
        // The chains of a few columns stay in `out`, which is in the cache: no room for all rows' weights is needed.
        for c in (0..cols).step_by(LANES) {
            let n = LANES.min(cols - c);
            for k in 0..d_conv {
                let mut of_k = [0.0; LANES];
                of_k[..n].iter_mut().enumerate().for_each(|(i, x)| *x = w[(c + i) * d_conv + k]);
                for (t, out) in out.chunks_exact_mut(cols).enumerate() {
                    let (x, out) = (&rows.row(first + t + k)[c..c + n], &mut out[c..c + n]);
                    if n == LANES {
                        let (x, acc) = (isa.f_load(lanes(x, 0)), isa.f_load(lanes(out, 0)));
                        isa.f_store(isa.f_fma(isa.f_load(&of_k), x, acc), lanes_mut(out, 0));
                    } else {
                        for ((y, w), x) in out.iter_mut().zip(of_k).zip(x) {
                            *y = fma(w, *x, *y);
                        }
                    }
                }
            }
        }
    }
}
