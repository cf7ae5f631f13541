//! Matrix product in f32: float formats, and every format in the `f32` arithmetic. Meaning: `graph::ops::mat_mul` and
//! `graph::math::dot_f32`.
//!
//! The weight lies as in the file. Two tiles of 16 rows and a chunk of 256 columns are decoded and turned so that
//! lanes = rows (`turn`); then groups of up to six tokens run their fma chains down the chunk, sums in registers. The
//! chunk's sums are added to the totals, which is the contract's order. One token and a float format: turned in
//! registers and multiplied at once.

mod turn;

use super::lanes_mut;
use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use gguf::DType;
use graph::math::DOT_CHUNK;
use std::cell::RefCell;
use turn::{Bf16, F16, F32, Float, Rows};

/// Tokens of one pass over a weight: what is decoded for them is decoded once.
pub(crate) const PASS: usize = 192;
/// Columns of the output, which are rows of the weight, computed together.
pub(crate) const STEP: usize = 2 * LANES;
/// Tokens side by side: with two tiles twelve chains, enough to hide the latency of an fma and to make little of the
/// loads. AVX2 and NEON take one tile, and have the registers for just that.
const TOKENS: usize = 6;
/// Up to so many tokens take two tiles on every machine.
const FEW: usize = 2;

/// 16 floats, one for each row of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Floats([f32; LANES]);

/// One thread's working memory.
pub(crate) struct Room {
    /// A chunk of two tiles, decoded and turned.
    turned: [[Floats; 2]; DOT_CHUNK],
    /// A chunk of one tile's rows, decoded.
    rows: [[f32; DOT_CHUNK]; LANES],
    /// The totals so far of both tiles, for each token of a pass.
    totals: [[Floats; 2]; PASS],
}

thread_local! {
    static ROOM: RefCell<Box<Room>> = RefCell::new(Box::new(Room {
        turned: [[Floats([0.0; LANES]); 2]; DOT_CHUNK],
        rows: [[0.0; DOT_CHUNK]; LANES],
        totals: [[Floats([0.0; LANES]); 2]; PASS],
    }));
}

/// Lends this thread's working memory.
pub(crate) fn with_room(f: impl FnOnce(&mut Room)) {
    ROOM.with_borrow_mut(|room| f(room));
}

/// One part of the product: some columns of `out`, which are rows of the weight, for some tokens.
pub(crate) struct MatMulF32<'a, 'o> {
    pub(crate) dtype: DType,
    /// The weight as in the file.
    pub(crate) rows: &'a [u8],
    pub(crate) n_in: usize,
    /// `[tokens, n_in]`
    pub(crate) x: &'a [f32],
    pub(crate) out: Columns<'o>,
    pub(crate) room: &'a mut Room,
}

impl Kernel for MatMulF32<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let tokens = self.out.row_range();
        for first in self.out.range().step_by(STEP) {
            for start in tokens.clone().step_by(PASS) {
                let end = tokens.end.min(start + PASS);
                for totals in &mut self.room.totals[..end - start] {
                    *totals = [Floats([0.0; LANES]); 2];
                }
                let rows = Rows {
                    dtype: self.dtype,
                    bytes: self.rows,
                    row_bytes: self.dtype.row_bytes(self.n_in),
                    first,
                };
                if end - start == 1 {
                    self.one(isa, &rows, start);
                } else {
                    self.pass(isa, &rows, (start, end));
                }
                self.finish(first, (start, end));
            }
        }
    }
}

impl MatMulF32<'_, '_> {
    /// Totals of several tokens.
    #[inline(always)]
    fn pass<I: Isa>(&mut self, isa: I, rows: &Rows<'_>, (start, end): (usize, usize)) {
        for from in (0..self.n_in).step_by(DOT_CHUNK) {
            let cols = DOT_CHUNK.min(self.n_in - from);
            self.room.turn(isa, rows, (from, cols));
            let groups = (end - start).div_ceil(TOKENS);
            for group in 0..groups {
                // Even groups: seven tokens are four and three.
                let at = |group: usize| start + (end - start) * group / groups;
                let (t, n) = (at(group), at(group + 1) - at(group));
                let x = &self.x[t * self.n_in..(t + n) * self.n_in];
                let place = Place { from, cols, n_in: self.n_in, token: t - start };
                if n <= FEW || I::TILES == 2 {
                    self.room.many::<I, 2>(isa, x, (place, 0), n);
                } else {
                    self.room.many::<I, 1>(isa, x, (place, 0), n);
                    self.room.many::<I, 1>(isa, x, (place, 1), n);
                }
            }
        }
    }

