//! NEON: four registers hold the sixteen lanes. `DOT`: with the dot product of ARMv8.4, in every Apple chip and in server
//! cores since 2018.

use super::{Isa, Kernel, LANES};
use std::arch::aarch64::*;

/// The four registers' values of an expression in `i`. Not `from_fn`: what a closure of the library's calls may be left
/// a function of its own, compiled without the features.
macro_rules! each {
    ($i:ident, $e:expr) => {
        [
            {
                let $i = 0;
                $e
            },
            {
                let $i = 1;
                $e
            },
            {
                let $i = 2;
                $e
            },
            {
                let $i = 3;
                $e
            },
        ]
    };
}

/// Exists only where NEON, and with `DOT` its dot product, was detected.
#[derive(Clone, Copy)]
pub(crate) struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    pub(crate) fn new() -> Option<Self> {
        let present = std::arch::is_aarch64_feature_detected!("neon")
            && (!DOT || std::arch::is_aarch64_feature_detected!("dotprod"));
        present.then_some(Self(()))
    }
}

/// # Safety
/// The features were detected.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
unsafe fn entry<const DOT: bool, K: Kernel>(isa: Neon<DOT>, kernel: K) -> K::Out {
    kernel.run(isa)
}

#[inline(never)]
fn without_dot<const DOT: bool, K: Kernel>(isa: Neon<DOT>, kernel: K) -> K::Out {
    kernel.run(isa)
}

