//! The register tile: one or two tiles of 16 rows times a group of tokens, over one chunk of columns.
//!
//! `N` tokens × `T` tiles of integer sums live in registers; per group of four columns they take T operands and N
//! broadcasts, so that the loads stay behind the products.

use super::codes;
use super::workspace::{Floats, Operand, Words, Workspace};
use crate::kernels::quantize_q8::Q8Group;
use crate::simd::{Isa, Kernel};
use crate::tiles::Layout;
use gguf::quant::Run;
use graph::ints::MinTerm;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Where a register tile stands: the chunk's columns, and the first of its tiles.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) start: usize,
    pub(super) cols: usize,
    pub(super) tile: usize,
    /// Place of the group's first token in the pass.
    pub(super) token: usize,
    /// What is prefetched meanwhile, spread over the blocks.
    pub(super) prefetch: [&'a [u8]; 2],
}

/// What a register tile multiplies: its place, the unpacked weights there, and a group of tokens.
pub(super) struct Part<'a, G> {
    pub(super) layout: &'a Layout,
    pub(super) workspace: &'a mut Workspace,
    pub(super) group: &'a G,
    pub(super) at: At<'a>,
}

/// Some tokens' rounded rows, and the kernels that multiply them.
pub(super) trait Group {
    /// Whether the workspace is to hold a scale for each run ([`Workspace::run_scales`]).
    const RUN_SCALES: bool;

    /// Tokens of this group.
    fn tokens(&self) -> usize;

    /// Multiplies N tokens by T tiles; picks the body for the kind of format.
    fn multiply<I: Isa, const N: usize, const T: usize>(isa: I, part: Part<'_, Self>)
    where
        Self: Sized;
}

impl Group for Q8Group {
    const RUN_SCALES: bool = false;

    #[inline(always)]
    fn tokens(&self) -> usize {
        self.tokens
    }

    #[inline(always)]
    fn multiply<I: Isa, const N: usize, const T: usize>(isa: I, part: Part<'_, Self>) {
        match (part.layout.form.run(), part.layout.signed()) {
            (None, false) => isa.vectorize(Simple::<N, T, false>(part)),
            (None, true) => isa.vectorize(Simple::<N, T, true>(part)),
            (Some(Run::Of16), false) => isa.vectorize(SuperBlocks::<N, T, false, 16>(part)),
            (Some(Run::Of16), true) => isa.vectorize(SuperBlocks::<N, T, true, 16>(part)),
            (Some(Run::Of32), false) => isa.vectorize(SuperBlocks::<N, T, false, 32>(part)),
            (Some(Run::Of32), true) => isa.vectorize(SuperBlocks::<N, T, true, 32>(part)),
        }
    }
}

/// N tokens by T tiles of a format with one scale for 32 columns.
pub(super) struct Simple<'a, const N: usize, const T: usize, const SIGNED: bool>(
    pub(super) Part<'a, Q8Group>,
);

impl<const N: usize, const T: usize, const SIGNED: bool> Kernel for Simple<'_, N, T, SIGNED> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        simple::<I, N, T, SIGNED>(isa, self.0);
    }
}

/// N tokens by T tiles of a K-quant: integer scales for each `SUB` columns of 256.
pub(super) struct SuperBlocks<
    'a,
    const N: usize,
    const T: usize,
    const SIGNED: bool,
    const SUB: usize,
>(pub(super) Part<'a, Q8Group>);

impl<const N: usize, const T: usize, const SIGNED: bool, const SUB: usize> Kernel
    for SuperBlocks<'_, N, T, SIGNED, SUB>
{
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        super_blocks::<I, N, T, SIGNED, SUB>(isa, self.0);
    }
}

/// Bytes of each part of `bytes`, divided into `blocks` parts of whole lines.
#[inline(always)]
pub(super) fn step(bytes: [&[u8]; 2], blocks: usize) -> usize {
    bytes[0].len().max(bytes[1].len()).div_ceil(blocks * LINE) * LINE
}

/// Prefetches the `b`-th part of `both`.
#[inline(always)]
pub(super) fn prefetch<I: Isa>(isa: I, both: [&[u8]; 2], b: usize, step: usize) {
    for bytes in both {
        let (mut at, end) = (b * step, bytes.len().min((b + 1) * step));
        while at < end {
            isa.prefetch(&bytes[at]);
            at += LINE;
        }
    }
}

