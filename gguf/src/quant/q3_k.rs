//! Q3_K: 256 weights in 110 bytes, sixteen groups of 16.

use super::facts::{
    Bits, Block, Codes, Decoder, Encoder, EncoderBy, Quant, Run, RunScale, Scale, Shape,
};
use super::fit::{fit_levels, fit_scale, nearest, round, sum_of_squares, total, weighed};
use super::{Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by};
use super::{extreme, f16_to_f32, f32_to_f16, pack_twos, words};
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
    const SHORTER: Option<DType> = Some(DType::Q4_0);
    const DECODE: Decoder = decode_blocks::<Self, 256>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 256>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 256>);

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

impl Encode<256> for BlockQ3K {
    fn encode(weights: &[f32; 256]) -> Self {
        let (mut fitted, mut q) = ([0.0; 16], [0; 256]);
        let groups = weights.as_chunks::<16>().0;
        for (j, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
            fitted[j] = fit_levels(&groups[j], q);
        }
        let max = extreme(&fitted);
        if max == 0.0 {
            // Sixteen times the scale −32, the number that the bytes of zeros stand for.
            return Self::new(weights, [0; 16], [0; 2], q);
        }
        // The largest scale becomes −32, the number that six bits have one more of.
        let inverse = -32.0 / max;
        let scales = fitted.map(|s| ((nearest(inverse * s) as i8).clamp(-32, 31) + 32) as u8);
        Self::new(weights, scales, f32_to_f16(1.0 / inverse), q)
    }
}

impl EncodeBy<256> for BlockQ3K {
    fn encode_by(weights: &[f32; 256], importance: &Importance<'_, 256>) -> Self {
        let floor = 2.0 * sum_of_squares(weights) / 256.0;
        let importance = weighed(weights, importance.of, floor);
        let importance = importance.as_chunks::<16>().0;
        let (mut fitted, mut q) = ([0.0; 16], [0; 256]);
        let groups = weights.as_chunks::<16>().0;
        for (j, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
            fitted[j] = fit_scale(&groups[j], &importance[j], 4, q);
        }
        let of_groups: [f32; 16] = std::array::from_fn(|j| total(&importance[j]));
        let mut scales = [0; 16];
        let d = fit_scale(&fitted, &of_groups, 32, &mut scales);
        Self::new(weights, scales, f32_to_f16(d), q)
    }
}

impl BlockQ3K {
    /// The block of these scales, each with 32 added, with the weights rounded to them; `q` are the quants of the search.
    fn new(weights: &[f32; 256], scales: [u8; 16], d: [u8; 2], mut q: [u8; 256]) -> Self {
        let packed = std::array::from_fn(|i| match i {
            0..8 => scales[i] & 15 | scales[i + 8] << 4,
            _ => (0..4).fold(0, |bits, k| bits | scales[4 * k + i - 8] >> 4 << (2 * k)),
        });
        let mut block = Self { hmask: [0; 32], qs: [0; 64], scales: packed, d };
        let groups = weights.as_chunks::<16>().0;
        for (j, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
            round(&groups[j], f16_to_f32(d) * f32::from(block.scale(j)), 4, q);
        }
        block.qs = pack_twos(&q);
        block.hmask =
            std::array::from_fn(|l| (0..8).fold(0, |bits, k| bits | q[32 * k + l] >> 2 << k));
        block
    }
}
