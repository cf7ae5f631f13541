//! AVX2 with FMA and F16C: two registers hold the sixteen lanes.

use super::{Isa, Kernel, LANES};
use std::arch::x86_64::*;

/// Exists only where AVX2, FMA and F16C were detected.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    pub(crate) fn new() -> Option<Self> {
        let present = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        present.then_some(Self(()))
    }
}

/// # Safety
/// The features were detected.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
unsafe fn entry<K: Kernel>(isa: Avx2, kernel: K) -> K::Out {
    kernel.run(isa)
}

/// Calls an intrinsic of this file's instruction set.
macro_rules! op {
    ($e:expr) => {
        // SAFETY: an `Avx2` exists only if the features were detected (Avx2::new); memory operands are references to
        // whole arrays, each half of which is read or written by the unaligned loads and stores.
        unsafe { $e }
    };
}

/// The same intrinsic on both halves.
macro_rules! both {
    ($f:ident, $($x:expr),+) => {
        op!([$f($($x[0]),+), $f($($x[1]),+)])
    };
}

/// Transposes a square of 8 × 8.
#[inline(always)]
fn transpose8(_: Avx2, x: [__m256; 8]) -> [__m256; 8] {
    let mut quads = x;
    // Four rows at a time: then vector 4g + j holds, in half c, column 4c + j of rows 4g to 4g + 3.
    for g in 0..2 {
        let rows = [x[4 * g], x[4 * g + 1], x[4 * g + 2], x[4 * g + 3]];
        op!({
            let low = _mm256_castps_pd(_mm256_unpacklo_ps(rows[0], rows[1]));
            let high = _mm256_castps_pd(_mm256_unpackhi_ps(rows[0], rows[1]));
            let low2 = _mm256_castps_pd(_mm256_unpacklo_ps(rows[2], rows[3]));
            let high2 = _mm256_castps_pd(_mm256_unpackhi_ps(rows[2], rows[3]));
            quads[4 * g] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, low2));
            quads[4 * g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, low2));
            quads[4 * g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(high, high2));
            quads[4 * g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(high, high2));
        });
    }
    let mut transposed = quads;
    for j in 0..4 {
        transposed[j] = op!(_mm256_permute2f128_ps::<0x20>(quads[j], quads[4 + j]));
        transposed[4 + j] = op!(_mm256_permute2f128_ps::<0x31>(quads[j], quads[4 + j]));
    }
    transposed
}

