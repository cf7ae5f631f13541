//! Repacking at load: a row's blocks, as in the file, straight into the bit planes of [`crate::tiles`].
//!
//! Four columns of a row are one 32-bit word of a plane, and the formats hold neighbouring columns in neighbouring bytes
//! too: four codes at a time, as the bytes of a word, go from the file to the planes by shifts and masks.
//!
//! v1: one code at a time through `graph::ints`, 0.1 to 0.6 GB/s of the file on one thread; it is now the test's oracle
//! (`pack_tile` of `tiles.rs`). v2: words, 0.8 GB/s for Q4_K. v3 (this): sizes said once, so that no check is left
//! among the shifts: 1.3 (Q3_K) to 4.8 GB/s (Q8_0), 2.9 for Q4_K.

use crate::simd::LANES;
use crate::tiles::{Layout, Scale};
use gguf::{DType, scale_min_k4};
use graph::ints::MinTerm;

/// Every byte's low nibble, low two bits, lowest bit.
const NIBBLES: u32 = 0x0f0f_0f0f;
const TWOS: u32 = 0x0303_0303;
const ONES: u32 = 0x0101_0101;

/// Repacks up to 16 rows, `row_bytes` each as in the file, into one tile. Missing rows stay as `out` is: zero. `bias` (0
/// or 128) is added to 8-bit quants.
pub(crate) fn pack_rows(
    dtype: DType,
    layout: &Layout,
    (rows, row_bytes): (&[u8], usize),
    bias: u8,
    out: &mut [u8],
) {
    let block_bytes = dtype.block_bytes();
    for (b, out) in out.chunks_exact_mut(layout.block_bytes).enumerate() {
        for (r, row) in rows.chunks_exact(row_bytes).enumerate().take(LANES) {
            let block = &row[b * block_bytes..][..block_bytes];
            pack_scales(dtype, layout, block, (r, out));
            let quants = &mut out[layout.quants_at()..];
            match dtype {
                DType::F32 | DType::F16 | DType::BF16 => {}
                DType::Q4_0 | DType::IQ4_NL => {
                    pack_units::<4>(quants, r, |_| nibbles(&block[2..]));
                }
                DType::Q4_1 => pack_units::<4>(quants, r, |_| nibbles(&block[4..])),
                DType::MXFP4 => pack_units::<4>(quants, r, |_| nibbles(&block[1..])),
                DType::IQ4_XS => pack_units::<4>(quants, r, |u| nibbles(&block[8 + 16 * u..])),
                DType::Q5_0 => {
                    pack_units::<5>(quants, r, |_| with_bits(nibbles(&block[6..]), word(block, 2)));
                }
                DType::Q5_1 => {
                    pack_units::<5>(quants, r, |_| with_bits(nibbles(&block[8..]), word(block, 4)));
                }
                DType::Q8_0 => {
                    // Adding 128 to a byte flips its top bit.
                    let flip = u32::from(bias) * ONES;
                    pack_units::<8>(quants, r, |_| groups(|g| word(block, 2 + 4 * g) ^ flip));
                }
                DType::Q2_K => pack_units::<2>(quants, r, |u| twos(sized::<64>(block, 16), u)),
                DType::Q3_K => pack_units::<3>(quants, r, |u| {
                    let low = twos(sized::<64>(block, 32), u);
                    let block = sized::<32>(block, 0);
                    groups(|g| low[g] | ((word(block, 4 * g) >> u) & ONES) << 2)
                }),
                DType::Q4_K => pack_units::<4>(quants, r, |u| halves(sized::<128>(block, 16), u)),
                DType::Q5_K => pack_units::<5>(quants, r, |u| {
                    let low = halves(sized::<128>(block, 48), u);
                    let block = sized::<48>(block, 0);
                    groups(|g| low[g] | ((word(block, 16 + 4 * g) >> u) & ONES) << 4)
                }),
                DType::Q6_K => pack_units::<6>(quants, r, |u| {
                    let (n, j) = (u / 4, u % 4);
                    let high = twos(sized::<64>(block, 128), u);
                    let block = sized::<128>(block, 0);
                    groups(|g| {
                        let low = word(block, 64 * n + 32 * (j % 2) + 4 * g) >> (4 * (j / 2));
                        low & NIBBLES | high[g] << 4
                    })
                }),
            }
        }
    }
}

