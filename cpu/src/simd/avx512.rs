//! AVX-512 with VNNI: one register holds the sixteen lanes.

use super::{Isa, Kernel, LANES};
use std::arch::x86_64::*;

/// Exists only where AVX-512 F, BW, DQ, VL and VNNI were detected.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    pub(crate) fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        present.then_some(Self(()))
    }
}

/// # Safety
/// The features were detected.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline(never)]
unsafe fn entry<K: Kernel>(isa: Avx512, kernel: K) -> K::Out {
    kernel.run(isa)
}

/// Calls an intrinsic of this file's instruction set.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: an `Avx512` exists only if the features were detected (Avx512::new); memory operands are
        // references to whole arrays, and the loads and stores used are the unaligned ones.
        unsafe { $e }
    };
}

impl Isa for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;

    // 12 integer and 12 float accumulators, and room for the weights and a broadcast.
    const TOKENS: usize = 6;
    const TILES: usize = 2;
    const ROWS: usize = 6;
    const VECTORS: usize = 4;
    const I8_BIAS: u8 = 128;

    #[inline(always)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        op!(entry(self, kernel))
    }

    #[inline(always)]
    fn prefetch(self, at: &u8) {
        op!(_mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(at).cast()));
    }

    #[inline(always)]
    fn f_splat(self, x: f32) -> Self::F {
        op!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn f_load(self, x: &[f32; LANES]) -> Self::F {
        op!(_mm512_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn f_store(self, x: Self::F, to: &mut [f32; LANES]) {
        op!(_mm512_storeu_ps(to.as_mut_ptr(), x));
    }

    #[inline(always)]
    fn f_load_f16(self, x: &[u16; LANES]) -> Self::F {
        op!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn f_store_f16(self, x: Self::F, to: &mut [u16; LANES]) {
        op!(_mm256_storeu_si256(
            to.as_mut_ptr().cast(),
            _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x)
        ));
    }

    #[inline(always)]
    fn f_from_f16_pairs(self, x: Self::I) -> [Self::F; 2] {
        op!({
            let (low, high) = (_mm512_cvtepi32_epi16(x), _mm512_srli_epi32::<16>(x));
            [_mm512_cvtph_ps(low), _mm512_cvtph_ps(_mm512_cvtepi32_epi16(high))]
        })
    }

    #[inline(always)]
    fn f_from_bf16_pairs(self, x: Self::I) -> [Self::F; 2] {
        op!({
            let high = _mm512_and_si512(x, _mm512_set1_epi32(-1 << 16));
            [_mm512_castsi512_ps(_mm512_slli_epi32::<16>(x)), _mm512_castsi512_ps(high)]
        })
    }

    #[inline(always)]
    fn f_transpose(self, x: &mut [Self::F; LANES]) {
        // Four rows at a time: then vector 4g + j holds, in quarter c, column 4c + j of rows 4g to 4g + 3.
        for g in 0..4 {
            let rows = [x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3]];
            op!({
                let low = _mm512_castps_pd(_mm512_unpacklo_ps(rows[0], rows[1]));
                let high = _mm512_castps_pd(_mm512_unpackhi_ps(rows[0], rows[1]));
                let low2 = _mm512_castps_pd(_mm512_unpacklo_ps(rows[2], rows[3]));
                let high2 = _mm512_castps_pd(_mm512_unpackhi_ps(rows[2], rows[3]));
                x[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, low2));
                x[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, low2));
                x[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(high, high2));
                x[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(high, high2));
            });
        }
        // Then the quarters, as elements of a matrix of 4 × 4.
        for j in 0..4 {
            let parts = [x[j], x[4 + j], x[8 + j], x[12 + j]];
            op!({
                let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(parts[0], parts[1]);
                let odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(parts[0], parts[1]);
                let even2 = _mm512_shuffle_f32x4::<0b10_00_10_00>(parts[2], parts[3]);
                let odd2 = _mm512_shuffle_f32x4::<0b11_01_11_01>(parts[2], parts[3]);
                x[j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(even, even2);
                x[4 + j] = _mm512_shuffle_f32x4::<0b10_00_10_00>(odd, odd2);
                x[8 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(even, even2);
                x[12 + j] = _mm512_shuffle_f32x4::<0b11_01_11_01>(odd, odd2);
            });
        }
    }

    #[inline(always)]
    fn f_from_i(self, x: Self::I) -> Self::F {
        op!(_mm512_cvtepi32_ps(x))
    }

    #[inline(always)]
    fn f_add(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F {
        op!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        op!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn f_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        op!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), no, yes))
    }

    #[inline(always)]
    fn f_scale2(self, y: Self::F, n: Self::F) -> Self::F {
        op!({
            let e = _mm512_add_epi32(_mm512_cvttps_epi32(n), _mm512_set1_epi32(127));
            _mm512_mul_ps(y, _mm512_castsi512_ps(_mm512_slli_epi32::<23>(e)))
        })
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        op!(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    fn i_load(self, x: &[i32; LANES]) -> Self::I {
        op!(_mm512_loadu_si512(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn i_store(self, x: Self::I, to: &mut [i32; LANES]) {
        op!(_mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    }

    #[inline(always)]
    fn i_load_i8(self, x: &[i8; LANES]) -> Self::I {
        op!(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn i_load_u8(self, x: &[u8; LANES]) -> Self::I {
        op!(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        op!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        op!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        op!(_mm512_mullo_epi32(a, b))
    }

    #[inline(always)]
    fn i_shl<const N: u32>(self, a: Self::I) -> Self::I {
        op!(_mm512_slli_epi32::<N>(a))
    }

    #[inline(always)]
    fn f_from_bits(self, a: Self::I) -> Self::F {
        op!(_mm512_castsi512_ps(a))
    }

    #[inline(always)]
    fn dot_i16(self, acc: Self::I, w: Self::I, a: i32) -> Self::I {
        op!(_mm512_dpwssd_epi32(acc, w, _mm512_set1_epi32(a)))
    }

    #[inline(always)]
    fn b_store(self, x: Self::B, to: &mut [u8; 64]) {
        op!(_mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    }

    #[inline(always)]
    fn f_bits(self, a: Self::F) -> Self::I {
        op!(_mm512_castps_si512(a))
    }

    #[inline(always)]
    fn f_round_f16(self, a: Self::F) -> Self::F {
        op!(_mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)))
    }

    #[inline(always)]
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        op!(_mm512_and_si512(a, b))
    }

    #[inline(always)]
    fn i_max(self, a: Self::I, b: Self::I) -> Self::I {
        op!(_mm512_max_epi32(a, b))
    }

    #[inline(always)]
    fn i_largest(self, a: Self::I) -> i32 {
        op!(_mm512_reduce_max_epi32(a))
    }

    #[inline(always)]
    fn i_total(self, a: Self::I) -> i32 {
        op!(_mm512_reduce_add_epi32(a))
    }

    #[inline(always)]
    fn i_low_bytes(self, a: Self::I) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        op!(_mm_storeu_si128(bytes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a)));
        bytes
    }

    #[inline(always)]
    fn b_load(self, x: &[u8; 64]) -> Self::B {
        op!(_mm512_loadu_si512(x.as_ptr().cast()))
    }

    #[inline(always)]
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        op!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn b_shift_mask(self, a: Self::B, right: i32, mask: u8) -> Self::B {
        op!({
            let shifted = match right {
                0 => a,
                1.. => _mm512_srl_epi16(a, _mm_cvtsi32_si128(right)),
                _ => _mm512_sll_epi16(a, _mm_cvtsi32_si128(-right)),
            };
            _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
        })
    }

    #[inline(always)]
    fn b_lut(self, index: Self::B, table: &[u8; 16]) -> Self::B {
        op!(_mm512_shuffle_epi8(
            _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())),
            index
        ))
    }

    #[inline(always)]
    fn b_columns(self, a: Self::B) -> [Self::I; 4] {
        op!({
            let low = _mm512_set1_epi32(255);
            [
                _mm512_and_si512(a, low),
                _mm512_and_si512(_mm512_srli_epi32::<8>(a), low),
                _mm512_and_si512(_mm512_srli_epi32::<16>(a), low),
                _mm512_srli_epi32::<24>(a),
            ]
        })
    }

    #[inline(always)]
    fn dot_u7(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        op!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a)))
    }

    #[inline(always)]
    fn dot_i8(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        op!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(a)))
    }
}
