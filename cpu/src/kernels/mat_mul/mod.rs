//! Integer matrix products over tiles of 16 rows: lanes = rows. Meaning: `graph::ops::mat_mul`.
//!
//! Per tile, block and token: integer dot products of the block's groups (four activations broadcast against 16 rows),
//! times the sub-block's integer scale, then one fma with `d_w · d_a` and the format's minimum step. Nothing is summed
//! across lanes, so the f32 order is the contract's by nature.
//!
//! One token streams the weight from memory and unpacks in registers (`stream`). Several tokens share what is unpacked:
//! two tiles, 512 columns at a time, into the first-level cache (`workspace`), from where each group of tokens multiplies
//! them in a register tile (`block`).
//!
//! Variants tried on two Zen 4 cores (tokens/s of a 135 M model; runs of one build differ by 5 %):
//! - chunks of 256, 512 and 1024 columns, prompt of 512: 1744, 1757, 1757 in Q8_0, 1779, 1690, 1702 in Q4_K_M: no
//!   difference beyond the noise, so the middle one stays;
//! - one tile instead of two beside six tokens: 1704 in Q8_0, 1685 in Q4_K_M, 3 % slower than two in Q8_0, none in Q4_K_M;
//! - prefetching the next chunk while a group multiplies: four sequences +20 % in Q8_0, +22 % in Q4_0, +4 % in Q4_K_M;
//!   sixteen +13 % in Q4_0; prompts the same.

mod block;
mod block16;
pub(crate) mod codes;
mod stream;
mod stream16;
#[cfg(test)]
mod tests;
mod workspace;

use super::elementwise::{Map, apply};
use super::lanes_mut;
use crate::kernels::rounded::{Groups, RoundedRows};
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use crate::tiles::Layout;
use block::{At, Group, Part};
use graph::Act;
use std::cell::RefCell;
use workspace::{CHUNK, MAX_TOKENS};

/// A weight in tiles, packed for the instruction set that runs.
#[derive(Clone, Copy)]
pub(crate) struct Weight<'a> {
    pub(crate) layout: &'a Layout,
    pub(crate) tiles: &'a [u8],
    pub(crate) n_in: usize,
}

impl<'a> Weight<'a> {
    /// The `i`-th tile, or the last one where `i` is behind it.
    #[inline(always)]
    pub(crate) fn tile(&self, i: usize) -> &'a [u8] {
        let bytes = self.layout.tile_bytes(self.n_in);
        let i = i.min(self.tiles.len() / bytes - 1);
        &self.tiles[i * bytes..][..bytes]
    }
}

/// What is multiplied.
#[derive(Clone, Copy)]
pub(crate) enum Product<'a> {
    /// `w · x`
    Plain(Weight<'a>),
    /// `act(gate · x) · (up · x)`; both weights have one format.
    Glu { act: Act, gate: Weight<'a>, up: Weight<'a> },
}

impl<'a> Product<'a> {
    /// Columns of the output that two tiles give.
    pub(crate) fn width(&self) -> usize {
        match self {
            Self::Plain(_) => 2 * LANES,
            Self::Glu { .. } => LANES,
        }
    }

    #[inline(always)]
    fn weight(&self) -> &Weight<'a> {
        match self {
            Self::Plain(weight) | Self::Glu { gate: weight, .. } => weight,
        }
    }

    /// The tiles of the columns from `first` on.
    #[inline(always)]
    fn tiles(&self, first: usize) -> [&'a [u8]; 2] {
        match self {
            Self::Plain(weight) => [weight.tile(first / LANES), weight.tile(first / LANES + 1)],
            Self::Glu { gate, up, .. } => [gate.tile(first / LANES), up.tile(first / LANES)],
        }
    }
}

thread_local! {
    static WORKSPACE: RefCell<Box<workspace::Workspace>> = RefCell::new(Box::new(workspace::Workspace::new()));
}

/// Lends this thread's workspace.
pub(crate) fn with_workspace(f: impl FnOnce(&mut Workspace)) {
    WORKSPACE.with_borrow_mut(|workspace| f(workspace));
}

pub(crate) use workspace::{PASS, Workspace};

/// One part of the product: some columns of `out`, for some tokens.
pub(crate) struct MatMul<'a, 'o> {
    pub(crate) product: Product<'a>,
    pub(crate) rows: RoundedRows<'a>,
    pub(crate) out: Columns<'o>,
    pub(crate) workspace: &'a mut Workspace,
}

impl Kernel for MatMul<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        match self.rows {
            RoundedRows::Q8(rows) => {
                if let Some(token) = one_token(rows, &self.out) {
                    return stream::run(isa, self.product, token, &mut self.out);
                }
            }
            RoundedRows::Q16(rows) => {
                if let Some(token) = one_token(rows, &self.out) {
                    return stream16::run(isa, self.product, token, &mut self.out);
                }
            }
        }
        let (columns, width) = (self.out.range(), self.product.width());
        for first in columns.clone().step_by(width) {
            let next = if first + width < columns.end { first + width } else { first };
            let tokens = self.out.row_range();
            for start in tokens.clone().step_by(PASS) {
                let end = tokens.end.min(start + PASS);
                match self.rows {
                    RoundedRows::Q8(rows) => self.pass(isa, first, next, rows.groups(start, end)),
                    RoundedRows::Q16(rows) => self.pass(isa, first, next, rows.groups(start, end)),
                }
                self.finish(isa, first, start..end);
            }
        }
    }
}

