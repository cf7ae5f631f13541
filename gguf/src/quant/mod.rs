//! The block formats: one file each, with the layout in words, what others ask about it ([`Block`]), the decoder and the
//! encoder. A line in `dtype.rs` registers it. What they share is here (halves, walking over blocks), in `words.rs`,
//! `scale_min.rs` and `fit.rs`.
//!
//! Decoders give the bits that the PyPI package `gguf` gives, encoders the bytes that llama-quantize writes. Both
//! follow from the order of the f32 steps, so no step here may be fused or reordered.
#![allow(
    unsafe_code,
    reason = "bytemuck's derive writes `unsafe impl Pod`, and proves it by the fields"
)]

mod facts;
mod fit;
pub(crate) mod floats;
mod grids;
pub(crate) mod iq1_m;
pub(crate) mod iq1_s;
pub(crate) mod iq2_s;
pub(crate) mod iq2_xs;
pub(crate) mod iq2_xxs;
pub(crate) mod iq3_s;
pub(crate) mod iq3_xxs;
pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
mod lines;
pub(crate) mod mxfp4;
pub(crate) mod q1_0;
pub(crate) mod q2_0;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
mod scale_min;
pub(crate) mod tq1_0;
pub(crate) mod tq2_0;
mod words;

pub(crate) use facts::Facts;
pub use facts::{
    Bits, Block, Codes, Decoder, Encoder, EncoderBy, Float, Half, Kind, Quant, Run, RunScale,
    Scale, Shape, Visit,
};
pub use mxfp4::half_power;

use bytemuck::Pod;

/// One block of `N` weights.
trait Decode<const N: usize>: Pod {
    fn decode(&self, out: &mut [f32; N]);
}

/// A block made of its weights.
trait Encode<const N: usize>: Pod {
    fn encode(weights: &[f32; N]) -> Self;
}

/// A block made of its weights by an importance matrix.
trait EncodeBy<const N: usize>: Encode<N> {
    fn encode_by(weights: &[f32; N], importance: &Importance<'_, N>) -> Self;
}

/// How much the errors of a block's weights count.
struct Importance<'a, const N: usize> {
    /// That of each weight.
    of: &'a [f32; N],
    /// The mean square of the row's weights, beside which the short blocks see their own.
    row: f32,
}

fn decode_blocks<B: Decode<N>, const N: usize>(bytes: &[u8], out: &mut [f32]) {
    let blocks: &[B] = bytemuck::cast_slice(bytes);
    for (block, out) in blocks.iter().zip(out.as_chunks_mut().0) {
        block.decode(out);
    }
}

/// Decodes by what a block says of itself, `w = d · scale · q`: right to the bit where every product is exact, whatever the
/// order. That is where an f16 is multiplied by integers of 13 bits together: the formats with grids, and the ternary ones.
fn decode_exact<B: Block>(bytes: &[u8], out: &mut [f32]) {
    let Quant { codes, scale, .. } = B::QUANT;
    let blocks = B::all(bytes).iter().zip(bytes.chunks_exact(size_of::<B>()));
    for ((block, bytes), out) in blocks.zip(out.as_chunks_mut::<256>().0) {
        let d = scale.d(bytes);
        for (unit, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (g, word) in block.codes(unit).into_iter().enumerate() {
                let run = (32 * unit + 4 * g) / block_run(B::QUANT.shape);
                let scale = d * f32::from(block.run(run).scale);
                for (out, code) in out[4 * g..][..4].iter_mut().zip(word.to_le_bytes()) {
                    *out = scale * f32::from(codes.value(code));
                }
            }
        }
    }
}

/// Weights that share a scale.
const fn block_run(shape: Shape) -> usize {
    match shape {
        Shape::One { .. } => 32,
        Shape::Runs { run, .. } => run.elements(),
    }
}

fn encode_blocks<B: Encode<N>, const N: usize>(weights: &[f32], out: &mut [u8]) {
    let blocks: &mut [B] = bytemuck::cast_slice_mut(out);
    for (block, weights) in blocks.iter_mut().zip(weights.as_chunks().0) {
        *block = B::encode(weights);
    }
}

