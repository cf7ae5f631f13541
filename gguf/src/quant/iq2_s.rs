//! IQ2_S: 256 weights in 82 bytes, each eight of them a point of a grid and eight signs.

use super::facts::{Block, Codes, Decoder, Half, Quant, Run, RunScale, Scale, Shape};
use super::iq2_xxs::IQ2_VALUES;
use super::{decode_exact, grids, words};
use bytemuck::{Pod, Zeroable};

/// 256 weights in 82 bytes (2.5625 bits each): w = d/8·(2·scale + 1)·q. `d` is an f16. A byte of `qs` and two bits of `qh`, which has
/// those of 32 weights in a byte, choose a point of 1024 for eight weights; a byte of `signs` has their signs. A byte of
/// `scales` has the scales of two groups of 16, the first in its low half.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq2S {
    d: [u8; 2],
    qs: [u8; 32],
    signs: [u8; 32],
    qh: [u8; 8],
    scales: [u8; 8],
}
const _: () = assert!(size_of::<BlockIq2S>() == 82);

impl Block for BlockIq2S {
    const ID: u32 = 22;
    const FILE_TYPE: u32 = 28;
    const QUANT: Quant = Quant {
        codes: Codes::ShortTable(&IQ2_VALUES),
        shape: Shape::Runs { run: Run::Of16, largest_scale: 31, minus_min: false },
        scale: Scale::Fraction { of: Half::At(0), halvings: 3 },
    };
    const DECODE: Decoder = decode_exact::<Self>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        let magnitudes = grids::eights(|l| {
            let high = usize::from(self.qh[unit] >> (2 * l) & 3);
            grids::IQ2_S[usize::from(self.qs[4 * unit + l]) | high << 8]
        });
        words::joined(magnitudes, words::spread(words::word(&self.signs, 4 * unit)), 2)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: 2 * (self.scales[run / 2] >> (4 * (run % 2)) & 15) as i8 + 1, min: 0 }
    }
}
