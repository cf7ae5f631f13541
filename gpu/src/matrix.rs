//! Matrix units (wgpu's cooperative matrices): how the integer products of the contract become products of f16 numbers
//! with sums in f32, all of them exact.
//!
//! An f16 holds every integer up to 2048, an f32 up to 2^24. A weight is its quant times its integer scale, an activation
//! at most 127. Where that weight may be above 2048, its quant is split into high and low bits, each times the scale.

use crate::shaders::by_sixteen;
use crate::template::Defines;
use gguf::DType;
use gguf::quant::{Codes, Shape};
use graph::ints::{Form, form};

/// A device's matrix unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Matrix {
    /// Rows and columns of a fragment: 8 or 16.
    pub size: u32,
    /// Threads that multiply a fragment together.
    pub subgroup: u32,
}

/// The units that devices are known to have: NVIDIA's, AMD's and Apple's shapes, and Mesa's in software.
pub fn known() -> [Matrix; 3] {
    [(16, 32), (8, 32), (8, 8)].map(|(size, subgroup)| Matrix { size, subgroup })
}

/// What a workgroup multiplies: `sub_rows` by `sub_tokens` subgroups, each with `side` rows of weights and as many tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
    side: u32,
    sub_rows: u32,
    sub_tokens: u32,
}

/// The largest activation.
const ACT_MOST: u32 = 127;
/// The same in `int16`, as far as 128 times a high byte and the low byte may be apart: 127 · 128 and 64.
const ACT16_MOST: u32 = 127 * 128 + 64;
/// The integers that f16 and f32 hold without a gap.
const F16_WHOLE: u32 = 1 << 11;
const F32_WHOLE: u32 = 1 << 24;

impl Matrix {
    /// The tile of a workgroup: at least as many threads as rows, and no more than their halves of units. The fragments of
    /// a subgroup are written out one by one in the shader: a unit in software, which has subgroups of few threads, would
    /// take half a minute to compile 16 of them, so that there are more subgroups of 4 each.
    pub(crate) fn tile(self) -> Tile {
        if self.subgroup >= 32 {
            Tile { side: 32, sub_rows: 2, sub_tokens: 2 }
        } else {
            Tile { side: 16, sub_rows: 2, sub_tokens: 32 / self.subgroup }
        }
    }

    /// Workgroups for `count` rows of weights by `rows` rows of activations.
    pub(crate) fn grid(self, count: u32, rows: u32) -> [u32; 3] {
        let tile = self.tile();
        [count.div_ceil(tile.rows()), rows.div_ceil(tile.tokens()), 1]
    }

    /// Threads of a workgroup.
    fn threads(self) -> u32 {
        self.tile().subgroups() * self.subgroup
    }

    /// Bytes of a workgroup's memory that `mat_mul/coop.wgsl` and `mat_mul/coop_int16.wgsl` take at most: a fragment for
    /// each subgroup; in one a stage of weights, split, or with minimums, a stage of activations, and scales; in the other a
    /// stage of weights, two of activations, and scales of two runs.
    pub(crate) fn shared_memory(self) -> u32 {
        let tile = self.tile();
        let (rows, tokens) = (tile.rows(), tile.tokens());
        let int8 = (rows + tokens) * (80 + 16) + (rows * 80).max((rows + tokens) * 48);
        let int16 = (rows + 2 * tokens) * 80 + 2 * (4 * rows + 3 * tokens) * 4;
        tile.subgroups() * self.size * (self.size + 4) * 4 + int8.max(int16)
    }
}

impl Tile {
    pub(crate) fn rows(self) -> u32 {
        self.sub_rows * self.side
    }

    pub(crate) fn tokens(self) -> u32 {
        self.sub_tokens * self.side
    }

    fn subgroups(self) -> u32 {
        self.sub_rows * self.sub_tokens
    }
}

/// How the quants of a format are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exact {
    /// What is taken from a stored byte to get the quant.
    bias: u32,
    /// Low bits that are multiplied by themselves; 0 where nothing is split.
    shift: u32,
    /// Elements whose sum an f32 holds.
    span: usize,
}

