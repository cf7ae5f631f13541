//! Sixteen lanes, whatever the machine: the operations that kernels are written in, once for each instruction set.
//!
//! A token type ([`Isa`]) exists only where its features were detected, so its methods are safe to call. Kernels are
//! generic functions, inlined into one entry point per instruction set that carries the `target_feature` attribute.
//! Every operation is IEEE and exact in its rounding, so all instruction sets give the same bits.

#![allow(unsafe_code, reason = "intrinsics: behind the fence of ARCHITECTURE.md")]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod limits;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::fmt;

/// Lanes of every vector of 32-bit elements.
pub(crate) const LANES: usize = 16;

/// A set of instructions, proven present.
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    /// 16 × f32.
    type F: Copy;
    /// 16 × i32.
    type I: Copy;
    /// 64 × 8 bits.
    type B: Copy;

    /// Tokens that a matrix kernel takes at a time (at most 6), and tiles of 16 rows beside one another (1 or 2): what
    /// fits the registers.
    const TOKENS: usize;
    /// See [`Isa::TOKENS`].
    const TILES: usize;
    /// Rows that attention takes at a time, and vectors beside one another: (6, 4), (6, 1), (3, 2) or (1, 1).
    const ROWS: usize;
    /// See [`Isa::ROWS`].
    const VECTORS: usize;
    /// What [`Isa::dot_i8`] wants added to signed bytes beforehand (128 where the hardware multiplies unsigned by
    /// signed); the kernel subtracts `I8_BIAS · Σa` again, exactly.
    const I8_BIAS: u8;

    /// Runs a kernel compiled for these instructions, as a function of its own: a kernel may have its inner parts run
    /// by this too, so that there is one copy of them, whoever calls, and no function is so large that compiling it
    /// takes long. A call costs nothing beside hundreds of products.
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out;

    /// Asks for the cache line of `at`, to be used some microseconds later; does nothing where there is no such thing.
    fn prefetch(self, at: &u8);

    fn f_splat(self, x: f32) -> Self::F;
    fn f_load(self, x: &[f32; LANES]) -> Self::F;
    fn f_store(self, x: Self::F, to: &mut [f32; LANES]);
    /// Widens 16 f16 values given by their bits.
    fn f_load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// The bits of 16 f16 values, rounded to nearest even.
    fn f_store_f16(self, x: Self::F, to: &mut [u16; LANES]);
    /// The low halves of the lanes, which are bits of f16 values, widened; then the high halves.
    fn f_from_f16_pairs(self, x: Self::I) -> [Self::F; 2];
    /// The same of bf16 values.
    fn f_from_bf16_pairs(self, x: Self::I) -> [Self::F; 2];
    /// Lane j of vector i and lane i of vector j change places.
    fn f_transpose(self, x: &mut [Self::F; LANES]);
    fn f_from_i(self, x: Self::I) -> Self::F;
    fn f_add(self, a: Self::F, b: Self::F) -> Self::F;
    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a · b + c`, rounded once.
    fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a < b { yes } else { no }`; a NaN gives `no`.
    fn f_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F;
    /// `y · 2ⁿ` for integral n in -126 ..= 127 (other n: any result).
    fn f_scale2(self, y: Self::F, n: Self::F) -> Self::F;

    fn i_splat(self, x: i32) -> Self::I;
    fn i_load(self, x: &[i32; LANES]) -> Self::I;
    fn i_store(self, x: Self::I, to: &mut [i32; LANES]);
    /// Widens 16 signed bytes.
    fn i_load_i8(self, x: &[i8; LANES]) -> Self::I;
    /// Widens 16 unsigned bytes.
    fn i_load_u8(self, x: &[u8; LANES]) -> Self::I;
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I;
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I;
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I;
    fn i_shl<const N: u32>(self, a: Self::I) -> Self::I;
    /// The same bits as f32.
    fn f_from_bits(self, a: Self::I) -> Self::F;
    /// The same bits as i32.
    fn f_bits(self, a: Self::F) -> Self::I;
    /// Rounded to f16 (nearest even) and widened again.
    fn f_round_f16(self, a: Self::F) -> Self::F;
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I;
    /// The larger, signed.
    fn i_max(self, a: Self::I, b: Self::I) -> Self::I;
    /// The largest lane, signed.
    fn i_largest(self, a: Self::I) -> i32;
    /// The sum of the lanes.
    fn i_total(self, a: Self::I) -> i32;
    /// The low byte of each lane.
    fn i_low_bytes(self, a: Self::I) -> [u8; LANES];

    /// Lane r gains `w[r].low · a.low + w[r].high · a.high`, the halves being signed 16-bit integers.
    fn dot_i16(self, acc: Self::I, w: Self::I, a: i32) -> Self::I;

    fn b_load(self, x: &[u8; 64]) -> Self::B;
    fn b_store(self, x: Self::B, to: &mut [u8; 64]);
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Every byte shifted right by `n` (left by `-n`), then masked; `mask` holds no bit that a neighbour's could reach.
    fn b_shift_mask(self, a: Self::B, right: i32, mask: u8) -> Self::B;
    /// Each byte (below 16) replaced by its entry of the table.
    fn b_lut(self, index: Self::B, table: &[u8; 16]) -> Self::B;
    /// Byte i of the four of each lane, unsigned, for i from 0 to 3.
    fn b_columns(self, a: Self::B) -> [Self::I; 4];
    /// Lane r gains `Σ_i w[4r+i] · a[i]` with unsigned w below 128 and the four signed bytes of `a`.
    fn dot_u7(self, acc: Self::I, w: Self::B, a: i32) -> Self::I;
    /// The same with signed w, [`Isa::I8_BIAS`] added to each byte.
    fn dot_i8(self, acc: Self::I, w: Self::B, a: i32) -> Self::I;
}

