//! Matrix product in f32: float formats, and every format in the `f32` arithmetic. Meaning: `graph::ops::mat_mul` and
//! `graph::math::dot_f32`.
//!
//! Floats lie as in the file, quants in tiles of 16 rows. Two tiles and a chunk of 256 columns are decoded, lanes = rows
//! (`tiles`; `transpose` for floats); then groups of up to six tokens run their fma chains down the chunk, sums in registers. The
//! chunk's sums are added to the totals, which is the contract's order. Few tokens and a float format: transposed in
//! registers and multiplied at once.
//!
//! Measured with AVX-512 on one core of a Zen 4 server whose peak is 58 G multiply-adds a second, the machine shared
//! with others. 192 tokens: one tile × 8 tokens over weights transposed by scalar stores gave at best 25 (F16); two tiles ×
//! 6 tokens gives 52 (F16), 51 (Q4_K), 46 (Q6_K, Q8_0). One token of F16 began with 0.4 G weights a second; 16 × 16
//! weights at a time, widened and transposed, give 7 from the cache and 4 from memory, and where rows are a multiple of
//! 4 KiB apart 3. Transposing pairs of halves before widening (a line of 64 bytes at a time) gave 1.4 times that and
//! asking for the next band 1.3 times from memory, copying crowded rows first 1.6 times where they are (and a loss
//! elsewhere: so only there). 4 and 6 tokens straight from the bytes give 1.4 times what they give through `transposed`,
//! but unrolled for each number of tokens they made the crate's compilation many times longer: so only 1 and 2.

mod tiles;
mod transpose;

use super::{lanes_mut, mat_mul};
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use gguf::DType;
use gguf::quant::{self, Kind};
use graph::math::DOT_CHUNK;
use std::cell::RefCell;
use std::ops::Range;
use transpose::{Bf16, Cols, F16, F32, Float, Rows, Stage, Transpose};

/// Tokens of one pass over a weight: what is decoded for them is decoded once.
pub(crate) const PASS: usize = 192;
/// Columns of the output, which are rows of the weight, computed together.
pub(crate) const STEP: usize = 2 * LANES;
/// Tokens side by side: with two tiles twelve chains, enough to hide the latency of an fma and to make little of the
/// loads. AVX2 and NEON take one tile, and have the registers for just that.
const TOKENS: usize = 6;
/// The largest number of tokens that take two tiles on every machine, and with AVX-512 a float weight straight from the
/// file's bytes.
const FEW: usize = 2;

/// 16 floats, one for each row of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Floats([f32; LANES]);

/// One thread's workspace.
pub(crate) struct Workspace {
    /// A chunk of two tiles, decoded and transposed.
    transposed: [[Floats; 2]; DOT_CHUNK],
    /// Lines of one tile's rows, as in the file.
    stage: Stage,
    /// A chunk of one tile's rows, decoded.
    rows: [[f32; DOT_CHUNK]; LANES],
    /// The totals so far of both tiles, for each token of a pass.
    totals: [[Floats; 2]; PASS],
}

thread_local! {
    static WORKSPACE: RefCell<Box<Workspace>> = RefCell::new(Box::new(Workspace {
        transposed: [[Floats([0.0; LANES]); 2]; DOT_CHUNK],
        stage: Stage::EMPTY,
        rows: [[0.0; DOT_CHUNK]; LANES],
        totals: [[Floats([0.0; LANES]); 2]; PASS],
    }));
}

/// Lends this thread's workspace.
pub(crate) fn with_workspace(f: impl FnOnce(&mut Workspace)) {
    WORKSPACE.with_borrow_mut(|workspace| f(workspace));
}

/// A weight of a product in f32.
#[derive(Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Floats as in the file.
    Rows { dtype: DType, bytes: &'a [u8] },
    /// Quants in tiles.
    Tiles(mat_mul::Weight<'a>),
}

/// One part of the product: some columns of `out`, which are rows of the weight, for some tokens.
pub(crate) struct MatMulF32<'a, 'o> {
    pub(crate) weight: Source<'a>,
    pub(crate) n_in: usize,
    /// `[tokens, n_in]`
    pub(crate) x: &'a [f32],
    pub(crate) out: Columns<'o>,
    pub(crate) workspace: &'a mut Workspace,
}

/// Two tiles of a weight.
#[derive(Clone, Copy)]
enum Pair<'a> {
    Rows(&'a Rows<'a>),
    /// The tiles `first` and `first + 1`.
    Tiles {
        weight: mat_mul::Weight<'a>,
        first: usize,
    },
}

