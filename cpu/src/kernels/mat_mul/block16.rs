//! The register tile of `int16`: as [`super::block`], with every operand multiplied twice.
//!
//! The sum over a run (the columns that share a scale) begins with the high parts of the activations, is shifted by
//! seven bits, and goes on with the low parts: one register for each sum, as in `int8`.

use super::block::{At, Group, Part, dot, load, prefetch, splats, starts, step, store};
use super::codes;
use super::workspace::Workspace;
use crate::kernels::quantize_q16::Q16Group;
use crate::simd::{Isa, Kernel};
use gguf::quant::Run;
use graph::ints::MinTerm;

impl Group for Q16Group {
    const RUN_SCALES: bool = true;

    #[inline(always)]
    fn tokens(&self) -> usize {
        self.tokens
    }

    #[inline(always)]
    fn multiply<I: Isa, const N: usize, const T: usize>(isa: I, part: Part<'_, Self>) {
        match (part.layout.form.run(), part.layout.signed()) {
            (None | Some(Run::Of32), false) => isa.vectorize(Runs::<N, T, false, 32>(part)),
            (None | Some(Run::Of32), true) => isa.vectorize(Runs::<N, T, true, 32>(part)),
            (Some(Run::Of16), false) => isa.vectorize(Runs::<N, T, false, 16>(part)),
            (Some(Run::Of16), true) => isa.vectorize(Runs::<N, T, true, 16>(part)),
        }
    }
}

/// N tokens by T tiles of a format with a scale for each `RUN` columns.
pub(super) struct Runs<'a, const N: usize, const T: usize, const SIGNED: bool, const RUN: usize>(
    pub(super) Part<'a, Q16Group>,
);

impl<const N: usize, const T: usize, const SIGNED: bool, const RUN: usize> Kernel
    for Runs<'_, N, T, SIGNED, RUN>
{
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        runs::<I, N, T, SIGNED, RUN>(isa, self.0);
    }
}

#[inline(always)]
fn runs<I: Isa, const N: usize, const T: usize, const SIGNED: bool, const RUN: usize>(
    isa: I,
    part: Part<'_, Q16Group>,
) {
    let Part { layout, workspace, group, at } = part;
    let At { start, cols, tile, .. } = at;
    let (first, n_runs, fours) = (start / RUN, cols / RUN, RUN / 4);
    let of_runs = if RUN == 16 { &group.runs16 } else { &group.runs32 };
    let entries = first * N..(first + n_runs) * N;
    let Workspace { operands, run_scales, run_mins, acc, .. } = workspace;
    // The offset of signed operands is 0 or 128: taken from the high parts' sum, which is shifted by seven bits.
    let offset = codes::offset(layout, I::I8_BIAS) >> if SIGNED { 7 } else { 0 };
    starts(&mut workspace.starts, &of_runs.sums[entries.clone()], offset);
    let starts = workspace.starts.as_chunks::<N>().0;
    let quants = start / 4 * N..(start + cols) / 4 * N;
    let high = group.high[quants.clone()].as_chunks::<N>().0;
    let low = group.low[quants].as_chunks::<N>().0;
    let d_a = of_runs.d[entries.clone()].as_chunks::<N>().0;
    let s = of_runs.s[entries].as_chunks::<N>().0;
    let mut total = load::<I, N, T>(isa, acc, at);
    let step = step(at.prefetch, n_runs);
    for r in 0..n_runs {
        prefetch(isa, at.prefetch, r, step);
        let columns = r * fours..(r + 1) * fours;
        let operands = &operands[columns.clone()];
        let zeros = [[isa.i_splat(0); N]; T];
        let begin = if SIGNED { splats::<I, N, T>(isa, &starts[r]) } else { zeros };
        let sum = dot::<I, N, T, SIGNED>(isa, tile, begin, operands, &high[columns.clone()]);
        let mut shifted = zeros;
        for i in 0..T {
            for t in 0..N {
                shifted[i][t] = isa.i_shl::<7>(sum[i][t]);
                if !SIGNED {
                    shifted[i][t] = isa.i_add(shifted[i][t], isa.i_splat(starts[r][t]));
                }
            }
        }
        let isum = dot::<I, N, T, SIGNED>(isa, tile, shifted, operands, &low[columns]);
        for i in 0..T {
            let scale = isa.f_load(&run_scales[r][tile + i].0);
            for t in 0..N {
                let d = isa.f_mul(scale, isa.f_splat(d_a[r][t]));
                total[i][t] = isa.f_fma(d, isa.f_from_i(isum[i][t]), total[i][t]);
            }
        }
        if layout.min != MinTerm::None {
            for i in 0..T {
                let min = isa.f_load(&run_mins[r][tile + i].0);
                for t in 0..N {
                    total[i][t] = isa.f_fma(min, isa.f_splat(s[r][t]), total[i][t]);
                }
            }
        }
    }
    store::<I, N, T>(isa, acc, at, total);
}
