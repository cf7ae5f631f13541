//! Where two tiles' columns are unpacked, so that many tokens read them from the first-level cache.

use super::block::Group;
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
    /// Of each run of 16 or 32 columns, in `int16`: what its quants are multiplied with.
    pub(super) run_scales: [[Floats; 2]; CHUNK / 16],
    /// Of each run, in `int16`: what its minimum adds to every weight.
    pub(super) run_mins: [[Floats; 2]; CHUNK / 16],
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

/// The `b`-th block of a chunk.
#[derive(Clone, Copy)]
struct PlacedBlock<'a> {
    b: usize,
    bytes: &'a [u8],
}

/// Unpacks the blocks of a format; `RUN_SCALES` as in [`Group`].
struct UnpackCodes<'a, C, const RUN_SCALES: bool> {
    packed: Packed<'a>,
    codes: PhantomData<C>,
}

impl<C: Unpack, const RUN_SCALES: bool> Kernel for UnpackCodes<'_, C, RUN_SCALES> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Packed { workspace, layout, i, blocks } = self.packed;
        for (b, bytes) in blocks.chunks_exact(layout.block_bytes).enumerate() {
            if RUN_SCALES {
                workspace.unpack_run_scales(isa, layout, i, PlacedBlock { b, bytes });
            } else {
                workspace.unpack_scales(isa, layout, i, PlacedBlock { b, bytes });
            }
        }
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
            run_scales: [[f; 2]; CHUNK / 16],
            run_mins: [[f; 2]; CHUNK / 16],
            acc: [[f; 2]; PASS],
        }
    }

    /// Unpacks the blocks that hold columns `start ..` of tile `i` (0 or 1), up to [`CHUNK`] columns.
    #[inline(always)]
    pub(super) fn unpack<I: Isa, G: Group>(
        &mut self,
        isa: I,
        layout: &Layout,
        i: usize,
        blocks: &[u8],
    ) {
        let packed = Packed { workspace: self, layout, i, blocks };
        with_codes!(layout.form.codes, C => if const { G::RUN_SCALES } {
            isa.vectorize(UnpackCodes::<C, true> { packed, codes: PhantomData });
        } else {
            isa.vectorize(UnpackCodes::<C, false> { packed, codes: PhantomData });
        });
    }

    /// The scales of block `b` of tile `i` as `int8` wants them.
    #[inline(always)]
    fn unpack_scales<I: Isa>(&mut self, isa: I, layout: &Layout, i: usize, block: PlacedBlock<'_>) {
        let PlacedBlock { b, bytes: block } = block;
        let subs = layout.subs;
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
    }

    /// The scales of block `b` of tile `i` as `int16` wants them.
    #[inline(always)]
    fn unpack_run_scales<I: Isa>(
        &mut self,
        isa: I,
        layout: &Layout,
        i: usize,
        block: PlacedBlock<'_>,
    ) {
        let PlacedBlock { b, bytes: block } = block;
        let (runs, subs) = (layout.block_len / layout.sub_cols, layout.subs > 0);
        let d = codes::scale(isa, layout, block);
        for r in 0..runs {
            let scale = codes::run_scale(isa, layout, block, d, subs.then_some(r));
            isa.f_store(scale, &mut self.run_scales[b * runs + r][i].0);
        }
        if layout.min == MinTerm::None {
            return;
        }
        let m = codes::block_min(isa, layout, block, subs);
        for r in 0..runs {
            let min = codes::run_min(isa, layout, block, m, subs.then_some(r));
            isa.f_store(min, &mut self.run_mins[b * runs + r][i].0);
        }
    }

    #[inline(always)]
    fn unpack_codes<I: Isa, C: Unpack>(
        &mut self,
        isa: I,
        layout: &Layout,
        i: usize,
        blocks: &[u8],
    ) {
        let table = codes::table(layout, I::I8_BIAS);
        let units = layout.block_len / UNIT;
        for (b, block) in blocks.chunks_exact(layout.block_bytes).enumerate() {
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
