//! MXFP4: 32 weights in 17 bytes, 4-bit floats under a power of two (OCP Microscaling).

use super::facts::{Block, Codes, Decoder, Encoder, Quant, Scale, Shape};
use super::{Decode, Encode, byte, decode_blocks, encode_blocks, nibbles, pack_nibbles, words};
use bytemuck::{Pod, Zeroable};

/// Twice the values of E2M1, which makes them integers; the scale is halved to match ([`half_power`]).
static MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 weights in 17 bytes (4.25 bits each): w = 2^(e − 128)·MXFP4_VALUES\[q\]. `qs` as in Q4_0.
/// The format calls e = 255 NaN; ggml computes 2^127 with it, and so does karat.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockMxfp4 {
    e: u8,
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockMxfp4>() == 17);

impl Block for BlockMxfp4 {
    const ID: u32 = 39;
    const FILE_TYPE: u32 = 38;
    const QUANT: Quant = Quant {
        codes: Codes::Table(&MXFP4_VALUES),
        shape: Shape::One { plus_m: false },
        scale: Scale::E8m0 { at: 0 },
    };
    const DECODE: Decoder = decode_blocks::<Self, 32>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 32>);

    #[inline(always)]
    fn codes(&self, _: usize) -> [u32; 8] {
        words::nibbles(&self.qs)
    }
}

impl Decode<32> for BlockMxfp4 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = half_power(self.e);
        let values = MXFP4_VALUES.map(|v| d * f32::from(v));
        let q = nibbles(&self.qs);
        for i in 0..32 {
            out[i] = values[usize::from(q[i] & 15)];
        }
    }
}

impl Encode<32> for BlockMxfp4 {
    /// The largest magnitude lies between 4 and 8 times the scale, of which the format reaches 6.
    fn encode(weights: &[f32; 32]) -> Self {
        let max = weights.iter().fold(0.0, |max: f32, w| if max < w.abs() { w.abs() } else { max });
        // Below 2^-125 the exponent is negative, and its low byte is what llama.cpp writes.
        let e = if max > 0.0 { byte(floor_log2(max) + 125.0) as u8 } else { 0 };
        let d = half_power(e);
        let values = MXFP4_VALUES.map(|v| f32::from(v) * d);
        let place = |w: f32| {
            let (mut best, mut least) = (0, (values[0] - w).abs());
            for (place, value) in (0..).zip(values).skip(1) {
                let error = (value - w).abs();
                if error < least {
                    (best, least) = (place, error);
                }
            }
            best
        };
        Self { e, qs: pack_nibbles(&weights.map(place)) }
    }
}

/// ⌊log2 x⌋ where the logarithm is first rounded to f32, as C's `log2f` does: numbers just below a power of two count as
/// that power.
fn floor_log2(x: f32) -> f32 {
    (f64::from(x).log2() as f32).floor()
}

/// The scale of a block of MXFP4 for twice the values of E2M1: 2^(e − 128), which is an f32 denormal for e of 0 and 1.
pub fn half_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}
