//! IQ3_XXS: 256 weights in 98 bytes, each four of them a point of a grid.

use super::facts::{Block, Codes, Decoder, Half, Quant, Run, RunScale, Scale, Shape};
use super::{decode_exact, four_even_signs, grids, words};
use bytemuck::{Pod, Zeroable};

/// The magnitudes of the numbers of a point, then the same below 0.
static IQ3_XXS_VALUES: [i8; 16] =
    [4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62];

/// 256 weights in 98 bytes (3.0625 bits each): w = d/4·(2·scale + 1)·q. `d` is an f16. A byte of `qs` chooses a point of 256 for
/// four weights. A word of four bytes of `signs` has the signs of 32 weights, seven bits for each eight (there is an even
/// number of minuses), and above them the scale of four bits.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq3Xxs {
    d: [u8; 2],
    qs: [u8; 64],
    signs: [u8; 32],
}
const _: () = assert!(size_of::<BlockIq3Xxs>() == 98);

impl Block for BlockIq3Xxs {
    const ID: u32 = 18;
    const FILE_TYPE: u32 = 23;
    const QUANT: Quant = Quant {
        codes: Codes::Table(&IQ3_XXS_VALUES),
        shape: Shape::Runs { run: Run::Of32, largest_scale: 31, minus_min: false },
        scale: Scale::Fraction { of: Half::At(0), halvings: 2 },
    };
    const DECODE: Decoder = decode_exact::<Self>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        let points = &self.qs[8 * unit..][..8];
        let magnitudes = words::words(|g| grids::four(grids::IQ3_XXS[usize::from(points[g])]));
        let signs = four_even_signs(words::word(&self.signs, 4 * unit));
        words::joined(magnitudes, words::spread(signs), 3)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: 2 * (self.signs[4 * run + 3] >> 4) as i8 + 1, min: 0 }
    }
}
