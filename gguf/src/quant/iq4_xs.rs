//! IQ4_XS: 256 weights in 136 bytes, eight groups of 32 on IQ4_NL's grid.

use super::iq4_nl::IQ4_NL_VALUES;
use super::{Block, f16_to_f32, nibbles};
use bytemuck::{Pod, Zeroable};

/// 256 weights in 136 bytes (4.25 bits each): w = d·(scale − 32)·IQ4_NL_VALUES\[q\], with a 6-bit scale per group of 32.
/// `d` is an f16. The lower four bits of scale i are in byte ⌊i/2⌋ of `scales_low` (the low half for even i), the upper
/// two are bits 2i of `scales_high` (little-endian). Each group has 16 bytes of `qs`, as in Q4_0.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct BlockIq4Xs {
    d: [u8; 2],
    scales_high: [u8; 2],
    scales_low: [u8; 4],
    qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockIq4Xs>() == 136);

impl Block<256> for BlockIq4Xs {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        let (high, qs) = (u16::from_le_bytes(self.scales_high), self.qs.as_chunks::<16>().0);
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let low = self.scales_low[g / 2] >> (4 * (g % 2)) & 15;
            let scale = d * f32::from((low | ((high >> (2 * g) & 3) << 4) as u8) as i8 - 32);
            let values = IQ4_NL_VALUES.map(|v| scale * f32::from(v));
            let q = nibbles(&qs[g]);
            for i in 0..32 {
                out[i] = values[usize::from(q[i] & 15)];
            }
        }
    }
}
