//! F32, F16 and BF16: one weight in 32, 16 and 16 bits, little-endian. BF16 is the upper half of an f32.

use super::{f16_to_f32, f32_to_f16};
use half::bf16;

pub(super) fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

pub(super) fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f16_to_f32(*bytes);
    }
}

pub(super) fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

pub(super) fn encode_f32(weights: &[f32], out: &mut [u8]) {
    for (out, w) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *out = w.to_le_bytes();
    }
}

pub(super) fn encode_f16(weights: &[f32], out: &mut [u8]) {
    for (out, &w) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *out = f32_to_f16(w);
    }
}

/// Ties to even; a NaN keeps its sign and upper bits and becomes quiet.
pub(super) fn encode_bf16(weights: &[f32], out: &mut [u8]) {
    for (out, &w) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *out = bf16::from_f32(w).to_le_bytes();
    }
}
