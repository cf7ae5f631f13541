//! Rounding of activations to 8 bits. Meaning: `graph::ops::quantize_act`.
//!
//! v1 (this): plain loops in the shape that compilers vectorise; the two `nearest` steps are the magic addition.

use crate::pool::Pool;
use crate::simd::{Isa, Kernel, Level};
use graph::ints::ActFormat;
use graph::math::{ROUND_MAGIC, round_f16};

/// Rounded activations of all tokens of a step, with the sums that the kernels want.
#[derive(Default)]
pub(crate) struct Acts {
    n_in: usize,
    block: usize,
    /// One record for each token.
    rows: Vec<Act>,
}

/// One token's row.
#[derive(Clone, Default)]
struct Act {
    /// Four quants to an i32, little-endian.
    q: Vec<i32>,
    d: Vec<f32>,
    s: Vec<f32>,
    /// Sums of 16 quants.
    bsum: Vec<i32>,
}

impl Acts {
    /// Rounds `x`, `[tokens, n_in]`.
    pub(crate) fn quantize(
        &mut self,
        format: ActFormat,
        x: &[f32],
        n_in: usize,
        (level, pool): (Level, &mut Pool),
    ) {
        let tokens = x.len() / n_in;
        self.n_in = n_in;
        self.block = match format {
            ActFormat::Q8x32 => 32,
            ActFormat::Q8x256 => 256,
        };
        self.rows.resize(tokens, Act::default());
        let block = self.block;
        pool.rows(&mut self.rows, 1, |first, rows| {
            for (i, row) in rows.iter_mut().enumerate() {
                let x = &x[(first + i) * n_in..][..n_in];
                row.resize(n_in, block);
                level.run(Quantize { format, x, row });
            }
        });
    }

    /// Scale of block `b` of token `t`.
    #[inline(always)]
    pub(crate) fn d(&self, t: usize, b: usize) -> f32 {
        self.rows[t].d[b]
    }

    /// Rounded `d · Σq` of block `b` of token `t`.
    #[inline(always)]
    pub(crate) fn s(&self, t: usize, b: usize) -> f32 {
        self.rows[t].s[b]
    }

    /// The quants of `4 · N` columns from `column`, four to a word.
    #[inline(always)]
    pub(crate) fn fours<const N: usize>(&self, t: usize, column: usize) -> &[i32; N] {
        match self.rows[t].q[column / 4..].first_chunk() {
            Some(q) => q,
            None => unreachable!("rows are whole blocks"),
        }
    }

    /// Sum of the quants of `cols` columns (a multiple of 16) from `column`.
    #[inline(always)]
    pub(crate) fn bsum(&self, t: usize, column: usize, cols: usize) -> i32 {
        let bsum = &self.rows[t].bsum[column / 16..];
        if cols == 16 { bsum[0] } else { bsum[0] + bsum[1] }
    }
}

impl Act {
    fn resize(&mut self, n_in: usize, block: usize) {
        self.q.resize(n_in / 4, 0);
        self.d.resize(n_in / block, 0.0);
        self.s.resize(n_in / block, 0.0);
        self.bsum.resize(n_in / 16, 0);
    }

    /// Stores the quants `x[i] · id` from word `first` on, and returns their sum.
    #[inline(always)]
    fn store(&mut self, first: usize, x: &[f32], id: f32) -> i32 {
        let mut total = 0;
        for (i, x) in x.chunks_exact(16).enumerate() {
            let mut sum = 0;
            for (j, x) in x.chunks_exact(4).enumerate() {
                let mut four = [0u8; 4];
                for k in 0..4 {
                    // Rounded magnitudes are at most 127; NaN casts to 0.
                    let q = ((x[k] * id + ROUND_MAGIC) - ROUND_MAGIC) as i32;
                    let q = q.min(127);
                    sum += q;
                    four[k] = q as i8 as u8;
                }
                self.q[first + 4 * i + j] = i32::from_le_bytes(four);
            }
            self.bsum[first / 4 + i] = sum;
            total += sum;
        }
        total
    }
}

struct Quantize<'a> {
    format: ActFormat,
    x: &'a [f32],
    row: &'a mut Act,
}

impl Kernel for Quantize<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        match self.format {
            ActFormat::Q8x32 => self.q8x32(),
            ActFormat::Q8x256 => self.q8x256(),
        }
    }
}

/// The largest magnitude by bits: NaN above infinity above the rest.
#[inline(always)]
fn amax(x: &[f32]) -> f32 {
    let mut lanes = [0u32; 16];
    for x in x.chunks_exact(16) {
        for i in 0..16 {
            lanes[i] = lanes[i].max(x[i].to_bits() & 0x7fff_ffff);
        }
    }
    f32::from_bits(lanes.iter().copied().max().unwrap_or(0))
}

impl Quantize<'_> {
    #[inline(always)]
    fn q8x32(self) {
        for (b, x) in self.x.chunks_exact(32).enumerate() {
            let amax = amax(x);
            let d = if amax.is_finite() { amax / 127.0 } else { f32::NAN };
            let id = if amax == 0.0 { 0.0 } else { 127.0 / amax };
            let sum = self.row.store(8 * b, x, id);
            self.row.d[b] = round_f16(d);
            self.row.s[b] = round_f16(d * sum as f32);
        }
    }

    #[inline(always)]
    fn q8x256(self) {
        for (b, x) in self.x.chunks_exact(256).enumerate() {
            let amax = amax(x);
            if amax == 0.0 || !amax.is_finite() {
                self.row.q[64 * b..][..64].fill(0);
                self.row.bsum[16 * b..][..16].fill(0);
                self.row.d[b] = if amax == 0.0 { 0.0 } else { f32::NAN };
                continue;
            }
            let max = x.iter().copied().find(|v| v.abs() == amax).unwrap_or(amax);
            let iscale = -127.0 / max;
            self.row.store(64 * b, x, iscale);
            self.row.d[b] = 1.0 / iscale;
        }
    }
}
