//! Rounding of activations to 8 bits. Meaning: `graph::ops::quantize_act`.
//!
//! The tokens of a step lie in groups of [`Isa::TOKENS`], a group's words (four quants each) side by side: a kernel that
//! multiplies a group reads one stream.
//!
//! v1: plain loops in the shape that compilers vectorise; the two `nearest` steps are the magic addition. v2 (this):
//! the same loops into a block of words, which is then spread over the group.

use crate::pool::Pool;
use crate::simd::{Isa, Kernel, Level};
use graph::ints::ActFormat;
use graph::math::{ROUND_MAGIC, round_f16};

/// Most columns of a block.
const MAX_BLOCK: usize = 256;

/// Rounded activations of all tokens of a step, with the sums that the kernels want.
#[derive(Default)]
pub(crate) struct Acts {
    tokens: usize,
    /// Tokens of a whole group.
    width: usize,
    groups: Vec<Group>,
}

/// Some tokens' rows; in every field the tokens lie side by side: entry `i` of token t stands at `i · tokens + t`.
#[derive(Clone, Default)]
pub(crate) struct Group {
    /// Tokens of this group.
    pub(crate) tokens: usize,
    /// Four quants to an i32, little-endian: `[n_in / 4]`.
    pub(crate) q: Vec<i32>,
    /// Scale of each block.
    pub(crate) d: Vec<f32>,
    /// Rounded `d · Σq` of each block ([`ActFormat::Q8x32`] only).
    pub(crate) s: Vec<f32>,
    /// Sums of 16 quants ([`ActFormat::Q8x256`] only).
    pub(crate) sums16: Vec<i32>,
    /// Sums of 32 quants.
    pub(crate) sums32: Vec<i32>,
    /// Two neighbours of `sums16` as the halves of a word ([`ActFormat::Q8x256`] only).
    pub(crate) pairs16: Vec<i32>,
    /// Two neighbours of `sums32` as the halves of a word ([`ActFormat::Q8x256`] only).
    pub(crate) pairs32: Vec<i32>,
}

impl Acts {
    /// Rounds `x`, `[tokens, n_in]`.
    pub(crate) fn quantize(
        &mut self,
        format: ActFormat,
        x: &[f32],
        n_in: usize,
        (level, pool): (Level, &mut Pool),
    ) {
        self.tokens = x.len() / n_in;
        self.width = level.tokens();
        let width = self.width;
        let n_groups = self.tokens.div_ceil(width);
        if self.groups.len() < n_groups {
            self.groups.resize(n_groups, Group::default());
        }
        pool.rows(&mut self.groups[..n_groups], 1, |first, groups| {
            for (i, group) in groups.iter_mut().enumerate() {
                let from = (first + i) * width * n_in;
                let x = &x[from..x.len().min(from + width * n_in)];
                group.resize(format, n_in, x.len() / n_in);
                level.run(Quantize { format, x, n_in, group });
            }
        });
    }

    /// Tokens in all.
    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The groups that hold the tokens from `start` (the first of a group) to `end`.
    #[inline(always)]
    pub(crate) fn groups(&self, start: usize, end: usize) -> &[Group] {
        &self.groups[start / self.width..end.div_ceil(self.width)]
    }
}

impl Group {
    fn resize(&mut self, format: ActFormat, n_in: usize, tokens: usize) {
        let (block, k) = match format {
            ActFormat::Q8x32 => (32, 0),
            ActFormat::Q8x256 => (256, 1),
        };
        self.tokens = tokens;
        self.q.resize(n_in / 4 * tokens, 0);
        self.d.resize(n_in / block * tokens, 0.0);
        self.s.resize(n_in / 32 * tokens * (1 - k), 0.0);
        self.sums16.resize(n_in / 16 * tokens * k, 0);
        self.sums32.resize(n_in / 32 * tokens, 0);
        self.pairs16.resize(n_in / 32 * tokens * k, 0);
        self.pairs32.resize(n_in / 64 * tokens * k, 0);
    }
}

struct Quantize<'a> {
    format: ActFormat,
    x: &'a [f32],
    n_in: usize,
    group: &'a mut Group,
}

impl Kernel for Quantize<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        for (t, x) in self.x.chunks_exact(self.n_in).enumerate() {
            match self.format {
                ActFormat::Q8x32 => q8x32(x, t, self.group),
                ActFormat::Q8x256 => q8x256(x, t, self.group),
            }
        }
    }
}

