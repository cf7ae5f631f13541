//! TQ2_0: 256 weights of -1, 0 and 1 in 66 bytes.

use super::facts::{Bits, Block, Codes, Decoder, Encoder, Quant, Run, Scale, Shape};
use super::{Encode, byte, decode_exact, encode_blocks, f32_to_f16, inverse, pack_twos, words};
use bytemuck::{Pod, Zeroable};

/// 256 weights in 66 bytes (2.0625 bits each): w = d·(q − 1). `d` is an f16; `qs` as in Q2_K. No encoder writes q = 3, which counts as 2.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockTq2_0 {
    qs: [u8; 64],
    d: [u8; 2],
}
const _: () = assert!(size_of::<BlockTq2_0>() == 66);

impl Block for BlockTq2_0 {
    const ID: u32 = 35;
    const FILE_TYPE: u32 = 37;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Two, offset: 1 },
        shape: Shape::Runs { run: Run::Of32, largest_scale: 1, minus_min: false },
        scale: Scale::F16 { at: 64 },
    };
    const DECODE: Decoder = decode_exact::<Self>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 256>);

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::twos(&self.qs, unit)
    }

    fn make_plausible(&mut self) {
        for byte in &mut self.qs {
            // Of both bits set the upper one goes.
            *byte &= !((*byte & *byte >> 1 & 0x55) << 1);
        }
    }
}

impl Encode<256> for BlockTq2_0 {
    fn encode(weights: &[f32; 256]) -> Self {
        let (d, trits) = trits(weights);
        Self { qs: pack_twos(&trits), d: f32_to_f16(d) }
    }
}

/// The largest magnitude, and 0, 1 or 2 for each weight where it is nearest to −1, 0 or 1 times that.
pub(super) fn trits(weights: &[f32; 256]) -> (f32, [u8; 256]) {
    let d = weights.iter().fold(0.0, |max: f32, w| if max > w.abs() { max } else { w.abs() });
    let inverse = inverse(d);
    (d, weights.map(|w| byte((w * inverse).round()).wrapping_add(1) as u8))
}
