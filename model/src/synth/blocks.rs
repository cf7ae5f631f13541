//! Random weights, straight as blocks of any format: no encoder, so every format is as fast as the generator.
//!
//! All bits of a block are random but its scales. Quants are then uniform over their range, which is harder on integer
//! kernels than the bell of a real model; scales vary by a quarter, and are set so that the weights have mean 0 and the
//! wanted standard deviation. Mean 0 matters: a mean of `m` would add `m · Σx` to every output alike, and such a common
//! direction grows from layer to layer. So scales have either sign where the quants are lopsided (`q − 8` of −8..=7),
//! and minima sit at the middle of the quants.

use gguf::DType;
use gguf::quant::{Kind, Quant, Scale, Shape};
use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// Which scales at the ends of f16's range are mixed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extremes {
    None,
    /// Zeroes of both signs and the smallest number above 0.
    Small,
    /// The largest number, too.
    All,
}

/// Weights of one stretch of the generator: a piece of a tensor is whole chunks, whoever computes them. A multiple of
/// every block.
pub(super) const CHUNK: usize = 1 << 16;

/// Words of the generator that are set aside for a chunk; a chunk of floats uses an eighth of them.
const CHUNK_WORDS: u128 = 1 << 20;

/// Largest finite f16, and its smallest above 0.
const F16_MAX: f64 = 65504.0;
const F16_MIN: f64 = 1.0 / (1 << 24) as f64;
/// Standard deviation of the sum of four uniform 16-bit numbers: √(4 · (2³² − 1) / 12).
const SUM_OF_FOUR: f32 = 37_837.227;

/// The generator of chunk number `chunk` of a tensor: neither order nor threads can be seen in the weights.
pub(super) fn generator(seed: u64, tensor: &str, chunk: u64) -> ChaCha8Rng {
    // FNV-1a of the name.
    let stream = tensor.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng.set_word_pos(u128::from(chunk) * CHUNK_WORDS);
    rng
}

/// A number that is as good as normally distributed, with mean 0 and deviation 1: the sum of four uniform ones.
pub(super) fn normal(rng: &mut ChaCha8Rng) -> f32 {
    centred(rng.next_u64()) as f32 / SUM_OF_FOUR
}

fn centred(bits: u64) -> i32 {
    (0..4).map(|i| i32::from((bits >> (16 * i)) as u16)).sum::<i32>() - 2 * 65535
}

/// Makes blocks of one tensor.
pub(super) struct Blocks {
    dtype: DType,
    std: f32,
    extremes: Extremes,
    /// The 256 scales of the tensor, of which a random byte chooses one. Each is an f16; of MXFP4 the first byte is the
    /// exponent and the second is not used.
    scales: [[u8; 2]; 256],
    /// The minimum that belongs to each scale, f16.
    mins: [[u8; 2]; 256],
}

impl Blocks {
    /// Weights of standard deviation `std`.
    pub(super) fn new(dtype: DType, std: f64, extremes: Extremes) -> Self {
        let base = match dtype.kind() {
            Kind::Float(_) => std,
            Kind::Quant(Quant { codes, scale: Scale::E8m0 { .. }, .. }) => {
                std / rms(&codes.values().map(f32::from).collect::<Vec<_>>())
            }
            Kind::Quant(Quant { scale: Scale::F16 { .. } | Scale::Fraction { .. }, .. }) => {
                std / unit_rms(dtype)
            }
        };
        Self::with_base(dtype, base, extremes)
    }

    fn with_base(dtype: DType, base: f64, extremes: Extremes) -> Self {
        let mut blocks =
            Self { dtype, std: base as f32, extremes, scales: [[0; 2]; 256], mins: [[0; 2]; 256] };
        let Some(quant) = dtype.quant() else { return blocks };
        for i in 0..256 {
            match quant.scale {
                Scale::E8m0 { .. } => blocks.scales[i] = [exponent(base, i, extremes), 0],
                Scale::F16 { .. } | Scale::Fraction { .. } => {
                    let scale = scale(base, i, extremes);
                    // Formats with minima have scales above 0 in real files.
                    let scale = if quant.shape.has_m() { scale.abs() } else { scale };
                    let min = (scale * min_of(quant)).clamp(-F16_MAX, F16_MAX);
                    blocks.scales[i] = half(scale);
                    blocks.mins[i] = half(min);
                }
            }
        }
        blocks
    }

