//! Repacking at load: a row's blocks, as in the file, straight into the bit planes of [`crate::tiles`].
//!
//! Four columns of a row are one 32-bit word of a plane, and the formats hold neighbouring columns in neighbouring bytes
//! too: four codes at a time, as the bytes of a word, go from the file to the planes by shifts and masks.
//!
//! v1: one code at a time through `graph::ints`, 0.1 to 0.6 GB/s of the file on one thread; it is now the test's oracle
//! (`pack_tile` of `tiles.rs`). v2: words, 0.8 GB/s for Q4_K. v3 (this): sizes said once, so that no check is left
//! among the shifts: 1.3 (Q3_K) to 4.8 GB/s (Q8_0), 2.9 for Q4_K.

use crate::simd::LANES;
use crate::tiles::Layout;
use gguf::DType;
use gguf::quant::{Block, Codes, RunScale, Scale, Visit};
use graph::ints::MinTerm;

/// Every byte's low nibble, low two bits, lowest bit.
const NIBBLES: u32 = 0x0f0f_0f0f;
const TWOS: u32 = 0x0303_0303;
const ONES: u32 = 0x0101_0101;

/// Rows of a weight, one after the other as in the file.
#[derive(Clone, Copy)]
pub(crate) struct FileRows<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) row_bytes: usize,
}

/// Repacks up to 16 rows into one tile. Missing rows stay as `out` is: zero. `bias` (0 or 128) is added to 8-bit quants.
pub(crate) fn pack_rows(
    dtype: DType,
    layout: &Layout,
    rows: FileRows<'_>,
    bias: u8,
    out: &mut [u8],
) {
    // Float formats have no layout, so none comes here.
    let _ = dtype.visit(Pack { layout, rows, bias, out });
}

struct Pack<'a> {
    layout: &'a Layout,
    rows: FileRows<'a>,
    bias: u8,
    out: &'a mut [u8],
}

impl Visit for Pack<'_> {
    type Out = ();

    fn visit<B: Block>(self) {
        let Self { layout, rows, bias, out } = self;
        let flip = match B::QUANT.codes {
            // Adding 128 to a byte flips its top bit.
            Codes::Bytes => u32::from(bias) * ONES,
            Codes::Plain { .. } | Codes::Signs | Codes::Table(_) | Codes::ShortTable(_) => 0,
        };
        for (b, out) in out.chunks_exact_mut(layout.block_bytes).enumerate() {
            for (r, row) in rows.bytes.chunks_exact(rows.row_bytes).enumerate().take(LANES) {
                let bytes = &row[b / B::PARTS * size_of::<B>()..][..size_of::<B>()];
                let [block] = B::all(bytes) else { unreachable!("the bytes of one block") };
                pack_scales(layout, bytes, block, r, out);
                let quants = &mut out[layout.quants_at()..];
                let first = b % B::PARTS * B::QUANT.shape.block_len() / 32;
                pack_units(B::QUANT.codes.bits(), quants, r, |unit| {
                    block.codes(first + unit).map(|codes| codes ^ flip)
                });
            }
        }
    }
}

/// Writes row `r` of a block's units; `codes` gives the words of a unit. Inlined, so that `bits` is a constant.
#[inline(always)]
fn pack_units(bits: usize, out: &mut [u8], r: usize, codes: impl Fn(usize) -> [u32; 8]) {
    let units = out.as_chunks_mut::<4>().0.chunks_exact_mut(bits * 16);
    // With the sizes said once the compiler takes the checks out of the shifts below.
    assert!(r < LANES);
    for (u, unit) in units.enumerate() {
        assert!(unit.len() == bits * 16);
        let c = codes(u & 7);
        let mut put = |plane: usize, w: u32| unit[16 * plane + r] = w.to_le_bytes();
        if bits == 8 {
            for g in 0..8 {
                put(g, c[g]);
            }
            continue;
        }
        let mut plane = 0;
        if bits >= 4 {
            for g in 0..4 {
                put(g, c[g] & NIBBLES | (c[g + 4] & NIBBLES) << 4);
            }
            plane = 4;
        }
        // What is left above `plane` bits: two, one, or (3 bits) two and one.
        let mut shift = plane;
        if bits - shift >= 2 {
            for half in 0..2 {
                put(
                    plane + half,
                    (0..4).fold(0, |w, i| w | ((c[4 * half + i] >> shift) & TWOS) << (2 * i)),
                );
            }
            (plane, shift) = (plane + 2, shift + 2);
        }
        if bits > shift {
            put(plane, (0..8).fold(0, |w, g| w | ((c[g] >> shift) & ONES) << g));
        }
    }
}

