//! Quantised weights as the kernels read them: tiles of 16 rows, lanes = rows.
//!
//! A tile holds its blocks one after the other. A block is `d` (16 × f16, or 16 × E8M0), `m` (16 × f16, formats with a
//! minimum), integer scales and minima (16 bytes for each sub-block), then the quants in units of 32 columns. Quants
//! come in groups of 4 columns × 16 rows = 64 bytes, row r at bytes 4r..4r+4, so that one 32-bit broadcast of four
//! activations meets all sixteen rows. A unit of 32 columns is 8 groups, stored as bit planes:
//!
//! | bits | planes of 64 bytes |
//! |---|---|
//! | 8 | 8: the groups themselves |
//! | 4 low bits | 4: group g in the low nibbles of plane g, group g+4 in the high ones |
//! | 2 bits | 2: group g in bits 2(g%4) of plane g/4 |
//! | 1 bit | 1: group g in bit g |
//!
//! 5 = 4 + 1, 6 = 4 + 2, 3 = 2 + 1. The size in memory is the file's, but for rows padded to a multiple of 16, and for the
//! formats with grids, whose points become codes of three or four bits for each weight.

use crate::simd::LANES;
use gguf::DType;
use gguf::quant::{Bits, Codes, Scale, half_power};
use graph::ints::{Form, MinTerm, form};
#[cfg(test)]
use graph::ints::{Ints, blocks};

/// What is added to signed bytes in tiles that are decoded to f32, so that they are unsigned on every machine.
pub(crate) const F32_BIAS: u8 = 128;
/// Columns in a unit of quants.
pub(crate) const UNIT: usize = 32;

/// Sizes and offsets of one format's tile blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) form: Form,
    /// Columns of a block.
    pub(crate) block_len: usize,
    /// What the format adds after `d · isum`.
    pub(crate) min: MinTerm,
    /// Bytes of `d`.
    pub(crate) d_bytes: usize,
    /// Bytes of `m`, or 0.
    pub(crate) m_bytes: usize,
    /// Sub-blocks with an integer scale, or 0.
    pub(crate) subs: usize,
    /// Columns of a sub-block; of the block where it has no sub-blocks.
    pub(crate) sub_cols: usize,
    /// Planes in a unit.
    pub(crate) planes: usize,
    /// Bytes of a block of 16 rows.
    pub(crate) block_bytes: usize,
}

impl Layout {
    /// The layout of a quantised format; `None` for float formats.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        form(dtype).map(Self::new)
    }

    pub(crate) fn new(form: Form) -> Self {
        let (block_len, min, subs) = (form.block_len(), form.min(), form.n_runs());
        let d_bytes = match form.scale {
            Scale::F16 { .. } | Scale::Fraction { .. } => 2 * LANES,
            Scale::E8m0 { .. } => LANES,
        };
        let (m_bytes, run_bytes) = match min {
            MinTerm::None => (0, LANES),
            MinTerm::Sum => (2 * LANES, LANES),
            MinTerm::Subs => (2 * LANES, 2 * LANES),
        };
        let sub_cols = form.run().map_or(block_len, |run| run.elements());
        let planes = form.codes.bits();
        let block_bytes = d_bytes + m_bytes + subs * run_bytes + block_len / UNIT * planes * 64;
        Self { form, block_len, min, d_bytes, m_bytes, subs, sub_cols, planes, block_bytes }
    }

    /// Whether the operand of a product is a signed byte.
    pub(crate) fn signed(&self) -> bool {
        match self.form.codes {
            Codes::Plain { .. } | Codes::Signs => false,
            Codes::Bytes | Codes::Table(_) | Codes::ShortTable(_) => true,
        }
    }

    /// Where the integer scales start.
    pub(crate) fn scales_at(&self) -> usize {
        self.d_bytes + self.m_bytes
    }

    /// Where the integer minima start.
    pub(crate) fn mins_at(&self) -> usize {
        self.scales_at() + self.subs * LANES
    }

    /// Where the quants start.
    pub(crate) fn quants_at(&self) -> usize {
        self.block_bytes - self.block_len / UNIT * self.planes * 64
    }

    /// Bytes of a tile of 16 rows of `n_in` columns.
    pub(crate) fn tile_bytes(&self, n_in: usize) -> usize {
        n_in / self.block_len * self.block_bytes
    }
}

