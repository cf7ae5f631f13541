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
use gguf::DType;
use graph::ints::{Form, Ints, MinTerm, form};

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

/// Repacks the rows of one tile (up to 16, the file's bytes) into `out`. Missing rows stay as `out` is: zero.
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
fn code(form: &Form, q: i8, bias: u8) -> u8 {
    match form.table {
        // Two codes of MXFP4 mean 0; either gives the same integer.
        Some(table) => table.iter().position(|&v| v == q).map_or(0, |i| i as u8),
        None if form.bits == 8 => (q as u8).wrapping_add(bias),
        None => (q + form.offset) as u8,
    }
}

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
