//! Finds weights that no model can have: scales that are NaN or infinite, and rows that are zero throughout.

use half::{bf16, f16};

use crate::dtype::DType;
use crate::quant::{Float, Kind, Quant, Scale};

/// The first block of `data` with a NaN or an infinity where a scale belongs; for F32, F16 and BF16 a block is one
/// weight. `data` holds whole blocks; a rest that is no block is not looked at.
pub fn check_tensor(dtype: DType, data: &[u8]) -> Option<usize> {
    data.chunks_exact(dtype.block_bytes()).position(|block| !scales_are_finite(dtype, block))
}

/// [`check_tensor`] for a tensor of a name: `output.bias` may be −∞, which keeps an id out of every text.
pub fn check_named(name: &str, dtype: DType, data: &[u8]) -> Option<usize> {
    let Kind::Float(_) = dtype.kind() else { return check_tensor(dtype, data) };
    if name != "output.bias" {
        return check_tensor(dtype, data);
    }
    let is_right = |x: f32| x.is_finite() || x == f32::NEG_INFINITY;
    data.chunks_exact(dtype.block_bytes()).position(|block| !scales(dtype, block).all(is_right))
}

/// The first row of `data` whose every block has the scale zero (and so every weight), where a row
/// has `row_bytes` bytes. A padded vocabulary has such rows rightly, so this is a hint and no error.
/// MXFP4's scales cannot be zero.
pub fn first_zero_row(dtype: DType, row_bytes: usize, data: &[u8]) -> Option<usize> {
    if row_bytes == 0 {
        return None;
    }
    data.chunks_exact(row_bytes).position(|row| {
        row.chunks_exact(dtype.block_bytes())
            .all(|block| scales(dtype, block).all(|scale| scale == 0.0))
    })
}

fn scales_are_finite(dtype: DType, block: &[u8]) -> bool {
    scales(dtype, block).all(f32::is_finite)
}