impl Exact {
    fn of(form: &Form) -> Self {
        let bias = bias_of(form);
        let stored = |q: i8| (i32::from(q) + bias as i32) as u32;
        let (least, most) = form.codes.values().fold((stored(0), stored(0)), |(least, most), q| {
            (least.min(stored(q)), most.max(stored(q)))
        });
        let magnitude = |shift: u32| {
            let (bias, least, most) = (bias >> shift, least >> shift, most >> shift);
            bias.abs_diff(least).max(bias.abs_diff(most))
        };
        let scale = match form.shape {
            Shape::One { .. } => 1,
            Shape::Runs { largest_scale, .. } => u32::from(largest_scale),
        };
        let span = |weight: u32| {
            let mut span = form.block_len();
            while u64::from(weight) * u64::from(ACT_MOST) * span as u64 > u64::from(F32_WHOLE) {
                span /= 2;
            }
            span
        };
        let whole = magnitude(0) * scale;
        if whole <= F16_WHOLE {
            return Self { bias, shift: 0, span: span(whole) };
        }
        // Three bits below: seven times any scale of eight bits is below 1024, and so is what lies above.
        let shift = 3;
        let parts = (magnitude(shift) * scale).max(7 * scale);
        debug_assert!(parts <= F16_WHOLE);
        Self { bias, shift, span: span(parts) }
    }
}

/// What is taken from a byte, made unsigned, to get the quant.
fn bias_of(form: &Form) -> u32 {
    match form.codes {
        Codes::Plain { offset, .. } => offset as u32,
        Codes::Signs => 1,
        Codes::Bytes | Codes::Table(_) | Codes::ShortTable(_) => 128,
    }
}

/// What makes bytes unsigned.
fn to_unsigned(form: &Form) -> &'static str {
    match form.codes {
        Codes::Plain { .. } | Codes::Signs => "",
        Codes::Bytes | Codes::Table(_) | Codes::ShortTable(_) => " ^ 0x80808080u",
    }
}

/// Whether, in `int16`, 128 times the high bytes and the low ones cannot be summed together over a run of weights.
fn sums_apart(form: &Form) -> bool {
    let most = form.codes.values().map(|q| u32::from(q.unsigned_abs())).max().unwrap_or(0);
    most * ACT16_MOST * form.run_len() as u32 > F32_WHOLE
}

/// The constants of `mat_mul/coop.wgsl` beside the format's.
pub(crate) fn defines(dtype: DType, matrix: Matrix) -> Defines {
    let Some(form) = form(dtype) else { return Defines::new() };
    let tile = matrix.tile();
    let (size, rows, tokens) = (matrix.size, tile.rows(), tile.tokens());
    let threads = matrix.threads();
    by_format(&form)
        .with(&by_unit(matrix))
        .set("TOKEN_EACH", &tokens.div_ceil(threads))
        .set("MIN_EACH", &(min_words(&form) as u32 * rows).div_ceil(threads))
        .set("SUM_EACH", &(4 * tokens).div_ceil(threads))
        .set("K_STEPS", &starts(size, 32))
        .set("SUM_K_STEPS", &starts(size, 16))
}

/// The constants of `mat_mul/coop_int16.wgsl` beside the format's.
pub(crate) fn defines_int16(dtype: DType, matrix: Matrix) -> Defines {
    let Some(form) = form(dtype) else { return Defines::new() };
    let (apart, runs) = (sums_apart(&form), 32 / form.run_len());
    let bias = bias_of(&form);
    by_unit(matrix)
        .flag("APART", apart)
        .set("PARTS", &if apart { 2 } else { runs })
        .set("PART_OF", if apart { "{{P}}" } else { "{{H}}" })
        .set("K_STEPS", &starts(matrix.size, form.run_len() as u32))
        .set("TO_UNSIGNED", to_unsigned(&form))
        .set("LESS", &format!("{}.0h", 1024 + bias))
}

