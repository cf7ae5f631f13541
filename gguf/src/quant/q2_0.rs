//! Q2_0: 64 weights in 18 bytes.

use super::facts::{Bits, Block, Codes, Decoder, Encoder, Quant, Scale, Shape};
use super::{Decode, Encode, decode_blocks, encode_blocks, f16_to_f32, f32_to_f16, inverse, words};
use bytemuck::{Pod, Zeroable};

/// 64 weights in 18 bytes (2.25 bits each): w = d·(q − 1). `d` is an f16; a byte of `qs` has four weights, the first in its
/// lowest bits.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ2_0 {
    d: [u8; 2],
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ2_0>() == 18);

impl Block for BlockQ2_0 {
    const ID: u32 = 42;
    const FILE_TYPE: u32 = 41;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Two, offset: 1 },
        shape: Shape::One { plus_m: false },
        scale: Scale::F16 { at: 0 },
    };
    const PARTS: usize = 2;
    const DECODE: Decoder = decode_blocks::<Self, 64>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 64>);

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::spread_twos(&self.qs.as_chunks().0[unit])
    }
}

impl Decode<64> for BlockQ2_0 {
    fn decode(&self, out: &mut [f32; 64]) {
        let d = f16_to_f32(self.d);
        for (i, out) in out.iter_mut().enumerate() {
            *out = (f32::from(self.qs[i / 4] >> (2 * (i % 4)) & 3) - 1.0) * d;
        }
    }
}

impl Encode<64> for BlockQ2_0 {
    /// The scale is the largest magnitude, so that q = 3 is never written.
    fn encode(weights: &[f32; 64]) -> Self {
        let d = weights.iter().fold(0.0, |max: f32, w| if w.abs() > max { w.abs() } else { max });
        let inverse = inverse(d);
        let q = |i: usize| {
            // Where the scale has no inverse, C on x86 makes the least integer of the quotient.
            let place = (weights[i] * inverse).round();
            if place.is_finite() { (place.clamp(-1.0, 2.0) + 1.0) as u8 } else { 0 }
        };
        let qs = std::array::from_fn(|b| (0..4).fold(0, |byte, k| byte | q(4 * b + k) << (2 * k)));
        Self { d: f32_to_f16(d), qs }
    }
}