/// The floating-point numbers of one block that multiply its integers: where all are zero, so is every weight.
fn scales(dtype: DType, block: &[u8]) -> impl Iterator<Item = f32> {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let (a, b) = match dtype.kind() {
        Kind::Float(Float::F32) => {
            (f32::from_le_bytes([block[0], block[1], block[2], block[3]]), None)
        }
        Kind::Float(Float::F16) => (half(0), None),
        Kind::Float(Float::BF16) => (bf16::from_le_bytes([block[0], block[1]]).to_f32(), None),
        Kind::Quant(Quant { shape, scale, .. }) => match scale {
            Scale::F16 { at } => (half(at), shape.has_m().then(|| half(at + 2))),
            Scale::Fraction { of, .. } => (f16::from_le_bytes(of.get(block)).to_f32(), None),
            Scale::E8m0 { at } => (if block[at] == 0xff { f32::NAN } else { 1.0 }, None),
        },
    };
    std::iter::once(a).chain(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Byte offsets of the scales in a block, by ggml-common.h; for floats, of the weight.
    fn scale_offsets(dtype: DType) -> &'static [usize] {
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => &[0],
            DType::Q4_0
            | DType::Q5_0
            | DType::Q8_0
            | DType::IQ4_NL
            | DType::IQ4_XS
            | DType::MXFP4
            | DType::IQ2_XXS
            | DType::IQ2_XS
            | DType::IQ2_S
            | DType::IQ3_XXS
            | DType::IQ3_S
            | DType::IQ1_S
            | DType::Q1_0
            | DType::Q2_0 => &[0],
            // Four u16 whose highest nibbles it is.
            DType::IQ1_M => &[48],
            DType::TQ1_0 => &[52],
            DType::TQ2_0 => &[64],
            DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => &[0, 2],
            DType::Q2_K => &[80, 82],
            DType::Q3_K => &[108],
            DType::Q6_K => &[208],
        }
    }

    #[test]
    fn a_mask_is_right_in_the_bias_of_the_output_alone() {
        let bytes =
            |values: &[f32]| values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let mask = bytes(&[1.0, f32::NEG_INFINITY, 2.0]);
        assert_eq!(check_named("output.bias", DType::F32, &mask), None);
        assert_eq!(check_named("blk.0.attn_q.bias", DType::F32, &mask), Some(1));
        for bad in [f32::NAN, f32::INFINITY] {
            let data = bytes(&[f32::NEG_INFINITY, 0.0, bad]);
            assert_eq!(check_named("output.bias", DType::F32, &data), Some(2), "{bad}");
        }
        let half = f16::NEG_INFINITY.to_le_bytes();
        assert_eq!(check_named("output.bias", DType::F16, &half), None);
    }

    /// NaN and both infinities as the scale of a block has them.
    fn bad_scales(dtype: DType) -> Vec<Vec<u8>> {
        match dtype {
            DType::F32 => [f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
                .map(|v| v.to_le_bytes().to_vec())
                .to_vec(),
            DType::BF16 => [bf16::NAN, bf16::INFINITY, bf16::NEG_INFINITY]
                .map(|v| v.to_le_bytes().to_vec())
                .to_vec(),
            DType::MXFP4 => vec![vec![0xff]],
            DType::F16
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
            | DType::IQ2_XXS
            | DType::IQ2_XS
            | DType::IQ2_S
            | DType::IQ3_XXS
            | DType::IQ3_S
            | DType::IQ1_S
            | DType::IQ1_M
            | DType::TQ1_0
            | DType::TQ2_0
            | DType::Q1_0
            | DType::Q2_0 => [f16::NAN, f16::INFINITY, f16::NEG_INFINITY]
                .map(|v| v.to_le_bytes().to_vec())
                .to_vec(),
        }
    }

    /// Writes a scale into a block.
    fn put(dtype: DType, block: &mut [u8], at: usize, scale: &[u8]) {
        if dtype != DType::IQ1_M {
            return block[at..at + scale.len()].copy_from_slice(scale);
        }
        for (i, nibble) in
            [scale[0] & 15, scale[0] >> 4, scale[1] & 15, scale[1] >> 4].into_iter().enumerate()
        {
            let byte = &mut block[at + 1 + 2 * i];
            *byte = *byte & 15 | nibble << 4;
        }
    }

    #[test]
    fn row_38_bad_scales_are_found_by_block() {
        for dtype in DType::ALL {
            let bytes = dtype.block_bytes();
            // Every byte 0x11 is a finite scale in all formats.
            let good = vec![0x11; 5 * bytes];
            assert_eq!(check_tensor(dtype, &good), None, "{dtype}");
            for &at in scale_offsets(dtype) {
                for bad in bad_scales(dtype) {
                    let mut data = good.clone();
                    put(dtype, &mut data[3 * bytes..][..bytes], at, &bad);
                    assert_eq!(check_tensor(dtype, &data), Some(3), "{dtype} at {at}");
                }
            }
            // All ones everywhere but in the scales is a matter of the integers and is fine.
            let mut data = vec![0xff; bytes];
            for &at in scale_offsets(dtype) {
                let width = if dtype == DType::F32 { 4 } else { 2 };
                put(dtype, &mut data, at, &[0x11; 4][..width.min(bytes - at)]);
            }
            assert_eq!(check_tensor(dtype, &data), None, "{dtype}");
        }
    }

    #[test]
    fn row_38_zero_rows_are_found() {
        for dtype in DType::ALL {
            let row = 2 * dtype.block_bytes();
            let mut data = vec![0x11; 4 * row];
            assert_eq!(first_zero_row(dtype, row, &data), None, "{dtype}");
            // The second block of row 1 and all of row 2.
            data[row + row / 2..3 * row].fill(0);
            let expect = (dtype != DType::MXFP4).then_some(2);
            assert_eq!(first_zero_row(dtype, row, &data), expect, "{dtype}");
        }
        assert_eq!(first_zero_row(DType::F32, 0, &[]), None);
    }

    #[test]
    fn row_38_agrees_with_the_decoders() {
        // Random bytes: a block is bad exactly if a weight of it is NaN or infinite.
        let mut state = 1u64;
        for dtype in DType::ALL {
            let (mut bad, mut good) = (0, 0);
            for _ in 0..20_000 {
                let mut block = vec![0; dtype.block_bytes()];
                for byte in &mut block {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    *byte = (state >> 56) as u8;
                }
                // Often enough an exponent of all ones.
                if state >> 32 & 7 == 0 {
                    let at = scale_offsets(dtype)[0];
                    block[at..(at + 4).min(dtype.block_bytes())].fill(0xff);
                }
                if dtype == DType::MXFP4 {
                    // Of 253 and 254 the largest quants overflow; ggml accepts them, and 255 decodes as finite.
                    block[0] %= 253;
                }
                let mut weights = vec![0.0; dtype.block_len()];
                dtype.dequantize(&block, &mut weights);
                let finite = weights.iter().all(|w| w.is_finite());
                assert_eq!(
                    check_tensor(dtype, &block),
                    (!finite).then_some(0),
                    "{dtype} {block:?}"
                );
                good += usize::from(finite);
                bad += usize::from(!finite);
            }
            assert!(
                good > 0 && (bad > 0 || dtype == DType::MXFP4),
                "{dtype}: {good} good, {bad} bad"
            );
        }
    }
}
