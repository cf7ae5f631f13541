//! Q8_0: 32 weights in 34 bytes.

use super::facts::{Block, Codes, Decoder, Encoder, Quant, Scale, Shape};
use super::{Decode, Encode, decode_blocks, encode_blocks};
use super::{byte, f16_to_f32, f32_to_f16, inverse, words};
use bytemuck::{Pod, Zeroable};

/// 32 weights in 34 bytes (8.5 bits each): w = d·q. `d` is an f16.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ8_0 {
    d: [u8; 2],
    qs: [i8; 32],
}
const _: () = assert!(size_of::<BlockQ8_0>() == 34);

impl Block for BlockQ8_0 {
    const ID: u32 = 8;
    const FILE_TYPE: u32 = 7;
    const QUANT: Quant = Quant {
        codes: Codes::Bytes,
        shape: Shape::One { plus_m: false },
        scale: Scale::F16 { at: 0 },
    };
    const DECODE: Decoder = decode_blocks::<Self, 32>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 32>);

    #[inline(always)]
    fn codes(&self, _: usize) -> [u32; 8] {
        let bytes: &[u8; 32] = bytemuck::cast_ref(&self.qs);
        words::words(|g| words::word(bytes, 4 * g))
    }

    /// No encoder writes -128.
    fn make_plausible(&mut self) {
        self.qs.iter_mut().filter(|q| **q == -128).for_each(|q| *q = -127);
    }
}

impl Decode<32> for BlockQ8_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        for i in 0..32 {
            out[i] = d * f32::from(self.qs[i]);
        }
    }
}

impl Encode<32> for BlockQ8_0 {
    fn encode(weights: &[f32; 32]) -> Self {
        let max = weights.iter().fold(0.0, |max: f32, w| if max > w.abs() { max } else { w.abs() });
        let d = max / 127.0;
        let inverse = inverse(d);
        // Ties away from zero, as C's roundf.
        Self { d: f32_to_f16(d), qs: weights.map(|w| byte((w * inverse).round())) }
    }
}
