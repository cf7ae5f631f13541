//! Q3_K: 256 weights in 110 bytes, sixteen groups of 16.

use super::facts::{Bits, Block, Codes, Decoder, Quant, Run, RunScale, Scale, Shape};
use super::{Decode, decode_blocks, f16_to_f32, words};
use crate::DType;
use bytemuck::{Pod, Zeroable};

/// 256 weights in 110 bytes (3.4375 bits each): w = d·(scale − 32)·(q − 4), with a 6-bit scale per group of 16.
/// `d` is an f16. The lower two bits of q lie in `qs` as in Q2_K; the upper one of weight 32k + l is bit k of
/// `hmask[l]`. The lower four bits of scale i are a half of byte i mod 8 of `scales` (the low half for i < 8), the
/// upper two are bits 2⌊i/4⌋ of byte 8 + i mod 4.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ3K {
    hmask: [u8; 32],
    qs: [u8; 64],
    scales: [u8; 12],
    d: [u8; 2],
}
const _: () = assert!(size_of::<BlockQ3K>() == 110);

impl Block for BlockQ3K {
    const ID: u32 = 11;
    const FILE_TYPE: u32 = 11;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Three, offset: 4 },
        shape: Shape::Runs { run: Run::Of16, largest_scale: 32, minus_min: false },
        scale: Scale::F16 { at: 108 },
    };
    const SHORTER: Option<DType> = Some(DType::IQ4_NL);
    const DECODE: Decoder = decode_blocks::<Self, 256>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::joined(words::twos(&self.qs, unit), words::ones(&self.hmask, unit), 2)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: self.scale(run), min: 0 }
    }
}

impl Decode<256> for BlockQ3K {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(self.scale(g));
            let (shift, at, half) = (2 * (g / 2 % 4), g / 8 * 32 + g % 2 * 16, g % 2 * 16);
            for l in 0..16 {
                let low = self.qs[at + l] >> shift & 3;
                let high = self.hmask[half + l] >> (g / 2) & 1;
                out[l] = scale * f32::from((low | high << 2) as i8 - 4);
            }
        }
    }
}

impl BlockQ3K {
    fn scale(&self, group: usize) -> i8 {
        let low = self.scales[group % 8] >> (4 * (group / 8)) & 15;
        let high = self.scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        (low | high << 4) as i8 - 32
    }
}
