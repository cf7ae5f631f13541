//! Quantised weights in the `f32` arithmetic, decoded from the tiles of 16 rows that the integer products read: lanes =
//! rows already, so that nothing is transposed.
//!
//! One token multiplies what is decoded in registers; for several a chunk of two tiles is decoded into the first-level
//! cache ([`Workspace`]'s `transposed`). v1 decoded each row by the format's own decoder and transposed: one token of
//! Q4_K_M took 18 times as long as in `int8`, of Q8_0 8 times.

use super::{Floats, Workspace};
use crate::kernels::mat_mul::codes::{self, Unpack, with_runs};
use crate::kernels::mat_mul::{Weight, put};
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use crate::tiles::{F32_BIAS, Layout, UNIT};
use graph::ints::MinTerm;
use graph::math::DOT_CHUNK;
use std::marker::PhantomData;

/// How a format's tiles are decoded.
#[derive(Clone, Copy)]
struct Decoder<'a> {
    layout: &'a Layout,
    /// Values of the codes as operands, for formats with a table.
    table: [u8; 16],
    /// What was added to each quant in its operand.
    offset: i32,
}

impl<'a> Decoder<'a> {
    fn new(layout: &'a Layout) -> Self {
        let (table, offset) = (codes::table(layout, F32_BIAS), codes::offset(layout, F32_BIAS));
        Self { layout, table, offset }
    }
}

/// Decodes columns `at` (whole blocks) of `T` tiles in order and hands each to `each`: the column, counted from the
/// first, and its weights in each tile.
#[inline(always)]
fn decode<I: Isa, D: Format, const T: usize>(
    isa: I,
    decoder: &Decoder<'_>,
    blocks: [&[u8]; T],
    each: &mut impl Each<I, T>,
) {
    let layout = decoder.layout;
    let offset = isa.i_splat(decoder.offset);
    let (subs, has_min) = (layout.subs > 0, layout.min != MinTerm::None);
    for b in 0..blocks[0].len() / layout.block_bytes {
        let mut block = blocks;
        let mut d = [isa.f_splat(0.0); T];
        let mut m = d;
        for i in 0..T {
            block[i] = &blocks[i][b * layout.block_bytes..][..layout.block_bytes];
            d[i] = codes::scale(isa, layout, block[i]);
            if has_min {
                m[i] = codes::block_min(isa, layout, block[i], subs);
            }
        }
        for r in 0..layout.subs.max(1) {
            let sub = subs.then_some(r);
            let (mut scale, mut min) = (d, m);
            for i in 0..T {
                scale[i] = codes::run_scale(isa, layout, block[i], d[i], sub);
                if has_min {
                    min[i] = codes::run_min(isa, layout, block[i], m[i], sub);
                }
            }
            // A unit of 32 columns is one run, or two.
            let (column, first) = (4 * r * D::FOURS, r * D::FOURS % 8);
            for g in 0..D::FOURS {
                let mut w = [[isa.f_splat(0.0); T]; 4];
                for i in 0..T {
                    let planes = codes::planes(layout, block[i], column);
                    let bytes = D::C::operand(isa, planes, first + g, &decoder.table);
                    let columns = isa.b_columns(bytes);
                    for k in 0..4 {
                        let q = isa.f_from_i(isa.i_sub(columns[k], offset));
                        w[k][i] = isa.f_mul(scale[i], q);
                        if has_min {
                            w[k][i] = isa.f_add(w[k][i], min[i]);
                        }
                    }
                }
                let column = b * layout.block_len + column + 4 * g;
                for k in 0..4 {
                    each.column(isa, column + k, w[k]);
                }
            }
        }
    }
}

/// What is done with a decoded column. (A trait, not a closure: what a closure calls is not compiled for the instruction
/// set.)
trait Each<I: Isa, const T: usize> {
    fn column(&mut self, isa: I, column: usize, w: [I::F; T]);
}

/// What is constant about a format: its codes, and runs of [`Format::FOURS`] groups of four columns.
trait Format {
    type C: Unpack;
    const FOURS: usize;
}

struct Of<C, const FOURS: usize>(PhantomData<C>);

impl<C: Unpack, const FOURS: usize> Format for Of<C, FOURS> {
    type C = C;
    const FOURS: usize = FOURS;
}

/// One token times the columns of `out`.
#[inline(always)]
pub(super) fn stream<I: Isa>(isa: I, weight: Weight<'_>, x: &[f32], out: &mut Columns<'_>) {
    let row = out.row_range().start;
    let token = OneToken { weight, x, row, out };
    with_runs!(weight.layout, C, FOURS => {
        isa.vectorize(Stream::<Of<C, FOURS>>(token, PhantomData))
    });
}

