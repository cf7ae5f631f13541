//! One token: every weight is read once, unpacked in registers, and multiplied.

use super::codes::{self, Unpack, with_codes};
use super::{Product, put};
use crate::kernels::elementwise::{Map, apply};
use crate::kernels::quantize_q8::Q8Group;
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use crate::tiles::{Layout, UNIT};
use gguf::quant::Shape;
use graph::ints::MinTerm;
use std::marker::PhantomData;

/// The columns of `out` for one token. Picks the body for the format, so that inside it all is constant.
#[inline(always)]
pub(super) fn run<I: Isa>(isa: I, product: Product<'_>, q8: &Q8Group, out: &mut Columns<'_>) {
    let form = product.weight().layout.form;
    let token = OneToken { product, q8, out };
    with_codes!(form.codes, C => match form.shape {
        Shape::One { .. } => isa.vectorize(Stream::<C, false> { token, codes: PhantomData }),
        Shape::Runs { .. } => isa.vectorize(Stream::<C, true> { token, codes: PhantomData }),
    });
}

struct OneToken<'a, 'o> {
    product: Product<'a>,
    q8: &'a Q8Group,
    out: &'a mut Columns<'o>,
}

/// The columns of one token, for one kind of codes. `RUNS` says whether the blocks have integer scales.
struct Stream<'a, 'o, C, const RUNS: bool> {
    token: OneToken<'a, 'o>,
    codes: PhantomData<C>,
}

impl<C: Unpack, const RUNS: bool> Kernel for Stream<'_, '_, C, RUNS> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let OneToken { product, q8, out } = self.token;
        // A loop over one weight or two: the large body is compiled once for both.
        let (weights, act) = match product {
            Product::Plain(weight) => (&[weight, weight][..1], None),
            Product::Glu { act, gate, up } => (&[gate, up][..], Some(act)),
        };
        let row = out.row_range().start;
        for first in out.range().step_by(LANES) {
            let mut y = [isa.f_splat(0.0); 2];
            for (y, weight) in y.iter_mut().zip(weights) {
                let tile = weight.tile(first / LANES);
                // The sum of Q4_1 and Q5_1 is a constant of the body: as a choice in its loop Q5_1 took 1.4 times as long.
                *y = if !RUNS && weight.layout.min == MinTerm::Sum {
                    sums::<I, C, RUNS, true>(isa, weight.layout, tile, q8)
                } else {
                    sums::<I, C, RUNS, false>(isa, weight.layout, tile, q8)
                };
            }
            let y = match act {
                None => y[0],
                Some(act) => apply(isa, Map::Glu(act), y[0], y[1]),
            };
            put(isa, y, out.row(row, first..first + LANES));
        }
    }
}

/// 16 rows of the product.
#[inline(always)]
fn sums<I: Isa, C: Unpack, const RUNS: bool, const SUM: bool>(
    isa: I,
    layout: &Layout,
    tile: &[u8],
    q8: &Q8Group,
) -> I::F {
    let table = codes::table(layout, I::I8_BIAS);
    let mut acc = isa.f_splat(0.0);
    for (b, block) in tile.chunks_exact(layout.block_bytes).enumerate() {
        let packed = PackedBlock { layout, bytes: block, table: &table };
        let d_a = isa.f_splat(q8.d[b]);
        let (isum, msum) = if RUNS {
            super_block::<I, C>(isa, packed, q8, b)
        } else {
            let start = -codes::offset(layout, I::I8_BIAS) * q8.sums32[b];
            let span = Span { column: b * 32, in_block: 0, start };
            let isum = unit::<I, C, 8>(isa, packed, q8, span);
            (isum, isum)
        };
        let d = isa.f_mul(codes::scale(isa, layout, block), d_a);
        acc = isa.f_fma(d, isa.f_from_i(isum), acc);
        if SUM {
            let m = codes::f16s(isa, block, layout.d_bytes);
            acc = isa.f_fma(m, isa.f_splat(q8.s[b]), acc);
        } else if RUNS && layout.min == MinTerm::Subs {
            let m = codes::f16s(isa, block, layout.d_bytes);
            let minus = isa.f_mul(isa.f_mul(m, d_a), isa.f_splat(-1.0));
            acc = isa.f_fma(minus, isa.f_from_i(msum), acc);
        }
    }
    acc
}

/// One block of a tile, and what is needed to unpack it.
#[derive(Clone, Copy)]
struct PackedBlock<'a> {
    layout: &'a Layout,
    bytes: &'a [u8],
    table: &'a [u8; 16],
}

/// The columns of one integer sum.
#[derive(Clone, Copy)]
struct Span {
    /// The first, as a column of the row.
    column: usize,
    /// The first, as a column of the block.
    in_block: usize,
    /// What the sum begins with: it takes the offset of the codes away.
    start: i32,
}

/// The dot product of `FOURS` groups of four columns of one unit.
#[inline(always)]
fn unit<I: Isa, C: Unpack, const FOURS: usize>(
    isa: I,
    block: PackedBlock<'_>,
    q8: &Q8Group,
    span: Span,
) -> I::I {
    let PackedBlock { layout, bytes, table } = block;
    let planes = codes::planes(layout, bytes, span.in_block);
    let q = &q8.q[span.column / 4..][..FOURS];
    let mut sum = isa.i_splat(span.start);
    for g in 0..FOURS {
        let w = C::operand(isa, planes, span.in_block % UNIT / 4 + g, table);
        sum = if C::SIGNED { isa.dot_i8(sum, w, q[g]) } else { isa.dot_u7(sum, w, q[g]) };
    }
    sum
}

/// `Σ scale · isum` and `Σ min · bsum` over the sub-blocks of `b`, a block of 256.
#[inline(always)]
fn super_block<I: Isa, C: Unpack>(
    isa: I,
    block: PackedBlock<'_>,
    q8: &Q8Group,
    b: usize,
) -> (I::I, I::I) {
    let PackedBlock { layout, bytes, .. } = block;
    let (mut isum, mut msum) = (isa.i_splat(0), isa.i_splat(0));
    let (sub_cols, offset) = (layout.sub_cols, codes::offset(layout, I::I8_BIAS));
    for sub in 0..layout.subs {
        let (in_block, i) = (sub * sub_cols, b * layout.subs + sub);
        let column = b * 256 + in_block;
        let part = if sub_cols == 16 {
            let start = -offset * q8.sums16[i];
            unit::<I, C, 4>(isa, block, q8, Span { column, in_block, start })
        } else {
            let start = -offset * q8.sums32[i];
            unit::<I, C, 8>(isa, block, q8, Span { column, in_block, start })
        };
        isum = isa.i_add(isum, isa.i_mul(codes::sub_scales(isa, layout, bytes, sub), part));
    }
    if layout.min == MinTerm::Subs {
        let pairs = if sub_cols == 16 { &q8.pairs16 } else { &q8.pairs32 };
        for (pair, &sums) in pairs[b * layout.subs / 2..][..layout.subs / 2].iter().enumerate() {
            msum = isa.dot_i16(msum, codes::min_pairs(isa, layout, bytes, pair), sums);
        }
    }
    (isum, msum)
}
