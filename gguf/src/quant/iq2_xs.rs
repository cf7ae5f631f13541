//! IQ2_XS: 256 weights in 74 bytes, each eight of them a point of a grid and seven signs.

use super::facts::{Block, Codes, Decoder, Half, Quant, Run, RunScale, Scale, Shape};
use super::iq2_xxs::IQ2_VALUES;
use super::{decode_exact, even_signs, grids, words};
use bytemuck::{Pod, Zeroable};

/// 256 weights in 74 bytes (2.3125 bits each): w = d/8·(2·scale + 1)·q. `d` is an f16. A u16 of `qs` chooses a point of 512 for
/// eight weights by its low nine bits, and has their signs above, seven bits (there is an even number of minuses). A byte of
/// `scales` has the scales of two groups of 16, the first in its low half.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq2Xs {
    d: [u8; 2],
    qs: [u8; 64],
    scales: [u8; 8],
}
const _: () = assert!(size_of::<BlockIq2Xs>() == 74);

impl Block for BlockIq2Xs {
    const ID: u32 = 17;
    const FILE_TYPE: u32 = 20;
    const QUANT: Quant = Quant {
        codes: Codes::ShortTable(&IQ2_VALUES),
        shape: Shape::Runs { run: Run::Of16, largest_scale: 31, minus_min: false },
        scale: Scale::Fraction { of: Half::At(0), halvings: 3 },
    };
    const DECODE: Decoder = decode_exact::<Self>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        let eight = |l: usize| {
            let at = 8 * unit + 2 * l;
            u16::from_le_bytes([self.qs[at], self.qs[at + 1]])
        };
        let signs =
            (0..4).fold(0, |signs, l| signs | even_signs(u32::from(eight(l) >> 9)) << (8 * l));
        let magnitudes = grids::eights(|l| grids::IQ2_XS[usize::from(eight(l) & 511)]);
        words::joined(magnitudes, words::spread(signs), 2)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: 2 * (self.scales[run / 2] >> (4 * (run % 2)) & 15) as i8 + 1, min: 0 }
    }
}