impl Isa for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type B = [__m256i; 2];

    // 16 registers: four tokens take 8 of them for integer sums; the float ones stay in L1.
    const TOKENS: usize = 4;
    const TILES: usize = 1;
    const ROWS: usize = 3;
    const VECTORS: usize = 2;
    const I8_BIAS: u8 = 0;

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
        op!([_mm256_set1_ps(x); 2])
    }

    #[inline(always)]
    fn f_load(self, x: &[f32; LANES]) -> Self::F {
        op!([_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))])
    }

    #[inline(always)]
    fn f_store(self, x: Self::F, to: &mut [f32; LANES]) {
        op!({
            _mm256_storeu_ps(to.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x[1]);
        });
    }

    #[inline(always)]
    fn f_load_f16(self, x: &[u16; LANES]) -> Self::F {
        op!([
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().add(8).cast())),
        ])
    }

    #[inline(always)]
    fn f_store_f16(self, x: Self::F, to: &mut [u16; LANES]) {
        op!({
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[0]);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x[1]);
            _mm_storeu_si128(to.as_mut_ptr().cast(), low);
            _mm_storeu_si128(to.as_mut_ptr().add(8).cast(), high);
        });
    }

    #[inline(always)]
    fn f_from_f16_pairs(self, x: Self::I) -> [Self::F; 2] {
        // Lanes below 2^16, packed and widened: packing works within halves of 128 bits, so that four lanes at a time
        // move together.
        let widen = |low: __m256i, high: __m256i| {
            op!({
                let packed = _mm256_packus_epi32(low, high);
                let packed = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
                [
                    _mm256_cvtph_ps(_mm256_castsi256_si128(packed)),
                    _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(packed)),
                ]
            })
        };
        op!({
            let mask = _mm256_set1_epi32(0xffff);
            [
                widen(_mm256_and_si256(x[0], mask), _mm256_and_si256(x[1], mask)),
                widen(_mm256_srli_epi32::<16>(x[0]), _mm256_srli_epi32::<16>(x[1])),
            ]
        })
    }

    #[inline(always)]
    fn f_from_bf16_pairs(self, x: Self::I) -> [Self::F; 2] {
        let low = |x: __m256i| op!(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(x)));
        let high =
            |x: __m256i| op!(_mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(-1 << 16))));
        [[low(x[0]), low(x[1])], [high(x[0]), high(x[1])]]
    }

    #[inline(always)]
    fn f_transpose(self, x: &mut [Self::F; LANES]) {
        // Squares of 8 × 8: those on the diagonal in their places, the other two change places.
        let mut squares = [[[self.f_splat(0.0)[0]; 8]; 2]; 2];
        for (i, rows) in x.as_chunks::<8>().0.iter().enumerate() {
            for r in 0..8 {
                squares[i][0][r] = rows[r][0];
                squares[i][1][r] = rows[r][1];
            }
        }
        for i in 0..2 {
            for j in 0..2 {
                let square = transpose8(self, squares[j][i]);
                for r in 0..8 {
                    x[8 * i + r][j] = square[r];
                }
            }
        }
    }

    #[inline(always)]
    fn f_from_i(self, x: Self::I) -> Self::F {
        both!(_mm256_cvtepi32_ps, x)
    }

    #[inline(always)]
    fn f_add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps, a, b)
    }

    #[inline(always)]
    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps, a, b)
    }

    #[inline(always)]
    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps, a, b)
    }

    #[inline(always)]
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps, a, b)
    }

    #[inline(always)]
    fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps, a, b, c)
    }

    #[inline(always)]
    fn f_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        op!([
            _mm256_blendv_ps(no[0], yes[0], _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0])),
            _mm256_blendv_ps(no[1], yes[1], _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1])),
        ])
    }

    #[inline(always)]
    fn f_scale2(self, y: Self::F, n: Self::F) -> Self::F {
        let half = |y: __m256, n: __m256| {
            op!({
                let e = _mm256_add_epi32(_mm256_cvttps_epi32(n), _mm256_set1_epi32(127));
                _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(e)))
            })
        };
        [half(y[0], n[0]), half(y[1], n[1])]
    }

    #[inline(always)]
    fn i_splat(self, x: i32) -> Self::I {
        op!([_mm256_set1_epi32(x); 2])
    }

    #[inline(always)]
    fn i_load(self, x: &[i32; LANES]) -> Self::I {
        op!([_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())])
    }

    #[inline(always)]
    fn i_store(self, x: Self::I, to: &mut [i32; LANES]) {
        op!({
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(8).cast(), x[1]);
        });
    }

    #[inline(always)]
    fn i_load_i8(self, x: &[i8; LANES]) -> Self::I {
        op!({
            let x = _mm_loadu_si128(x.as_ptr().cast());
            [_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(x))]
        })
    }

    #[inline(always)]
    fn i_load_u8(self, x: &[u8; LANES]) -> Self::I {
        op!({
            let x = _mm_loadu_si128(x.as_ptr().cast());
            [_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(x))]
        })
    }

    #[inline(always)]
    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_add_epi32, a, b)
    }

    #[inline(always)]
    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_sub_epi32, a, b)
    }

    #[inline(always)]
    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_mullo_epi32, a, b)
    }

    #[inline(always)]
    fn i_shl<const N: u32>(self, a: Self::I) -> Self::I {
        op!([
            _mm256_sll_epi32(a[0], _mm_cvtsi32_si128(N as i32)),
            _mm256_sll_epi32(a[1], _mm_cvtsi32_si128(N as i32))
        ])
    }

    #[inline(always)]
    fn f_from_bits(self, a: Self::I) -> Self::F {
        both!(_mm256_castsi256_ps, a)
    }

    #[inline(always)]
    fn dot_i16(self, acc: Self::I, w: Self::I, a: i32) -> Self::I {
        let half = |acc: __m256i, w: __m256i| {
            op!(_mm256_add_epi32(acc, _mm256_madd_epi16(w, _mm256_set1_epi32(a))))
        };
        [half(acc[0], w[0]), half(acc[1], w[1])]
    }

    #[inline(always)]
    fn b_store(self, x: Self::B, to: &mut [u8; 64]) {
        op!({
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x[0]);
            _mm256_storeu_si256(to.as_mut_ptr().add(32).cast(), x[1]);
        });
    }

    #[inline(always)]
    fn f_bits(self, a: Self::F) -> Self::I {
        both!(_mm256_castps_si256, a)
    }

    #[inline(always)]
    fn f_round_f16(self, a: Self::F) -> Self::F {
        let half =
            |a: __m256| op!(_mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)));
        [half(a[0]), half(a[1])]
    }

    #[inline(always)]
    fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_and_si256, a, b)
    }

    #[inline(always)]
    fn i_max(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_max_epi32, a, b)
    }

    #[inline(always)]
    fn i_largest(self, a: Self::I) -> i32 {
        op!({
            let x = _mm256_max_epi32(a[0], a[1]);
            let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b00_00_11_10>(x));
            _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32::<0b00_00_00_01>(x)))
        })
    }

    #[inline(always)]
    fn i_total(self, a: Self::I) -> i32 {
        op!({
            let x = _mm256_add_epi32(a[0], a[1]);
            let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
            let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b00_00_11_10>(x));
            _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b00_00_00_01>(x)))
        })
    }

    #[inline(always)]
    fn i_low_bytes(self, a: Self::I) -> [u8; LANES] {
        let mut bytes = [0; LANES];
        op!({
            let low = _mm256_set1_epi32(255);
            // Packing works within halves of 128 bits: the quarters come out as 0, 2, 1, 3.
            let words =
                _mm256_packus_epi32(_mm256_and_si256(a[0], low), _mm256_and_si256(a[1], low));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let packed = _mm_packus_epi16(
                _mm256_castsi256_si128(words),
                _mm256_extracti128_si256::<1>(words),
            );
            _mm_storeu_si128(bytes.as_mut_ptr().cast(), packed);
        });
        bytes
    }

    #[inline(always)]
    fn b_load(self, x: &[u8; 64]) -> Self::B {
        op!([_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())])
    }

    #[inline(always)]
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        both!(_mm256_or_si256, a, b)
    }

    #[inline(always)]
    fn b_shift_mask(self, a: Self::B, right: i32, mask: u8) -> Self::B {
        let half = |a: __m256i| {
            op!({
                let shifted = match right {
                    0 => a,
                    1.. => _mm256_srl_epi16(a, _mm_cvtsi32_si128(right)),
                    _ => _mm256_sll_epi16(a, _mm_cvtsi32_si128(-right)),
                };
                _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
            })
        };
        [half(a[0]), half(a[1])]
    }

    #[inline(always)]
    fn b_lut(self, index: Self::B, table: &[u8; 16]) -> Self::B {
        op!({
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            [_mm256_shuffle_epi8(table, index[0]), _mm256_shuffle_epi8(table, index[1])]
        })
    }

    #[inline(always)]
    fn b_columns(self, a: Self::B) -> [Self::I; 4] {
        op!({
            let low = _mm256_set1_epi32(255);
            [
                [_mm256_and_si256(a[0], low), _mm256_and_si256(a[1], low)],
                [
                    _mm256_and_si256(_mm256_srli_epi32::<8>(a[0]), low),
                    _mm256_and_si256(_mm256_srli_epi32::<8>(a[1]), low),
                ],
                [
                    _mm256_and_si256(_mm256_srli_epi32::<16>(a[0]), low),
                    _mm256_and_si256(_mm256_srli_epi32::<16>(a[1]), low),
                ],
                [_mm256_srli_epi32::<24>(a[0]), _mm256_srli_epi32::<24>(a[1])],
            ]
        })
    }

    // Pairs of products are at most 2 · 127 · 127 < 2^15, so `maddubs` never saturates.
    #[inline(always)]
    fn dot_u7(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        let half = |acc: __m256i, w: __m256i| {
            op!({
                let pairs = _mm256_maddubs_epi16(w, _mm256_set1_epi32(a));
                _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        };
        [half(acc[0], w[0]), half(acc[1], w[1])]
    }

    // |w| · sign(a, w): |-128| is 128 as an unsigned byte, and activations are never -128, so 2 · 128 · 127 fits too.
    #[inline(always)]
    fn dot_i8(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        let half = |acc: __m256i, w: __m256i| {
            op!({
                let pairs = _mm256_maddubs_epi16(
                    _mm256_abs_epi8(w),
                    _mm256_sign_epi8(_mm256_set1_epi32(a), w),
                );
                _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
            })
        };
        [half(acc[0], w[0]), half(acc[1], w[1])]
    }
}
