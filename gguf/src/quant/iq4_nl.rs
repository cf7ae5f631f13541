//! IQ4_NL: 32 weights in 18 bytes, on a grid that is finer around 0.

use super::facts::{Block, Codes, Decoder, Quant, Scale, Shape};
use super::{Decode, decode_blocks, f16_to_f32, nibbles, words};
use bytemuck::{Pod, Zeroable};

/// The values that a 4-bit number stands for in IQ4_NL and IQ4_XS.
pub(super) static IQ4_NL_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 weights in 18 bytes (4.5 bits each): w = d·IQ4_NL_VALUES\[q\]. `d` is an f16; `qs` as in Q4_0.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq4Nl {
    d: [u8; 2],
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockIq4Nl>() == 18);

impl Block for BlockIq4Nl {
    const ID: u32 = 20;
    const FILE_TYPE: u32 = 25;
    const QUANT: Quant = Quant {
        codes: Codes::Table(&IQ4_NL_VALUES),
        shape: Shape::One { plus_m: false },
        scale: Scale::F16 { at: 0 },
    };
    const DECODE: Decoder = decode_blocks::<Self, 32>;

    #[inline(always)]
    fn codes(&self, _: usize) -> [u32; 8] {
        words::nibbles(&self.qs)
    }
}

impl Decode<32> for BlockIq4Nl {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        // One product per value of the table, then only look-ups.
        let values = IQ4_NL_VALUES.map(|v| d * f32::from(v));
        let q = nibbles(&self.qs);
        for i in 0..32 {
            out[i] = values[usize::from(q[i] & 15)];
        }
    }
}