/// The largest magnitude by bits: NaN above infinity above the rest.
#[inline(always)]
fn amax(x: &[f32]) -> f32 {
    let mut lanes = [0u32; 16];
    for x in x.chunks_exact(16) {
        for i in 0..16 {
            lanes[i] = lanes[i].max(x[i].to_bits() & 0x7fff_ffff);
        }
    }
    f32::from_bits(lanes.iter().copied().max().unwrap_or(0))
}

/// The quants `x[i] · id` of one block, and their sums by 16.
#[inline(always)]
fn round(x: &[f32], id: f32, quants: &mut [i8; MAX_BLOCK], sums: &mut [i32; MAX_BLOCK / 16]) {
    for ((x, quants), total) in x.chunks_exact(16).zip(quants.chunks_exact_mut(16)).zip(sums) {
        let mut sum = 0;
        for (x, quant) in x.iter().zip(quants) {
            // `x · id` is within ±127, so the magic sum's low bits are the nearest integer. (Not so in a block with NaN
            // or infinity: there any quants will do, since d is NaN.)
            let bits = (x * id + ROUND_MAGIC).to_bits();
            let q = bits.wrapping_sub(ROUND_MAGIC.to_bits()) as i8;
            sum += i32::from(q);
            *quant = q;
        }
        *total = sum;
    }
}

/// Two signed 16-bit halves of a word.
fn pair(low: i32, high: i32) -> i32 {
    low & 0xffff | high << 16
}

#[inline(always)]
fn q8x32(x: &[f32], t: usize, group: &mut Group) {
    let n = group.tokens;
    let (mut quants, mut sums) = ([0i8; MAX_BLOCK], [0i32; MAX_BLOCK / 16]);
    for (b, x) in x.chunks_exact(32).enumerate() {
        let amax = amax(x);
        let d = if amax.is_finite() { amax / 127.0 } else { f32::NAN };
        let id = if amax == 0.0 { 0.0 } else { 127.0 / amax };
        round(x, id, &mut quants, &mut sums);
        let sum = sums[0] + sums[1];
        spread(&quants[..32], &mut group.q[8 * b * n..], n, t);
        group.d[b * n + t] = round_f16(d);
        group.s[b * n + t] = round_f16(d * sum as f32);
        group.sums32[b * n + t] = sum;
    }
}

#[inline(always)]
fn q8x256(x: &[f32], t: usize, group: &mut Group) {
    let n = group.tokens;
    let (mut quants, mut sums) = ([0i8; MAX_BLOCK], [0i32; MAX_BLOCK / 16]);
    for (b, x) in x.chunks_exact(256).enumerate() {
        let amax = amax(x);
        if amax == 0.0 || !amax.is_finite() {
            (quants, sums) = ([0; MAX_BLOCK], [0; MAX_BLOCK / 16]);
            group.d[b * n + t] = if amax == 0.0 { 0.0 } else { f32::NAN };
        } else {
            let max = x.iter().copied().find(|v| v.abs() == amax).unwrap_or(amax);
            let iscale = -127.0 / max;
            round(x, iscale, &mut quants, &mut sums);
            group.d[b * n + t] = 1.0 / iscale;
        }
        spread(&quants, &mut group.q[64 * b * n..], n, t);
        let sums32: [i32; 8] = std::array::from_fn(|i| sums[2 * i] + sums[2 * i + 1]);
        for (i, sum) in sums.iter().enumerate() {
            group.sums16[(16 * b + i) * n + t] = *sum;
        }
        for i in 0..8 {
            group.sums32[(8 * b + i) * n + t] = sums32[i];
            group.pairs16[(8 * b + i) * n + t] = pair(sums[2 * i], sums[2 * i + 1]);
        }
        for i in 0..4 {
            group.pairs32[(4 * b + i) * n + t] = pair(sums32[2 * i], sums32[2 * i + 1]);
        }
    }
}

/// Words of four quants into every n-th place from `t` on.
#[inline(always)]
fn spread(quants: &[i8], words: &mut [i32], n: usize, t: usize) {
    for (four, words) in quants.as_chunks::<4>().0.iter().zip(words.chunks_exact_mut(n)) {
        words[t] = i32::from_le_bytes(four.map(|q| q as u8));
    }
}