/// Row `r` of a block's scales and minima.
#[inline(always)]
fn pack_scales<B: Block>(layout: &Layout, bytes: &[u8], block: &B, r: usize, out: &mut [u8]) {
    match B::QUANT.scale {
        Scale::F16 { at } => {
            out[2 * r..2 * r + 2].copy_from_slice(&bytes[at..at + 2]);
            if layout.m_bytes > 0 {
                let to = layout.d_bytes + 2 * r;
                out[to..to + 2].copy_from_slice(&bytes[at + 2..at + 4]);
            }
        }
        Scale::Fraction { of, .. } => out[2 * r..2 * r + 2].copy_from_slice(&of.get(bytes)),
        Scale::E8m0 { at } => out[r] = bytes[at],
    }
    let (scales_at, mins_at) = (layout.scales_at(), layout.mins_at());
    for sub in 0..layout.subs {
        let RunScale { scale, min } = block.run(sub);
        out[scales_at + sub * LANES + r] = scale as u8;
        if layout.min == MinTerm::Subs {
            out[mins_at + sub * LANES + r] = min;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiles::{decode_row, pack_tile};
    use graph::cases::{Rng, random_tensor};

    fn quantised() -> impl Iterator<Item = (DType, Layout)> {
        DType::ALL.into_iter().filter_map(|dtype| Some((dtype, Layout::of(dtype)?)))
    }

    #[test]
    fn tiles_take_the_bytes_that_memory_is_reckoned_with() {
        for (dtype, layout) in quantised() {
            assert_eq!(layout.block_bytes, LANES * layout.form.resident_bytes(), "{dtype}");
        }
        // 3 bits a weight, a byte for each run of 32, and an f16: 106 bytes for 50 of the file.
        assert_eq!(Layout::of(DType::IQ1_S).unwrap().form.resident_bytes(), 106);
    }

    #[test]
    fn words_give_what_single_codes_give() {
        let mut rng = Rng::new(7);
        let mut formats = 0;
        for (dtype, layout) in quantised() {
            let n_in = 2 * 256;
            let bytes = random_tensor(&mut rng, dtype, 13 * n_in, 1.0);
            let row_bytes = dtype.row_bytes(n_in);
            for bias in [0, 128] {
                let mut slow = vec![0; layout.tile_bytes(n_in)];
                let mut fast = slow.clone();
                let rows: Vec<&[u8]> = bytes.chunks(row_bytes).collect();
                pack_tile(dtype, &layout, &rows, bias, &mut slow);
                let rows = FileRows { bytes: &bytes, row_bytes };
                pack_rows(dtype, &layout, rows, bias, &mut fast);
                // Two codes of a table may mean the same, and the slow way writes one of them: compare what they mean.
                let (mut a, mut b) = (vec![0.0; n_in], vec![0.0; n_in]);
                for r in 0..13 {
                    decode_row(&layout, &slow, r, bias, &mut a);
                    decode_row(&layout, &fast, r, bias, &mut b);
                    assert_eq!(a, b, "{dtype} row {r}");
                }
                match layout.form.codes {
                    Codes::Table(_) | Codes::ShortTable(_) => {}
                    Codes::Plain { .. } | Codes::Signs | Codes::Bytes => {
                        assert!(slow == fast, "{dtype} bias {bias}");
                    }
                }
            }
            formats += 1;
        }
        assert!(formats >= 13, "{formats}");
    }

    #[test]
    fn a_row_out_of_a_tile_is_the_decoded_row_of_the_file() {
        let mut rng = Rng::new(8);
        for (dtype, layout) in quantised() {
            let n_in = 3 * dtype.block_len();
            for size in [1.0, 1e-6, 1e4] {
                let bytes = random_tensor(&mut rng, dtype, 16 * n_in, size);
                let row_bytes = dtype.row_bytes(n_in);
                for bias in [0, 128] {
                    let mut tile = vec![0; layout.tile_bytes(n_in)];
                    let rows = FileRows { bytes: &bytes, row_bytes };
                    pack_rows(dtype, &layout, rows, bias, &mut tile);
                    let (mut got, mut want) = (vec![0.0; n_in], vec![0.0f32; n_in]);
                    for (r, row) in bytes.chunks(row_bytes).enumerate() {
                        dtype.dequantize(row, &mut want);
                        decode_row(&layout, &tile, r, bias, &mut got);
                        for i in 0..n_in {
                            // A code of MXFP4 is -0, which stays one.
                            assert_eq!(got[i].to_bits(), want[i].to_bits(), "{dtype} {r} {i}");
                        }
                    }
                }
            }
        }
    }
}
