//! Q2_K: 256 weights in 84 bytes, sixteen groups of 16.

use super::facts::{
    Bits, Block, Codes, Decoder, Encoder, EncoderBy, Quant, Run, RunScale, Scale, Shape,
};
use super::fit::{By, Errors, Line, Search, nearest, sum_of_squares, weighed};
use super::lines::{Integers, Lines};
use super::scale_min::random_scale_min;
use super::{Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by};
use super::{f16_to_f32, f32_to_f16, pack_twos, words};
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

const SEARCH: Search =
    Search { max: 3, first: -0.5, step: 0.1, steps: 15, errors: Errors::Absolute, by: By::Weights };

impl Block for BlockQ2K {
    const ID: u32 = 10;
    const FILE_TYPE: u32 = 10;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Two, offset: 0 },
        shape: Shape::Runs { run: Run::Of16, largest_scale: 15, minus_min: true },
        scale: Scale::F16 { at: 80 },
    };
    const SHORTER: Option<DType> = Some(DType::Q4_0);
    const DECODE: Decoder = decode_blocks::<Self, 256>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 256>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 256>);

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
        for (g, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let Line { scale, min } = self.of_group(g);
            let (shift, at) = (2 * (g / 2 % 4), g / 8 * 32 + g % 2 * 16);
            for l in 0..16 {
                out[l] = scale * f32::from(self.qs[at + l] >> shift & 3) - min;
            }
        }
    }
}

impl Encode<256> for BlockQ2K {
    /// An error counts by |w|.
    fn encode(weights: &[f32; 256]) -> Self {
        let groups = Groups::fit(weights, &weights.map(f32::abs), &SEARCH);
        let Line { scale: max_scale, min: max_min } = groups.greatest();
        let quant = |v: f32, max: f32| if max > 0.0 { nearest(15.0 / max * v) } else { 0 };
        let scales = std::array::from_fn(|j| {
            // A fitted scale can be negative, and gets into the minimum's bits, as in llama.cpp.
            quant(groups.scales[j], max_scale) as u8 | (quant(groups.mins[j], max_min) << 4) as u8
        });
        let (d, dmin) = (f32_to_f16(max_scale / 15.0), f32_to_f16(max_min / 15.0));
        Self::rounded(weights, groups, Self { scales, qs: [0; 64], d, dmin })
    }
}

impl EncodeBy<256> for BlockQ2K {
    fn encode_by(weights: &[f32; 256], importance: &Importance<'_, 256>) -> Self {
        let importance = weighed(weights, importance.of, sum_of_squares(weights) / 256.0);
        let groups = Groups::fit(weights, &importance, &Search::by_matrix(3));
        let Integers { unit, scales, mins } = groups.integers(&importance, 15);
        let (d, dmin) = (f32_to_f16(unit.scale), f32_to_f16(unit.min));
        let scales = std::array::from_fn(|j| scales[j] | mins[j] << 4);
        Self::rounded(weights, groups, Self { scales, qs: [0; 64], d, dmin })
    }
}

/// Sixteen groups of 16 weights.
type Groups = Lines<16, 16>;

impl BlockQ2K {
    /// A block of these scales, with the weights rounded to them.
    fn rounded(weights: &[f32; 256], groups: Groups, scales: Self) -> Self {
        let q = groups.round(weights, |j| scales.of_group(j), 3);
        Self { qs: pack_twos(&q), ..scales }
    }

    /// d·scale and dmin·min of a group.
    fn of_group(&self, group: usize) -> Line {
        let both = self.scales[group];
        let (d, dmin) = (f16_to_f32(self.d), f16_to_f32(self.dmin));
        Line { scale: d * f32::from(both & 15), min: dmin * f32::from(both >> 4) }
    }
}
