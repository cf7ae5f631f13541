//! Attention over the paged cache. Meaning: `graph::ops::attention`.
//!
//! A cache block holds 64 positions: K as `[head][d][64]`, so that lanes = positions and a score is one fma chain down
//! d; V as `[head][64][d]`, so that lanes = d and the output is one fma chain down the positions. Both chains are the
//! contract's.
//!
//! The rows of an item are its tokens' query heads that share one K/V head. They go through a cache block in register
//! tiles: [`Isa::ROWS`] rows times 64 positions for the scores, times the head's elements for the output. Rows of more
//! than one tile have K and V of the block widened once into the first-level cache.
//!
//! v1: one head of one token at a time, widening f16 at every use: 38 % of the time of a prompt of 512 tokens
//! (SmolLM2, AVX-512). v2: tiles, always widened beforehand: a prompt at 60 % of the FMA peak. v3 (this): a single tile
//! reads the cache as it is: decode 1.4 to 1.5 times as fast as v2 at 2048 and 8192 positions and for 16 sequences, 1.7
//! times at none, and the prompt unchanged (benchmark `attention`, one thread, A B A B).

use super::rms_norm::tree;
use super::{elementwise::softcap, lanes, lanes_mut};
use crate::kv::{Elem, Layer};
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES, exp};
use graph::math::{DOT_CHUNK, fma};
use graph::{Attention, KV_BLOCK};
use std::cell::RefCell;

/// Vectors across a block's positions.
const VECTORS: usize = KV_BLOCK / LANES;
/// Most rows of a register tile.
const MAX_ROWS: usize = 6;

/// What a softmax that is not finished knows of one row: the largest score so far, and the sum of `exp(score - max)`.
#[derive(Clone, Copy, Default)]
struct SoftmaxState {
    max: f32,
    sum: f32,
}

/// Those of a register tile's rows.
type TileStates = [SoftmaxState; MAX_ROWS];

/// The queries of consecutive tokens of one sequence that meet one K/V head.
#[derive(Clone, Copy)]
pub(crate) struct Queries<'a> {
    pub(crate) attention: &'a Attention,
    /// `[tokens, n_head · head_dim_k]`, the whole step's.
    pub(crate) q: &'a [f32],
    /// First token, as a row of `q`.
    pub(crate) token: usize,
    /// Number of tokens.
    pub(crate) tokens: usize,
    /// Position of the first.
    pub(crate) position: u32,
    /// The last position of the sequence in this step, which matters where there is no mask.
    pub(crate) end: u32,
    /// One for each query head of the step's rows.
    pub(crate) sinks: Option<&'a [f32]>,
    /// Cache blocks of the sequence.
    pub(crate) table: &'a [u32],
    pub(crate) head_kv: usize,
    /// Query heads for each K/V head.
    pub(crate) heads_per_kv: usize,
}

impl Queries<'_> {
    /// Rows: all heads of the first token, then those of the second.
    pub(crate) fn rows(&self) -> usize {
        self.tokens * self.heads_per_kv
    }

    /// The chunks of 64 positions that some row sees.
    pub(crate) fn chunks(&self) -> std::ops::Range<usize> {
        let first = self.attention.mask.first_visible(self.position);
        let last = self.position + self.tokens as u32 - 1;
        let last = self.attention.mask.last_visible(last, self.end);
        first as usize / KV_BLOCK..last as usize / KV_BLOCK + 1
    }

    /// The places of a chunk that a row sees, if any.
    #[inline(always)]
    fn visible(&self, row: usize, chunk: usize) -> std::ops::Range<usize> {
        let position = self.position + (row / self.heads_per_kv) as u32;
        let first = self.attention.mask.first_visible(position) as usize;
        let from = first.saturating_sub(chunk * KV_BLOCK).min(KV_BLOCK);
        let last = self.attention.mask.last_visible(position, self.end);
        let to = (last as usize + 1).saturating_sub(chunk * KV_BLOCK).min(KV_BLOCK);
        from..to.max(from)
    }
}

