//! `int8` matrix product over tiles of 16 rows: lanes = rows, a few tokens at a time. Meaning: `graph::ops::mat_mul`.
//!
//! Per tile, block and token: integer dot products of the block's groups (four activations broadcast against 16 rows),
//! times the sub-block's integer scale, then one fma with `d_w · d_a` and the format's minimum step. Nothing is summed
//! across lanes, so the f32 order is the contract's by nature.
//!
//! v1 (this): tokens in runs of `Isa::TOKENS`, the block unpacked once for each run.

use super::lanes;
use crate::kernels::quantize_act::Acts;
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use crate::tiles::{Layout, Scale, UNIT};
use graph::ints::{ActFormat, MinTerm};

/// Most tokens of a run; [`Isa::TOKENS`] is at most this.
const MAX_TOKENS: usize = 8;

/// One part of the product: some columns of `out`, which are rows of the weight.
pub(crate) struct MatMul<'a, 'o> {
    pub(crate) layout: &'a Layout,
    /// All tiles of the weight, packed for the instruction set that runs this.
    pub(crate) tiles: &'a [u8],
    pub(crate) n_in: usize,
    pub(crate) acts: &'a Acts,
    pub(crate) out: Columns<'o>,
}

impl Kernel for MatMul<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let tile_bytes = self.layout.tile_bytes(self.n_in);
        let range = self.out.range();
        for first in range.step_by(LANES) {
            let tile = &self.tiles[first / LANES * tile_bytes..][..tile_bytes];
            let tokens = self.out.rows();
            let mut t = 0;
            while t < tokens {
                let n = I::TOKENS.min(tokens - t);
                // Only whole runs and single tokens are compiled; what is left over goes one by one.
                if n == I::TOKENS {
                    self.run_bits::<I, MAX_TOKENS>(isa, tile, (first, t));
                    t += n;
                } else {
                    self.run_bits::<I, 1>(isa, tile, (first, t));
                    t += 1;
                }
            }
        }
    }
}

impl MatMul<'_, '_> {
    /// Picks the body for the format, so that inside it all is constant. `N` is 1, or [`MAX_TOKENS`] for a whole run.
    #[inline(always)]
    fn run_bits<I: Isa, const N: usize>(&mut self, isa: I, tile: &[u8], at: (usize, usize)) {
        let k = self.layout.form.act == ActFormat::Q8x256;
        match (self.layout.form.bits, self.layout.form.table.is_some(), k) {
            (8, _, _) => self.tile::<I, N, 8, false, false>(isa, tile, at),
            (6, _, _) => self.tile::<I, N, 6, false, true>(isa, tile, at),
            (5, _, false) => self.tile::<I, N, 5, false, false>(isa, tile, at),
            (5, _, true) => self.tile::<I, N, 5, false, true>(isa, tile, at),
            (4, false, false) => self.tile::<I, N, 4, false, false>(isa, tile, at),
            (4, false, true) => self.tile::<I, N, 4, false, true>(isa, tile, at),
            (4, true, false) => self.tile::<I, N, 4, true, false>(isa, tile, at),
            (4, true, true) => self.tile::<I, N, 4, true, true>(isa, tile, at),
            (3, _, _) => self.tile::<I, N, 3, false, true>(isa, tile, at),
            (_, _, _) => self.tile::<I, N, 2, false, true>(isa, tile, at),
        }
    }

    #[inline(always)]
    fn tile<I: Isa, const N: usize, const BITS: u8, const TABLE: bool, const K: bool>(
        &mut self,
        isa: I,
        tile: &[u8],
        (first, t0): (usize, usize),
    ) {
        let n = if N == 1 { 1 } else { I::TOKENS };
        let layout = self.layout;
        let mut acc = [isa.f_splat(0.0); N];
        for (b, block) in tile.chunks_exact(layout.block_bytes).enumerate() {
            let d = scale(isa, layout, block);
            let m = if layout.m_bytes > 0 { f16s(isa, block, layout.d_bytes) } else { d };
            let (isum, msum) = if K {
                super_block::<I, N, BITS, TABLE>(isa, layout, block, (self.acts, t0, b))
            } else {
                (
                    unit::<I, N, BITS, TABLE, 8>(isa, layout, block, (self.acts, t0, b, 0)),
                    [isa.i_splat(0); N],
                )
            };
            for t in 0..n {
                let d_a = isa.f_splat(self.acts.d(t0 + t, b));
                acc[t] = isa.f_fma(isa.f_mul(d, d_a), isa.f_from_i(isum[t]), acc[t]);
                acc[t] = match layout.form.min {
                    MinTerm::None => acc[t],
                    MinTerm::Sum => isa.f_fma(m, isa.f_splat(self.acts.s(t0 + t, b)), acc[t]),
                    MinTerm::Subs => {
                        let md = isa.f_mul(m, d_a);
                        let minus = isa.f_mul(md, isa.f_splat(-1.0));
                        isa.f_fma(minus, isa.f_from_i(msum[t]), acc[t])
                    }
                };
            }
        }
        let mut lanes = [0.0; LANES];
        for t in 0..n {
            isa.f_store(acc[t], &mut lanes);
            let out = self.out.row(t0 + t, first..first + LANES);
            let width = out.len();
            out.copy_from_slice(&lanes[..width]);
        }
    }
}

/// f16 bits as they lie in a block.
#[inline(always)]
fn f16s<I: Isa>(isa: I, block: &[u8], at: usize) -> I::F {
    let mut bits = [0u16; LANES];
    for (bits, b) in bits.iter_mut().zip(block[at..at + 2 * LANES].chunks_exact(2)) {
        *bits = u16::from_le_bytes([b[0], b[1]]);
    }
    isa.f_load_f16(&bits)
}

