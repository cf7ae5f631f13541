//! Matrix product in f32: float formats, and every format in the `f32` arithmetic. Meaning: `graph::ops::mat_mul` and
//! `graph::math::dot_f32`.
//!
//! For a tile of 16 rows and a chunk of 256 columns the weights are decoded with the format's own decoder and turned
//! so that lanes = rows; then each token runs one fma chain down the chunk, several tokens side by side. The chunk's
//! sum is added to `out`, which is the contract's order.
//!
//! v1 (this): decoding on the fly keeps the memory at the file's size. One token at a time is bound by the decoder.

use crate::pool::Columns;
use crate::simd::{Isa, Kernel, LANES};
use gguf::DType;
use graph::math::DOT_CHUNK;

/// Tokens side by side: eight chains hide the latency of an fma.
const TOKENS: usize = 8;

/// One part of the product: some columns of `out`, which are rows of the weight. `out` is zero beforehand.
pub(crate) struct MatMulF32<'a, 'o> {
    pub(crate) dtype: DType,
    /// The weight as in the file.
    pub(crate) rows: &'a [u8],
    pub(crate) n_in: usize,
    /// `[tokens, n_in]`
    pub(crate) x: &'a [f32],
    pub(crate) out: Columns<'o>,
}

impl Kernel for MatMulF32<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let mut tile = vec![[0.0f32; LANES]; DOT_CHUNK];
        let range = self.out.range();
        for first in range.clone().step_by(LANES) {
            let n_rows = LANES.min(range.end - first);
            for start in (0..self.n_in).step_by(DOT_CHUNK) {
                let len = DOT_CHUNK.min(self.n_in - start);
                self.decode(first..first + n_rows, start, &mut tile[..len]);
                let tokens = self.out.rows();
                let whole = tokens / TOKENS * TOKENS;
                for t in (0..whole).step_by(TOKENS) {
                    self.chain::<I, TOKENS>(isa, &tile[..len], (first, t, start));
                }
                for t in whole..tokens {
                    self.chain::<I, 1>(isa, &tile[..len], (first, t, start));
                }
            }
        }
    }
}

impl MatMulF32<'_, '_> {
    /// Decodes columns `start .. start + tile.len()` of the rows, turned.
    #[inline(always)]
    fn decode(&self, rows: std::ops::Range<usize>, start: usize, tile: &mut [[f32; LANES]]) {
        let row_bytes = self.dtype.row_bytes(self.n_in);
        let (from, len) = (self.dtype.row_bytes(start), self.dtype.row_bytes(tile.len()));
        let mut decoded = [0.0f32; DOT_CHUNK];
        for (r, row) in rows.enumerate() {
            let bytes = &self.rows[row * row_bytes + from..][..len];
            self.dtype.dequantize(bytes, &mut decoded[..tile.len()]);
            for (k, lanes) in tile.iter_mut().enumerate() {
                lanes[r] = decoded[k];
            }
        }
    }

    #[inline(always)]
    fn chain<I: Isa, const N: usize>(
        &mut self,
        isa: I,
        tile: &[[f32; LANES]],
        (first, t0, start): (usize, usize, usize),
    ) {
        let x: [&[f32]; N] =
            std::array::from_fn(|t| &self.x[(t0 + t) * self.n_in + start..][..tile.len()]);
        let mut acc = [isa.f_splat(0.0); N];
        for (k, w) in tile.iter().enumerate() {
            let w = isa.f_load(w);
            for t in 0..N {
                acc[t] = isa.f_fma(w, isa.f_splat(x[t][k]), acc[t]);
            }
        }
        let mut lanes = [0.0; LANES];
        for t in 0..N {
            isa.f_store(acc[t], &mut lanes);
            let out = self.out.row(t0 + t, first..first + LANES);
            for (out, sum) in out.iter_mut().zip(lanes) {
                *out += sum;
            }
        }
    }
}
