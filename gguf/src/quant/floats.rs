//! F32, F16 and BF16: one weight in 32, 16 and 16 bits, little-endian. BF16 is the upper half of an f32.

use super::facts::{Facts, Float, Kind};
use super::{f16_to_f32, f32_to_f16};
use half::bf16;

pub(crate) const F32: Facts = Facts {
    id: 0,
    file_type: 0,
    block_len: 1,
    block_bytes: 4,
    parts: 1,
    kind: Kind::Float(Float::F32),
    shorter: None,
    decode: decode_f32,
    encode: Some(encode_f32),
    encode_by: None,
};

pub(crate) const F16: Facts = Facts {
    id: 1,
    file_type: 1,
    block_bytes: 2,
    parts: 1,
    kind: Kind::Float(Float::F16),
    decode: decode_f16,
    encode: Some(encode_f16),
    ..F32
};

pub(crate) const BF16: Facts = Facts {
    id: 30,
    file_type: 32,
    block_bytes: 2,
    parts: 1,
    kind: Kind::Float(Float::BF16),
    decode: decode_bf16,
    encode: Some(encode_bf16),
    ..F32
};

fn decode_f32(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

fn decode_f16(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f16_to_f32(*bytes);
    }
}

fn decode_bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

fn encode_f32(weights: &[f32], out: &mut [u8]) {
    for (out, w) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *out = w.to_le_bytes();
    }
}

fn encode_f16(weights: &[f32], out: &mut [u8]) {
    for (out, &w) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *out = f32_to_f16(w);
    }
}

/// Ties to even; a NaN keeps its sign and upper bits and becomes quiet.
fn encode_bf16(weights: &[f32], out: &mut [u8]) {
    for (out, &w) in out.as_chunks_mut().0.iter_mut().zip(weights) {
        *out = bf16::from_f32(w).to_le_bytes();
    }
}
