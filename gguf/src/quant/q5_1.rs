//! Q5_1: 32 weights in 24 bytes, with a minimum.

use super::q5_0::{quants, upper_bits};
use super::{Block, Encode, f16_to_f32, f32_to_f16, inverse, pack_nibbles, range};
use bytemuck::{Pod, Zeroable};

/// 32 weights in 24 bytes (6 bits each): w = d·q + m.
/// `d` and `m` are f16; `qh` and `qs` as in Q5_0.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct BlockQ5_1 {
    d: [u8; 2],
    m: [u8; 2],
    qh: [u8; 4],
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockQ5_1>() == 24);

impl Block<32> for BlockQ5_1 {
    fn decode(&self, out: &mut [f32; 32]) {
        let (d, m) = (f16_to_f32(self.d), f16_to_f32(self.m));
        let q = quants(self.qh, &self.qs);
        for i in 0..32 {
            out[i] = d * f32::from(q[i]) + m;
        }
    }
}

impl Encode<32> for BlockQ5_1 {
    fn encode(weights: &[f32; 32]) -> Self {
        let (min, max) = range(weights);
        let d = (max - min) / 31.0;
        let inverse = inverse(d);
        // The greatest weight gives 31.5 at most, so nothing is cut off.
        let q = weights.map(|w| ((w - min) * inverse + 0.5) as u8);
        Self { d: f32_to_f16(d), m: f32_to_f16(min), qh: upper_bits(&q), qs: pack_nibbles(&q) }
    }
}
