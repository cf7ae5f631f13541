//! TQ1_0: 256 weights of -1, 0 and 1 in 54 bytes.

use super::facts::{Bits, Block, Codes, Decoder, Encoder, Quant, Run, Scale, Shape};
use super::tq2_0::trits;
use super::{Encode, decode_exact, encode_blocks, f32_to_f16, words};
use bytemuck::{Pod, Zeroable};

/// 256 weights in 54 bytes (1.6875 bits each): w = d·(q − 1). `d` is an f16. A byte is a number of five digits of base 3, as a
/// fraction: times 3/256 its whole part is the first digit, and so on. Digit n of the first 32 bytes are the weights from 32n on,
/// of the next 16 those from 160 + 16n on, of the four of `qh`, which have four digits, those from 240 + 4n on.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockTq1_0 {
    qs: [u8; 48],
    qh: [u8; 4],
    d: [u8; 2],
}
const _: () = assert!(size_of::<BlockTq1_0>() == 54);

impl Block for BlockTq1_0 {
    const ID: u32 = 34;
    const FILE_TYPE: u32 = 36;
    const QUANT: Quant = Quant {
        codes: Codes::Plain { bits: Bits::Two, offset: 1 },
        shape: Shape::Runs { run: Run::Of32, largest_scale: 1, minus_min: false },
        scale: Scale::F16 { at: 52 },
    };
    const DECODE: Decoder = decode_exact::<Self>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 256>);

    #[inline(always)]
    fn codes(&self, unit: usize) -> [u32; 8] {
        words::words(|g| {
            let (bytes, n) = match (unit, g) {
                (0..5, _) => (words::word(&self.qs, 4 * g), unit),
                (7, 4..) => (words::word(&self.qh, 0), g - 4),
                _ => (words::word(&self.qs, 32 + 4 * (g % 4)), 2 * (unit - 5) + g / 4),
            };
            u32::from_le_bytes(bytes.to_le_bytes().map(|byte| digit(byte, n)))
        })
    }
}

/// Digit n of a byte: 0, 1 or 2.
#[inline(always)]
fn digit(byte: u8, n: usize) -> u8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as u8
}

impl Encode<256> for BlockTq1_0 {
    fn encode(weights: &[f32; 256]) -> Self {
        let (d, trits) = trits(weights);
        // Rounded up, so that every digit comes out whole.
        let fraction = |number: u8| (u16::from(number) * 256).div_ceil(243) as u8;
        // Wrapping, since weights whose scale has no inverse are not 0, 1 and 2.
        let number = |at: usize, step: usize, digits: usize| {
            let next =
                |number: u8, n: usize| number.wrapping_mul(3).wrapping_add(trits[at + step * n]);
            (0..digits).fold(0, next)
        };
        let qs = std::array::from_fn(|i| {
            fraction(if i < 32 { number(i, 32, 5) } else { number(160 + i - 32, 16, 5) })
        });
        // Four digits, of which the first is the highest of five.
        let qh = std::array::from_fn(|i| fraction(number(240 + i, 4, 4).wrapping_mul(3)));
        Self { qs, qh, d: f32_to_f16(d) }
    }
}
