//! Q1_0: 128 weights in 18 bytes, each the scale or its opposite.

use super::facts::{Block, Codes, Decoder, Encoder, Quant, Scale, Shape};
use super::{Decode, Encode, decode_blocks, encode_blocks, f16_to_f32, f32_to_f16, words};
use bytemuck::{Pod, Zeroable};

/// 128 weights in 18 bytes (1.125 bits each): w = ±d, + where the weight's bit of `qs` is set. `d` is an f16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ1_0 {
    d: [u8; 2],
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ1_0>() == 18);

impl Block for BlockQ1_0 {
    const ID: u32 = 41;
    const FILE_TYPE: u32 = 40;
    const QUANT: Quant = Quant {
        codes: Codes::Signs,
        shape: Shape::One { plus_m: false },
        scale: Scale::F16 { at: 0 },
    };
    const PARTS: usize = 4;
    const DECODE: Decoder = decode_blocks::<Self, 128>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 128>);

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::spread(words::word(&self.qs, 4 * unit))
    }
}

impl Decode<128> for BlockQ1_0 {
    fn decode(&self, out: &mut [f32; 128]) {
        let d = f16_to_f32(self.d);
        for (i, out) in out.iter_mut().enumerate() {
            *out = if self.qs[i / 8] >> (i % 8) & 1 == 1 { d } else { -d };
        }
    }
}

impl Encode<128> for BlockQ1_0 {
    /// The scale is the mean magnitude; the sum is in f32, from the first weight on.
    fn encode(weights: &[f32; 128]) -> Self {
        let d = weights.iter().fold(0.0, |sum: f32, w| sum + w.abs()) / 128.0;
        let bit = |i: usize| u8::from(weights[i] >= 0.0) << (i % 8);
        let qs = std::array::from_fn(|b| (0..8).fold(0, |byte, k| byte | bit(8 * b + k)));
        Self { d: f32_to_f16(d), qs }
    }
}
