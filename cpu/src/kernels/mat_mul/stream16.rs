//! One token in `int16`: every weight is read and unpacked once, and multiplied with both parts of the activations.

use super::codes::{self, BlockScales, RunScales, Unpack, with_codes};
use super::stream::PackedBlock;
use super::{Product, put};
use crate::kernels::elementwise::{Map, apply};
use crate::kernels::quantize_q16::{Q16Group, Q16Rows};
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use crate::tiles::{Layout, UNIT};
use graph::ints::MinTerm;
use std::marker::PhantomData;

/// The columns of `out` for one token. Picks the body for the format, so that inside it all is constant.
#[inline(always)]
pub(super) fn run<I: Isa>(isa: I, product: Product<'_>, rows: &Q16Rows, out: &mut Columns<'_>) {
    let [group] = rows.groups(0, 1) else { return };
    let layout = product.weight().layout;
    let token = OneToken { product, group, out };
    with_codes!(layout.form.codes, C => match layout.sub_cols {
        16 => isa.vectorize(Stream::<C, 16> { token, codes: PhantomData }),
        _ => isa.vectorize(Stream::<C, 32> { token, codes: PhantomData }),
    });
}

struct OneToken<'a, 'o> {
    product: Product<'a>,
    group: &'a Q16Group,
    out: &'a mut Columns<'o>,
}

/// The columns of one token, for one kind of codes with a scale for each `RUN` columns.
struct Stream<'a, 'o, C, const RUN: usize> {
    token: OneToken<'a, 'o>,
    codes: PhantomData<C>,
}

impl<C: Unpack, const RUN: usize> Kernel for Stream<'_, '_, C, RUN> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let OneToken { product, group, out } = self.token;
        // A loop over one weight or two: the large body is compiled once for both.
        let (weights, act) = match product {
            Product::Plain(weight) => (&[weight, weight][..1], None),
            Product::Glu { act, gate, up } => (&[gate, up][..], Some(act)),
        };
        for first in out.range().step_by(LANES) {
            let mut y = [isa.f_splat(0.0); 2];
            for (y, weight) in y.iter_mut().zip(weights) {
                let tile = weight.tile(first / LANES);
                *y = sums::<I, C, RUN>(isa, weight.layout, tile, group);
            }
            let y = match act {
                None => y[0],
                Some(act) => apply(isa, Map::Glu(act), y[0], y[1]),
            };
            put(isa, y, out.row(0, first..first + LANES));
        }
    }
}

/// 16 rows of the product.
#[inline(always)]
fn sums<I: Isa, C: Unpack, const RUN: usize>(
    isa: I,
    layout: &Layout,
    tile: &[u8],
    group: &Q16Group,
) -> I::F {
    let table = codes::table::<I>(layout);
    let s = if RUN == 16 { &group.s16 } else { &group.s32 };
    let runs = layout.block_len / RUN;
    let mut acc = isa.f_splat(0.0);
    for (b, block) in tile.chunks_exact(layout.block_bytes).enumerate() {
        let packed = PackedBlock { layout, bytes: block, table: &table };
        let scales = BlockScales::of(isa, layout, block);
        for r in 0..runs {
            let run = b * runs + r;
            let isum = isum::<I, C, RUN>(isa, packed, group, Place { r, run });
            let RunScales { scale, min } = scales.run(isa, layout, block, r);
            let d = isa.f_mul(scale, isa.f_splat(group.d[run * RUN / 32]));
            acc = isa.f_fma(d, isa.f_from_i(isum), acc);
            if layout.min != MinTerm::None {
                acc = isa.f_fma(min, isa.f_splat(s[run]), acc);
            }
        }
    }
    acc
}

/// Where a run of columns stands.
#[derive(Clone, Copy)]
struct Place {
    /// In its block.
    r: usize,
    /// In the row.
    run: usize,
}

/// `Σ q · q_a` of a run of a block.
#[inline(always)]
fn isum<I: Isa, C: Unpack, const RUN: usize>(
    isa: I,
    block: PackedBlock<'_>,
    group: &Q16Group,
    Place { r, run }: Place,
) -> I::I {
    let PackedBlock { layout, bytes, table } = block;
    let planes = codes::planes(layout, bytes, r * RUN);
    let sums = if RUN == 16 { &group.sums16 } else { &group.sums32 };
    let fours = run * RUN / 4..(run + 1) * RUN / 4;
    let (q_high, q_low) = (&group.high[fours.clone()], &group.low[fours]);
    let mut high = isa.i_splat(0);
    let mut low = isa.i_splat(-codes::offset::<I>(layout) * sums[run]);
    for g in 0..RUN / 4 {
        let w = C::operand(isa, planes, r * RUN % UNIT / 4 + g, table);
        (high, low) = if C::SIGNED {
            (isa.dot_i8(high, w, q_high[g]), isa.dot_i8(low, w, q_low[g]))
        } else {
            (isa.dot_u7(high, w, q_high[g]), isa.dot_u7(low, w, q_low[g]))
        };
    }
    isa.i_add(isa.i_shl::<7>(high), low)
}