impl Kernel for MatMulF32<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let tokens = self.out.row_range();
        if let (Source::Tiles(weight), 1) = (self.weight, tokens.len()) {
            let x = &self.x[tokens.start * self.n_in..][..self.n_in];
            return tiles::stream(isa, weight, x, &mut self.out);
        }
        for first in self.out.range().step_by(STEP) {
            for start in tokens.clone().step_by(PASS) {
                let end = tokens.end.min(start + PASS);
                for totals in &mut self.workspace.totals[..end - start] {
                    *totals = [Floats([0.0; LANES]); 2];
                }
                match self.weight {
                    Source::Rows { dtype, bytes } => {
                        let row_bytes = dtype.row_bytes(self.n_in);
                        let rows = Rows { dtype, bytes, row_bytes, first };
                        if const { I::TILES == 2 } && end - start <= FEW {
                            self.few(isa, &rows, start..end);
                        } else {
                            self.pass(isa, Pair::Rows(&rows), start..end);
                        }
                    }
                    Source::Tiles(weight) => {
                        let pair = Pair::Tiles { weight, first: first / LANES };
                        self.pass(isa, pair, start..end);
                    }
                }
                self.finish(first, start..end);
            }
        }
    }
}

impl MatMulF32<'_, '_> {
    /// Totals of several tokens.
    #[inline(always)]
    fn pass<I: Isa>(&mut self, isa: I, pair: Pair<'_>, tokens: Range<usize>) {
        let (start, end) = (tokens.start, tokens.end);
        for from in (0..self.n_in).step_by(DOT_CHUNK) {
            let cols = Cols { from, n: DOT_CHUNK.min(self.n_in - from) };
            match pair {
                Pair::Rows(rows) => {
                    isa.vectorize(Transpose { workspace: self.workspace, rows, cols });
                }
                Pair::Tiles { weight, first } => {
                    let Cols { from, n } = cols;
                    tiles::unpack(isa, self.workspace, weight, tiles::Chunk { first, from, n });
                }
            }
            let groups = (end - start).div_ceil(TOKENS);
            for group in 0..groups {
                // Even groups: seven tokens are four and three.
                let at = |group: usize| start + (end - start) * group / groups;
                let (t, n) = (at(group), at(group + 1) - at(group));
                let x = &self.x[t * self.n_in..(t + n) * self.n_in];
                let place = Place { cols, n_in: self.n_in, token: t - start, tile: 0 };
                if const { I::TILES == 2 } || n <= FEW {
                    self.workspace.many::<I, 2>(isa, x, place, n);
                } else {
                    self.workspace.many::<I, 1>(isa, x, place, n);
                    self.workspace.many::<I, 1>(isa, x, Place { tile: 1, ..place }, n);
                }
            }
        }
    }

    /// Totals of few tokens, with registers for a whole square of weights.
    #[inline(always)]
    fn few<I: Isa>(&mut self, isa: I, rows: &Rows<'_>, tokens: Range<usize>) {
        match rows.dtype.kind() {
            Kind::Float(quant::Float::F32) => self.streams::<I, F32>(isa, rows, tokens),
            Kind::Float(quant::Float::F16) => self.streams::<I, F16>(isa, rows, tokens),
            Kind::Float(quant::Float::BF16) => self.streams::<I, Bf16>(isa, rows, tokens),
            Kind::Quant(_) => self.pass(isa, Pair::Rows(rows), tokens),
        }
    }

    /// Picks the body for the number of tokens.
    #[inline(always)]
    fn streams<I: Isa, W: Float>(&mut self, isa: I, rows: &Rows<'_>, tokens: Range<usize>) {
        const { assert!(FEW == 2) };
        match tokens.len() {
            1 => self.stream::<I, W, 1>(isa, rows, tokens.start),
            2 => self.stream::<I, W, 2>(isa, rows, tokens.start),
            n => unreachable!("{n} tokens are not few"),
        }
    }

    /// Totals of N tokens, straight from the file's bytes: nothing of the weight is stored on the way to the fmas.
    #[inline(always)]
    fn stream<I: Isa, W: Float, const N: usize>(&mut self, isa: I, rows: &Rows<'_>, start: usize) {
        let mut tokens = [&self.x[start * self.n_in..][..self.n_in]; N];
        for t in 1..N {
            tokens[t] = &self.x[(start + t) * self.n_in..][..self.n_in];
        }
        let mut totals = [[isa.f_splat(0.0); N]; 2];
        for from in (0..self.n_in).step_by(DOT_CHUNK) {
            let end = self.n_in.min(from + DOT_CHUNK);
            let whole = from + (end - from) / W::COLS * W::COLS;
            let mut sums = [[isa.f_splat(0.0); N]; 2];
            for at in (from..whole).step_by(W::STAGED) {
                let cols = W::STAGED.min(whole - at);
                for tile in 0..2 {
                    let lines =
                        rows.lines(&mut self.workspace.stage, tile, Cols { from: at, n: cols });
                    for (b, at) in (at..at + cols).step_by(W::COLS).enumerate() {
                        rows.prefetch::<I, W>(isa, tile, at);
                        let x = columns(&tokens, at, W::COLS);
                        let lanes = transpose::line(isa, &lines, b);
                        for k in 0..LANES {
                            let w = W::widen(isa, lanes[k]);
                            for i in 0..W::PER_LANE {
                                for t in 0..N {
                                    let x = isa.f_splat(x[t][k * W::PER_LANE + i]);
                                    sums[tile][t] = isa.f_fma(w[i], x, sums[tile][t]);
                                }
                            }
                        }
                    }
                }
            }
            if end > whole {
                let cols = Cols { from: whole, n: end - whole };
                isa.vectorize(Transpose { workspace: self.workspace, rows, cols });
                let x = columns(&tokens, whole, end - whole);
                for (k, w) in self.workspace.transposed[..end - whole].iter().enumerate() {
                    for tile in 0..2 {
                        let w = isa.f_load(&w[tile].0);
                        for t in 0..N {
                            sums[tile][t] = isa.f_fma(w, isa.f_splat(x[t][k]), sums[tile][t]);
                        }
                    }
                }
            }
            for tile in 0..2 {
                for t in 0..N {
                    totals[tile][t] = isa.f_add(totals[tile][t], sums[tile][t]);
                }
            }
        }
        for (t, to) in self.workspace.totals.iter_mut().enumerate().take(N) {
            for tile in 0..2 {
                isa.f_store(totals[tile][t], &mut to[tile].0);
            }
        }
    }