    /// Fills whole blocks, at most a chunk.
    pub(super) fn fill(&self, rng: &mut ChaCha8Rng, out: &mut [u8]) {
        let quant = match self.dtype.kind() {
            Kind::Float(_) => return self.fill_floats(rng, out),
            Kind::Quant(quant) => quant,
        };
        rng.fill_bytes(out);
        for block in out.chunks_exact_mut(self.dtype.block_bytes()) {
            match quant.scale {
                Scale::Fraction { of, .. } => {
                    let i = usize::from(of.get(block)[0]);
                    of.set(block, self.scales[i]);
                }
                Scale::E8m0 { at } => block[at] = self.scales[usize::from(block[at])][0],
                Scale::F16 { at } => {
                    let i = usize::from(block[at]);
                    block[at..at + 2].copy_from_slice(&self.scales[i]);
                    if quant.shape.has_m() {
                        block[at + 2..at + 4].copy_from_slice(&self.mins[i]);
                    }
                }
            }
        }
        self.dtype.make_plausible(out);
    }

    fn fill_floats(&self, rng: &mut ChaCha8Rng, out: &mut [u8]) {
        let mut weights = vec![0f32; out.len() / self.dtype.block_bytes()];
        for weight in &mut weights {
            let bits = rng.next_u64();
            *weight = match extreme((bits & 255) as usize, self.extremes) {
                Some(extreme) => extreme as f32,
                None => centred(bits) as f32 / SUM_OF_FOUR * self.std,
            };
        }
        self.dtype.encode(&weights, out);
    }
}

/// What a block's second f16 is in units of its scale: the middle of the integers, with the sign that takes it away. 0
/// where the format has none.
fn min_of(quant: Quant) -> f64 {
    let values: Vec<f64> = quant.codes.values().map(f64::from).collect();
    let middle = values.iter().sum::<f64>() / values.len() as f64;
    match quant.shape {
        Shape::One { plus_m: false } | Shape::Runs { minus_min: false, .. } => 0.0,
        Shape::One { plus_m: true } => -middle,
        // The integer minimum of a run is about as large as its scale.
        Shape::Runs { minus_min: true, .. } => middle,
    }
}

/// Standard deviation of a format's weights at a scale of 1. Measured rather than derived: the same for ever, since
/// the generator and every step of f32 and f64 are exact.
fn unit_rms(dtype: DType) -> f64 {
    let (mut bytes, mut weights) = (vec![0; dtype.row_bytes(CHUNK)], vec![0f32; CHUNK]);
    Blocks::with_base(dtype, 1.0, Extremes::None)
        .fill(&mut generator(0, dtype.name(), 0), &mut bytes);
    dtype.dequantize(&bytes, &mut weights);
    rms(&weights)
}

fn rms(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    (sum / values.len() as f64).sqrt()
}

/// Scale number `i`: three to five quarters of `base`, of either sign.
fn scale(base: f64, i: usize, extremes: Extremes) -> f64 {
    if let Some(extreme) = extreme(i, extremes) {
        return extreme;
    }
    let size = base * (0.75 + 0.5 * (i / 2) as f64 / 127.0);
    if i.is_multiple_of(2) { size } else { -size }
}

