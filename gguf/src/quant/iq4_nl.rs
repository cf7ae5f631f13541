//! IQ4_NL: 32 weights in 18 bytes, on a grid that is finer around 0.

use super::facts::{Block, Codes, Decoder, Encoder, EncoderBy, Quant, Scale, Shape};
use super::fit::{TINY, squares, sum_of_squares, weighed};
use super::{Decode, Encode, EncodeBy, Importance, decode_blocks, encode_blocks, encode_row_by};
use super::{extreme, f16_to_f32, f32_to_f16, inverse, nibbles, pack_nibbles, words};
use bytemuck::{Pod, Zeroable};

/// The values that a 4-bit number stands for in IQ4_NL and IQ4_XS.
pub(super) static IQ4_NL_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// 32 weights in 18 bytes (4.5 bits each): w = d·IQ4_NL_VALUES\[q\]. `d` is an f16; `qs` as in Q4_0.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct BlockIq4Nl {
    d: [u8; 2],
    qs: [u8; 16],
}
const _: () = assert!(size_of::<BlockIq4Nl>() == 18);

impl Block for BlockIq4Nl {
    const ID: u32 = 20;
    const FILE_TYPE: u32 = 25;
    const QUANT: Quant = Quant {
        codes: Codes::Table(&IQ4_NL_VALUES),
        shape: Shape::One { plus_m: false },
        scale: Scale::F16 { at: 0 },
    };
    const DECODE: Decoder = decode_blocks::<Self, 32>;
    const ENCODE: Option<Encoder> = Some(encode_blocks::<Self, 32>);
    const ENCODE_BY: Option<EncoderBy> = Some(encode_row_by::<Self, 32>);

    #[inline(always)]
    fn codes(&self, _: usize) -> [u32; 8] {
        words::nibbles(&self.qs)
    }
}

impl Decode<32> for BlockIq4Nl {
    fn decode(&self, out: &mut [f32; 32]) {
        let d = f16_to_f32(self.d);
        // One product per value of the table, then only look-ups.
        let values = IQ4_NL_VALUES.map(|v| d * f32::from(v));
        let q = nibbles(&self.qs);
        for i in 0..32 {
            out[i] = values[usize::from(q[i] & 15)];
        }
    }
}

impl Encode<32> for BlockIq4Nl {
    fn encode(weights: &[f32; 32]) -> Self {
        Self::fit(weights, &squares(weights))
    }
}

impl EncodeBy<32> for BlockIq4Nl {
    fn encode_by(weights: &[f32; 32], importance: &Importance<'_, 32>) -> Self {
        let floor = sum_of_squares(weights) * (2.0 / 32.0);
        Self::fit(weights, &weighed(weights, importance.of, floor))
    }
}

impl BlockIq4Nl {
    fn fit(weights: &[f32; 32], importance: &[f32; 32]) -> Self {
        let d = fit_grid(weights, importance);
        Self { d: f32_to_f16(d), qs: pack_nibbles(&places(weights, inverse(d))) }
    }
}

/// Finds s with w ≈ s·v for values v of the grid.
///
/// First the scale that makes the extreme weight −127, then those that make it −134 to −120; each is refined by least
/// squares, and the one of least error stays.
pub(super) fn fit_grid(weights: &[f32; 32], importance: &[f32; 32]) -> f32 {
    let extreme = extreme(weights);
    if extreme.abs() < TINY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let places = places(weights, inverse);
        let (mut sum_vx, mut sum_v2) = (0.0, 0.0);
        for i in 0..32 {
            let v = f32::from(IQ4_NL_VALUES[usize::from(places[i] & 15)]);
            sum_vx += importance[i] * v * weights[i];
            sum_v2 += importance[i] * v * v;
        }
        (sum_vx, sum_v2)
    };
    let least = f32::from(IQ4_NL_VALUES[0]);
    let (sum_vx, sum_v2) = sums(1.0 / (-extreme / least));
    let mut scale: f32 = if sum_v2 > 0.0 { sum_vx / sum_v2 } else { 0.0 };
    let mut best = scale * sum_vx;
    for i in -7i8..=7 {
        let (sum_vx, sum_v2) = sums((f32::from(i) + least) / extreme);
        if sum_v2 > 0.0 && sum_vx * sum_vx > best * sum_v2 {
            scale = sum_vx / sum_v2;
            best = scale * sum_vx;
        }
    }
    scale
}

/// Half-way between one value of the grid and the next: from there on the next is the nearest.
static MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (IQ4_NL_VALUES[i] as f32 + IQ4_NL_VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

/// The place in the grid of the value nearest to `inverse`·w, for each weight w; NaN counts as the greatest.
pub(super) fn places(weights: &[f32; 32], inverse: f32) -> [u8; 32] {
    let scaled = weights.map(|w| inverse * w);
    // The middles come first, and a comparison adds or does not: so this becomes vector code.
    let mut below = [0i32; 32];
    for middle in MIDDLES {
        for i in 0..32 {
            below[i] += i32::from(scaled[i] < middle);
        }
    }
    below.map(|n| 15 - n as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// llama.cpp compares the distances to the two neighbours; the middles must say the same for floats beside them, too.
    #[test]
    fn a_place_is_the_nearest_value() {
        let distance = |x: f32, place: usize| (x - f32::from(IQ4_NL_VALUES[place])).abs();
        for (i, middle) in MIDDLES.into_iter().enumerate() {
            for x in [middle.next_down().next_down(), middle.next_down(), middle, middle.next_up()]
            {
                let nearest = if distance(x, i) < distance(x, i + 1) { i } else { i + 1 };
                assert_eq!(places(&[x; 32], 1.0), [nearest as u8; 32], "{x:e}");
            }
        }
        for (x, place) in [(-1e30, 0), (0.0, 8), (-0.0, 8), (1e30, 15), (f32::NAN, 15)] {
            assert_eq!(places(&[x; 32], 1.0)[0], place, "{x}");
        }
    }
}