/// One thread's working memory.
#[derive(Default)]
pub(crate) struct Scratch {
    /// K of one block, `[head_dim_k]`.
    keys: Vec<[f32; KV_BLOCK]>,
    /// V of one block, `[64][width]`.
    values: Vec<f32>,
    /// The queries by tile: `[tile][head_dim_k][rows of a tile]`.
    q: Vec<f32>,
    /// One tile's outputs of a chunk, `[MAX_ROWS][width]`.
    next: Vec<f32>,
    /// The rows' state while chunks are merged.
    state: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Lends this thread's working memory.
pub(crate) fn with_scratch(f: impl FnOnce(&mut Scratch)) {
    SCRATCH.with_borrow_mut(f);
}

/// Rows of an item that are worth the widening of a block, and rows beyond which an item's state leaves the cache.
pub(crate) const ITEM_ROWS: std::ops::Range<usize> = 24..128;

/// Rows of what the chunks so far gave: `out` (padded to whole vectors), then the maximum and the sum.
pub(crate) struct Rows<'a> {
    data: &'a mut [f32],
    width: usize,
}

/// Floats that one row of partial results takes.
pub(crate) fn row_len(head_dim_v: usize) -> usize {
    head_dim_v.next_multiple_of(LANES) + 2
}

impl<'a> Rows<'a> {
    fn new(data: &'a mut [f32], head_dim_v: usize) -> Self {
        Self { data, width: head_dim_v.next_multiple_of(LANES) }
    }

    /// A row's output, maximum and sum.
    #[inline(always)]
    fn row(&mut self, row: usize) -> (&mut [f32], &mut [f32]) {
        let len = self.width + 2;
        self.data[row * len..][..len].split_at_mut(self.width)
    }

    /// Begins a row with what its first chunk gives.
    #[inline(always)]
    fn set(&mut self, row: usize, values: &[f32], state: SoftmaxState) {
        let (acc, ends) = self.row(row);
        acc.copy_from_slice(values);
        (ends[0], ends[1]) = (state.max, state.sum);
    }
}

/// Attention of an item over all the chunks that it sees, into `out`.
pub(crate) struct Whole<'a, 'o, E> {
    pub(crate) queries: Queries<'a>,
    pub(crate) layer: &'a Layer<E>,
    /// The item's tokens and heads.
    pub(crate) out: Columns<'o>,
    pub(crate) scratch: &'a mut Scratch,
}

/// One chunk's partial results, to be merged by [`Merge`]: long contexts of few tokens are split so.
pub(crate) struct Chunk<'a, E> {
    pub(crate) queries: Queries<'a>,
    pub(crate) layer: &'a Layer<E>,
    pub(crate) chunk: usize,
    /// `rows() · row_len()`
    pub(crate) partial: &'a mut [f32],
    pub(crate) scratch: &'a mut Scratch,
}

/// Merges the partial results of all chunks, in their order, into `out`.
pub(crate) struct Merge<'a, 'o> {
    pub(crate) queries: Queries<'a>,
    pub(crate) head_dim_v: usize,
    /// Those of the item's chunks, one after the other.
    pub(crate) partials: &'a [f32],
    pub(crate) out: Columns<'o>,
    pub(crate) scratch: &'a mut Scratch,
}

impl<E: Elem> Kernel for Whole<'_, '_, E> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let (rows, dv) = (self.queries.rows(), self.layer.head_dim_v());
        let mut state = std::mem::take(&mut self.scratch.state);
        state.resize(rows * row_len(dv), 0.0);
        let mut into = Rows::new(&mut state, dv);
        pack(isa, &self.queries, self.layer.head_dim_k(), self.scratch);
        for chunk in self.queries.chunks() {
            let item = ItemChunk { queries: &self.queries, chunk, alone: false };
            tiles(isa, item, self.layer, self.scratch, &mut into);
        }
        finish(isa, &self.queries, &mut into, dv, &mut self.out);
        self.scratch.state = state;
    }
}

