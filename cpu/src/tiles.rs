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
//! 5 = 4 + 1, 6 = 4 + 2, 3 = 2 + 1. The size in memory is the file's, but for rows padded to a multiple of 16.

use crate::simd::LANES;
use gguf::{DType, half_power};
#[cfg(test)]
use graph::ints::Ints;
use graph::ints::{Form, MinTerm, form};

/// Columns in a unit of quants.
pub(crate) const UNIT: usize = 32;

/// How a block's f32 scale is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// 16 × f16.
    F16,
    /// 16 exponents of MXFP4.
    E8m0,
}

/// Sizes and offsets of one format's tile blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) form: Form,
    pub(crate) scale: Scale,
    /// Bytes of `d`.
    pub(crate) d_bytes: usize,
    /// Bytes of `m`, or 0.
    pub(crate) m_bytes: usize,
    /// Sub-blocks with an integer scale, or 0.
    pub(crate) subs: usize,
    /// Planes in a unit.
    pub(crate) planes: usize,
    /// Bytes of a block of 16 rows.
    pub(crate) block_bytes: usize,
}

impl Layout {
    /// The layout of a quantised format; `None` for float formats.
    pub(crate) fn of(dtype: DType) -> Option<Self> {
        let form = form(dtype)?;
        let scale = if dtype == DType::MXFP4 { Scale::E8m0 } else { Scale::F16 };
        let d_bytes = match scale {
            Scale::F16 => 2 * LANES,
            Scale::E8m0 => LANES,
        };
        let m_bytes = if form.min == MinTerm::None { 0 } else { 2 * LANES };
        let subs = if form.sub == form.block { 0 } else { form.block / form.sub };
        let planes = usize::from(form.bits);
        let sub_bytes = subs * LANES * if form.min == MinTerm::Subs { 2 } else { 1 };
        let block_bytes = d_bytes + m_bytes + sub_bytes + form.block / UNIT * planes * 64;
        Some(Self { form, scale, d_bytes, m_bytes, subs, planes, block_bytes })
    }

    /// Whether the operand of a product is a signed byte: 8-bit quants, and those out of a table.
    pub(crate) fn signed(&self) -> bool {
        self.form.bits == 8 || self.form.table.is_some()
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
        self.block_bytes - self.form.block / UNIT * self.planes * 64
    }

    /// Bytes of a tile of 16 rows of `n_in` columns.
    pub(crate) fn tile_bytes(&self, n_in: usize) -> usize {
        n_in / self.form.block * self.block_bytes
    }
}

/// Decodes row `r` of a tile: the values that the format's own decoder gives for the file's bytes.
pub(crate) fn decode_row(layout: &Layout, (tile, r): (&[u8], usize), bias: u8, out: &mut [f32]) {
    let form = &layout.form;
    for (block, out) in tile.chunks_exact(layout.block_bytes).zip(out.chunks_exact_mut(form.block))
    {
        let half_at = |at: usize| half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        let d = match layout.scale {
            Scale::F16 => half_at(2 * r),
            Scale::E8m0 => half_power(block[r]),
        };
        let m = if layout.m_bytes > 0 { half_at(layout.d_bytes + 2 * r) } else { 0.0 };
        for (u, out) in out.chunks_exact_mut(UNIT).enumerate() {
            let planes = &block[layout.quants_at() + u * layout.planes * 64..];
            let mut codes = [0u8; UNIT];
            row_codes(form.bits, &planes[..layout.planes * 64], r, &mut codes);
            let run = form.sub.min(UNIT);
            for (i, (out, codes)) in out.chunks_mut(run).zip(codes.chunks(run)).enumerate() {
                let sub = (u * UNIT + i * run) / form.sub;
                let scale = if layout.subs == 0 {
                    d
                } else {
                    d * f32::from(block[layout.scales_at() + sub * LANES + r] as i8)
                };
                let plus = match form.min {
                    MinTerm::None => None,
                    MinTerm::Sum => Some(m),
                    MinTerm::Subs => {
                        Some(-(m * f32::from(block[layout.mins_at() + sub * LANES + r])))
                    }
                };
                for (out, &code) in out.iter_mut().zip(codes) {
                    let q = match form.table {
                        Some(table) => table[usize::from(code & 15)],
                        None if form.bits == 8 => code.wrapping_sub(bias) as i8,
                        None => code as i8 - form.offset,
                    };
                    let w = scale * f32::from(q);
                    *out = plus.map_or(w, |plus| w + plus);
                }
            }
        }
    }
}