/// `workspace.starts`, from the sums of a group's quants.
#[inline(always)]
pub(super) fn starts(starts: &mut [i32], sums: &[i32], offset: i32) {
    for (start, sum) in starts.iter_mut().zip(sums) {
        *start = -offset * sum;
    }
}

/// The starts of N tokens, for all tiles.
#[inline(always)]
pub(super) fn splats<I: Isa, const N: usize, const T: usize>(
    isa: I,
    starts: &[i32; N],
) -> [[I::I; N]; T] {
    let mut sum = [[isa.i_splat(0); N]; T];
    for t in 0..N {
        let start = isa.i_splat(starts[t]);
        for i in 0..T {
            sum[i][t] = start;
        }
    }
    sum
}

/// Integer sums of some operand groups, from where `sum` stands.
#[inline(always)]
pub(super) fn dot<I: Isa, const N: usize, const T: usize, const SIGNED: bool>(
    isa: I,
    tile: usize,
    mut sum: [[I::I; N]; T],
    operands: &[[Operand; 2]],
    q: &[[i32; N]],
) -> [[I::I; N]; T] {
    for (operand, q) in operands.iter().zip(q) {
        // Loops, not `from_fn`: what a closure in a library function calls is not compiled for the instruction set.
        let mut w = [isa.b_load(&operand[tile].0); T];
        for i in 1..T {
            w[i] = isa.b_load(&operand[tile + i].0);
        }
        for t in 0..N {
            for i in 0..T {
                sum[i][t] = if SIGNED {
                    isa.dot_i8(sum[i][t], w[i], q[t])
                } else {
                    isa.dot_u7(sum[i][t], w[i], q[t])
                };
            }
        }
    }
    sum
}

#[inline(always)]
fn simple<I: Isa, const N: usize, const T: usize, const SIGNED: bool>(
    isa: I,
    part: Part<'_, Q8Group>,
) {
    let Part { layout, workspace, group, at } = part;
    let (b0, blocks) = (at.start / 32, at.cols / 32);
    let Workspace { operands, d, m, acc, .. } = workspace;
    starts(
        &mut workspace.starts,
        &group.sums32[b0 * N..][..blocks * N],
        codes::offset(layout, I::I8_BIAS),
    );
    let starts = workspace.starts.as_chunks::<N>().0;
    let operands = operands[..blocks * 8].as_chunks::<8>().0;
    let q = group.q[at.start / 4 * N..][..at.cols / 4 * N].as_chunks::<N>().0.as_chunks::<8>().0;
    let d_a = group.d[b0 * N..][..blocks * N].as_chunks::<N>().0;
    let s = group.s[b0 * N..][..blocks * N].as_chunks::<N>().0;
    let mut total = load::<I, N, T>(isa, acc, at);
    let step = step(at.prefetch, blocks);
    for b in 0..blocks {
        prefetch(isa, at.prefetch, b, step);
        let begin = splats::<I, N, T>(isa, &starts[b]);
        let isum = dot::<I, N, T, SIGNED>(isa, at.tile, begin, &operands[b], &q[b]);
        for i in 0..T {
            let d_w = isa.f_load(&d[b][at.tile + i].0);
            for t in 0..N {
                let d = isa.f_mul(d_w, isa.f_splat(d_a[b][t]));
                total[i][t] = isa.f_fma(d, isa.f_from_i(isum[i][t]), total[i][t]);
            }
        }
        if layout.min == MinTerm::Sum {
            for i in 0..T {
                let m = isa.f_load(&m[b][at.tile + i].0);
                for t in 0..N {
                    total[i][t] = isa.f_fma(m, isa.f_splat(s[b][t]), total[i][t]);
                }
            }
        }
    }
    store::<I, N, T>(isa, acc, at, total);
}

