//! Q5_K: 256 weights in 176 bytes, eight groups of 32 with scale and minimum.

use super::facts::{
    Bits, Block, Codes, Decoder, Encoder, EncoderBy, Quant, Run, RunScale, Scale, Shape,
};
use super::fit::{By, Errors, Line, Search};
use super::scale_min::{ScaleMin, quantise, quantise_by};
use super::{
    Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by, words,
};
use crate::DType;
use bytemuck::{Pod, Zeroable};

/// 256 weights in 176 bytes (5.5 bits each): w = d·scale·q − dmin·min, eight groups of 32.
/// The lower four bits of q lie in `qs` as in Q4_K; the upper one of weight 32k + l is bit k of `qh[l]`.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ5K {
    groups: ScaleMin,
    qh: [u8; 32],
    qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ5K>() == 176);

const SEARCH: Search =
    Search { max: 31, first: -0.5, step: 0.1, steps: 15, errors: Errors::Squared, by: By::Weights };

impl Block for BlockQ5K {
    const ID: u32 = 13;
    const FILE_TYPE: u32 = 16;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Five, offset: 0 },
        shape: Shape::Runs { run: Run::Of32, largest_scale: 63, minus_min: true },
        scale: Scale::F16 { at: 0 },
    };
    const SHORTER: Option<DType> = Some(DType::Q5_1);
    const DECODE: Decoder = decode_blocks::<Self, 256>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 256>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 256>);

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::joined(words::paired_nibbles(&self.qs, unit), words::ones(&self.qh, unit), 4)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        self.groups.run(run)
    }

    fn make_plausible(&mut self) {
        self.groups.make_plausible();
    }
}

impl Decode<256> for BlockQ5K {
    fn decode(&self, out: &mut [f32; 256]) {
        let qs = self.qs.as_chunks::<32>().0;
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let Line { scale, min } = self.groups.of_group(g);
            let (shift, qs) = (4 * (g % 2), &qs[g / 2]);
            for l in 0..32 {
                let q = qs[l] >> shift & 15 | (self.qh[l] >> g & 1) << 4;
                out[l] = scale * f32::from(q) - min;
            }
        }
    }
}

impl Encode<256> for BlockQ5K {
    fn encode(weights: &[f32; 256]) -> Self {
        let (groups, q) = quantise(weights, &SEARCH);
        Self::pack(groups, &q)
    }
}

impl EncodeBy<256> for BlockQ5K {
    fn encode_by(weights: &[f32; 256], importance: &Importance<'_, 256>) -> Self {
        let (groups, q) = quantise_by(weights, importance.of, 31, 63);
        Self::pack(groups, &q)
    }
}

impl BlockQ5K {
    fn pack(groups: ScaleMin, q: &[u8; 256]) -> Self {
        let qs = std::array::from_fn(|i| {
            let at = i / 32 * 64 + i % 32;
            q[at] & 15 | q[at + 32] << 4
        });
        let qh = std::array::from_fn(|l| (0..8).fold(0, |bits, k| bits | q[32 * k + l] >> 4 << k));
        Self { groups, qh, qs }
    }
}
