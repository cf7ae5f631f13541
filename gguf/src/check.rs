//! Finds weights that no model can have: scales that are NaN or infinite, and rows that are zero throughout.

use half::{bf16, f16};

use crate::dtype::DType;

/// The first block of `data` with a NaN or an infinity where a scale belongs; for F32, F16 and BF16 a block is one
/// weight. `data` holds whole blocks; a rest that is no block is not looked at.
pub fn check_tensor(dtype: DType, data: &[u8]) -> Option<usize> {
    data.chunks_exact(dtype.block_bytes()).position(|block| !scales_are_finite(dtype, block))
}

/// The first row of `data` whose weights are all zero, where a row has `row_bytes` bytes. A padded vocabulary has
/// such rows rightly, so this is a hint and no error.
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
    let (a, b) = match dtype {
        DType::F32 => (f32::from_le_bytes([block[0], block[1], block[2], block[3]]), None),
        DType::F16 => (half(0), None),
        DType::BF16 => (bf16::from_le_bytes([block[0], block[1]]).to_f32(), None),
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4_NL | DType::IQ4_XS => (half(0), None),
        DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K => (half(0), Some(half(2))),
        // The scale and the minimum's scale come after 16 bytes of scales and 64 of weights.
        DType::Q2_K => (half(80), Some(half(82))),
        // After 32 bytes of high bits, 64 of low bits and 12 of scales.
        DType::Q3_K => (half(108), None),
        // After 128 bytes of low bits, 64 of high bits and 16 of scales.
        DType::Q6_K => (half(208), None),
        // A power of two, where 255 stands for NaN.
        DType::MXFP4 => (if block[0] == 0xff { f32::NAN } else { 1.0 }, None),
    };
    std::iter::once(a).chain(b)
}
