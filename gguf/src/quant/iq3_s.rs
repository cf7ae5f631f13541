//! IQ3_S: 256 weights in 110 bytes, each four of them a point of a grid.

use super::facts::{Block, Codes, Decoder, Quant, Run, RunScale, Scale, Shape};
use super::{decode_exact, grids, words};
use bytemuck::{Pod, Zeroable};

/// The magnitudes of the numbers of a point, then the same below 0.
static IQ3_S_VALUES: [i8; 16] = [1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15];

/// 256 weights in 110 bytes (3.4375 bits each): w = d·(2·scale + 1)·q. `d` is an f16. A byte of `qs` and a bit of `qh`, which has those
/// of 32 weights in a byte, choose a point of 512 for four weights; `signs` has a bit for each weight. A byte of `scales` has
/// the scales of two groups of 32, the first in its low half.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq3S {
    d: [u8; 2],
    qs: [u8; 64],
    qh: [u8; 8],
    signs: [u8; 32],
    scales: [u8; 4],
}
const _: () = assert!(size_of::<BlockIq3S>() == 110);

impl Block for BlockIq3S {
    const ID: u32 = 21;
    const FILE_TYPE: u32 = 26;
    const QUANT: Quant = Quant {
        codes: Codes::Table(&IQ3_S_VALUES),
        shape: Shape::Runs { run: Run::Of32, largest_scale: 31, minus_min: false },
        scale: Scale::F16 { at: 0 },
    };
    const DECODE: Decoder = decode_exact::<Self>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        let points = &self.qs[8 * unit..][..8];
        let magnitudes = words::words(|g| {
            let high = usize::from(self.qh[unit] >> g & 1);
            grids::four(grids::IQ3_S[usize::from(points[g]) | high << 8])
        });
        words::joined(magnitudes, words::spread(words::word(&self.signs, 4 * unit)), 3)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: 2 * (self.scales[run / 2] >> (4 * (run % 2)) & 15) as i8 + 1, min: 0 }
    }
}