/// The blocks of one row.
fn encode_row_by<B: EncodeBy<N>, const N: usize>(row: &[f32], importance: &[f32], out: &mut [u8]) {
    let mean_square = fit::sum_of_squares(row) / row.len() as f32;
    let blocks: &mut [B] = bytemuck::cast_slice_mut(out);
    let weights = row.as_chunks().0.iter().zip(importance.as_chunks().0);
    for (block, (weights, of)) in blocks.iter_mut().zip(weights) {
        *block = B::encode_by(weights, &Importance { of, row: mean_square });
    }
}

/// An f16 as f32, without a branch, so that loops over it become vector code on every machine.
///
/// The exponent of a normal number is moved by a multiplication with 2⁻¹¹², which also keeps infinity and NaN. A
/// denormal is placed under the exponent of ½, which is then taken away again. No step works on f32 denormals, which
/// some CPUs are a hundred times slower with.
fn f16_to_f32(bytes: [u8; 2]) -> f32 {
    let bits = u32::from(u16::from_le_bytes(bytes)) << 16;
    let twice = bits << 1;
    let normal = f32::from_bits((twice >> 4) + (0xe0 << 23)) * f32::from_bits(15 << 23);
    let denormal = f32::from_bits((twice >> 17) | (126 << 23)) - 0.5;
    let magnitude = if twice < 1 << 27 { denormal } else { normal };
    f32::from_bits(bits & 0x8000_0000 | magnitude.to_bits())
}

/// The nearest f16, ties to even, little-endian.
fn f32_to_f16(x: f32) -> [u8; 2] {
    half::f16::from_f32(x).to_le_bytes()
}

/// The 4-bit numbers of bytes, as the 32-wide formats lay them: the low halves, then the high halves.
fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

/// The other way round. Numbers over 15 lose their upper bits.
fn pack_nibbles(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| q[i] & 15 | q[i + 16] << 4)
}

/// The weight of largest magnitude with its sign, the first of equals; 0 where all are 0.
fn extreme<const N: usize>(weights: &[f32; N]) -> f32 {
    weights.iter().fold(0.0, |max: f32, &w| if max.abs() < w.abs() { w } else { max })
}

/// Numbers of two bits as Q2_K and Q3_K lay them: byte l of the n-th 32 has those of the weights 128n + l, + 32, + 64 and
/// + 96, the first in its lowest bits.
fn pack_twos(q: &[u8; 256]) -> [u8; 64] {
    std::array::from_fn(|i| {
        let at = i / 32 * 128 + i % 32;
        (0..4).fold(0, |bits, k| bits | (q[at + 32 * k] & 3) << (2 * k))
    })
}

/// The bits of eight signs of which seven are stored: there is an even number of minuses.
fn even_signs(seven: u32) -> u32 {
    seven | (seven.count_ones() & 1) << 7
}

/// The bits of 32 signs, of which each eight are stored as seven bits.
fn four_even_signs(bits: u32) -> u32 {
    (0..4).fold(0, |signs, l| signs | even_signs(bits >> (7 * l) & 127) << (8 * l))
}

/// Least and greatest weight.
fn range(weights: &[f32; 32]) -> (f32, f32) {
    let (mut min, mut max) = (f32::MAX, -f32::MAX);
    for &w in weights {
        min = if w < min { w } else { min };
        max = if w > max { w } else { max };
    }
    (min, max)
}

/// A float as a signed byte, as C on x86 makes one: the low byte of the whole number, and 0 where that fits no i32. Only
/// blocks whose weights are all below 1e-37 have such floats, as the inverse of their scale is infinite.
fn byte(x: f32) -> i8 {
    if x.abs() < 2_147_483_648.0 { x as i32 as i8 } else { 0 }
}

/// `1 / d`, or 0 for 0: the weights of a block without spread all get the quant 0.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_exact() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) =
                (f16_to_f32(bits.to_le_bytes()), half::f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()),
                "{bits:#x}"
            );
        }
    }
}
