//! Rows of a weight, decoded and transposed so that lanes = rows.

use super::Workspace;
use crate::simd::{Isa, Kernel, LANES};
use gguf::DType;
use gguf::quant::{self, Kind};

/// Bytes of a row that are transposed at a time.
const LINE: usize = 64;
/// Rows a multiple of this apart share so few sets of a first-level cache of 64 that two tiles of them do not fit.
const CROWDED: usize = 1024;
/// Lines of a row that are copied at a time.
const STAGE: usize = 8;

/// Some lines of one tile's rows side by side, an odd number of lines apart.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Stage([[[u8; LINE]; STAGE + 1]; LANES]);

impl Stage {
    pub(super) const EMPTY: Self = Self([[[0; LINE]; STAGE + 1]; LANES]);
}

/// Lines of one tile's rows.
pub(super) type Lines<'a> = [&'a [[u8; LINE]]; LANES];

/// A format of which each weight is a float by itself.
pub(super) trait Float {
    /// Weights in 32 bits.
    const PER_LANE: usize;
    /// Weights in a line.
    const COLS: usize = LANES * Self::PER_LANE;
    /// Weights of a row that are copied at a time.
    const STAGED: usize = STAGE * Self::COLS;

    /// The `PER_LANE` weights that each lane holds.
    fn widen<I: Isa>(isa: I, bits: I::F) -> [I::F; 2];
}

pub(super) struct F32;

impl Float for F32 {
    const PER_LANE: usize = 1;

    #[inline(always)]
    fn widen<I: Isa>(_: I, bits: I::F) -> [I::F; 2] {
        [bits; 2]
    }
}

pub(super) struct F16;

impl Float for F16 {
    const PER_LANE: usize = 2;

    #[inline(always)]
    fn widen<I: Isa>(isa: I, bits: I::F) -> [I::F; 2] {
        isa.f_from_f16_pairs(isa.f_bits(bits))
    }
}

pub(super) struct Bf16;

impl Float for Bf16 {
    const PER_LANE: usize = 2;

    #[inline(always)]
    fn widen<I: Isa>(isa: I, bits: I::F) -> [I::F; 2] {
        isa.f_from_bf16_pairs(isa.f_bits(bits))
    }
}

/// Some columns of a weight: `n` from `from` on.
#[derive(Clone, Copy)]
pub(super) struct Cols {
    pub(super) from: usize,
    pub(super) n: usize,
}

/// Two tiles of a weight's rows. Rows after the last are the last again.
pub(super) struct Rows<'a> {
    pub(super) dtype: DType,
    pub(super) bytes: &'a [u8],
    pub(super) row_bytes: usize,
    pub(super) first: usize,
}

impl<'a> Rows<'a> {
    /// Columns of row `r` (0 to 31).
    #[inline(always)]
    fn row(&self, r: usize, cols: Cols) -> &'a [u8] {
        let row = (self.first + r).min(self.bytes.len() / self.row_bytes - 1);
        let start = row * self.row_bytes + self.dtype.row_bytes(cols.from);
        &self.bytes[start..start + self.dtype.row_bytes(cols.n)]
    }

    /// The whole lines that hold some columns, at most [`Float::STAGED`], of one tile's rows. Where rows lie so far apart
    /// that their lines push one another out of the first-level cache, they are copied first.
    #[inline(always)]
    pub(super) fn lines<'s>(&'s self, stage: &'s mut Stage, tile: usize, cols: Cols) -> Lines<'s> {
        let n = (self.dtype.row_bytes(cols.n) / LINE).min(STAGE);
        let mut lines: Lines<'s> = [&[]; LANES];
        for r in 0..LANES {
            lines[r] = &self.row(tile * LANES + r, cols).as_chunks().0[..n];
        }
        if self.row_bytes.is_multiple_of(CROWDED) {
            for r in 0..LANES {
                stage.0[r][..n].copy_from_slice(lines[r]);
            }
            for r in 0..LANES {
                lines[r] = &stage.0[r][..n];
            }
        }
        lines
    }

    /// Prefetches a part of what the next two tiles will read, while a tile's line at column `col` is read. The rows of
    /// the weight lie one after the other, so these reads are in the order of memory, unlike those of the present tile.
    #[inline(always)]
    pub(super) fn prefetch<I: Isa, W: Float>(&self, isa: I, tile: usize, col: usize) {
        let next = (self.first + 2 * LANES) * self.row_bytes;
        let start = next + (2 * (col / W::COLS) + tile) * LANES * LINE;
        if let Some(bytes) = self.bytes.get(start..start + LANES * LINE) {
            for line in bytes.as_chunks::<LINE>().0 {
                isa.prefetch(&line[0]);
            }
        }
    }
}