#[inline(always)]
fn super_blocks<I: Isa, const N: usize, const T: usize, const SIGNED: bool, const SUB: usize>(
    isa: I,
    part: Part<'_, Q8Group>,
) {
    let Part { layout, workspace, group, at } = part;
    let (sums, pairs) =
        if SUB == 16 { (&group.sums16, &group.pairs16) } else { (&group.sums32, &group.pairs32) };
    let (subs, supers) = (256 / SUB, at.cols / 256);
    let Workspace { operands, d, m, scales, mins: min_words, acc, .. } = workspace;
    let sums = &sums[at.start / SUB * N..][..at.cols / SUB * N];
    starts(&mut workspace.starts, sums, codes::offset(layout, I::I8_BIAS));
    let starts = workspace.starts.as_chunks::<N>().0;
    let q = group.q[at.start / 4 * N..][..at.cols / 4 * N].as_chunks::<N>().0;
    let pairs = pairs[at.start / SUB / 2 * N..][..at.cols / SUB / 2 * N].as_chunks::<N>().0;
    let d_a = group.d[at.start / 256 * N..][..supers * N].as_chunks::<N>().0;
    let step = step(at.prefetch, supers * subs);
    for b in 0..supers {
        let mut isum = [[isa.i_splat(0); N]; T];
        for sub in b * subs..(b + 1) * subs {
            prefetch(isa, at.prefetch, sub, step);
            let (first, len) = (sub * SUB / 4, SUB / 4);
            let part = dot::<I, N, T, SIGNED>(
                isa,
                at.tile,
                splats::<I, N, T>(isa, &starts[sub]),
                &operands[first..first + len],
                &q[first..first + len],
            );
            for i in 0..T {
                let scale = isa.i_load(&scales[sub][at.tile + i].0);
                for t in 0..N {
                    isum[i][t] = isa.i_add(isum[i][t], isa.i_mul(scale, part[i][t]));
                }
            }
        }
        let mut total = load::<I, N, T>(isa, acc, at);
        for i in 0..T {
            let d = isa.f_load(&d[b][at.tile + i].0);
            for t in 0..N {
                let d = isa.f_mul(d, isa.f_splat(d_a[b][t]));
                total[i][t] = isa.f_fma(d, isa.f_from_i(isum[i][t]), total[i][t]);
            }
        }
        if layout.min == MinTerm::Subs {
            let range = b * subs / 2..(b + 1) * subs / 2;
            let msum = mins::<I, N, T>(isa, at.tile, &min_words[range.clone()], &pairs[range]);
            for i in 0..T {
                let m = isa.f_load(&m[b][at.tile + i].0);
                for t in 0..N {
                    let m = isa.f_mul(m, isa.f_splat(d_a[b][t]));
                    total[i][t] = isa.f_fma(m, isa.f_from_i(msum[i][t]), total[i][t]);
                }
            }
        }
        store::<I, N, T>(isa, acc, at, total);
    }
}

/// `Σ min · Σ q_a` over the sub-blocks of one super-block.
#[inline(always)]
fn mins<I: Isa, const N: usize, const T: usize>(
    isa: I,
    tile: usize,
    mins: &[[Words; 2]],
    pairs: &[[i32; N]],
) -> [[I::I; N]; T] {
    let mut msum = [[isa.i_splat(0); N]; T];
    for (mins, pairs) in mins.iter().zip(pairs) {
        for i in 0..T {
            let mins = isa.i_load(&mins[tile + i].0);
            for t in 0..N {
                msum[i][t] = isa.dot_i16(msum[i][t], mins, pairs[t]);
            }
        }
    }
    msum
}

#[inline(always)]
pub(super) fn load<I: Isa, const N: usize, const T: usize>(
    isa: I,
    acc: &[[Floats; 2]],
    at: At<'_>,
) -> [[I::F; N]; T] {
    let Some(acc) = acc[at.token..].first_chunk::<N>() else {
        unreachable!("a pass holds whole groups")
    };
    let mut total = [[isa.f_splat(0.0); N]; T];
    for i in 0..T {
        for t in 0..N {
            total[i][t] = isa.f_load(&acc[t][at.tile + i].0);
        }
    }
    total
}

#[inline(always)]
pub(super) fn store<I: Isa, const N: usize, const T: usize>(
    isa: I,
    acc: &mut [[Floats; 2]],
    at: At<'_>,
    total: [[I::F; N]; T],
) {
    for (t, acc) in acc[at.token..].iter_mut().enumerate().take(N) {
        for i in 0..T {
            isa.f_store(total[i][t], &mut acc[at.tile + i].0);
        }
    }
}