/// Decodes row `r` of a tile: the values that the format's own decoder gives for the file's bytes.
pub(crate) fn decode_row(layout: &Layout, tile: &[u8], r: usize, bias: u8, out: &mut [f32]) {
    let kind = layout.form.codes;
    let blocks = tile.chunks_exact(layout.block_bytes);
    for (block, out) in blocks.zip(out.chunks_exact_mut(layout.block_len)) {
        let half_at = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let d = match layout.form.scale {
            Scale::F16 { .. } => half_at(2 * r),
            Scale::Fraction { .. } => half_at(2 * r) * layout.form.scale.fraction(),
            Scale::E8m0 { .. } => half_power(block[r]),
        };
        let m = if layout.m_bytes > 0 { half_at(layout.d_bytes + 2 * r) } else { 0.0 };
        for (u, out) in out.chunks_exact_mut(UNIT).enumerate() {
            let planes = &block[layout.quants_at() + u * layout.planes * 64..];
            let mut codes = [0u8; UNIT];
            row_codes(kind, &planes[..layout.planes * 64], r, &mut codes);
            let run = layout.sub_cols.min(UNIT);
            for (i, (out, codes)) in out.chunks_mut(run).zip(codes.chunks(run)).enumerate() {
                let sub = (u * UNIT + i * run) / layout.sub_cols;
                let scale = if layout.subs == 0 {
                    d
                } else {
                    d * f32::from(block[layout.scales_at() + sub * LANES + r] as i8)
                };
                let plus = match layout.min {
                    MinTerm::None => None,
                    MinTerm::Sum => Some(m),
                    MinTerm::Subs => {
                        Some(-(m * f32::from(block[layout.mins_at() + sub * LANES + r])))
                    }
                };
                for (out, &code) in out.iter_mut().zip(codes) {
                    let q = match kind {
                        Codes::Bytes => code.wrapping_sub(bias) as i8,
                        Codes::Plain { .. }
                        | Codes::Signs
                        | Codes::Table(_)
                        | Codes::ShortTable(_) => kind.value(code),
                    };
                    let w = scale * f32::from(q);
                    *out = plus.map_or(w, |plus| w + plus);
                }
            }
        }
    }
}

/// The codes of one row in a unit of 32 columns.
pub(crate) fn row_codes(kind: Codes, planes: &[u8], r: usize, codes: &mut [u8; UNIT]) {
    let bytes = |plane: usize| -> [u8; 4] {
        let at = plane * 64 + 4 * r;
        [planes[at], planes[at + 1], planes[at + 2], planes[at + 3]]
    };
    let mut add = |first: usize, width: u8, up: u8| {
        let mask = ((1u16 << width) - 1) as u8;
        let per_plane = usize::from(8 / width);
        for g in 0..UNIT / 4 {
            // Nibbles go g, g + 4; narrower fields lie in order.
            let (plane, shift) = match width {
                8 => (g, 0),
                4 => (g % 4, 4 * (g / 4)),
                _ => (g / per_plane, usize::from(width) * (g % per_plane)),
            };
            let four = bytes(first + plane);
            for c in 0..4 {
                codes[4 * g + c] |= (four[c] >> shift & mask) << up;
            }
        }
    };
    match kind {
        Codes::Bytes => add(0, 8, 0),
        Codes::Signs => add(0, 1, 0),
        Codes::Table(_) => add(0, 4, 0),
        Codes::ShortTable(_) => {
            add(0, 2, 0);
            add(2, 1, 2);
        }
        Codes::Plain { bits, .. } => match bits {
            Bits::Six => {
                add(0, 4, 0);
                add(4, 2, 4);
            }
            Bits::Five => {
                add(0, 4, 0);
                add(4, 1, 4);
            }
            Bits::Four => add(0, 4, 0),
            Bits::Three => {
                add(0, 2, 0);
                add(2, 1, 2);
            }
            Bits::Two => add(0, 2, 0),
        },
    }
}

