//! Q6_K: 256 weights in 210 bytes, sixteen groups of 16.

use super::facts::{
    Bits, Block, Codes, Decoder, Encoder, EncoderBy, Quant, Run, RunScale, Scale, Shape,
};
use super::fit::{TINY, fit_scale, nearest, round, squares};
use super::{Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by};
use super::{extreme, f16_to_f32, f32_to_f16, words};
use crate::DType;
use bytemuck::{Pod, Zeroable};

/// 256 weights in 210 bytes (6.5625 bits each): w = d·scale·(q − 32), with a signed 8-bit scale per group of 16.
/// `d` is an f16. Of weight 128n + 32k + l, the lower four bits of q are in byte 64n + 32(k mod 2) + l of `ql` (the low
/// half for k < 2), the upper two are bits 2k of byte 32n + l of `qh`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ6K {
    ql: [u8; 128],
    qh: [u8; 64],
    scales: [i8; 16],
    d: [u8; 2],
}
const _: () = assert!(size_of::<BlockQ6K>() == 210);

impl Block for BlockQ6K {
    const ID: u32 = 14;
    const FILE_TYPE: u32 = 18;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Six, offset: 32 },
        shape: Shape::Runs { run: Run::Of16, largest_scale: 128, minus_min: false },
        scale: Scale::F16 { at: 208 },
    };
    const SHORTER: Option<DType> = Some(DType::Q8_0);
    const DECODE: Decoder = decode_blocks::<Self, 256>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 256>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 256>);

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::joined(words::crossed_nibbles(&self.ql, unit), words::twos(&self.qh, unit), 4)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: self.scales[run], min: 0 }
    }
}

impl Decode<256> for BlockQ6K {
    fn decode(&self, out: &mut [f32; 256]) {
        let d = f16_to_f32(self.d);
        let (ql, qh) = (self.ql.as_chunks::<16>().0, self.qh.as_chunks::<16>().0);
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = d * f32::from(self.scales[g]);
            let (n, k, half) = (g / 8, g / 2 % 4, g % 2);
            let (ql, qh) = (&ql[4 * n + 2 * (k % 2) + half], &qh[2 * n + half]);
            for l in 0..16 {
                let q = ql[l] >> (4 * (k / 2)) & 15 | (qh[l] >> (2 * k) & 3) << 4;
                out[l] = scale * f32::from(q as i8 - 32);
            }
        }
    }
}

impl Encode<256> for BlockQ6K {
    fn encode(weights: &[f32; 256]) -> Self {
        Self::fit(weights, &squares(weights))
    }
}

impl EncodeBy<256> for BlockQ6K {
    /// The matrix alone says how much an error counts.
    fn encode_by(weights: &[f32; 256], importance: &Importance<'_, 256>) -> Self {
        Self::fit(weights, importance.of)
    }
}

impl BlockQ6K {
    fn fit(weights: &[f32; 256], importance: &[f32; 256]) -> Self {
        let (mut fitted, mut q) = ([0.0; 16], [0; 256]);
        let groups = weights.as_chunks::<16>().0;
        let importance = importance.as_chunks::<16>().0;
        for (j, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
            fitted[j] = fit_scale(&groups[j], &importance[j], 32, q);
        }
        let max = extreme(&fitted);
        if max.abs() < TINY {
            return Self::zeroed();
        }
        // The largest scale becomes −128, the number that int8 has one more of.
        let inverse = -128.0 / max;
        let d = f32_to_f16(1.0 / inverse);
        let scales = fitted.map(|s| nearest(inverse * s).min(127) as i8);
        for (j, q) in q.as_chunks_mut().0.iter_mut().enumerate() {
            round(&groups[j], f16_to_f32(d) * f32::from(scales[j]), 32, q);
        }
        let weight = |n: usize, k: usize, l: usize| q[128 * n + 32 * k + l];
        let ql = std::array::from_fn(|i| {
            let (n, k, l) = (i / 64, i / 32 % 2, i % 32);
            weight(n, k, l) & 15 | weight(n, k + 2, l) << 4
        });
        let qh = std::array::from_fn(|i| {
            (0..4).fold(0, |bits, k| bits | weight(i / 32, k, i % 32) >> 4 << (2 * k))
        });
        Self { ql, qh, scales, d }
    }
}