/// The codes of one row in a unit of 32 columns.
fn row_codes(bits: u8, planes: &[u8], r: usize, codes: &mut [u8; UNIT]) {
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
    match bits {
        6 => {
            add(0, 4, 0);
            add(4, 2, 4);
        }
        5 => {
            add(0, 4, 0);
            add(4, 1, 4);
        }
        3 => {
            add(0, 2, 0);
            add(2, 1, 2);
        }
        bits => add(0, bits, 0),
    }
}

/// Repacks the rows of one tile (up to 16, the file's bytes) into `out`, a code at a time. Missing rows stay as `out`
/// is: zero. The plain way, which [`crate::pack`] is tested against.
#[cfg(test)]
pub(crate) fn pack_tile(dtype: DType, layout: &Layout, rows: &[&[u8]], bias: u8, out: &mut [u8]) {
    let mut ints = Ints::new();
    for (r, row) in rows.iter().enumerate() {
        for (bytes, out) in row.chunks(dtype.block_bytes()).zip(out.chunks_mut(layout.block_bytes))
        {
            ints.unpack(dtype, bytes);
            pack_scales(dtype, layout, bytes, &ints, (r, out));
            pack_quants(layout, &ints, bias, (r, &mut out[layout.quants_at()..]));
        }
    }
}

#[cfg(test)]
fn pack_scales(
    dtype: DType,
    layout: &Layout,
    bytes: &[u8],
    ints: &Ints,
    (r, out): (usize, &mut [u8]),
) {
    match layout.scale {
        Scale::F16 => {
            out[2 * r..2 * r + 2].copy_from_slice(&half::f16::from_f32(ints.d).to_le_bytes())
        }
        Scale::E8m0 => out[r] = bytes[0],
    }
    if layout.form.min != MinTerm::None {
        let at = layout.d_bytes + 2 * r;
        out[at..at + 2].copy_from_slice(&half::f16::from_f32(ints.m).to_le_bytes());
    }
    debug_assert!(layout.scale == Scale::F16 || dtype == DType::MXFP4);
    for sub in 0..layout.subs {
        let run = sub * layout.form.sub / 16;
        out[layout.scales_at() + sub * LANES + r] = ints.scale[run] as u8;
        if layout.form.min == MinTerm::Subs {
            out[layout.mins_at() + sub * LANES + r] = ints.min[run];
        }
    }
}

/// The stored code of a quant: `q + offset`, the index for formats with a table, or the signed byte plus `bias`.
#[cfg(test)]
fn code(form: &Form, q: i8, bias: u8) -> u8 {
    match form.table {
        // Two codes of MXFP4 mean 0; either gives the same integer.
        Some(table) => table.iter().position(|&v| v == q).map_or(0, |i| i as u8),
        None if form.bits == 8 => (q as u8).wrapping_add(bias),
        None => (q + form.offset) as u8,
    }
}

#[cfg(test)]
fn pack_quants(layout: &Layout, ints: &Ints, bias: u8, (r, out): (usize, &mut [u8])) {
    let form = &layout.form;
    for (u, unit) in out.chunks_mut(layout.planes * 64).enumerate() {
        for c in 0..UNIT {
            let code = code(form, ints.q[u * UNIT + c], bias);
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
            match form.bits {
                8 => low(8, code),
                6 => {
                    low(4, code);
                    low(2, code >> 4);
                }
                5 => {
                    low(4, code);
                    low(1, code >> 4);
                }
                4 => low(4, code),
                3 => {
                    low(2, code);
                    low(1, code >> 2);
                }
                _ => low(2, code),
            }
        }
    }
}