/// The group of the one token that `out` has, if it stands alone in its group.
#[inline(always)]
fn one_token<'a, G: Group + Clone + Default + Send>(
    rows: &'a Groups<G>,
    out: &Columns<'_>,
) -> Option<&'a G> {
    let tokens = out.row_range();
    match rows.groups(tokens.start, tokens.end) {
        [group] if tokens.len() == 1 && group.tokens() == 1 => Some(group),
        _ => None,
    }
}

impl MatMul<'_, '_> {
    /// Fills `workspace.acc` with the products of the two tiles at column `first` and up to [`PASS`] tokens, while the
    /// blocks to be unpacked next come from memory: those of the next columns, or the first of the tiles at column `next`.
    #[inline(always)]
    fn pass<I: Isa, G: Group>(&mut self, isa: I, first: usize, next: usize, groups: &[G]) {
        let Weight { layout, n_in, .. } = *self.product.weight();
        let (tiles, next) = (self.product.tiles(first), self.product.tiles(next));
        let tokens: usize = groups.iter().map(G::tokens).sum();
        for acc in self.workspace.acc[..tokens].as_flattened_mut() {
            acc.0 = [0.0; LANES];
        }
        for start in (0..n_in).step_by(CHUNK) {
            let cols = CHUNK.min(n_in - start);
            let block = |col: usize| col / layout.block_len * layout.block_bytes;
            for (i, tile) in tiles.iter().enumerate() {
                let blocks = &tile[block(start)..block(start + cols)];
                self.workspace.unpack::<I, G>(isa, layout, i, blocks);
            }
            let (from, end) = (start + cols, n_in.min(start + cols + CHUNK));
            let prefetch = if from < n_in {
                [&tiles[0][block(from)..block(end)], &tiles[1][block(from)..block(end)]]
            } else {
                let end = block(CHUNK.min(n_in));
                [&next[0][..end], &next[1][..end]]
            };
            let mut token = 0;
            for (i, group) in groups.iter().enumerate() {
                let prefetch =
                    [share(prefetch[0], i, groups.len()), share(prefetch[1], i, groups.len())];
                let at = At { start, cols, tile: 0, token, prefetch };
                // `const` in conditions: the arms of other instruction sets are not even compiled.
                if const { I::TILES == 2 } {
                    many::<I, G, 2>(isa, Part { layout, workspace: self.workspace, group, at });
                } else {
                    many::<I, G, 1>(isa, Part { layout, workspace: self.workspace, group, at });
                    let at = At { tile: 1, prefetch: [&[]; 2], ..at };
                    many::<I, G, 1>(isa, Part { layout, workspace: self.workspace, group, at });
                }
                token += group.tokens();
            }
        }
    }

    /// Copies the sums of a pass over some tokens to `out`.
    #[inline(always)]
    fn finish<I: Isa>(&mut self, isa: I, first: usize, tokens: std::ops::Range<usize>) {
        for (acc, t) in self.workspace.acc.iter().zip(tokens) {
            match self.product {
                Product::Plain(_) => {
                    let out = self.out.row(t, first..first + 2 * LANES);
                    if let Some((low, high)) = out.split_at_mut_checked(LANES)
                        && high.len() == LANES
                    {
                        low.copy_from_slice(&acc[0].0);
                        high.copy_from_slice(&acc[1].0);
                    } else {
                        let sums = acc.iter().flat_map(|acc| acc.0);
                        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum);
                    }
                }
                Product::Glu { act, .. } => {
                    let (gate, up) = (isa.f_load(&acc[0].0), isa.f_load(&acc[1].0));
                    let out = self.out.row(t, first..first + LANES);
                    put(isa, apply(isa, Map::Glu(act), gate, up), out);
                }
            }
        }
    }
}

/// The bytes that group `i` of `groups` prefetches: the first four share them evenly, so that no queue fills.
#[inline(always)]
fn share(bytes: &[u8], i: usize, groups: usize) -> &[u8] {
    let shares = groups.min(4);
    let each = bytes.len().div_ceil(shares);
    let from = (i * each).min(bytes.len());
    &bytes[from..bytes.len().min(from + each)]
}

/// Stores a vector, or as much of it as `out` takes.
#[inline(always)]
pub(crate) fn put<I: Isa>(isa: I, x: I::F, out: &mut [f32]) {
    if out.len() == LANES {
        return isa.f_store(x, lanes_mut(out, 0));
    }
    let mut lanes = [0.0; LANES];
    isa.f_store(x, &mut lanes);
    let width = out.len();
    out.copy_from_slice(&lanes[..width]);
}

/// Picks the body for the number of tokens, so that inside it all is constant.
#[inline(always)]
fn many<I: Isa, G: Group, const T: usize>(isa: I, part: Part<'_, G>) {
    const { assert!(MAX_TOKENS == 6) };
    match part.group.tokens() {
        1 => G::multiply::<I, 1, T>(isa, part),
        2 => G::multiply::<I, 2, T>(isa, part),
        3 if const { I::TOKENS >= 3 } => G::multiply::<I, 3, T>(isa, part),
        4 if const { I::TOKENS >= 4 } => G::multiply::<I, 4, T>(isa, part),
        5 if const { I::TOKENS >= 5 } => G::multiply::<I, 5, T>(isa, part),
        6 if const { I::TOKENS >= 6 } => G::multiply::<I, 6, T>(isa, part),
        n => unreachable!("a group of {n} tokens, at most {}", I::TOKENS),
    }
}
