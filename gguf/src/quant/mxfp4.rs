//! MXFP4: 32 weights in 17 bytes, 4-bit floats under a power of two (OCP Microscaling).

use super::{Block, nibbles};
use bytemuck::{Pod, Zeroable};

/// Twice the values of E2M1, which makes them integers; the scale is halved to match ([`half_power`]).
pub static MXFP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 weights in 17 bytes (4.25 bits each): w = 2^(e − 128)·MXFP4_VALUES\[q\]. `qs` as in Q4_0.
/// The format calls e = 255 NaN; ggml computes 2^127 with it, and so does karat.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct BlockMxfp4 {
    e: u8,
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockMxfp4>() == 17);

impl Block<32> for BlockMxfp4 {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = half_power(self.e);
        let values = MXFP4_VALUES.map(|v| d * f32::from(v));
        let q = nibbles(&self.qs);
        for i in 0..32 {
            out[i] = values[usize::from(q[i] & 15)];
        }
    }
}

/// MXFP4's scale for [`MXFP4_VALUES`]: 2^(e − 128), which is an f32 denormal for e of 0 and 1.
pub fn half_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 })
}