struct OneToken<'a, 'o> {
    weight: Weight<'a>,
    /// The token's activations, and its row in `out`.
    x: &'a [f32],
    row: usize,
    out: &'a mut Columns<'o>,
}

struct Stream<'a, 'o, D>(OneToken<'a, 'o>, PhantomData<D>);

impl<D: Format> Kernel for Stream<'_, '_, D> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let OneToken { weight, x, row, out } = self.0;
        let decoder = Decoder::new(weight.layout);
        let columns = out.range();
        // Tiles of both halves of the columns: two streams, each of which goes on where it was.
        let half = columns.len().div_ceil(2 * LANES) * LANES;
        for first in columns.clone().step_by(LANES).take(half / LANES) {
            let tiles = [first, first + half].map(|first| weight.tile(first / LANES));
            // `const`: the other arm is not compiled.
            let y = if const { I::TILES == 2 } {
                dots::<I, D, 2>(isa, &decoder, tiles, x)
            } else {
                let [a] = dots::<I, D, 1>(isa, &decoder, [tiles[0]], x);
                let [b] = dots::<I, D, 1>(isa, &decoder, [tiles[1]], x);
                [a, b]
            };
            put(isa, y[0], out.row(row, first..first + LANES));
            if first + half < columns.end {
                put(isa, y[1], out.row(row, first + half..first + half + LANES));
            }
        }
    }
}

/// The fma chains of one token and `T` tiles over one chunk.
struct Chains<'a, I: Isa, const T: usize> {
    x: &'a [f32],
    sums: [I::F; T],
}

impl<I: Isa, const T: usize> Each<I, T> for Chains<'_, I, T> {
    #[inline(always)]
    fn column(&mut self, isa: I, column: usize, w: [I::F; T]) {
        let x = isa.f_splat(self.x[column]);
        for i in 0..T {
            self.sums[i] = isa.f_fma(w[i], x, self.sums[i]);
        }
    }
}

/// 16 rows of each of `T` tiles times one token.
#[inline(always)]
fn dots<I: Isa, D: Format, const T: usize>(
    isa: I,
    decoder: &Decoder<'_>,
    tiles: [&[u8]; T],
    x: &[f32],
) -> [I::F; T] {
    let layout = decoder.layout;
    let zeros = [isa.f_splat(0.0); T];
    let mut totals = zeros;
    let mut from = 0;
    for x in x.chunks(DOT_CHUNK) {
        let bytes = x.len() / layout.block_len * layout.block_bytes;
        let mut blocks = [[].as_slice(); T];
        for i in 0..T {
            blocks[i] = &tiles[i][from..from + bytes];
        }
        from += bytes;
        let mut chains = Chains { x, sums: zeros };
        decode::<I, D, T>(isa, decoder, blocks, &mut chains);
        for i in 0..T {
            totals[i] = isa.f_add(totals[i], chains.sums[i]);
        }
    }
    totals
}

/// Fills `workspace.transposed` with the columns from `from` on of two tiles, at most a chunk.
#[inline(always)]
pub(super) fn unpack<I: Isa>(isa: I, workspace: &mut Workspace, weight: Weight<'_>, at: Chunk) {
    let tile = Tile { workspace, weight, at };
    with_runs!(weight.layout, C, FOURS => {
        isa.vectorize(UnpackFloats::<Of<C, FOURS>>(tile, PhantomData))
    });
}

/// Columns `from .. from + n` of the tiles `first` and `first + 1`.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub(super) first: usize,
    pub(super) from: usize,
    pub(super) n: usize,
}

struct Tile<'a, 'w> {
    workspace: &'a mut Workspace,
    weight: Weight<'w>,
    at: Chunk,
}

struct UnpackFloats<'a, 'w, D>(Tile<'a, 'w>, PhantomData<D>);

impl<D: Format> Kernel for UnpackFloats<'_, '_, D> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Tile { workspace, weight, at } = self.0;
        let layout = weight.layout;
        let decoder = Decoder::new(layout);
        let bytes = |columns: usize| columns / layout.block_len * layout.block_bytes;
        for tile in 0..2 {
            let blocks = &weight.tile(at.first + tile)[bytes(at.from)..bytes(at.from + at.n)];
            let mut to = Store { to: &mut workspace.transposed, tile };
            decode::<I, D, 1>(isa, &decoder, [blocks], &mut to);
        }
    }
}

/// Where decoded columns of one tile go.
struct Store<'a> {
    to: &'a mut [[Floats; 2]; DOT_CHUNK],
    tile: usize,
}

impl<I: Isa> Each<I, 1> for Store<'_> {
    #[inline(always)]
    fn column(&mut self, isa: I, column: usize, [w]: [I::F; 1]) {
        isa.f_store(w, &mut self.to[column][self.tile].0);
    }
}

const _: () = assert!(DOT_CHUNK.is_multiple_of(UNIT));