/// A word of each of a unit's 8 groups of 4 columns.
#[inline(always)]
fn groups(f: impl Fn(usize) -> u32) -> [u32; 8] {
    std::array::from_fn(f)
}

/// `N` bytes from `at`.
#[inline(always)]
fn sized<const N: usize>(b: &[u8], at: usize) -> &[u8; N] {
    match b[at..].first_chunk() {
        Some(bytes) => bytes,
        None => unreachable!("callers cut whole blocks"),
    }
}

#[inline(always)]
fn word(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

/// 32 codes in 16 bytes: the first sixteen in the low nibbles.
#[inline(always)]
fn nibbles(b: &[u8]) -> [u32; 8] {
    groups(|g| (word(b, 4 * (g % 4)) >> (4 * (g / 4))) & NIBBLES)
}

/// Unit `u` of Q4_K's and Q5_K's nibbles: 32 bytes hold two units, the even one in the low nibbles.
#[inline(always)]
fn halves(b: &[u8; 128], u: usize) -> [u32; 8] {
    groups(|g| (word(b, 32 * (u / 2) + 4 * g) >> (4 * (u % 2))) & NIBBLES)
}

/// Unit `u` of the K formats' two-bit parts: 32 bytes hold four units.
#[inline(always)]
fn twos(b: &[u8; 64], u: usize) -> [u32; 8] {
    groups(|g| (word(b, 32 * (u / 4) + 4 * g) >> (2 * (u % 4))) & TWOS)
}

/// Bit i of `high` becomes bit 4 of code i.
#[inline(always)]
fn with_bits(codes: [u32; 8], high: u32) -> [u32; 8] {
    // The product puts bit i of a nibble at bit 8i (and elsewhere, which the mask takes away).
    groups(|g| codes[g] | (((high >> (4 * g)) & 15).wrapping_mul(0x0020_4081) & ONES) << 4)
}

/// Writes row `r` of a block's units; `codes` gives a unit's groups.
#[inline(always)]
fn pack_units<const BITS: usize>(out: &mut [u8], r: usize, codes: impl Fn(usize) -> [u32; 8]) {
    let units = out.as_chunks_mut::<4>().0.chunks_exact_mut(BITS * 16);
    // With the sizes said once the compiler takes the checks out of the shifts below.
    assert!(r < LANES);
    for (u, unit) in units.enumerate() {
        assert!(unit.len() == BITS * 16);
        let c = codes(u & 7);
        let mut put = |plane: usize, w: u32| unit[16 * plane + r] = w.to_le_bytes();
        if BITS == 8 {
            for g in 0..8 {
                put(g, c[g]);
            }
            continue;
        }
        let mut plane = 0;
        if BITS >= 4 {
            for g in 0..4 {
                put(g, c[g] & NIBBLES | (c[g + 4] & NIBBLES) << 4);
            }
            plane = 4;
        }
        // What is left above `plane` bits: two, one, or (3 bits) two and one.
        let mut shift = plane;
        if BITS - shift >= 2 {
            for half in 0..2 {
                put(
                    plane + half,
                    (0..4).fold(0, |w, i| w | ((c[4 * half + i] >> shift) & TWOS) << (2 * i)),
                );
            }
            (plane, shift) = (plane + 2, shift + 2);
        }
        if BITS > shift {
            put(plane, (0..8).fold(0, |w, g| w | ((c[g] >> shift) & ONES) << g));
        }
    }
}

/// Row `r` of a block's scales and minima.
fn pack_scales(dtype: DType, layout: &Layout, b: &[u8], (r, out): (usize, &mut [u8])) {
    let d_at = match dtype {
        DType::Q2_K => 80,
        DType::Q3_K => 108,
        DType::Q6_K => 208,
        DType::F32 | DType::F16 | DType::BF16 => return,
        DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => 0,
        DType::Q4_K | DType::Q5_K | DType::IQ4_NL | DType::IQ4_XS | DType::MXFP4 => 0,
    };
    match layout.scale {
        Scale::F16 => out[2 * r..2 * r + 2].copy_from_slice(&b[d_at..d_at + 2]),
        Scale::E8m0 => out[r] = b[d_at],
    }
    if layout.m_bytes > 0 {
        // All formats have `m` right after `d`.
        let at = layout.d_bytes + 2 * r;
        out[at..at + 2].copy_from_slice(&b[d_at + 2..d_at + 4]);
    }
    let mins_at = layout.mins_at();
    for (sub, out_sub) in (0..layout.subs).map(|sub| (sub, layout.scales_at() + sub * LANES + r)) {
        let (scale, min) = sub_scale(dtype, b, sub);
        out[out_sub] = scale;
        if layout.form.min == MinTerm::Subs {
            out[mins_at + sub * LANES + r] = min;
        }
    }
}

/// The integer scale (its bits as i8) and minimum of a sub-block.
fn sub_scale(dtype: DType, b: &[u8], sub: usize) -> (u8, u8) {
    match dtype {
        DType::Q2_K => (b[sub] & 15, b[sub] >> 4),
        DType::Q3_K => {
            let s = &b[96..108];
            let low = (s[sub % 8] >> (4 * (sub / 8))) & 15;
            let top = (s[8 + sub % 4] >> (2 * (sub / 4))) & 3;
            ((low | top << 4).wrapping_sub(32), 0)
        }
        DType::Q4_K | DType::Q5_K => scale_min_k4(sub, &b[4..16]),
        DType::Q6_K => (b[192 + sub], 0),
        DType::IQ4_XS => {
            let low = (b[4 + sub / 2] >> (4 * (sub % 2))) & 15;
            let top = (u16::from_le_bytes([b[2], b[3]]) >> (2 * sub)) & 3;
            ((low | (top as u8) << 4).wrapping_sub(32), 0)
        }
        DType::F32 | DType::F16 | DType::BF16 | DType::MXFP4 | DType::IQ4_NL => (1, 0),
        DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 => (1, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tiles::{decode_row, pack_tile};
    use graph::cases::{Rng, random_tensor};
    use graph::ints::form;

    fn quantised() -> impl Iterator<Item = (DType, Layout)> {
        DType::ALL.into_iter().filter_map(|dtype| Some((dtype, Layout::of(dtype)?)))
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
                pack_rows(dtype, &layout, (&bytes, row_bytes), bias, &mut fast);
                if dtype == DType::MXFP4 {
                    // Two codes mean 0, and the slow way writes one of them: compare what they mean.
                    let (mut a, mut b) = (vec![0.0; n_in], vec![0.0; n_in]);
                    for r in 0..13 {
                        decode_row(&layout, (&slow, r), bias, &mut a);
                        decode_row(&layout, (&fast, r), bias, &mut b);
                        assert_eq!(a, b, "{dtype} row {r}");
                    }
                } else {
                    assert!(slow == fast, "{dtype} bias {bias}");
                }
            }
            formats += 1;
        }
        assert_eq!(formats, 13);
    }

    #[test]
    fn a_row_out_of_a_tile_is_the_decoded_row_of_the_file() {
        let mut rng = Rng::new(8);
        for (dtype, layout) in quantised() {
            let n_in = 3 * form(dtype).map_or(0, |form| form.block);
            for size in [1.0, 1e-6, 1e4] {
                let bytes = random_tensor(&mut rng, dtype, 16 * n_in, size);
                let row_bytes = dtype.row_bytes(n_in);
                for bias in [0, 128] {
                    let mut tile = vec![0; layout.tile_bytes(n_in)];
                    pack_rows(dtype, &layout, (&bytes, row_bytes), bias, &mut tile);
                    let (mut got, mut want) = (vec![0.0; n_in], vec![0.0f32; n_in]);
                    for (r, row) in bytes.chunks(row_bytes).enumerate() {
                        dtype.dequantize(row, &mut want);
                        decode_row(&layout, (&tile, r), bias, &mut got);
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
