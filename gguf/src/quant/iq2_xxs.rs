//! IQ2_XXS: 256 weights in 66 bytes, each eight of them a point of a grid and seven signs.

use super::facts::{Block, Codes, Decoder, Half, Quant, Run, RunScale, Scale, Shape};
use super::{decode_exact, four_even_signs, grids, words};
use bytemuck::{Pod, Zeroable};

/// The magnitudes of the numbers of a point, then the same below 0.
pub(super) static IQ2_VALUES: [i8; 8] = [8, 25, 43, 0, -8, -25, -43, 0];

/// 256 weights in 66 bytes (2.0625 bits each): w = d/8·(2·scale + 1)·q. `d` is an f16. Of the eight bytes of 32 weights the
/// first four choose a point of 256 for eight weights each; the last four are a word with the signs of each eight, seven
/// bits (there is an even number of minuses), and above them the scale of four bits.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq2Xxs {
    d: [u8; 2],
    qs: [u8; 64],
}
const _: () = assert!(size_of::<BlockIq2Xxs>() == 66);

impl Block for BlockIq2Xxs {
    const ID: u32 = 16;
    const FILE_TYPE: u32 = 19;
    const QUANT: Quant = Quant {
        codes: Codes::ShortTable(&IQ2_VALUES),
        shape: Shape::Runs { run: Run::Of32, largest_scale: 31, minus_min: false },
        scale: Scale::Fraction { of: Half::At(0), halvings: 3 },
    };
    const DECODE: Decoder = decode_exact::<Self>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        let points = &self.qs[8 * unit..][..4];
        let magnitudes = grids::eights(|l| grids::IQ2_XXS[usize::from(points[l])]);
        words::joined(magnitudes, words::spread(four_even_signs(self.word(unit))), 2)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: 2 * (self.word(run) >> 28) as i8 + 1, min: 0 }
    }
}

impl BlockIq2Xxs {
    /// Signs and scale of 32 weights.
    #[inline(always)]
    fn word(&self, unit: usize) -> u32 {
        words::word(&self.qs, 8 * unit + 4)
    }
}
