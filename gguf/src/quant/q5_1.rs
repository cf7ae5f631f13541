//! Q5_1: 32 weights in 24 bytes, with a minimum.

use super::facts::{Bits, Block, Codes, Decoder, Encoder, EncoderBy, Quant, Scale, Shape};
use super::fit::{Search, fit_scale_min, weighed};
use super::q5_0::{quants, upper_bits};
use super::{Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by};
use super::{byte, f16_to_f32, f32_to_f16, inverse, pack_nibbles, range, words};
use bytemuck::{Pod, Zeroable};

/// 32 weights in 24 bytes (6 bits each): w = d·q + m.
/// `d` and `m` are f16; `qh` and `qs` as in Q5_0.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5_1 {
    d: [u8; 2],
    m: [u8; 2],
    qh: [u8; 4],
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_1>() == 24);

impl Block for BlockQ5_1 {
    const ID: u32 = 7;
    const FILE_TYPE: u32 = 9;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Five, offset: 0 },
        shape: Shape::One { plus_m: true },
        scale: Scale::F16 { at: 0 },
    };
    const DECODE: Decoder = decode_blocks::<Self, 32>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 32>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 32>);

    #[inline(always)]
    fn codes(&self, _: usize) -> [u32; 8] {
        let high = words::spread(u32::from_le_bytes(self.qh));
        words::joined(words::nibbles(&self.qs), high, 4)
    }
}

impl Decode<32> for BlockQ5_1 {
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (f16_to_f32(self.d), f16_to_f32(self.m));
        let q = quants(self.qh, &self.qs);
        for i in 0..32 {
            out[i] = d * f32::from(q[i]) + m;
        }
    }
}

impl EncodeBy<32> for BlockQ5_1 {
    fn encode_by(weights: &[f32; 32], importance: &Importance<'_, 32>) -> Self {
        let importance = weighed(weights, importance.of, importance.row);
        let mut q = [0; 32];
        let line = fit_scale_min(weights, &importance, &Search::by_matrix(31), &mut q);
        let (d, m) = (f32_to_f16(line.scale), f32_to_f16(-line.min));
        Self { d, m, qh: upper_bits(&q), qs: pack_nibbles(&q) }
    }
}

impl Encode<32> for BlockQ5_1 {
    fn encode(weights: &[f32; 32]) -> Self {
        let (min, max) = range(weights);
        let d = (max - min) / 31.0;
        let inverse = inverse(d);
        // The greatest weight gives 31.5 at most, so nothing is cut off.
        let q = weights.map(|w| byte((w - min) * inverse + 0.5) as u8);
        Self { d: f32_to_f16(d), m: f32_to_f16(min), qh: upper_bits(&q), qs: pack_nibbles(&q) }
    }
}