    /// Brings the totals of a pass into `out`.
    #[inline(always)]
    fn finish(&mut self, first: usize, tokens: Range<usize>) {
        for (totals, t) in self.workspace.totals.iter().zip(tokens) {
            let out = self.out.row(t, first..first + STEP);
            if out.len() == STEP {
                *lanes_mut(out, 0) = totals[0].0;
                *lanes_mut(out, LANES) = totals[1].0;
            } else {
                for (tile, out) in totals.iter().zip(out.chunks_mut(LANES)) {
                    out.copy_from_slice(&tile.0[..out.len()]);
                }
            }
        }
    }
}

/// `cols` elements of each token. A loop, not `map`: what a closure of the library's calls may be left a function of its
/// own, compiled without the instructions.
#[inline(always)]
fn columns<'a, const N: usize>(
    tokens: &[&'a [f32]; N],
    from: usize,
    cols: usize,
) -> [&'a [f32]; N] {
    let mut out = *tokens;
    for t in 0..N {
        out[t] = &tokens[t][from..from + cols];
    }
    out
}

/// Where a group of tokens stands.
#[derive(Clone, Copy)]
struct Place {
    /// The chunk's columns.
    cols: Cols,
    n_in: usize,
    /// Place of the group's first token in the pass.
    token: usize,
    /// The first tile that it is multiplied with.
    tile: usize,
}

/// What a group of tokens is multiplied with: one chunk of the tiles.
struct Chunk<'a> {
    workspace: &'a mut Workspace,
    /// Begins with the group's tokens.
    x: &'a [f32],
    at: Place,
}

/// The chains of N tokens with T tiles over one chunk, added to the totals.
struct Chains<'a, const N: usize, const T: usize>(Chunk<'a>);

impl<const N: usize, const T: usize> Kernel for Chains<'_, N, T> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Chunk { workspace, x, at } = self.0;
        workspace.chains::<I, N, T>(isa, x, at);
    }
}

impl Workspace {
    /// Picks the body for the number of tokens, so that inside it all is constant. `x` begins with the group's tokens.
    #[inline(always)]
    fn many<I: Isa, const T: usize>(&mut self, isa: I, x: &[f32], at: Place, n: usize) {
        const { assert!(TOKENS == 6) };
        let chunk = Chunk { workspace: self, x, at };
        match n {
            1 => isa.vectorize(Chains::<1, T>(chunk)),
            2 => isa.vectorize(Chains::<2, T>(chunk)),
            3 => isa.vectorize(Chains::<3, T>(chunk)),
            4 => isa.vectorize(Chains::<4, T>(chunk)),
            5 => isa.vectorize(Chains::<5, T>(chunk)),
            6 => isa.vectorize(Chains::<6, T>(chunk)),
            n => unreachable!("a group of {n} tokens, at most {TOKENS}"),
        }
    }

    #[inline(always)]
    fn chains<I: Isa, const N: usize, const T: usize>(&mut self, isa: I, x: &[f32], at: Place) {
        let Place { cols: Cols { from, n }, n_in, token, tile } = at;
        let mut tokens = [&x[from..][..n]; N];
        for t in 1..N {
            tokens[t] = &x[t * n_in + from..][..n];
        }
        let mut sums = [[isa.f_splat(0.0); N]; T];
        for (k, w) in self.transposed[..n].iter().enumerate() {
            let mut lanes = [isa.f_load(&w[tile].0); T];
            for i in 1..T {
                lanes[i] = isa.f_load(&w[tile + i].0);
            }
            for t in 0..N {
                let x = isa.f_splat(tokens[t][k]);
                for i in 0..T {
                    sums[i][t] = isa.f_fma(lanes[i], x, sums[i][t]);
                }
            }
        }
        for t in 0..N {
            let totals = &mut self.totals[token + t];
            for i in 0..T {
                let total = &mut totals[tile + i].0;
                isa.f_store(isa.f_add(isa.f_load(total), sums[i][t]), total);
            }
        }
    }
}