    /// Totals of one token.
    #[inline(always)]
    fn one<I: Isa>(&mut self, isa: I, rows: &Rows<'_>, token: usize) {
        match self.dtype {
            DType::F32 => self.stream::<I, F32>(isa, rows, token),
            DType::F16 => self.stream::<I, F16>(isa, rows, token),
            DType::BF16 => self.stream::<I, Bf16>(isa, rows, token),
            DType::Q4_0
            | DType::Q4_1
            | DType::Q5_0
            | DType::Q5_1
            | DType::Q8_0
            | DType::Q2_K
            | DType::Q3_K
            | DType::Q4_K
            | DType::Q5_K
            | DType::Q6_K
            | DType::IQ4_NL
            | DType::IQ4_XS
            | DType::MXFP4 => self.pass(isa, rows, (token, token + 1)),
        }
    }

    /// Totals of one token: the weight goes from memory to the chains without a stop.
    #[inline(always)]
    fn stream<I: Isa, W: Float>(&mut self, isa: I, rows: &Rows<'_>, token: usize) {
        let x = &self.x[token * self.n_in..][..self.n_in];
        let mut totals = [isa.f_splat(0.0); 2];
        for from in (0..self.n_in).step_by(DOT_CHUNK) {
            let cols = DOT_CHUNK.min(self.n_in - from);
            let mut sums = [isa.f_splat(0.0); 2];
            let whole = cols / LANES;
            let low = rows.blocks::<W>(0, (from, whole));
            let high = rows.blocks::<W>(1, (from, whole));
            for (b, x) in x[from..from + whole * LANES].as_chunks::<LANES>().0.iter().enumerate() {
                let (mut a, mut b) =
                    (turn::block::<I, W>(isa, &low, b), turn::block::<I, W>(isa, &high, b));
                isa.f_transpose(&mut a);
                isa.f_transpose(&mut b);
                for k in 0..LANES {
                    let x = isa.f_splat(x[k]);
                    sums[0] = isa.f_fma(a[k], x, sums[0]);
                    sums[1] = isa.f_fma(b[k], x, sums[1]);
                }
            }
            if cols > whole * LANES {
                let rest = from + whole * LANES;
                self.room.turn(isa, rows, (rest, self.n_in - rest));
                for (w, x) in self.room.turned.iter().zip(&x[rest..]) {
                    let x = isa.f_splat(*x);
                    sums[0] = isa.f_fma(isa.f_load(&w[0].0), x, sums[0]);
                    sums[1] = isa.f_fma(isa.f_load(&w[1].0), x, sums[1]);
                }
            }
            totals[0] = isa.f_add(totals[0], sums[0]);
            totals[1] = isa.f_add(totals[1], sums[1]);
        }
        isa.f_store(totals[0], &mut self.room.totals[0][0].0);
        isa.f_store(totals[1], &mut self.room.totals[0][1].0);
    }

    /// Brings the totals of a pass into `out`.
    #[inline(always)]
    fn finish(&mut self, first: usize, (start, end): (usize, usize)) {
        for (totals, t) in self.room.totals.iter().zip(start..end) {
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

/// Where a group of tokens stands: the chunk's columns, and the place of its first token in the pass.
#[derive(Clone, Copy)]
struct Place {
    from: usize,
    cols: usize,
    n_in: usize,
    token: usize,
}

impl Room {
    /// Picks the body for the number of tokens, so that inside it all is constant. `x` begins with the group's tokens.
    #[inline(always)]
    fn many<I: Isa, const T: usize>(&mut self, isa: I, x: &[f32], at: (Place, usize), n: usize) {
        const { assert!(TOKENS == 6) };
        match n {
            1 => self.chains::<I, 1, T>(isa, x, at),
            2 => self.chains::<I, 2, T>(isa, x, at),
            3 => self.chains::<I, 3, T>(isa, x, at),
            4 => self.chains::<I, 4, T>(isa, x, at),
            5 => self.chains::<I, 5, T>(isa, x, at),
            6 => self.chains::<I, 6, T>(isa, x, at),
            n => unreachable!("a group of {n} tokens, at most {TOKENS}"),
        }
    }

    /// The chains of N tokens with T tiles (from `tile` on) over one chunk, added to the totals.
    #[inline(always)]
    fn chains<I: Isa, const N: usize, const T: usize>(
        &mut self,
        isa: I,
        x: &[f32],
        (at, tile): (Place, usize),
    ) {
        // Loops, not `from_fn`: what a closure of the library's calls is not compiled for the instruction set.
        let mut tokens = [&x[at.from..][..at.cols]; N];
        for t in 1..N {
            tokens[t] = &x[t * at.n_in + at.from..][..at.cols];
        }
        let mut sums = [[isa.f_splat(0.0); N]; T];
        for (k, w) in self.turned[..at.cols].iter().enumerate() {
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
            let totals = &mut self.totals[at.token + t];
            for i in 0..T {
                let total = &mut totals[tile + i].0;
                isa.f_store(isa.f_add(isa.f_load(total), sums[i][t]), total);
            }
        }
    }
}