/// Where the fragments of `n` elements begin, counted in fours.
fn starts(size: u32, n: u32) -> String {
    let fours = (0..n).step_by(size as usize).map(|k| (k / 4).to_string());
    fours.collect::<Vec<_>>().join(" ")
}

/// The constants that depend on the unit alone.
fn by_unit(matrix: Matrix) -> Defines {
    let tile = matrix.tile();
    let (size, rows, tokens, threads) = (matrix.size, tile.rows(), tile.tokens(), matrix.threads());
    Defines::new()
        .set("SIZE", &size)
        .set("ROWS", &rows)
        .set("TOKENS", &tokens)
        .set("THREADS", &threads)
        .set("SUBGROUPS", &tile.subgroups())
        .set("A_EACH", &(2 * rows).div_ceil(threads))
        .set("X_EACH", &(2 * tokens).div_ceil(threads))
        .set("SUB_ROWS", &tile.sub_rows)
        .set("FRAGMENTS", &(tile.side / size))
        .set("EACH", &(size * size / matrix.subgroup))
}

/// Words of one row's integer minimums in a block, where the format has them.
fn min_words(form: &Form) -> usize {
    form.n_runs() / 4
}

fn by_format(form: &Form) -> Defines {
    let Exact { bias, shift, span } = Exact::of(form);
    let split = shift > 0;
    let by_sixteen = by_sixteen(form);
    let mask = |byte: u32| format!("0x{:08x}u", byte * 0x0101_0101);
    Defines::new()
        .flag("HIGH_LOW", split)
        .flag("SINGLE", !split && span == form.block_len())
        .set("SPAN_UNITS", &(span / 32))
        // Two sums below 2^24 are rounded once when they are added: what the integer sum gives as f32, too.
        .set("SUM_TYPE", if !split && form.block_len() / span == 2 { "f32" } else { "i32" })
        .set("TO_UNSIGNED", to_unsigned(form))
        .set("LESS", &format!("{}.0h", 1024 + (bias >> shift)))
        .set("SHIFT", &shift)
        .set("LOW_MASK", &mask((1 << shift) - 1))
        .set("HIGH_MASK", &mask(255 >> shift))
        .set("FIRST_RUN", if by_sixteen { "a_h{{I}}" } else { "0u" })
        .set("NEXT_RUN", if by_sixteen { "2u * next_u + a_h{{I}}" } else { "next_u" })
        .flag("MIN_TWICE", !by_sixteen)
        .set("MIN_WORDS", &min_words(form))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out by hand: 31 · 16320 · 32 is 16189440, 43 · 16320 · 16 is 11228160, and 2^24 is 16777216.
    #[test]
    fn sums_of_bytes_are_apart() {
        let apart = |dtype| sums_apart(&form(dtype).unwrap());
        let quants = DType::ALL.into_iter().filter(|&dtype| form(dtype).is_some());
        let found: Vec<DType> = quants.filter(|&dtype| apart(dtype)).collect();
        let grids = [DType::IQ2_XXS, DType::IQ3_XXS];
        assert_eq!(found, [&[DType::Q8_0, DType::IQ4_NL, DType::IQ4_XS], &grids[..]].concat());
    }

    #[test]
    fn every_sum_fits() {
        for dtype in DType::ALL {
            let Some(form) = form(dtype) else { continue };
            let Exact { bias, shift, span } = Exact::of(&form);
            assert!(span >= 32 && form.block_len().is_multiple_of(span), "{dtype}: {span}");
            assert_eq!(bias % (1 << shift), 0, "{dtype}");
        }
        let of = |dtype| Exact::of(&form(dtype).unwrap());
        assert_eq!(of(DType::Q8_0), Exact { bias: 128, shift: 0, span: 32 });
        assert_eq!(of(DType::Q4_K), Exact { bias: 0, shift: 0, span: 128 });
        assert_eq!(of(DType::Q5_K), Exact { bias: 0, shift: 0, span: 64 });
        assert_eq!(of(DType::Q6_K), Exact { bias: 32, shift: 3, span: 128 });
        assert_eq!(of(DType::Q3_K), Exact { bias: 4, shift: 0, span: 256 });
    }
}
