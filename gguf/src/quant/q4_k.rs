//! Q4_K: 256 weights in 144 bytes, eight groups of 32 with scale and minimum.

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

/// 256 weights in 144 bytes (4.5 bits each): w = d·scale·q − dmin·min, eight groups of 32.
/// Byte l of the n-th 32 bytes of `qs` holds q of weight 64n + l in its low half and of weight 64n + 32 + l in its
/// high half.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockQ4K {
    groups: ScaleMin,
    qs: [u8; 128],
}
const _: () = assert!(size_of::<BlockQ4K>() == 144);

const SEARCH: Search =
    Search { max: 15, first: -1.0, step: 0.1, steps: 20, errors: Errors::Squared, by: By::Weights };

impl Block for BlockQ4K {
    const ID: u32 = 12;
    const FILE_TYPE: u32 = 14;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Four, offset: 0 },
        shape: Shape::Runs { run: Run::Of32, largest_scale: 63, minus_min: true },
        scale: Scale::F16 { at: 0 },
    };
    const SHORTER: Option<DType> = Some(DType::Q5_0);
    const DECODE: Decoder = decode_blocks::<Self, 256>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 256>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 256>);

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::paired_nibbles(&self.qs, unit)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        self.groups.run(run)
    }

    fn make_plausible(&mut self) {
        self.groups.make_plausible();
    }
}

impl Decode<256> for BlockQ4K {
    fn decode(&self, out: &mut [f32; 256]) {
        let qs = self.qs.as_chunks::<32>().0;
        for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let Line { scale, min } = self.groups.of_group(g);
            let (shift, qs) = (4 * (g % 2), &qs[g / 2]);
            for l in 0..32 {
                out[l] = scale * f32::from(qs[l] >> shift & 15) - min;
            }
        }
    }
}

impl Encode<256> for BlockQ4K {
    fn encode(weights: &[f32; 256]) -> Self {
        let (groups, q) = quantise(weights, &SEARCH);
        Self::pack(groups, &q)
    }
}

impl EncodeBy<256> for BlockQ4K {
    fn encode_by(weights: &[f32; 256], importance: &Importance<'_, 256>) -> Self {
        // llama.cpp does not limit the scales here, so one that came out negative gets into its neighbours' bits.
        let (groups, q) = quantise_by(weights, importance.of, 15, u8::MAX);
        Self::pack(groups, &q)
    }
}

impl BlockQ4K {
    fn pack(groups: ScaleMin, q: &[u8; 256]) -> Self {
        let qs = std::array::from_fn(|i| {
            let at = i / 32 * 64 + i % 32;
            q[at] | q[at + 32] << 4
        });
        Self { groups, qs }
    }
}
