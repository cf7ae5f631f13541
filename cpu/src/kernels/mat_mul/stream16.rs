//! One token in `int16`: every weight is read and unpacked once, and multiplied with both parts of the activations.
//!
//! Variants tried on two Zen 4 cores, Q8_0, one thread, GB/s of weights (the `int8` kernel reads 28 to 30):
//! - one tile at a time: 17 to 21. As many loads stand in the queue for activations as for weights, so that fewer weights
//!   are on their way; software prefetch into the first or second level: 20 to 28, but it takes places in that queue too;
//! - two neighbouring tiles that share every broadcast: gates and ups 28, others 14 to 17, as each of the two streams
//!   jumps over the other's tile;
//! - two tiles from the two halves of the columns (this): 28; with prefetch 21.

use super::codes::{self, Unpack, with_runs};
use super::{Product, put};
use crate::kernels::elementwise::{Map, apply};
use crate::kernels::quantize_q16::Q16Group;
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use crate::tiles::Layout;
use graph::ints::MinTerm;
use std::marker::PhantomData;

/// The columns of `out` for one token. Picks the body for the format, so that inside it all is constant.
#[inline(always)]
pub(super) fn run<I: Isa>(isa: I, product: Product<'_>, group: &Q16Group, out: &mut Columns<'_>) {
    let layout = product.weight().layout;
    let token = OneToken { product, group, out };
    with_runs!(layout, C, FOURS => {
        isa.vectorize(Stream::<C, FOURS> { token, codes: PhantomData })
    });
}

struct OneToken<'a, 'o> {
    product: Product<'a>,
    group: &'a Q16Group,
    out: &'a mut Columns<'o>,
}

/// The columns of one token, for one kind of codes and runs of `FOURS` groups of four columns.
struct Stream<'a, 'o, C, const FOURS: usize> {
    token: OneToken<'a, 'o>,
    codes: PhantomData<C>,
}

impl<C: Unpack, const FOURS: usize> Kernel for Stream<'_, '_, C, FOURS> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let OneToken { product, group, out } = self.token;
        let (layout, columns) = (product.weight().layout, out.range());
        let row = out.row_range().start;
        // Of one weight, tiles of both halves of the columns: each of the two streams goes on where it was.
        let (step, half) = match product {
            Product::Glu { .. } => (columns.len().div_ceil(LANES), 0),
            Product::Plain(_) => {
                let half = columns.len().div_ceil(2 * LANES);
                (half, half * LANES)
            }
        };
        for first in columns.clone().step_by(LANES).take(step) {
            let tiles = match product {
                Product::Glu { gate, up, .. } => [gate, up].map(|w| w.tile(first / LANES)),
                Product::Plain(w) => [first, first + half].map(|first| w.tile(first / LANES)),
            };
            // `const`: the other arm is not compiled.
            let y = if const { I::TILES == 2 } {
                sums::<I, C, FOURS, 2>(isa, layout, tiles, group)
            } else {
                let [a, b] = tiles.map(|tile| [tile]);
                let [a] = sums::<I, C, FOURS, 1>(isa, layout, a, group);
                let [b] = sums::<I, C, FOURS, 1>(isa, layout, b, group);
                [a, b]
            };
            let y = match product {
                Product::Glu { act, .. } => [apply(isa, Map::Glu(act), y[0], y[1]), y[1]],
                Product::Plain(_) => y,
            };
            put(isa, y[0], out.row(row, first..first + LANES));
            if half > 0 && first + half < columns.end {
                put(isa, y[1], out.row(row, first + half..first + half + LANES));
            }
        }
    }
}

/// 16 rows of each of `T` tiles.
#[inline(always)]
fn sums<I: Isa, C: Unpack, const FOURS: usize, const T: usize>(
    isa: I,
    layout: &Layout,
    tiles: [&[u8]; T],
    group: &Q16Group,
) -> [I::F; T] {
    let table = codes::table(layout, I::I8_BIAS);
    let offset = codes::offset(layout, I::I8_BIAS);
    let runs = if FOURS == 4 { &group.runs16 } else { &group.runs32 };
    let (subs, has_min) = (layout.subs > 0, layout.min != MinTerm::None);
    let n = layout.subs.max(1);
    let (high, low) = (group.high.as_chunks::<FOURS>().0, group.low.as_chunks::<FOURS>().0);
    let quants = high.chunks_exact(n).zip(low.chunks_exact(n));
    let floats = runs.d.chunks_exact(n).zip(runs.s.chunks_exact(n));
    let of_runs = quants.zip(floats).zip(runs.sums.chunks_exact(n));
    let mut acc = [isa.f_splat(0.0); T];
    let mut from = 0;
    for (((high, low), (d_a, s)), sums) in of_runs {
        let mut blocks = [[].as_slice(); T];
        let (mut d, mut m) = (acc, acc);
        for i in 0..T {
            blocks[i] = &tiles[i][from..from + layout.block_bytes];
            d[i] = codes::scale(isa, layout, blocks[i]);
            if has_min {
                m[i] = codes::block_min(isa, layout, blocks[i], subs);
            }
        }
        from += layout.block_bytes;
        let runs = high.iter().zip(low).zip(d_a.iter().zip(s)).zip(sums).enumerate();
        for (r, (((high, low), (&d_a, &s)), &sums)) in runs {
            // A unit of 32 columns is one run, or two.
            let (column, first) = (4 * r * FOURS, r * FOURS % 8);
            let mut planes = [[].as_slice(); T];
            for i in 0..T {
                planes[i] = codes::planes(layout, blocks[i], column);
            }
            let mut sum = [isa.i_splat(0); T];
            let mut rest = [isa.i_splat(-offset * sums); T];
            for g in 0..FOURS {
                for i in 0..T {
                    let w = C::operand(isa, planes[i], first + g, &table);
                    (sum[i], rest[i]) = if C::SIGNED {
                        (isa.dot_i8(sum[i], w, high[g]), isa.dot_i8(rest[i], w, low[g]))
                    } else {
                        (isa.dot_u7(sum[i], w, high[g]), isa.dot_u7(rest[i], w, low[g]))
                    };
                }
            }
            let sub = subs.then_some(r);
            for i in 0..T {
                let isum = isa.i_add(isa.i_shl::<7>(sum[i]), rest[i]);
                let scale = codes::run_scale(isa, layout, blocks[i], d[i], sub);
                let d = isa.f_mul(scale, isa.f_splat(d_a));
                acc[i] = isa.f_fma(d, isa.f_from_i(isum), acc[i]);
                if has_min {
                    let min = codes::run_min(isa, layout, blocks[i], m[i], sub);
                    acc[i] = isa.f_fma(min, isa.f_splat(s), acc[i]);
                }
            }
        }
    }
    acc
}
