//! IQ1_S: 256 weights in 50 bytes, each eight of them a point of a grid of -1, 0 and 1.

use super::facts::{Block, Codes, Decoder, Half, Quant, Run, RunScale, Scale, Shape};
use super::{decode_exact, grids, words};
use bytemuck::{Pod, Zeroable};

/// 8·t + 1 for t of -1, 0 and 1, then 8·t − 1.
pub(super) static IQ1_VALUES: [i8; 8] = [-7, 1, 9, 0, -9, -1, 7, 0];

/// 256 weights in 50 bytes (1.5625 bits each): w = d·(2·scale + 1)·(t ± 1/8), which is d/8·(2·scale + 1)·(8·t ± 1). `d` is an f16. A
/// byte of `qs` and three bits choose a point of 2048, which is t for eight weights. A u16 of `qh` belongs to 32 weights: the
/// four times three bits, then the scale of three bits, then whether an eighth is taken away and not added.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq1S {
    d: [u8; 2],
    qs: [u8; 32],
    qh: [u8; 16],
}
const _: () = assert!(size_of::<BlockIq1S>() == 50);

impl Block for BlockIq1S {
    const ID: u32 = 19;
    const FILE_TYPE: u32 = 24;
    const QUANT: Quant = Quant {
        codes: Codes::ShortTable(&IQ1_VALUES),
        shape: Shape::Runs { run: Run::Of32, largest_scale: 15, minus_min: false },
        scale: Scale::Fraction { of: Half::At(0), halvings: 3 },
    };
    const DECODE: Decoder = decode_exact::<Self>;

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        let qh = self.qh_of(unit);
        let trits = grids::eights(|l| {
            let high = usize::from(qh >> (3 * l) & 7);
            grids::IQ1[usize::from(self.qs[4 * unit + l]) | high << 8]
        });
        // All bits or none.
        let minus = (qh as i16 >> 15) as u32;
        words::joined(trits, words::spread(minus), 2)
    }

    #[inline(always)]
    fn run(&self, run: usize) -> RunScale {
        RunScale { scale: 2 * (self.qh_of(run) >> 12 & 7) as i8 + 1, min: 0 }
    }
}

impl BlockIq1S {
    #[inline(always)]
    fn qh_of(&self, unit: usize) -> u16 {
        u16::from_le_bytes([self.qh[2 * unit], self.qh[2 * unit + 1]])
    }
}
