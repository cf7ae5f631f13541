//! Rows of a weight, decoded and turned so that lanes = rows.

use super::Room;
use crate::simd::{Isa, LANES};
use gguf::DType;

/// A format of which each weight is a float by itself.
pub(super) trait Float {
    /// 16 weights.
    type Bytes: Copy + 'static;

    /// As many as there are whole blocks of 16 weights.
    fn blocks(bytes: &[u8]) -> &[Self::Bytes];

    /// 16 weights as f32.
    fn load<I: Isa>(isa: I, bytes: &Self::Bytes) -> I::F;
}

/// 16 little-endian halves as integers.
#[inline(always)]
fn halves(bytes: &[u8; 2 * LANES]) -> [u16; LANES] {
    let mut out = [0; LANES];
    for i in 0..LANES {
        out[i] = u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
    }
    out
}

pub(super) struct F32;

impl Float for F32 {
    type Bytes = [u8; 4 * LANES];

    #[inline(always)]
    fn blocks(bytes: &[u8]) -> &[Self::Bytes] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, bytes: &Self::Bytes) -> I::F {
        let mut out = [0.0; LANES];
        for i in 0..LANES {
            let at = 4 * i;
            out[i] = f32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        }
        isa.f_load(&out)
    }
}

pub(super) struct F16;

impl Float for F16 {
    type Bytes = [u8; 2 * LANES];

    #[inline(always)]
    fn blocks(bytes: &[u8]) -> &[Self::Bytes] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, bytes: &Self::Bytes) -> I::F {
        isa.f_load_f16(&halves(bytes))
    }
}

pub(super) struct Bf16;

impl Float for Bf16 {
    type Bytes = [u8; 2 * LANES];

    #[inline(always)]
    fn blocks(bytes: &[u8]) -> &[Self::Bytes] {
        bytes.as_chunks().0
    }

    #[inline(always)]
    fn load<I: Isa>(isa: I, bytes: &Self::Bytes) -> I::F {
        isa.f_load_bf16(&halves(bytes))
    }
}

/// Two tiles of a weight's rows. Rows after the last are the last again.
pub(super) struct Rows<'a> {
    pub(super) dtype: DType,
    pub(super) bytes: &'a [u8],
    pub(super) row_bytes: usize,
    pub(super) first: usize,
}

impl<'a> Rows<'a> {
    /// Columns `from .. from + cols` of row `r` (0 to 31).
    #[inline(always)]
    fn row(&self, r: usize, (from, cols): (usize, usize)) -> &'a [u8] {
        let row = (self.first + r).min(self.bytes.len() / self.row_bytes - 1);
        let start = row * self.row_bytes + self.dtype.row_bytes(from);
        &self.bytes[start..start + self.dtype.row_bytes(cols)]
    }

    /// `n` blocks of 16 columns from column `from` on, of one tile's rows.
    #[inline(always)]
    pub(super) fn blocks<W: Float>(
        &self,
        tile: usize,
        (from, n): (usize, usize),
    ) -> [&'a [W::Bytes]; LANES] {
        let mut blocks: [&[W::Bytes]; LANES] = [&[]; LANES];
        for r in 0..LANES {
            blocks[r] = &W::blocks(self.row(tile * LANES + r, (from, n * LANES)))[..n];
        }
        blocks
    }
}

/// Block `b` of each row.
#[inline(always)]
pub(super) fn block<I: Isa, W: Float>(
    isa: I,
    rows: &[&[W::Bytes]; LANES],
    b: usize,
) -> [I::F; LANES] {
    let mut block = [isa.f_splat(0.0); LANES];
    for r in 0..LANES {
        block[r] = W::load(isa, &rows[r][b]);
    }
    block
}

impl Room {
    /// Fills `turned` with columns `from .. from + cols`, at most a chunk.
    #[inline(always)]
    pub(super) fn turn<I: Isa>(&mut self, isa: I, rows: &Rows<'_>, (from, cols): (usize, usize)) {
        let whole = cols.is_multiple_of(LANES);
        for tile in 0..2 {
            match rows.dtype {
                DType::F32 if whole => self.floats::<I, F32>(isa, rows, tile, (from, cols)),
                DType::F16 if whole => self.floats::<I, F16>(isa, rows, tile, (from, cols)),
                DType::BF16 if whole => self.floats::<I, Bf16>(isa, rows, tile, (from, cols)),
                DType::F32
                | DType::F16
                | DType::BF16
                | DType::Q4_0
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
                | DType::MXFP4 => self.any(isa, rows, tile, (from, cols)),
            }
        }
    }

    /// Straight from the file's bytes.
    #[inline(always)]
    fn floats<I: Isa, W: Float>(
        &mut self,
        isa: I,
        rows: &Rows<'_>,
        tile: usize,
        (from, cols): (usize, usize),
    ) {
        let blocks = rows.blocks::<W>(tile, (from, cols / LANES));
        for (b, turned) in self.turned[..cols].as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut lanes = block::<I, W>(isa, &blocks, b);
            isa.f_transpose(&mut lanes);
            for k in 0..LANES {
                isa.f_store(lanes[k], &mut turned[k][tile].0);
            }
        }
    }

    /// Each row by the format's own decoder.
    #[inline(always)]
    fn any<I: Isa>(&mut self, isa: I, rows: &Rows<'_>, tile: usize, (from, cols): (usize, usize)) {
        for (r, decoded) in self.rows.iter_mut().enumerate() {
            let row = rows.row(tile * LANES + r, (from, cols));
            rows.dtype.dequantize(row, &mut decoded[..cols]);
        }
        // Columns after the last, up to a whole vector, are old numbers that nobody reads.
        for b in 0..cols.div_ceil(LANES) {
            let mut lanes = [isa.f_splat(0.0); LANES];
            for r in 0..LANES {
                lanes[r] = isa.f_load(&self.rows[r].as_chunks().0[b]);
            }
            isa.f_transpose(&mut lanes);
            for k in 0..LANES {
                isa.f_store(lanes[k], &mut self.turned[b * LANES + k][tile].0);
            }
        }
    }
}
