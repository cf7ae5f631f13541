//! Q2_K: 256 weights in 84 bytes, sixteen groups of 16.

use super::facts::{Bits, Block, Codes, Decoder, Quant, Run, RunScale, Scale, Shape};
use super::scale_min::random_scale_min;
use super::{Decode, decode_blocks, f16_to_f32, words};
use crate::DType;
use bytemuck::{Pod, Zeroable};

/// 256 weights in 84 bytes (2.625 bits each): w = d·scale·q − dmin·min, with a 4-bit scale (low half of its byte) and
/// minimum (high half) per group of 16. `d` and `dmin` are f16. Byte l of the n-th 32 bytes of `qs` holds q of the
/// weights 128n + l, + 32, + 64 and + 96, the first in its lowest two bits.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ2K {
    scales: [u8; 16],
    qs: [u8; 64],
    d: [u8; 2],
    dmin: [u8; 2],
}
const _: () = assert!(size_of::<BlockQ2K>() == 84);

impl Block for BlockQ2K {
    const ID: u32 = 10;
    const FILE_TYPE: u32 = 10;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Two, offset: 0 },
        shape: Shape::Runs { run: Run::Of16, largest_scale: 15, minus_min: true },
        scale: Scale::F16 { at: 80 },
    };
    const SHORTER: Option<DType> = Some(DType::IQ4_NL);
    const DECODE: Decoder = decode_blocks::<Self, 256>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::twos(&self.qs, unit)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: (self.scales[run] & 15) as i8, min: self.scales[run] >> 4 }
    }

    fn make_plausible(&mut self) {
        for both in &mut self.scales {
            let (scale, min) = random_scale_min(*both, 7, 7);
            *both = scale | min << 4;
        }
    }
}

impl Decode<256> for BlockQ2K {
    fn decode(&self, out: &mut [f32; 256]) {
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(self.scales[g] & 15);
            let min = dmin * f32::from(self.scales[g] >> 4);
            let (shift, at) = (2 * (g / 2 % 4), g / 8 * 32 + g % 2 * 16);
            for l in 0..16 {
                out[l] = scale * f32::from(self.qs[at + l] >> shift & 3) - min;
            }
        }
    }
}