/// Line `b` of a tile's rows, transposed: lanes = rows, `PER_LANE` columns in each.
#[inline(always)]
pub(super) fn line<I: Isa>(isa: I, rows: &Lines<'_>, b: usize) -> [I::F; LANES] {
    let mut transposed = [isa.f_splat(0.0); LANES];
    for r in 0..LANES {
        let mut bits = [0; LANES];
        for (bits, bytes) in bits.iter_mut().zip(rows[r][b].as_chunks().0) {
            *bits = i32::from_le_bytes(*bytes);
        }
        transposed[r] = isa.f_from_bits(isa.i_load(&bits));
    }
    isa.f_transpose(&mut transposed);
    transposed
}

/// Fills `workspace.transposed` with some columns, at most a chunk.
pub(super) struct Transpose<'a, 'r> {
    pub(super) workspace: &'a mut Workspace,
    pub(super) rows: &'a Rows<'r>,
    pub(super) cols: Cols,
}

impl Kernel for Transpose<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        self.workspace.transpose(isa, self.rows, self.cols);
    }
}

impl Workspace {
    #[inline(always)]
    fn transpose<I: Isa>(&mut self, isa: I, rows: &Rows<'_>, cols: Cols) {
        let whole = rows.dtype.row_bytes(cols.n).is_multiple_of(LINE);
        for tile in 0..2 {
            match rows.dtype.kind() {
                Kind::Float(floats) if whole => match floats {
                    quant::Float::F32 => self.floats::<I, F32>(isa, rows, tile, cols),
                    quant::Float::F16 => self.floats::<I, F16>(isa, rows, tile, cols),
                    quant::Float::BF16 => self.floats::<I, Bf16>(isa, rows, tile, cols),
                },
                Kind::Float(_) | Kind::Quant(_) => self.any(isa, rows, tile, cols),
            }
        }
    }

    /// Straight from the file's bytes.
    #[inline(always)]
    fn floats<I: Isa, W: Float>(&mut self, isa: I, rows: &Rows<'_>, tile: usize, cols: Cols) {
        for (s, transposed) in self.transposed[..cols.n].chunks_mut(W::STAGED).enumerate() {
            let at = cols.from + s * W::STAGED;
            let staged = Cols { from: at, n: transposed.len() };
            let lines = rows.lines(&mut self.stage, tile, staged);
            for (b, transposed) in transposed.chunks_exact_mut(W::COLS).enumerate() {
                rows.prefetch::<I, W>(isa, tile, at + b * W::COLS);
                let lanes = line(isa, &lines, b);
                for k in 0..LANES {
                    let columns = W::widen(isa, lanes[k]);
                    for i in 0..W::PER_LANE {
                        isa.f_store(columns[i], &mut transposed[k * W::PER_LANE + i][tile].0);
                    }
                }
            }
        }
    }

    /// Each row by the format's own decoder.
    #[inline(always)]
    fn any<I: Isa>(&mut self, isa: I, rows: &Rows<'_>, tile: usize, cols: Cols) {
        for (r, decoded) in self.rows.iter_mut().enumerate() {
            let row = rows.row(tile * LANES + r, cols);
            rows.dtype.dequantize(row, &mut decoded[..cols.n]);
        }
        // Columns after the last, up to a whole vector, are old numbers that nobody reads.
        for b in 0..cols.n.div_ceil(LANES) {
            let mut lanes = [isa.f_splat(0.0); LANES];
            for r in 0..LANES {
                lanes[r] = isa.f_load(&self.rows[r].as_chunks().0[b]);
            }
            isa.f_transpose(&mut lanes);
            for k in 0..LANES {
                isa.f_store(lanes[k], &mut self.transposed[b * LANES + k][tile].0);
            }
        }
    }
}