impl<E: Elem> Kernel for Chunk<'_, E> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut into = Rows::new(self.partial, self.layer.head_dim_v());
        pack(isa, &self.queries, self.layer.head_dim_k(), self.scratch);
        let item = ItemChunk { queries: &self.queries, chunk: self.chunk, alone: true };
        tiles(isa, item, self.layer, self.scratch, &mut into);
    }
}

impl Kernel for Merge<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let (rows, dv) = (self.queries.rows(), self.head_dim_v);
        let len = row_len(dv);
        let mut state = std::mem::take(&mut self.scratch.state);
        state.resize(rows * len, 0.0);
        let mut into = Rows::new(&mut state, dv);
        for (chunk, partial) in self.queries.chunks().zip(self.partials.chunks_exact(rows * len)) {
            for row in 0..rows {
                if !self.queries.visible(row, chunk).is_empty() {
                    let (values, ends) = partial[row * len..][..len].split_at(len - 2);
                    let state = SoftmaxState { max: ends[0], sum: ends[1] };
                    let partial = Partial { values: Some(values), state };
                    if first_chunk(&self.queries, row) == chunk {
                        into.set(row, values, state);
                    } else {
                        merge(isa, &mut into, row, partial);
                    }
                }
            }
        }
        finish(isa, &self.queries, &mut into, dv, &mut self.out);
        self.scratch.state = state;
    }
}

/// The first chunk that a row sees.
#[inline(always)]
fn first_chunk(queries: &Queries<'_>, row: usize) -> usize {
    let position = queries.position + (row / queries.heads_per_kv) as u32;
    queries.attention.mask.first_visible(position) as usize / KV_BLOCK
}

/// `out · (1 / sum)` of every row, to its place.
#[inline(always)]
fn finish<I: Isa>(
    isa: I,
    queries: &Queries<'_>,
    rows: &mut Rows<'_>,
    dv: usize,
    out: &mut Columns<'_>,
) {
    for row in 0..queries.rows() {
        let heads_per_kv = queries.heads_per_kv;
        let token = queries.token + row / heads_per_kv;
        let head = queries.head_kv * heads_per_kv + row % heads_per_kv;
        if let Some(sinks) = queries.sinks {
            let state = SoftmaxState { max: sinks[head], sum: 1.0 };
            merge(isa, rows, row, Partial { values: None, state });
        }
        let to = out.row(token, head * dv..(head + 1) * dv);
        let (from, rest) = rows.row(row);
        let inverse = isa.f_splat(1.0 / rest[1]);
        for i in (0..from.len()).step_by(LANES) {
            let y = isa.f_mul(isa.f_load(lanes(from, i)), inverse);
            isa.f_store(y, lanes_mut(from, i));
        }
        to.copy_from_slice(&from[..dv]);
    }
}

/// Brings the queries into tiles, the rows of a tile side by side.
#[inline(always)]
fn pack<I: Isa>(_: I, queries: &Queries<'_>, dk: usize, scratch: &mut Scratch) {
    let rows = queries.rows();
    let n_head = queries.attention.n_head;
    scratch.q.resize(rows.div_ceil(I::ROWS) * I::ROWS * dk, 0.0);
    for row in 0..rows {
        let token = queries.token + row / queries.heads_per_kv;
        let head = queries.head_kv * queries.heads_per_kv + row % queries.heads_per_kv;
        let from = (token * n_head + head) * dk;
        let tile = &mut scratch.q[row / I::ROWS * I::ROWS * dk..][..I::ROWS * dk];
        let q = &queries.q[from..from + dk];
        for (to, q) in tile.chunks_exact_mut(I::ROWS).zip(q) {
            to[row % I::ROWS] = *q;
        }
    }
}

