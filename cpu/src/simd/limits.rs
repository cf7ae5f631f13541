//! The loops that measure what one thread can do at most: bytes read, 8-bit products, f32 products. They hold nothing
//! but the instruction that is measured, on registers.

use super::{Isa, Kernel, Level, Token};
use std::hint::black_box;

/// Accumulators that do not wait for one another: more than latency times throughput of any instruction here, and few
/// enough for sixteen registers on AVX2, where a [`Isa::F`] takes two.
const CHAINS: usize = 6;
/// The same for AVX-512's thirty-two registers of one lane vector each.
#[cfg(target_arch = "x86_64")]
const WIDE_CHAINS: usize = 12;
/// Turns of a loop between two looks at the accumulators.
const TURNS: usize = 10_000;

/// How far ahead of the loads a stream is asked for, in lines of 64 bytes.
const AHEAD: usize = 16;

/// Products of the integer loop: multiplications of two 8-bit integers whose results are summed.
pub(crate) fn int8(level: Level, rounds: usize) -> u64 {
    let per_turn = match level.0 {
        #[cfg(target_arch = "x86_64")]
        Token::Avx512(_) => {
            // SAFETY: the token exists only if the features were detected (Avx512::new).
            (0..rounds).for_each(|_| unsafe { x86::vnni() });
            64 * WIDE_CHAINS
        }
        #[cfg(target_arch = "x86_64")]
        Token::Avx2(_) => {
            // SAFETY: the token exists only if AVX2 was detected (Avx2::new).
            (0..rounds).for_each(|_| unsafe { x86::maddubs() });
            32 * x86::HALF_CHAINS
        }
        Token::Scalar(_) => {
            (0..rounds).for_each(|_| level.run(Dot));
            64 * CHAINS
        }
        #[cfg(target_arch = "aarch64")]
        Token::Neon(_) | Token::NeonDot(_) => {
            (0..rounds).for_each(|_| level.run(Dot));
            64 * CHAINS
        }
    };
    (rounds * TURNS * per_turn) as u64
}

/// Fused multiply-adds of the f32 loop.
pub(crate) fn f32_fma(level: Level, rounds: usize) -> u64 {
    let chains = match level.0 {
        #[cfg(target_arch = "x86_64")]
        Token::Avx512(_) => {
            (0..rounds).for_each(|_| level.run(Fma::<WIDE_CHAINS>));
            WIDE_CHAINS
        }
        #[cfg(target_arch = "x86_64")]
        Token::Avx2(_) => {
            (0..rounds).for_each(|_| level.run(Fma::<CHAINS>));
            CHAINS
        }
        Token::Scalar(_) => {
            (0..rounds).for_each(|_| level.run(Fma::<CHAINS>));
            CHAINS
        }
        #[cfg(target_arch = "aarch64")]
        Token::Neon(_) | Token::NeonDot(_) => {
            (0..rounds).for_each(|_| level.run(Fma::<CHAINS>));
            CHAINS
        }
    };
    (rounds * TURNS * chains * super::LANES) as u64
}

/// How a buffer is walked: what is fastest differs between machines, so all are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Places that are read in turns, 1, 2, 4 or 8.
    pub(crate) streams: usize,
    /// Whether lines are asked for before they are read.
    pub(crate) ahead: bool,
}

impl Walk {
    /// All that are tried.
    pub(crate) const ALL: [Self; 6] = [
        Self { streams: 1, ahead: false },
        Self { streams: 2, ahead: false },
        Self { streams: 4, ahead: false },
        Self { streams: 8, ahead: false },
        Self { streams: 2, ahead: true },
        Self { streams: 4, ahead: true },
    ];
}

/// Reads the whole buffer; what is left over of the streams' equal parts is not read.
pub(crate) fn read(level: Level, lines: &[[u8; 64]], walk: Walk) {
    match walk.streams {
        1 => level.run(Read::<1> { lines, ahead: walk.ahead }),
        2 => level.run(Read::<2> { lines, ahead: walk.ahead }),
        4 => level.run(Read::<4> { lines, ahead: walk.ahead }),
        _ => level.run(Read::<8> { lines, ahead: walk.ahead }),
    }
}

