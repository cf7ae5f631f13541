//! Q4_0: 32 weights in 18 bytes.

use super::facts::{Bits, Block, Codes, Decoder, Encoder, EncoderBy, Quant, Scale, Shape};
use super::fit::{fit_scale, weighed};
use super::{Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by};
use super::{byte, extreme, f16_to_f32, f32_to_f16, inverse, nibbles, pack_nibbles, words};
use bytemuck::{Pod, Zeroable};

/// 32 weights in 18 bytes (4.5 bits each): w = d·(q − 8).
/// `d` is an f16; byte i of `qs` holds q of weight i in its low half and of weight i + 16 in its high half.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4_0 {
    d: [u8; 2],
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ4_0>() == 18);

impl Block for BlockQ4_0 {
    const ID: u32 = 2;
    const FILE_TYPE: u32 = 2;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Four, offset: 8 },
        shape: Shape::One { plus_m: false },
        scale: Scale::F16 { at: 0 },
    };
    const DECODE: Decoder = decode_blocks::<Self, 32>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 32>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 32>);

    #[inline(always)]
    fn codes(&self, _: usize) -> [u32; 8] {
        words::nibbles(&self.qs)
    }
}

impl Decode<32> for BlockQ4_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        let q = nibbles(&self.qs);
        for i in 0..32 {
            out[i] = d * f32::from(q[i] as i8 - 8);
        }
    }
}

impl EncodeBy<32> for BlockQ4_0 {
    fn encode_by(weights: &[f32; 32], importance: &Importance<'_, 32>) -> Self {
        let importance = weighed(weights, importance.of, importance.row);
        let mut q = [0; 32];
        let d = fit_scale(weights, &importance, 8, &mut q);
        Self { d: f32_to_f16(d), qs: pack_nibbles(&q) }
    }
}

impl Encode<32> for BlockQ4_0 {
    /// The weight of largest magnitude becomes exactly q = 0, so that it keeps its full size.
    fn encode(weights: &[f32; 32]) -> Self {
        let d = extreme(weights) / -8.0;
        let inverse = inverse(d);
        let q = weights.map(|w| byte(w * inverse + 8.5).min(15) as u8);
        Self { d: f32_to_f16(d), qs: pack_nibbles(&q) }
    }
}