/// Widens one block's keys and values.
#[inline(always)]
fn widen<I: Isa, E: Elem>(isa: I, layer: &Layer<E>, block: usize, head: usize, to: &mut Scratch) {
    let (dk, dv) = (layer.head_dim_k(), layer.head_dim_v());
    let width = dv.next_multiple_of(LANES);
    to.keys.resize(dk, [0.0; KV_BLOCK]);
    to.values.resize(KV_BLOCK * width, 0.0);
    for (to, from) in to.keys.iter_mut().zip(layer.keys(block, head).as_chunks::<KV_BLOCK>().0) {
        for v in 0..VECTORS {
            isa.f_store(E::load(isa, lanes(from, v * LANES)), lanes_mut(to, v * LANES));
        }
    }
    if layer.v_in_k() {
        for (d, key) in to.keys[..dv].iter().enumerate() {
            key.iter().enumerate().for_each(|(j, &x)| to.values[j * width + d] = x);
        }
        return;
    }
    let values = layer.values(block, head).chunks_exact(dv);
    for (to, from) in to.values.chunks_exact_mut(width).zip(values) {
        let whole = dv / LANES * LANES;
        for i in (0..whole).step_by(LANES) {
            isa.f_store(E::load(isa, lanes(from, i)), lanes_mut(to, i));
        }
        for i in whole..dv {
            to[i] = from[i].to_f32();
        }
    }
}

/// A block's values, `[64][width]`.
#[derive(Clone, Copy)]
struct Values<'a, X> {
    data: &'a [X],
    width: usize,
}

/// One block's keys `[head_dim_k][64]` and its values, as the cache has them or widened.
#[derive(Clone, Copy)]
struct Block<'a, X> {
    keys: &'a [X],
    values: Values<'a, X>,
}

/// The rows of an item, and one chunk of the positions that they see.
#[derive(Clone, Copy)]
struct ItemChunk<'a> {
    queries: &'a Queries<'a>,
    chunk: usize,
    /// The chunk's results are stored as they are, to be merged later, and not merged into those of the chunks before.
    alone: bool,
}

/// Where a register tile finds its queries and leaves its outputs.
struct Buffers<'a> {
    /// All tiles' queries: [`Scratch::q`].
    q: &'a [f32],
    /// One tile's outputs: [`Scratch::next`].
    next: &'a mut [f32],
}

/// All rows of an item against one chunk.
#[inline(always)]
fn tiles<I: Isa, E: Elem>(
    isa: I,
    item: ItemChunk<'_>,
    layer: &Layer<E>,
    scratch: &mut Scratch,
    into: &mut Rows<'_>,
) {
    let (queries, width) = (item.queries, into.width);
    let (block, head) = (queries.table[item.chunk] as usize, queries.head_kv);
    scratch.next.resize(MAX_ROWS * width, 0.0);
    // A single tile reads each element once, so widening beforehand would only push the cache's bytes out of the way.
    // Values that are a part of keys lie across them.
    if queries.rows() <= I::ROWS && layer.head_dim_v() == width && !layer.v_in_k() {
        let values = Values { data: layer.values(block, head), width };
        let block = Block { keys: layer.keys(block, head), values };
        let Scratch { q, next, .. } = scratch;
        tiles_of_block(isa, item, block, Buffers { q, next }, into);
        return;
    }
    widen(isa, layer, block, head, scratch);
    let Scratch { keys, values, q, next, .. } = scratch;
    let block = Block { keys: keys.as_flattened(), values: Values { data: values, width } };
    tiles_of_block(isa, item, block, Buffers { q, next }, into);
}

