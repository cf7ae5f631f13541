//! IQ4_XS: 256 weights in 136 bytes, eight groups of 32 on IQ4_NL's grid.

use super::facts::{Block, Codes, Decoder, Encoder, EncoderBy, Quant, Run, RunScale, Scale, Shape};
use super::fit::{nearest, squares, sum_of_squares, weighed};
use super::iq4_nl::{IQ4_NL_VALUES, fit_grid, places};
use super::{Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by};
use super::{extreme, f16_to_f32, f32_to_f16, inverse, nibbles, pack_nibbles, words};
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
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 256>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 256>);

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

impl Encode<256> for BlockIq4Xs {
    fn encode(weights: &[f32; 256]) -> Self {
        Self::fit(weights, &squares(weights))
    }
}

impl EncodeBy<256> for BlockIq4Xs {
    fn encode_by(weights: &[f32; 256], importance: &Importance<'_, 256>) -> Self {
        let floor = sum_of_squares(weights) * (2.0 / 256.0);
        Self::fit(weights, &weighed(weights, importance.of, floor))
    }
}

impl BlockIq4Xs {
    fn fit(weights: &[f32; 256], importance: &[f32; 256]) -> Self {
        let (groups, importance) = (weights.as_chunks::<32>().0, importance.as_chunks::<32>().0);
        let fitted: [f32; 8] = std::array::from_fn(|j| fit_grid(&groups[j], &importance[j]));
        // The largest scale becomes −32, the number that six bits have one more of.
        let d = -extreme(&fitted) / 32.0;
        let mut block =
            Self { d: f32_to_f16(d), scales_high: [0; 2], scales_low: [0; 4], qs: [0; 128] };
        let mut high = 0u16;
        for (j, qs) in block.qs.as_chunks_mut().0.iter_mut().enumerate() {
            let scale = nearest(inverse(d) * fitted[j]).clamp(-32, 31);
            // Of d before it is rounded to f16, as in llama.cpp.
            *qs = pack_nibbles(&places(&groups[j], inverse(d * scale as f32)));
            let code = (scale + 32) as u8;
            block.scales_low[j / 2] |= (code & 15) << (4 * (j % 2));
            high |= u16::from(code >> 4) << (2 * j);
        }
        block.scales_high = high.to_le_bytes();
        block
    }

    fn scale(&self, group: usize) -> i8 {
        let low = self.scales_low[group / 2] >> (4 * (group % 2)) & 15;
        let high = u16::from_le_bytes(self.scales_high) >> (2 * group) & 3;
        (low | (high as u8) << 4) as i8 - 32
    }
}