/// The block's `d`.
#[inline(always)]
fn scale<I: Isa>(isa: I, layout: &Layout, block: &[u8]) -> I::F {
    match layout.scale {
        Scale::F16 => f16s(isa, block, 0),
        Scale::E8m0 => {
            // 2^(e-128): for e >= 2 the exponent field is e-1; 0 and 1 are the denormals 2^-128 and 2^-127.
            let e = isa.i_load_u8(lanes(block, 0));
            let normal = isa.f_from_bits(isa.i_shl::<23>(isa.i_sub(e, isa.i_splat(1))));
            let two = isa.f_splat(2.0);
            let ef = isa.f_from_i(e);
            let tiny = isa.f_lt(
                ef,
                isa.f_splat(1.0),
                isa.f_splat(f32::from_bits(0x0020_0000)),
                isa.f_splat(f32::from_bits(0x0040_0000)),
            );
            isa.f_lt(ef, two, tiny, normal)
        }
    }
}

/// 64 bytes of the quants.
#[inline(always)]
fn plane<I: Isa>(isa: I, planes: &[u8], i: usize) -> I::B {
    match planes[64 * i..].first_chunk() {
        Some(bytes) => isa.b_load(bytes),
        None => unreachable!("a unit has all its planes"),
    }
}

/// Group `g` of a unit: 64 codes, one byte each.
#[inline(always)]
fn group<I: Isa, const BITS: u8>(isa: I, planes: &[u8], g: usize) -> I::B {
    let nibbles = |isa: I| isa.b_shift_mask(plane(isa, planes, g % 4), 4 * (g as i32 / 4), 15);
    let twos = |isa: I, from: usize, up: i32| {
        isa.b_shift_mask(plane(isa, planes, from + g / 4), 2 * (g as i32 % 4) - up, 3 << up)
    };
    let ones = |isa: I, from: usize, up: i32| {
        isa.b_shift_mask(plane(isa, planes, from), g as i32 - up, 1 << up)
    };
    match BITS {
        8 => plane(isa, planes, g),
        6 => isa.b_or(nibbles(isa), twos(isa, 4, 4)),
        5 => isa.b_or(nibbles(isa), ones(isa, 4, 4)),
        4 => nibbles(isa),
        3 => isa.b_or(twos(isa, 0, 0), ones(isa, 2, 2)),
        _ => twos(isa, 0, 0),
    }
}

/// Integer sums of `GROUPS` groups of one unit, starting at column `from` of the block, with the codes' offset taken
/// away.
#[inline(always)]
fn unit<I: Isa, const N: usize, const BITS: u8, const TABLE: bool, const GROUPS: usize>(
    isa: I,
    layout: &Layout,
    block: &[u8],
    (acts, t0, b, from): (&Acts, usize, usize, usize),
) -> [I::I; N] {
    let n = if N == 1 { 1 } else { I::TOKENS };
    let planes =
        &block[layout.quants_at() + from / UNIT * layout.planes * 64..][..layout.planes * 64];
    let column = b * layout.form.block + from;
    let table =
        layout.form.table.map_or([0; 16], |t| t.map(|v| (v as u8).wrapping_add(I::I8_BIAS)));
    let mut sum = [isa.i_splat(0); N];
    let mut a = [&[0i32; GROUPS]; N];
    for t in 0..n {
        a[t] = acts.fours::<GROUPS>(t0 + t, column);
    }
    for g in 0..GROUPS {
        let codes = group::<I, BITS>(isa, planes, from % UNIT / 4 + g);
        let w = if TABLE { isa.b_lut(codes, &table) } else { codes };
        for t in 0..n {
            let four = a[t][g];
            sum[t] = if TABLE || BITS == 8 {
                isa.dot_i8(sum[t], w, four)
            } else {
                isa.dot_u7(sum[t], w, four)
            };
        }
    }
    let offset =
        if TABLE || BITS == 8 { i32::from(I::I8_BIAS) } else { i32::from(layout.form.offset) };
    if offset != 0 {
        for t in 0..n {
            sum[t] = isa.i_sub(sum[t], isa.i_splat(offset * acts.bsum(t0 + t, column, GROUPS * 4)));
        }
    }
    sum
}

/// `Σ scale · isum` and `Σ min · bsum` over the sub-blocks of a block of 256.
#[inline(always)]
fn super_block<I: Isa, const N: usize, const BITS: u8, const TABLE: bool>(
    isa: I,
    layout: &Layout,
    block: &[u8],
    (acts, t0, b): (&Acts, usize, usize),
) -> ([I::I; N], [I::I; N]) {
    let n = if N == 1 { 1 } else { I::TOKENS };
    let (mut isum, mut msum) = ([isa.i_splat(0); N], [isa.i_splat(0); N]);
    let sub_cols = layout.form.sub;
    for sub in 0..layout.subs {
        let from = sub * sub_cols;
        let part = if sub_cols == 16 {
            unit::<I, N, BITS, TABLE, 4>(isa, layout, block, (acts, t0, b, from))
        } else {
            unit::<I, N, BITS, TABLE, 8>(isa, layout, block, (acts, t0, b, from))
        };
        let scales =
            isa.i_load_i8(&lanes(block, layout.scales_at() + sub * LANES).map(|v| v as i8));
        for t in 0..n {
            isum[t] = isa.i_add(isum[t], isa.i_mul(scales, part[t]));
        }
        if layout.form.min == MinTerm::Subs {
            let mins = isa.i_load_u8(lanes(block, layout.mins_at() + sub * LANES));
            for t in 0..n {
                let bsum = acts.bsum(t0 + t, b * layout.form.block + from, sub_cols);
                msum[t] = isa.i_add(msum[t], isa.i_mul(mins, isa.i_splat(bsum)));
            }
        }
    }
    (isum, msum)
}
