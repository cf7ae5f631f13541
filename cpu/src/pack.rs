//! Repacking at load: a row's blocks, as in the file, straight into the bit planes of [`crate::tiles`].
//!
//! Four columns of a row are one 32-bit word of a plane, and the formats hold neighbouring columns in neighbouring bytes
//! too, so a block is moved in words: most planes are the file's words with nibbles or bits regrouped.
//!
//! v1: one code at a time through `graph::ints`, 0.1 GB/s of the file on one thread; it is now the test's oracle
//! ([`crate::tiles::pack_tile`]). v2 (this): words.

use crate::simd::LANES;
use crate::tiles::Layout;
use gguf::{DType, scale_min_k4};

/// Repacks up to 16 rows, `row_bytes` each, into one tile. Missing rows stay as `out` is.
pub(crate) fn pack_rows(
    dtype: DType,
    layout: &Layout,
    (rows, row_bytes): (&[u8], usize),
    bias: u8,
    out: &mut [u8],
) {
    let block_bytes = dtype.block_bytes();
    for (r, row) in rows.chunks_exact(row_bytes).enumerate().take(LANES) {
        for (block, out) in
            row.chunks_exact(block_bytes).zip(out.chunks_exact_mut(layout.block_bytes))
        {
            pack_block(dtype, layout, (block, bias), &mut Row { layout, r, out });
        }
    }
}

/// Where one row's block goes.
struct Row<'a> {
    layout: &'a Layout,
    r: usize,
    out: &'a mut [u8],
}

impl Row<'_> {
    /// Word `plane` of the block's planes, counted over all units.
    #[inline(always)]
    fn plane(&mut self, plane: usize, word: u32) {
        let at = self.layout.quants_at() + 64 * plane + 4 * self.r;
        self.out[at..at + 4].copy_from_slice(&word.to_le_bytes());
    }

    /// The two bytes of `d`.
    fn d(&mut self, d: &[u8]) {
        self.out[2 * self.r..2 * self.r + 2].copy_from_slice(d);
    }

    /// The two bytes of `m`.
    fn m(&mut self, m: &[u8]) {
        let at = self.layout.d_bytes + 2 * self.r;
        self.out[at..at + 2].copy_from_slice(m);
    }

    /// The integer scale of a sub-block.
    #[inline(always)]
    fn scale(&mut self, sub: usize, scale: u8) {
        self.out[self.layout.scales_at() + sub * LANES + self.r] = scale;
    }

    /// The integer minimum of a sub-block.
    #[inline(always)]
    fn min(&mut self, sub: usize, min: u8) {
        self.out[self.layout.mins_at() + sub * LANES + self.r] = min;
    }
}

/// Word `i` of some bytes.
#[inline(always)]
fn word(bytes: &[u8], i: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(i).map_or(0, |four| u32::from_le_bytes(*four))
}

const LOW: u32 = 0x0f0f_0f0f;

/// Nibble planes out of 32 bytes that hold one unit in the low nibbles and another in the high ones.
#[inline(always)]
fn split_nibbles(bytes: &[u8], high: bool) -> [u32; 4] {
    let mut planes = [0; 4];
    for (g, plane) in planes.iter_mut().enumerate() {
        let (a, b) = (word(bytes, g), word(bytes, g + 4));
        *plane = if high { a >> 4 & LOW | b & !LOW } else { a & LOW | (b & LOW) << 4 };
    }
    planes
}

/// A plane of one bit out of 32 bytes, bit `u` of each.
#[inline(always)]
fn bit_plane(bytes: &[u8], u: usize) -> u32 {
    let mut plane = 0;
    for g in 0..8 {
        plane |= (word(bytes, g) >> u & 0x0101_0101) << g;
    }
    plane
}

/// Two planes of two bits out of 32 bytes, bits `at` and `at + 1` of each.
#[inline(always)]
fn two_bit_planes(bytes: &[u8], at: usize) -> [u32; 2] {
    let mut planes = [0; 2];
    for (p, plane) in planes.iter_mut().enumerate() {
        for k in 0..4 {
            *plane |= (word(bytes, 4 * p + k) >> at & 0x0303_0303) << (2 * k);
        }
    }
    planes
}

/// A plane of one bit out of a word whose bit i is column i's.
#[inline(always)]
fn spread_bits(bits: u32) -> u32 {
    let mut plane = 0;
    for c in 0..4 {
        // Bits c, 4 + c, 8 + c, … side by side.
        let x = bits >> c & 0x1111_1111;
        let x = (x | x >> 3) & 0x0303_0303;
        let x = (x | x >> 6) & 0x000f_000f;
        let x = (x | x >> 12) & 0xff;
        plane |= x << (8 * c);
    }
    plane
}