#[inline(always)]
fn tiles_of_block<I: Isa, X: Elem>(
    isa: I,
    item: ItemChunk<'_>,
    block: Block<'_, X>,
    buffers: Buffers<'_>,
    into: &mut Rows<'_>,
) {
    let ItemChunk { queries, chunk, alone } = item;
    let Buffers { q, next } = buffers;
    let width = block.values.width;
    for first in (0..queries.rows()).step_by(I::ROWS) {
        let n = I::ROWS.min(queries.rows() - first);
        // Rows ascend in position: where the tile's last row sees nothing of a later chunk, no row does.
        if (first..first + n).all(|row| queries.visible(row, chunk).is_empty()) {
            continue;
        }
        let buffers = Buffers { q, next };
        let states = tile(isa, Tile { queries, first, rows: n, chunk, block, buffers });
        for i in 0..n {
            let row = first + i;
            // Nobody reads what a chunk gives to a row that sees nothing of it.
            if !queries.visible(row, chunk).is_empty() {
                let values = &next[i * width..][..width];
                if alone || first_chunk(queries, row) == chunk {
                    into.set(row, values, states[i]);
                } else {
                    merge(isa, into, row, Partial { values: Some(values), state: states[i] });
                }
            }
        }
    }
}

/// What one chunk gives to a row.
#[derive(Clone, Copy)]
struct Partial<'a> {
    /// The sum of its values by their weights; `None` for a sink, which is a chunk with one score and no value.
    values: Option<&'a [f32]>,
    state: SoftmaxState,
}

/// Merges what a chunk gives into what the chunks before gave: both are brought to the larger of the two maxima.
#[inline(always)]
fn merge<I: Isa>(isa: I, into: &mut Rows<'_>, row: usize, next: Partial<'_>) {
    let Partial { values, state } = next;
    let (acc, ends) = into.row(row);
    let max = if state.max > ends[0] { state.max } else { ends[0] };
    let mut both = [0.0; LANES];
    (both[0], both[1]) = (ends[0] - max, state.max - max);
    isa.f_store(exp(isa, isa.f_load(&both)), &mut both);
    let (a, b) = (both[0], both[1]);
    (ends[0], ends[1]) = (max, fma(ends[1], a, state.sum * b));
    let (a, b) = (isa.f_splat(a), isa.f_splat(b));
    for i in (0..acc.len()).step_by(LANES) {
        let mut added = isa.f_splat(0.0);
        if let Some(values) = values {
            added = isa.f_mul(isa.f_load(lanes(values, i)), b);
        }
        let y = isa.f_fma(isa.f_load(lanes(acc, i)), a, added);
        isa.f_store(y, lanes_mut(acc, i));
    }
}

/// Some rows of a register tile against one block.
struct Tile<'a, X> {
    queries: &'a Queries<'a>,
    first: usize,
    rows: usize,
    chunk: usize,
    block: Block<'a, X>,
    buffers: Buffers<'a>,
}

/// Picks the body for the number of rows and the instruction set's register tile, so that inside it all is constant.
#[inline(always)]
fn tile<I: Isa, X: Elem>(isa: I, tile: Tile<'_, X>) -> TileStates {
    // `const` in conditions: the arms of other instruction sets are not even compiled.
    if const { I::ROWS == 6 && I::VECTORS == 4 } {
        rows_of_six::<I, X, 4>(isa, tile)
    } else if const { I::ROWS == 6 && I::VECTORS == 1 } {
        rows_of_six::<I, X, 1>(isa, tile)
    } else if const { I::ROWS == 3 && I::VECTORS == 2 } {
        match tile.rows {
            1 => isa.vectorize(Body::<X, 1, 3, 2>(tile)),
            2 => isa.vectorize(Body::<X, 2, 3, 2>(tile)),
            _ => isa.vectorize(Body::<X, 3, 3, 2>(tile)),
        }
    } else {
        const { assert!(I::ROWS == 1 || I::ROWS == 3 || I::ROWS == 6) };
        isa.vectorize(Body::<X, 1, 1, 1>(tile))
    }
}

#[inline(always)]
fn rows_of_six<I: Isa, X: Elem, const V: usize>(isa: I, tile: Tile<'_, X>) -> TileStates {
    match tile.rows {
        1 => isa.vectorize(Body::<X, 1, 6, V>(tile)),
        2 => isa.vectorize(Body::<X, 2, 6, V>(tile)),
        3 => isa.vectorize(Body::<X, 3, 6, V>(tile)),
        4 => isa.vectorize(Body::<X, 4, 6, V>(tile)),
        5 => isa.vectorize(Body::<X, 5, 6, V>(tile)),
        _ => isa.vectorize(Body::<X, 6, 6, V>(tile)),
    }
}