/// The extreme that stands in place of number `i` of 256, or `None` where that number is ordinary.
fn extreme(i: usize, extremes: Extremes) -> Option<f64> {
    let small = match i % 64 {
        5 => Some(F16_MIN),
        6 => Some(-F16_MIN),
        23 => Some(0.0),
        24 => Some(-0.0),
        _ => None,
    };
    // One in eight: were they rare, one output would stand out of all, and its norm would not fit an f16.
    let sign = if i % 16 < 8 { 1.0 } else { -1.0 };
    let large = (i % 8 == 3).then_some(sign * F16_MAX);
    match extremes {
        Extremes::None => None,
        Extremes::Small => small,
        Extremes::All => large.or(small),
    }
}

/// Exponent number `i` of a scale that is a power of two: the powers of two around `base`, so mixed that the mean square is right.
fn exponent(base: f64, i: usize, extremes: Extremes) -> u8 {
    match extreme(i, extremes) {
        Some(large) if large.abs() == F16_MAX => return 128 + 15,
        Some(small) => return u8::from(small != 0.0),
        None => {}
    }
    // 2^(e − 128) is the least power from `base` up; loops instead of logarithms, which differ between machines.
    let (mut e, mut power) = (128u8, 1.0f64);
    while power / 2.0 >= base && e > 1 {
        (e, power) = (e - 1, power / 2.0);
    }
    while power < base && e < 254 {
        (e, power) = (e + 1, power * 2.0);
    }
    let below = (power / 2.0) * (power / 2.0);
    let share = (base * base - below) / (3.0 * below);
    if (i as f64) < 256.0 * share { e } else { e - 1 }
}

fn half(x: f64) -> [u8; 2] {
    let mut bytes = [0; 2];
    DType::F16.encode(&[x as f32], &mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(dtype: DType, std: f64, extremes: Extremes) -> (Vec<u8>, Vec<f32>) {
        let (mut bytes, mut weights) = (vec![0; dtype.row_bytes(CHUNK)], vec![0f32; CHUNK]);
        Blocks::new(dtype, std, extremes).fill(&mut generator(9, "w", 3), &mut bytes);
        dtype.dequantize(&bytes, &mut weights);
        (bytes, weights)
    }

    #[test]
    fn mean_and_deviation() {
        for dtype in DType::ALL {
            for std in [0.5, 1.0 / 36.0, 1.0 / 120.0] {
                let (bytes, weights) = weights(dtype, std, Extremes::None);
                assert_eq!(gguf::check_tensor(dtype, &bytes), None, "{dtype}");
                let found = rms(&weights) / std;
                assert!((0.95..1.05).contains(&found), "{dtype}: {found} of {std}");
                let mean = weights.iter().map(|&w| f64::from(w)).sum::<f64>() / CHUNK as f64;
                // 65536 weights in as few as 256 blocks, whose signs are random.
                assert!(mean.abs() / std < 0.04, "{dtype}: mean {mean} of {std}");
            }
        }
    }

    #[test]
    fn extremes_are_finite_and_there() {
        for dtype in DType::ALL {
            for extremes in [Extremes::Small, Extremes::All] {
                let (bytes, weights) = weights(dtype, 0.03, extremes);
                assert_eq!(gguf::check_tensor(dtype, &bytes), None, "{dtype}");
                assert!(weights.iter().all(|w| w.is_finite()), "{dtype}");
                let largest = weights.iter().fold(0f32, |max, w| max.max(w.abs()));
                assert_eq!(largest > 6e4, extremes == Extremes::All, "{dtype}: {largest}");
                let tiny = weights.iter().filter(|w| w.abs() < 1e-4).count();
                assert!(tiny > CHUNK / 100, "{dtype}: {tiny} tiny");
            }
        }
    }

    #[test]
    fn a_chunk_is_the_same_whatever_came_before() {
        let first = |chunk| generator(1, "a", chunk).next_u64();
        assert_ne!(first(0), first(1));
        assert_ne!(generator(1, "b", 0).next_u64(), first(0));
        assert_ne!(generator(2, "a", 0).next_u64(), first(0));
        // Fixed for ever: a seed names a file.
        assert_eq!(generator(1, "blk.0.attn_q.weight", 7).next_u64(), 5_885_008_918_426_140_429);
    }
}