fn pack_block(dtype: DType, layout: &Layout, (b, bias): (&[u8], u8), row: &mut Row<'_>) {
    match dtype {
        DType::F32 | DType::F16 | DType::BF16 => {}
        DType::Q4_0 | DType::IQ4_NL => {
            row.d(&b[..2]);
            (0..4).for_each(|g| row.plane(g, word(&b[2..], g)));
        }
        DType::Q4_1 => {
            row.d(&b[..2]);
            row.m(&b[2..4]);
            (0..4).for_each(|g| row.plane(g, word(&b[4..], g)));
        }
        DType::Q5_0 => {
            row.d(&b[..2]);
            (0..4).for_each(|g| row.plane(g, word(&b[6..], g)));
            row.plane(4, spread_bits(word(&b[2..], 0)));
        }
        DType::Q5_1 => {
            row.d(&b[..2]);
            row.m(&b[2..4]);
            (0..4).for_each(|g| row.plane(g, word(&b[8..], g)));
            row.plane(4, spread_bits(word(&b[4..], 0)));
        }
        DType::Q8_0 => {
            row.d(&b[..2]);
            // The bias is 0 or 128: adding that is flipping the sign bit.
            let flip = u32::from(bias) * 0x0101_0101;
            (0..8).for_each(|g| row.plane(g, word(&b[2..], g) ^ flip));
        }
        DType::MXFP4 => {
            row.out[row.r] = b[0];
            (0..4).for_each(|g| row.plane(g, word(&b[1..], g)));
        }
        DType::Q2_K | DType::Q3_K => pack_two_bits(dtype, layout, b, row),
        DType::Q4_K | DType::Q5_K => pack_k4(dtype, layout, b, row),
        DType::Q6_K => {
            row.d(&b[208..]);
            (0..16).for_each(|sub| row.scale(sub, b[192 + sub]));
            for u in 0..8 {
                let (n, j) = (u / 4, u % 4);
                let nibbles = split_nibbles(&b[64 * n + 32 * (j % 2)..], j >= 2);
                let twos = two_bit_planes(&b[128 + 32 * n..], 2 * j);
                (0..4).for_each(|p| row.plane(u * layout.planes + p, nibbles[p]));
                (0..2).for_each(|p| row.plane(u * layout.planes + 4 + p, twos[p]));
            }
        }
        DType::IQ4_XS => {
            row.d(&b[..2]);
            let high = u16::from_le_bytes([b[2], b[3]]);
            for sub in 0..8 {
                let low = b[4 + sub / 2] >> (4 * (sub % 2)) & 15;
                let scale = low | ((high >> (2 * sub) & 3) << 4) as u8;
                row.scale(sub, scale.wrapping_sub(32));
            }
            (0..32).for_each(|p| row.plane(p, word(&b[8..], p)));
        }
    }
}

/// Q2_K and Q3_K.
fn pack_two_bits(dtype: DType, layout: &Layout, b: &[u8], row: &mut Row<'_>) {
    let qs = if dtype == DType::Q2_K {
        row.d(&b[80..82]);
        row.m(&b[82..84]);
        for (sub, s) in b[..16].iter().enumerate() {
            row.scale(sub, s & 15);
            row.min(sub, s >> 4);
        }
        &b[16..80]
    } else {
        row.d(&b[108..]);
        let s = &b[96..108];
        for sub in 0..16 {
            let low = if sub < 8 { s[sub] & 15 } else { s[sub - 8] >> 4 };
            let top = s[8 + sub % 4] >> (2 * (sub / 4)) & 3;
            row.scale(sub, (low | top << 4).wrapping_sub(32));
        }
        &b[32..96]
    };
    for u in 0..8 {
        let twos = two_bit_planes(&qs[32 * (u / 4)..], 2 * (u % 4));
        (0..2).for_each(|p| row.plane(u * layout.planes + p, twos[p]));
        if dtype == DType::Q3_K {
            row.plane(u * layout.planes + 2, bit_plane(&b[..32], u));
        }
    }
}

/// Q4_K and Q5_K.
fn pack_k4(dtype: DType, layout: &Layout, b: &[u8], row: &mut Row<'_>) {
    row.d(&b[..2]);
    row.m(&b[2..4]);
    for sub in 0..8 {
        let (scale, min) = scale_min_k4(sub, &b[4..16]);
        row.scale(sub, scale);
        row.min(sub, min);
    }
    let qs = if dtype == DType::Q4_K { &b[16..] } else { &b[48..] };
    for u in 0..8 {
        let nibbles = split_nibbles(&qs[32 * (u / 2)..], u % 2 == 1);
        (0..4).for_each(|p| row.plane(u * layout.planes + p, nibbles[p]));
        if dtype == DType::Q5_K {
            row.plane(u * layout.planes + 4, bit_plane(&b[16..48], u));
        }
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