/// N rows of a tile of R against one block, with V vectors beside one another: their outputs go to `next`, their maxima
/// and sums are returned.
struct Body<'a, X, const N: usize, const R: usize, const V: usize>(Tile<'a, X>);

impl<X: Elem, const N: usize, const R: usize, const V: usize> Kernel for Body<'_, X, N, R, V> {
    type Out = TileStates;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> TileStates {
        body::<I, X, N, R, V>(isa, self.0)
    }
}

#[inline(always)]
fn body<I: Isa, X: Elem, const N: usize, const R: usize, const V: usize>(
    isa: I,
    tile: Tile<'_, X>,
) -> TileStates {
    let Tile { queries, first, chunk, block, buffers, .. } = tile;
    let (Buffers { q, next }, values) = (buffers, block.values);
    let (keys, _) = block.keys.as_chunks::<KV_BLOCK>();
    let dk = keys.len();
    let q = q[first * dk..][..R * dk].as_chunks::<R>().0;
    let mut p = [[0.0f32; KV_BLOCK]; N];
    scores::<I, X, N, R, V>(isa, queries.attention, keys, q, &mut p);
    let mut states = TileStates::default();
    let (mut from, mut to) = (0, KV_BLOCK);
    for (row, p) in p.iter_mut().enumerate() {
        let visible = queries.visible(first + row, chunk);
        (from, to) = (from.max(visible.start), to.min(visible.end));
        if !visible.is_empty() {
            states[row] = weights(isa, p, visible);
        }
    }
    let width = values.width;
    next[..N * width].fill(0.0);
    // The places that all rows see go through the tile, the ragged ends row by row: each row's chain stays in order.
    if from >= to {
        (from, to) = (KV_BLOCK, KV_BLOCK);
    }
    for row in 0..N {
        let visible = queries.visible(first + row, chunk);
        let range = visible.start..visible.end.min(from);
        sums::<I, X, 1, V>(isa, &[p[row]], values, range, &mut next[row * width..]);
    }
    sums::<I, X, N, V>(isa, &p, values, from..to, next);
    for row in 0..N {
        let range = to..queries.visible(first + row, chunk).end;
        sums::<I, X, 1, V>(isa, &[p[row]], values, range, &mut next[row * width..]);
    }
    states
}

/// `q · k`, scaled and capped, for N rows and all places of a block.
#[inline(always)]
fn scores<I: Isa, X: Elem, const N: usize, const R: usize, const V: usize>(
    isa: I,
    attention: &Attention,
    keys: &[[X; KV_BLOCK]],
    q: &[[f32; R]],
    s: &mut [[f32; KV_BLOCK]; N],
) {
    let scale = isa.f_splat(attention.scale);
    for first in (0..KV_BLOCK).step_by(V * LANES) {
        let mut total = [[isa.f_splat(0.0); V]; N];
        for (keys, q) in keys.chunks(DOT_CHUNK).zip(q.chunks(DOT_CHUNK)) {
            let mut acc = [[isa.f_splat(0.0); V]; N];
            for (k, q) in keys.iter().zip(q) {
                let mut ks = [isa.f_splat(0.0); V];
                for v in 0..V {
                    ks[v] = X::load(isa, lanes(k, first + v * LANES));
                }
                for row in 0..N {
                    let q = isa.f_splat(q[row]);
                    for v in 0..V {
                        acc[row][v] = isa.f_fma(ks[v], q, acc[row][v]);
                    }
                }
            }
            for row in 0..N {
                for v in 0..V {
                    total[row][v] = isa.f_add(total[row][v], acc[row][v]);
                }
            }
        }
        for row in 0..N {
            for v in 0..V {
                // No `map_or`: a closure that is left a function is not compiled for the instruction set.
                let mut score = isa.f_mul(total[row][v], scale);
                if let Some(cap) = attention.softcap {
                    score = softcap(isa, score, cap);
                }
                isa.f_store(score, lanes_mut(&mut s[row], first + v * LANES));
            }
        }
    }
}

