//! NEON: four registers hold the sixteen lanes.

use super::{Isa, Kernel, LANES};
use std::arch::aarch64::*;
use std::array::from_fn;

/// Exists only where NEON was detected.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    pub(crate) fn new() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Self(()))
    }
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

impl Isa for Neon {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type B = [uint8x16_t; 4];

    // 32 registers: four tokens take 16 of them for integer sums; the float ones stay in L1.
    const TOKENS: usize = 4;
    const TILES: usize = 1;
    const I8_BIAS: u8 = 0;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        // NEON is part of the target: nothing has to be switched on.
        kernel.run(self)
    }

    #[inline(always)]
    fn f_splat(self, x: f32) -> Self::F {
        op!([vdupq_n_f32(x); 4])
    }

    #[inline(always)]
    fn f_load(self, x: &[f32; LANES]) -> Self::F {
        from_fn(|i| op!(vld1q_f32(x.as_ptr().add(4 * i))))
    }

    #[inline(always)]
    fn f_store(self, x: Self::F, to: &mut [f32; LANES]) {
        for i in 0..4 {
            op!(vst1q_f32(to.as_mut_ptr().add(4 * i), x[i]));
        }
    }

    #[inline(always)]
    fn f_load_f16(self, x: &[u16; LANES]) -> Self::F {
        from_fn(|i| widen(op!(vld1_u16(x.as_ptr().add(4 * i)))))
    }

    #[inline(always)]
    fn f_from_i(self, x: Self::I) -> Self::F {
        from_fn(|i| op!(vcvtq_f32_s32(x[i])))
    }

    #[inline(always)]
    fn f_add(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| op!(vaddq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| op!(vsubq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| op!(vmulq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F {
        from_fn(|i| op!(vdivq_f32(a[i], b[i])))
    }

    #[inline(always)]
    fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        from_fn(|i| op!(vfmaq_f32(c[i], a[i], b[i])))
    }

    #[inline(always)]
    fn f_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        from_fn(|i| op!(vbslq_f32(vcltq_f32(a[i], b[i]), yes[i], no[i])))
    }

    #[inline(always)]
    fn f_scale2(self, y: Self::F, n: Self::F) -> Self::F {
        from_fn(|i| {
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
        from_fn(|i| op!(vld1q_s32(x.as_ptr().add(4 * i))))
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
        from_fn(|i| op!(vaddq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| op!(vsubq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| op!(vmulq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_shl<const N: u32>(self, a: Self::I) -> Self::I {
        from_fn(|i| op!(vshlq_s32(a[i], vdupq_n_s32(N as i32))))
    }

    #[inline(always)]
    fn f_from_bits(self, a: Self::I) -> Self::F {
        from_fn(|i| op!(vreinterpretq_f32_s32(a[i])))
    }

    #[inline(always)]
    fn dot_i16(self, acc: Self::I, w: Self::I, a: i32) -> Self::I {
        from_fn(|i| {
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
        from_fn(|i| op!(vreinterpretq_s32_f32(a[i])))
    }

    #[inline(always)]
    fn f_round_f16(self, a: Self::F) -> Self::F {
        from_fn(|i| widen(narrow(a[i])))
    }

    #[inline(always)]
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| op!(vandq_s32(a[i], b[i])))
    }

    #[inline(always)]
    fn i_max(self, a: Self::I, b: Self::I) -> Self::I {
        from_fn(|i| op!(vmaxq_s32(a[i], b[i])))
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
        from_fn(|i| op!(vld1q_u8(x.as_ptr().add(16 * i))))
    }

    #[inline(always)]
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        from_fn(|i| op!(vorrq_u8(a[i], b[i])))
    }

    #[inline(always)]
    fn b_shift_mask(self, a: Self::B, right: i32, mask: u8) -> Self::B {
        from_fn(|i| op!(vandq_u8(vshlq_u8(a[i], vdupq_n_s8(-right as i8)), vdupq_n_u8(mask))))
    }

    #[inline(always)]
    fn b_lut(self, index: Self::B, table: &[u8; 16]) -> Self::B {
        let table = op!(vld1q_u8(table.as_ptr()));
        from_fn(|i| op!(vqtbl1q_u8(table, index[i])))
    }

    #[inline(always)]
    fn dot_u7(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        // Below 128 a byte is the same signed or not.
        self.dot_i8(acc, w, a)
    }

    // Products to 16 bits, pairs and then quads added: 2 · 128 · 127 fits, so `vpaddlq` comes between. `sdot` would do
    // it in one, but its intrinsic is not stable yet.
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        from_fn(|i| {
            op!({
                let (w, a) = (vreinterpretq_s8_u8(w[i]), vreinterpretq_s8_s32(vdupq_n_s32(a)));
                let low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(a)));
                let high = vpaddlq_s16(vmull_high_s8(w, a));
                vaddq_s32(acc[i], vpaddq_s32(low, high))
            })
        })
    }
}
