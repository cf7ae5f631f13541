//! Q5_0: 32 weights in 22 bytes.

use super::facts::{Bits, Block, Codes, Decoder, Encoder, EncoderBy, Quant, Scale, Shape};
use super::fit::{fit_scale, weighed};
use super::{Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by};
use super::{byte, extreme, f16_to_f32, f32_to_f16, inverse, nibbles, pack_nibbles, words};
use bytemuck::{Pod, Zeroable};

/// 32 weights in 22 bytes (5.5 bits each): w = d·(q − 16).
/// `d` is an f16; bit i of `qh` (little-endian) is the upper bit of weight i; byte i of `qs` holds the other four bits
/// of weight i in its low half and of weight i + 16 in its high half.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5_0 {
    d: [u8; 2],
    qh: [u8; 4],
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_0>() == 22);

impl Block for BlockQ5_0 {
    const ID: u32 = 6;
    const FILE_TYPE: u32 = 8;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Five, offset: 16 },
        shape: Shape::One { plus_m: false },
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

impl Decode<32> for BlockQ5_0 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        let q = quants(self.qh, &self.qs);
        for i in 0..32 {
            out[i] = d * f32::from(q[i] as i8 - 16);
        }
    }
}

impl EncodeBy<32> for BlockQ5_0 {
    fn encode_by(weights: &[f32; 32], importance: &Importance<'_, 32>) -> Self {
        let importance = weighed(weights, importance.of, importance.row);
        let mut q = [0; 32];
        let d = fit_scale(weights, &importance, 16, &mut q);
        Self { d: f32_to_f16(d), qh: upper_bits(&q), qs: pack_nibbles(&q) }
    }
}

impl Encode<32> for BlockQ5_0 {
    /// The weight of largest magnitude becomes exactly q = 0, so that it keeps its full size.
    fn encode(weights: &[f32; 32]) -> Self {
        let d = extreme(weights) / -16.0;
        let inverse = inverse(d);
        let q = weights.map(|w| byte(w * inverse + 16.5).min(31) as u8);
        Self { d: f32_to_f16(d), qh: upper_bits(&q), qs: pack_nibbles(&q) }
    }
}

/// The 5-bit numbers of Q5_0 and Q5_1.
pub(super) fn quants(qh: [u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let (high, low) = (u32::from_le_bytes(qh), nibbles(qs));
    std::array::from_fn(|i| low[i] | ((high >> i & 1) << 4) as u8)
}

/// Their upper bits, as `qh` holds them.
pub(super) fn upper_bits(q: &[u8; 32]) -> [u8; 4] {
    (0..32).fold(0, |bits, i| bits | u32::from(q[i] >> 4 & 1) << i).to_le_bytes()
}