/// Turns scores into `exp(s - max)` at the visible places and 0 at the others.
#[inline(always)]
fn weights<I: Isa>(
    isa: I,
    s: &mut [f32; KV_BLOCK],
    visible: std::ops::Range<usize>,
) -> SoftmaxState {
    // What the cache holds at unseen positions is no one's business: it never reaches a sum.
    s[..visible.start].fill(f32::NEG_INFINITY);
    s[visible.end..].fill(f32::NEG_INFINITY);
    // A NaN is never the larger one. Which zero wins among equals is no matter: the maximum is only subtracted.
    let mut max = isa.f_splat(f32::NEG_INFINITY);
    for v in 0..VECTORS {
        let s = isa.f_load(lanes(s, v * LANES));
        max = isa.f_lt(max, s, s, max);
    }
    let mut lane = [0.0; LANES];
    isa.f_store(max, &mut lane);
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lane[i] = if lane[i + half] > lane[i] { lane[i + half] } else { lane[i] };
        }
        half /= 2;
    }
    let max = isa.f_splat(lane[0]);
    for v in 0..VECTORS {
        let x = isa.f_sub(isa.f_load(lanes(s, v * LANES)), max);
        isa.f_store(exp(isa, x), lanes_mut(s, v * LANES));
    }
    s[..visible.start].fill(0.0);
    s[visible.end..].fill(0.0);
    SoftmaxState { max: lane[0], sum: tree(isa, s) }
}

/// `next[d] += Σ p[j] · v[j][d]` for the places j of a range, one chain in order for each of N rows.
#[inline(always)]
fn sums<I: Isa, X: Elem, const N: usize, const V: usize>(
    isa: I,
    p: &[[f32; KV_BLOCK]; N],
    values: Values<'_, X>,
    places: std::ops::Range<usize>,
    next: &mut [f32],
) {
    if places.is_empty() {
        return;
    }
    let (width, start, end) = (values.width, places.start, places.end);
    let mut d = 0;
    while d + V * LANES <= width {
        columns::<I, X, N, V>(isa, p, values, PlacesAt { start, end, d }, next);
        d += V * LANES;
    }
    while d < width {
        columns::<I, X, N, 1>(isa, p, values, PlacesAt { start, end, d }, next);
        d += LANES;
    }
}

/// The elements of the values that one pass adds up: V vectors from element `d` on, of the places from `start` to `end`.
#[derive(Clone, Copy)]
struct PlacesAt {
    start: usize,
    end: usize,
    d: usize,
}

#[inline(always)]
fn columns<I: Isa, X: Elem, const N: usize, const V: usize>(
    isa: I,
    p: &[[f32; KV_BLOCK]; N],
    values: Values<'_, X>,
    at: PlacesAt,
    next: &mut [f32],
) {
    let (Values { data, width }, PlacesAt { start, end, d }) = (values, at);
    let mut acc = [[isa.f_splat(0.0); V]; N];
    for row in 0..N {
        for v in 0..V {
            acc[row][v] = isa.f_load(lanes(next, row * width + d + v * LANES));
        }
    }
    let rows = data[start * width..end * width].chunks_exact(width);
    for (j, value) in (start..end).zip(rows) {
        let value = &value[d..d + V * LANES];
        let mut vs = [isa.f_splat(0.0); V];
        for v in 0..V {
            vs[v] = X::load(isa, lanes(value, v * LANES));
        }
        for row in 0..N {
            let p = isa.f_splat(p[row][j % KV_BLOCK]);
            for v in 0..V {
                acc[row][v] = isa.f_fma(p, vs[v], acc[row][v]);
            }
        }
    }
    for row in 0..N {
        for v in 0..V {
            isa.f_store(acc[row][v], lanes_mut(next, row * width + d + v * LANES));
        }
    }
}