/// Each lane gains four products. The intrinsic is unstable.
#[inline(always)]
fn sdot(acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    let mut out = acc;
    // SAFETY: the instruction reads and writes registers; only `Neon<true>` comes here, for which it was detected.
    unsafe {
        std::arch::asm!("sdot {out:v}.4s, {w:v}.16b, {a:v}.16b", out = inout(vreg) out,
            w = in(vreg) w, a = in(vreg) a, options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// Calls an intrinsic of this file's instruction set.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: a `Neon` exists only if the feature was detected (Neon::new), which the target guarantees besides;
        // memory operands are references to whole arrays, each quarter of which is read or written.
        unsafe { $e }
    };
}

/// Four f16 to f32. The intrinsic wants the unstable `f16` type; the instruction is in every ARMv8.
#[inline(always)]
fn widen(x: uint16x4_t) -> float32x4_t {
    let out: float32x4_t;
    // SAFETY: the instruction reads one register and writes another.
    unsafe {
        std::arch::asm!("fcvtl {out:v}.4s, {x:v}.4h", x = in(vreg) x, out = lateout(vreg) out,
            options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// Four f32 to f16, to nearest even (the mode in which Rust runs).
#[inline(always)]
fn narrow(x: float32x4_t) -> uint16x4_t {
    let out: uint16x4_t;
    // SAFETY: the instruction reads one register and writes another.
    unsafe {
        std::arch::asm!("fcvtn {out:v}.4h, {x:v}.4s", x = in(vreg) x, out = lateout(vreg) out,
            options(pure, nomem, nostack, preserves_flags));
    }
    out
}

/// Transposes a square of 4 × 4.
#[inline(always)]
fn transpose4(x: [float32x4_t; 4]) -> [float32x4_t; 4] {
    op!({
        // Pairs of rows: columns 0 and 2, then 1 and 3, taken as pairs of 64 bits.
        let even = vreinterpretq_f64_f32(vtrn1q_f32(x[0], x[1]));
        let odd = vreinterpretq_f64_f32(vtrn2q_f32(x[0], x[1]));
        let even2 = vreinterpretq_f64_f32(vtrn1q_f32(x[2], x[3]));
        let odd2 = vreinterpretq_f64_f32(vtrn2q_f32(x[2], x[3]));
        [
            vreinterpretq_f32_f64(vtrn1q_f64(even, even2)),
            vreinterpretq_f32_f64(vtrn1q_f64(odd, odd2)),
            vreinterpretq_f32_f64(vtrn2q_f64(even, even2)),
            vreinterpretq_f32_f64(vtrn2q_f64(odd, odd2)),
        ]
    })
}

impl<const DOT: bool> Isa for Neon<DOT> {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type B = [uint8x16_t; 4];

    // 32 registers: six tokens take 24 of them for integer sums; the float ones stay in L1. Without `sdot` a product
    // takes some registers itself.
    const TOKENS: usize = if DOT { 6 } else { 4 };
    const TILES: usize = 1;
    const ROWS: usize = 6;
    const VECTORS: usize = 1;
    const I8_BIAS: u8 = 0;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        // NEON itself is part of the target: nothing has to be switched on.
        if DOT { op!(entry(self, kernel)) } else { without_dot(self, kernel) }
    }

    #[inline(always)]
    fn prefetch(self, at: &u8) {
        // SAFETY: a hint; it neither reads nor writes what the program sees.
        unsafe {
            std::arch::asm!("prfm pldl2keep, [{at}]", at = in(reg) std::ptr::from_ref(at),
                options(readonly, nostack, preserves_flags));
        }
    }

    #[inline(always)]
    fn f_splat(self, x: f32) -> Self::F {
        op!([vdupq_n_f32(x); 4])
    }

    #[inline(always)]
    fn f_load(self, x: &[f32; LANES]) -> Self::F {
        each!(i, op!(vld1q_f32(x.as_ptr().add(4 * i))))
    }

    #[inline(always)]
    fn f_store(self, x: Self::F, to: &mut [f32; LANES]) {
        for i in 0..4 {
            op!(vst1q_f32(to.as_mut_ptr().add(4 * i), x[i]));
        }
    }

    #[inline(always)]
    fn f_load_f16(self, x: &[u16; LANES]) -> Self::F {
        each!(i, widen(op!(vld1_u16(x.as_ptr().add(4 * i)))))
    }

    #[inline(always)]
    fn f_store_f16(self, x: Self::F, to: &mut [u16; LANES]) {
        for i in 0..4 {
            op!(vst1_u16(to.as_mut_ptr().add(4 * i), narrow(x[i])));
        }
    }

    #[inline(always)]
    fn f_from_f16_pairs(self, x: Self::I) -> [Self::F; 2] {
        [
            each!(i, widen(op!(vmovn_u32(vreinterpretq_u32_s32(x[i]))))),
            each!(i, widen(op!(vshrn_n_u32::<16>(vreinterpretq_u32_s32(x[i]))))),
        ]
    }

    #[inline(always)]
    fn f_from_bf16_pairs(self, x: Self::I) -> [Self::F; 2] {
        [
            each!(i, op!(vreinterpretq_f32_s32(vshlq_n_s32::<16>(x[i])))),
            each!(i, op!(vreinterpretq_f32_s32(vandq_s32(x[i], vdupq_n_s32(-1 << 16))))),
        ]
    }

    #[inline(always)]
    fn f_transpose(self, x: &mut [Self::F; LANES]) {
        // Squares of 4 × 4: each is transposed and changes places with its mirror image.
        let from = *x;
        for i in 0..4 {
            for j in 0..4 {
                let rows =
                    [from[4 * j][i], from[4 * j + 1][i], from[4 * j + 2][i], from[4 * j + 3][i]];
                let square = transpose4(rows);
                for r in 0..4 {
                    x[4 * i + r][j] = square[r];
                }
            }
        }
    }

    #[inline(always)]
    fn f_from_i(self, x: Self::I) -> Self::F {
        each!(i, op!(vcvtq_f32_s32(x[i])))
    }

    #[inline(always)]
    fn f_add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i, op!(vaddq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i, op!(vsubq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i, op!(vmulq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F {
        each!(i, op!(vdivq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(i, op!(vfmaq_f32(c[i], a[i], b[i])))
    }

    #[inline(always)]
    fn f_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        each!(i, op!(vbslq_f32(vcltq_f32(a[i], b[i]), yes[i], no[i])))
    }

    #[inline(always)]
    fn f_scale2(self, y: Self::F, n: Self::F) -> Self::F {
        each!(i, {
            op!({
                let e = vaddq_s32(vcvtq_s32_f32(n[i]), vdupq_n_s32(127));
                vmulq_f32(y[i], vreinterpretq_f32_s32(vshlq_n_s32::<23>(e)))
            })
        })
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        op!([vdupq_n_s32(x); 4])
    }

    #[inline(always)]
    fn i_load(self, x: &[i32; LANES]) -> Self::I {
        each!(i, op!(vld1q_s32(x.as_ptr().add(4 * i))))
    }

    #[inline(always)]
    fn i_store(self, x: Self::I, to: &mut [i32; LANES]) {
        for i in 0..4 {
            op!(vst1q_s32(to.as_mut_ptr().add(4 * i), x[i]));
        }
    }

    #[inline(always)]
    fn i_load_i8(self, x: &[i8; LANES]) -> Self::I {
        op!({
            let x = vld1q_s8(x.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(x)), vmovl_high_s8(x));
            [
                vmovl_s16(vget_low_s16(low)),
                vmovl_high_s16(low),
                vmovl_s16(vget_low_s16(high)),
                vmovl_high_s16(high),
            ]
        })
    }

    #[inline(always)]
    fn i_load_u8(self, x: &[u8; LANES]) -> Self::I {
        op!({
            let x = vld1q_u8(x.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(x)), vmovl_high_u8(x));
            [
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))),
                vreinterpretq_s32_u32(vmovl_high_u16(low)),
                vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
                vreinterpretq_s32_u32(vmovl_high_u16(high)),
            ]
        })
    }

    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i, op!(vaddq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i, op!(vsubq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i, op!(vmulq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_shl<const N: u32>(self, a: Self::I) -> Self::I {
        each!(i, op!(vshlq_s32(a[i], vdupq_n_s32(N as i32))))
    }

    #[inline(always)]
    fn f_from_bits(self, a: Self::I) -> Self::F {
        each!(i, op!(vreinterpretq_f32_s32(a[i])))
    }

    #[inline(always)]
    fn dot_i16(self, acc: Self::I, w: Self::I, a: i32) -> Self::I {
        each!(i, {
            op!({
                let (w, a) = (vreinterpretq_s16_s32(w[i]), vreinterpretq_s16_s32(vdupq_n_s32(a)));
                let low = vmull_s16(vget_low_s16(w), vget_low_s16(a));
                vaddq_s32(acc[i], vpaddq_s32(low, vmull_high_s16(w, a)))
            })
        })
    }

    #[inline(always)]
    fn b_store(self, x: Self::B, to: &mut [u8; 64]) {
        for i in 0..4 {
            op!(vst1q_u8(to.as_mut_ptr().add(16 * i), x[i]));
        }
    }

    #[inline(always)]
    fn f_bits(self, a: Self::F) -> Self::I {
        each!(i, op!(vreinterpretq_s32_f32(a[i])))
    }

    #[inline(always)]
    fn f_round_f16(self, a: Self::F) -> Self::F {
        each!(i, widen(narrow(a[i])))
    }

    #[inline(always)]
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i, op!(vandq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_max(self, a: Self::I, b: Self::I) -> Self::I {
        each!(i, op!(vmaxq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_largest(self, a: Self::I) -> i32 {
        op!(vmaxvq_s32(vmaxq_s32(vmaxq_s32(a[0], a[1]), vmaxq_s32(a[2], a[3]))))
    }

    #[inline(always)]
    fn i_total(self, a: Self::I) -> i32 {
        op!(vaddvq_s32(vaddq_s32(vaddq_s32(a[0], a[1]), vaddq_s32(a[2], a[3]))))
    }

    #[inline(always)]
    fn i_low_bytes(self, a: Self::I) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        op!({
            let low = vcombine_s16(vmovn_s32(a[0]), vmovn_s32(a[1]));
            let high = vcombine_s16(vmovn_s32(a[2]), vmovn_s32(a[3]));
            let packed = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
            vst1q_u8(bytes.as_mut_ptr(), vreinterpretq_u8_s8(packed));
        });
        bytes
    }

    #[inline(always)]
    fn b_load(self, x: &[u8; 64]) -> Self::B {
        each!(i, op!(vld1q_u8(x.as_ptr().add(16 * i))))
    }

    #[inline(always)]
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        each!(i, op!(vorrq_u8(a[i], b[i])))
    }

    #[inline(always)]
    fn b_shift_mask(self, a: Self::B, right: i32, mask: u8) -> Self::B {
        each!(i, op!(vandq_u8(vshlq_u8(a[i], vdupq_n_s8(-right as i8)), vdupq_n_u8(mask))))
    }

    #[inline(always)]
    fn b_lut(self, index: Self::B, table: &[u8; 16]) -> Self::B {
        let table = op!(vld1q_u8(table.as_ptr()));
        each!(i, op!(vqtbl1q_u8(table, index[i])))
    }

    #[inline(always)]
    fn b_columns(self, a: Self::B) -> [Self::I; 4] {
        let low = op!(vdupq_n_u32(255));
        let shifted = |right: i32| {
            each!(
                i,
                op!({
                    let words = vshlq_u32(vreinterpretq_u32_u8(a[i]), vdupq_n_s32(-right));
                    vreinterpretq_s32_u32(vandq_u32(words, low))
                })
            )
        };
        [shifted(0), shifted(8), shifted(16), shifted(24)]
    }

    #[inline(always)]
    fn dot_u7(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        // Below 128 a byte is the same signed or not.
        self.dot_i8(acc, w, a)
    }

    // Without `sdot`: products to 16 bits, pairs and then quads added; 2 · 128 · 127 fits, so `vpaddlq` comes between.
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        each!(i, {
            op!({
                let (w, a) = (vreinterpretq_s8_u8(w[i]), vreinterpretq_s8_s32(vdupq_n_s32(a)));
                if DOT {
                    sdot(acc[i], w, a)
                } else {
                    let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)));
                    let high = vpaddlq_s16(vmull_high_s8(w, a));
                    vaddq_s32(acc[i], vpaddq_s32(low, high))
                }
            })
        })
    }
}