/// The level's 8-bit product as kernels use it.
struct Dot;

impl Kernel for Dot {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut acc = [isa.i_splat(0); CHAINS];
        let w = isa.b_load(black_box(&[3; 64]));
        let a = black_box(0x0102_0301);
        for _ in 0..TURNS {
            // The same product again and again would be one product and a multiplication, to a compiler that sees it.
            let a = black_box(a);
            for acc in &mut acc {
                *acc = isa.dot_u7(*acc, w, a);
            }
        }
        let sum = acc.into_iter().fold(isa.i_splat(0), |a, b| isa.i_add(a, b));
        black_box(sum);
    }
}

struct Fma<const CHAINS: usize>;

impl<const CHAINS: usize> Kernel for Fma<CHAINS> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let mut acc = [isa.f_splat(0.0); CHAINS];
        // A factor below 1: the sums stay finite and normal.
        let (x, y) = (isa.f_splat(black_box(0.5)), isa.f_splat(black_box(1.0)));
        for _ in 0..TURNS {
            for acc in &mut acc {
                *acc = isa.f_fma(*acc, x, y);
            }
        }
        let sum = acc.into_iter().fold(isa.f_splat(0.0), |a, b| isa.f_add(a, b));
        black_box(sum);
    }
}

struct Read<'a, const STREAMS: usize> {
    lines: &'a [[u8; 64]],
    ahead: bool,
}

impl<const STREAMS: usize> Kernel for Read<'_, STREAMS> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let n = self.lines.len() / STREAMS;
        let streams: [&[[u8; 64]]; STREAMS] =
            std::array::from_fn(|s| &self.lines[s * n..(s + 1) * n]);
        let zero = isa.b_load(&[0; 64]);
        let mut acc = [zero; STREAMS];
        for at in 0..n {
            for s in 0..STREAMS {
                if self.ahead {
                    prefetch(streams[s], at + AHEAD);
                }
                acc[s] = isa.b_or(acc[s], isa.b_load(&streams[s][at]));
            }
        }
        black_box(acc.into_iter().fold(zero, |a, b| isa.b_or(a, b)));
    }
}

/// Asks for a line, where there is an instruction for it.
#[inline(always)]
fn prefetch(lines: &[[u8; 64]], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(line) = lines.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: SSE is part of the target; the address is that of a line of the slice.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (lines, at);
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{TURNS, WIDE_CHAINS};
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// One register each, and two for the factors.
    pub(super) const HALF_CHAINS: usize = 12;

    /// `vpdpbusd` on 512 bits.
    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn vnni() {
        let mut acc = [_mm512_setzero_si512(); WIDE_CHAINS];
        let w = _mm512_set1_epi8(black_box(3));
        let a = _mm512_set1_epi8(black_box(-2));
        for _ in 0..TURNS {
            for acc in &mut acc {
                *acc = _mm512_dpbusd_epi32(*acc, w, a);
            }
        }
        black_box(acc);
    }

    /// `vpmaddubsw` on 256 bits and the addition of its 16-bit sums: the fewest instructions that a product can take
    /// here. Kernels widen to 32 bits besides, the less often the nearer they come to this.
    #[target_feature(enable = "avx2")]
    pub(super) fn maddubs() {
        let mut acc = [_mm256_setzero_si256(); HALF_CHAINS];
        let w = _mm256_set1_epi16(black_box(3));
        let a = _mm256_set1_epi8(black_box(-2));
        for _ in 0..TURNS {
            for acc in &mut acc {
                // What the sum is does not matter, but that each product depends on the one before: else it would be
                // moved out of the loop.
                *acc = _mm256_add_epi16(_mm256_maddubs_epi16(*acc, a), w);
            }
        }
        black_box(acc);
    }
}
