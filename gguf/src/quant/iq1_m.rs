//! IQ1_M: 256 weights in 56 bytes, each eight of them a point of a grid of -1, 0 and 1.

use super::facts::{Block, Codes, Decoder, Half, Quant, Run, RunScale, Scale, Shape};
use super::iq1_s::IQ1_VALUES;
use super::{decode_exact, grids, words};
use bytemuck::{Pod, Zeroable};

/// 256 weights in 56 bytes (1.75 bits each): w = d·(2·scale + 1)·(t ± 1/8), as in IQ1_S. A byte of `qs` and three bits choose a point
/// of 2048, which is t for eight weights; the three bits, and above them whether an eighth is taken away and not added, are
/// half a byte of `qh`. Four u16 of `scales` have the scales of four groups of 16 each, three bits for each, and above them a
/// nibble of `d`, an f16, the lowest first.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq1M {
    qs: [u8; 32],
    qh: [u8; 16],
    scales: [u8; 8],
}
const _: () = assert!(size_of::<BlockIq1M>() == 56);

impl Block for BlockIq1M {
    const ID: u32 = 29;
    const FILE_TYPE: u32 = 31;
    const QUANT: Quant = Quant {
        codes: Codes::ShortTable(&IQ1_VALUES),
        shape: Shape::Runs { run: Run::Of16, largest_scale: 15, minus_min: false },
        scale: Scale::Fraction { of: Half::Nibbles(48), halvings: 3 },
    };
    const DECODE: Decoder = decode_exact::<Self>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        let nibble = |l: usize| self.qh[2 * unit + l / 2] >> (4 * (l % 2));
        let trits = grids::eights(|l| {
            let high = usize::from(nibble(l) & 7);
            grids::IQ1[usize::from(self.qs[4 * unit + l]) | high << 8]
        });
        let byte = |l: usize| u32::from(nibble(l) >> 3 & 1) * 255;
        let minus = (0..4).fold(0, |bits, l| bits | byte(l) << (8 * l));
        words::joined(trits, words::spread(minus), 2)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        let four = u16::from_le_bytes([self.scales[run / 4 * 2], self.scales[run / 4 * 2 + 1]]);
        RunScale { scale: 2 * (four >> (3 * (run % 4)) & 7) as i8 + 1, min: 0 }
    }
}