/// Repacks the rows of one tile (up to 16, the file's bytes) into `out`, a code at a time. Missing rows stay as `out`
/// is: zero. The plain way, which [`crate::pack`] is tested against.
#[cfg(test)]
pub(crate) fn pack_tile(dtype: DType, layout: &Layout, rows: &[&[u8]], bias: u8, out: &mut [u8]) {
    let mut ints = Ints::new();
    for (r, row) in rows.iter().enumerate() {
        for (block, out) in blocks(dtype, row).zip(out.chunks_mut(layout.block_bytes)) {
            ints.unpack(dtype, block);
            pack_scales(layout, block.bytes, &ints, r, out);
            pack_quants(layout, &ints, bias, r, &mut out[layout.quants_at()..]);
        }
    }
}

#[cfg(test)]
fn pack_scales(layout: &Layout, bytes: &[u8], ints: &Ints, r: usize, out: &mut [u8]) {
    match layout.form.scale {
        Scale::F16 { .. } => {
            out[2 * r..2 * r + 2].copy_from_slice(&half::f16::from_f32(ints.d).to_le_bytes())
        }
        Scale::Fraction { of, .. } => out[2 * r..2 * r + 2].copy_from_slice(&of.get(bytes)),
        Scale::E8m0 { at } => out[r] = bytes[at],
    }
    if layout.min != MinTerm::None {
        let at = layout.d_bytes + 2 * r;
        out[at..at + 2].copy_from_slice(&half::f16::from_f32(ints.m).to_le_bytes());
    }
    for sub in 0..layout.subs {
        let run = sub * layout.sub_cols / 16;
        out[layout.scales_at() + sub * LANES + r] = ints.scale[run] as u8;
        if layout.min == MinTerm::Subs {
            out[layout.mins_at() + sub * LANES + r] = ints.min[run];
        }
    }
}

/// The stored code of a quant: `q + offset`, the index for formats with a table, or the signed byte plus `bias`.
#[cfg(test)]
fn code(codes: Codes, q: i8, bias: u8) -> u8 {
    match codes {
        // Two codes of MXFP4 mean 0; either gives the same integer.
        Codes::Table(values) => values.iter().position(|&v| v == q).map_or(0, |i| i as u8),
        Codes::ShortTable(values) => values.iter().position(|&v| v == q).map_or(0, |i| i as u8),
        Codes::Bytes => (q as u8).wrapping_add(bias),
        Codes::Signs => u8::from(q > 0),
        Codes::Plain { offset, .. } => (q + offset) as u8,
    }
}

#[cfg(test)]
fn pack_quants(layout: &Layout, ints: &Ints, bias: u8, r: usize, out: &mut [u8]) {
    for (u, unit) in out.chunks_mut(layout.planes * 64).enumerate() {
        for c in 0..UNIT {
            let code = code(layout.form.codes, ints.q[u * UNIT + c], bias);
            let (g, byte) = (c / 4, 4 * r + c % 4);
            let mut plane = 0;
            let mut low = |bits: usize, value: u8| {
                match bits {
                    8 => unit[(plane + g) * 64 + byte] = value,
                    4 => unit[(plane + g % 4) * 64 + byte] |= (value & 15) << (4 * (g / 4)),
                    2 => unit[(plane + g / 4) * 64 + byte] |= (value & 3) << (2 * (g % 4)),
                    _ => unit[plane * 64 + byte] |= (value & 1) << g,
                }
                plane += bits;
            };
            match layout.form.codes.bits() {
                6 => {
                    low(4, code);
                    low(2, code >> 4);
                }
                5 => {
                    low(4, code);
                    low(1, code >> 4);
                }
                3 => {
                    low(2, code);
                    low(1, code >> 2);
                }
                bits => low(bits, code),
            }
        }
    }
}
