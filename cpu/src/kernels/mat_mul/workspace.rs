//! Where two tiles' columns are unpacked, so that many tokens read them from the first-level cache.

use super::codes::{self, Unpack, with_codes};
use crate::simd::{Isa, Kernel, LANES};
use crate::tiles::{Layout, UNIT};
use graph::ints::MinTerm;
use std::marker::PhantomData;

/// Columns unpacked at a time: two tiles of them are 16 KiB, half of a first-level cache.
pub(super) const CHUNK: usize = 512;
/// Tokens of one pass over a weight: a whole number of every level's groups.
pub(crate) const PASS: usize = 192;
/// Most tokens of a group.
pub(super) const MAX_TOKENS: usize = 6;

/// 16 rows × 4 columns, the operand of one dot product.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Operand(pub(super) [u8; 64]);

/// 16 floats, one for each row of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Floats(pub(super) [f32; LANES]);

/// 16 integers, one for each row of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Words(pub(super) [i32; LANES]);

/// One thread's workspace. All pairs are the two tiles.
pub(crate) struct Workspace {
    /// Of each group of four columns.
    pub(super) operands: [[Operand; 2]; CHUNK / 4],
    /// Of each block.
    pub(super) d: [[Floats; 2]; CHUNK / 32],
    /// Of each block: `m`, or `-m` where it takes integer minima.
    pub(super) m: [[Floats; 2]; CHUNK / 32],
    /// Of each sub-block.
    pub(super) scales: [[Words; 2]; CHUNK / 16],
    /// Of each two sub-blocks.
    pub(super) mins: [[Words; 2]; CHUNK / 32],
    /// `-offset · Σ q_a` of each sub-block and token of a group.
    pub(super) starts: [i32; CHUNK / 16 * MAX_TOKENS],
    /// The sums so far, for each token of a pass.
    pub(super) acc: [[Floats; 2]; PASS],
}

/// Blocks of tile `i` (0 or 1), and where they are unpacked.
struct Packed<'a> {
    workspace: &'a mut Workspace,
    layout: &'a Layout,
    i: usize,
    blocks: &'a [u8],
}

/// Unpacks the blocks of a format.
struct UnpackCodes<'a, C> {
    packed: Packed<'a>,
    codes: PhantomData<C>,
}

impl<C: Unpack> Kernel for UnpackCodes<'_, C> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Packed { workspace, layout, i, blocks } = self.packed;
        workspace.unpack_codes::<I, C>(isa, layout, i, blocks);
    }
}

impl Workspace {
    pub(super) fn new() -> Self {
        let (f, w) = (Floats([0.0; LANES]), Words([0; LANES]));
        Self {
            operands: [[Operand([0; 64]); 2]; CHUNK / 4],
            d: [[f; 2]; CHUNK / 32],
            m: [[f; 2]; CHUNK / 32],
            scales: [[w; 2]; CHUNK / 16],
            mins: [[w; 2]; CHUNK / 32],
            starts: [0; CHUNK / 16 * MAX_TOKENS],
            acc: [[f; 2]; PASS],
        }
    }

    /// Unpacks the blocks that hold columns `start ..` of tile `i` (0 or 1), up to [`CHUNK`] columns.
    #[inline(always)]
    pub(super) fn unpack<I: Isa>(&mut self, isa: I, layout: &Layout, i: usize, blocks: &[u8]) {
        let packed = Packed { workspace: self, layout, i, blocks };
        with_codes!(layout.form.codes, C => {
            isa.vectorize(UnpackCodes::<C> { packed, codes: PhantomData })
        });
    }

    #[inline(always)]
    fn unpack_codes<I: Isa, C: Unpack>(
        &mut self,
        isa: I,
        layout: &Layout,
        i: usize,
        blocks: &[u8],
    ) {
        let table = codes::table::<I>(layout);
        let (units, subs) = (layout.block_len / UNIT, layout.subs);
        for (b, block) in blocks.chunks_exact(layout.block_bytes).enumerate() {
            isa.f_store(codes::scale(isa, layout, block), &mut self.d[b][i].0);
            if layout.m_bytes > 0 {
                let m = codes::f16s(isa, block, layout.d_bytes);
                let sign = if layout.min == MinTerm::Subs { -1.0 } else { 1.0 };
                isa.f_store(isa.f_mul(m, isa.f_splat(sign)), &mut self.m[b][i].0);
            }
            for sub in 0..subs {
                let scales = codes::sub_scales(isa, layout, block, sub);
                isa.i_store(scales, &mut self.scales[b * subs + sub][i].0);
            }
            if layout.min == MinTerm::Subs {
                for pair in 0..subs / 2 {
                    let mins = codes::min_pairs(isa, layout, block, pair);
                    isa.i_store(mins, &mut self.mins[b * subs / 2 + pair][i].0);
                }
            }
            for u in 0..units {
                let planes = codes::planes(layout, block, u * UNIT);
                let to = &mut self.operands[(b * units + u) * 8..][..8];
                for (g, to) in to.iter_mut().enumerate() {
                    let operand = C::operand(isa, planes, g, &table);
                    isa.b_store(operand, &mut to[i].0);
                }
            }
        }
    }
}