/// A function over an instruction set: its arguments as a struct, so that one dispatch serves all.
pub(crate) trait Kernel {
    /// What it returns.
    type Out;
    /// The body; mark it `#[inline(always)]`, or it is compiled without the instructions.
    fn run<I: Isa>(self, isa: I) -> Self::Out;
}

/// An instruction set that this machine has.
#[derive(Clone, Copy)]
pub struct Level(Token);

#[derive(Clone, Copy)]
enum Token {
    Scalar(scalar::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon<false>),
    #[cfg(target_arch = "aarch64")]
    NeonDot(neon::Neon<true>),
}

impl Level {
    /// Every level of this machine, the slowest (scalar) first.
    pub fn all() -> Vec<Self> {
        let mut levels = vec![Self(Token::Scalar(scalar::Scalar))];
        #[cfg(target_arch = "x86_64")]
        {
            levels.extend(avx2::Avx2::new().map(|t| Self(Token::Avx2(t))));
            levels.extend(avx512::Avx512::new().map(|t| Self(Token::Avx512(t))));
        }
        #[cfg(target_arch = "aarch64")]
        {
            levels.extend(neon::Neon::new().map(|t| Self(Token::Neon(t))));
            levels.extend(neon::Neon::new().map(|t| Self(Token::NeonDot(t))));
        }
        levels
    }

    /// The fastest level of this machine.
    pub fn best() -> Self {
        Self::all().pop().unwrap_or(Self(Token::Scalar(scalar::Scalar)))
    }

    /// `scalar`, `avx2`, `avx512-vnni`, `neon`, `neon-dotprod`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Token::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Token::NeonDot(_) => "neon-dotprod",
        }
    }

    /// [`Isa::I8_BIAS`] of this level.
    pub(crate) fn i8_bias(self) -> u8 {
        match self.0 {
            Token::Scalar(_) => scalar::Scalar::I8_BIAS,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => avx2::Avx2::I8_BIAS,
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => avx512::Avx512::I8_BIAS,
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => neon::Neon::<false>::I8_BIAS,
            #[cfg(target_arch = "aarch64")]
            Token::NeonDot(_) => neon::Neon::<true>::I8_BIAS,
        }
    }

    /// [`Isa::TOKENS`] of this level.
    pub(crate) fn tokens(self) -> usize {
        match self.0 {
            Token::Scalar(_) => scalar::Scalar::TOKENS,
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(_) => avx2::Avx2::TOKENS,
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(_) => avx512::Avx512::TOKENS,
            #[cfg(target_arch = "aarch64")]
            Token::Neon(_) => neon::Neon::<false>::TOKENS,
            #[cfg(target_arch = "aarch64")]
            Token::NeonDot(_) => neon::Neon::<true>::TOKENS,
        }
    }

    /// Runs a kernel with this level's instructions.
    pub(crate) fn run<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            Token::Scalar(t) => t.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(t) => t.vectorize(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(t) => t.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Token::Neon(t) => t.vectorize(kernel),
            #[cfg(target_arch = "aarch64")]
            Token::NeonDot(t) => t.vectorize(kernel),
        }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `graph::math::exp`, lane by lane the same steps.
#[inline(always)]
pub(crate) fn exp<I: Isa>(isa: I, x: I::F) -> I::F {
    use graph::math::{EXP_MAX, EXP_MIN, EXP_POLY, LN2_HI, LN2_LO, LOG2_E, ROUND_MAGIC};
    let magic = isa.f_splat(ROUND_MAGIC);
    let n = isa.f_sub(isa.f_fma(x, isa.f_splat(LOG2_E), magic), magic);
    let r = isa.f_fma(n, isa.f_splat(-LN2_LO), isa.f_fma(n, isa.f_splat(-LN2_HI), x));
    let mut p = isa.f_splat(EXP_POLY[0]);
    for &c in &EXP_POLY[1..] {
        p = isa.f_fma(p, r, isa.f_splat(c));
    }
    let y = isa.f_add(isa.f_fma(p, isa.f_mul(r, r), r), isa.f_splat(1.0));
    let y = isa.f_scale2(y, n);
    let y = isa.f_lt(x, isa.f_splat(EXP_MIN), isa.f_splat(0.0), y);
    isa.f_lt(isa.f_splat(EXP_MAX), x, isa.f_splat(f32::INFINITY), y)
}
