//! IQ4_XS: 256 weights in 136 bytes, eight groups of 32 on IQ4_NL's grid.

use super::facts::{Block, Codes, Decoder, Quant, Run, RunScale, Scale, Shape};
use super::iq4_nl::IQ4_NL_VALUES;
use super::{Decode, decode_blocks, f16_to_f32, nibbles, words};
use crate::DType;
use bytemuck::{Pod, Zeroable};

/// 256 weights in 136 bytes (4.25 bits each): w = d·(scale − 32)·IQ4_NL_VALUES\[q\], with a 6-bit scale per group of 32.
/// `d` is an f16. The lower four bits of scale i are in byte ⌊i/2⌋ of `scales_low` (the low half for even i), the upper
/// two are bits 2i of `scales_high` (little-endian). Each group has 16 bytes of `qs`, as in Q4_0.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq4Xs {
    d: [u8; 2],
    scales_high: [u8; 2],
    scales_low: [u8; 4],
    qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockIq4Xs>() == 136);

impl Block for BlockIq4Xs {
    const ID: u32 = 23;
    const FILE_TYPE: u32 = 30;
    const QUANT: Quant = Quant {
        codes: Codes::Table(&IQ4_NL_VALUES),
        shape: Shape::Runs { run: Run::Of32, largest_scale: 32, minus_min: false },
        scale: Scale::F16 { at: 0 },
    };
    const SHORTER: Option<DType> = Some(DType::IQ4_NL);
    const DECODE: Decoder = decode_blocks::<Self, 256>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::nibbles(&self.qs.as_chunks().0[unit])
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: self.scale(run), min: 0 }
    }
}

impl Decode<256> for BlockIq4Xs {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        let qs = self.qs.as_chunks::<16>().0;
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let scale = d * f32::from(self.scale(g));
            let values = IQ4_NL_VALUES.map(|v| scale * f32::from(v));
            let q = nibbles(&qs[g]);
            for i in 0..32 {
                out[i] = values[usize::from(q[i] & 15)];
            }
        }
    }
}

impl BlockIq4Xs {
    fn scale(&self, group: usize) -> i8 {
        let low = self.scales_low[group / 2] >> (4 * (group % 2)) & 15;
        let high = u16::from_le_bytes(self.scales_high) >> (2 * group) & 3;
        (low | (high as u8) << 4) as i8 - 32
    }
}
