//! The portable instruction set: arrays and loops. Used where nothing better is there, and as a check on the others.
//!
//! What is more than an instruction or two for sixteen lanes is a call: in line it was three fifths of this crate's code.

use super::{Isa, Kernel, LANES};
use graph::math::fma;
use half::f16;

/// Always present.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

fn map<A: Copy, R: Copy + Default, const N: usize>(
    f: impl Fn(usize) -> A,
    g: impl Fn(A) -> R,
) -> [R; N] {
    let mut out = [R::default(); N];
    for (i, o) in out.iter_mut().enumerate() {
        *o = g(f(i));
    }
    out
}

impl Isa for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type B = [u8; 64];

    const TOKENS: usize = 2;
    const TILES: usize = 1;
    const ROWS: usize = 1;
    const VECTORS: usize = 1;
    const I8_BIAS: u8 = 0;

    #[inline(never)]
    fn vectorize<K: Kernel>(self, kernel: K) -> K::Out {
        kernel.run(self)
    }

    fn prefetch(self, _: &u8) {}

    fn f_splat(self, x: f32) -> Self::F {
        [x; LANES]
    }

    fn f_load(self, x: &[f32; LANES]) -> Self::F {
        *x
    }

    fn f_store(self, x: Self::F, to: &mut [f32; LANES]) {
        *to = x;
    }

    #[inline(never)]
    fn f_load_f16(self, x: &[u16; LANES]) -> Self::F {
        map(|i| x[i], |b| f16::from_bits(b).to_f32())
    }

    #[inline(never)]
    fn f_store_f16(self, x: Self::F, to: &mut [u16; LANES]) {
        *to = map(|i| x[i], |x| f16::from_f32(x).to_bits());
    }

    #[inline(never)]
    fn f_from_f16_pairs(self, x: Self::I) -> [Self::F; 2] {
        let widen = |b: i32| f16::from_bits(b as u16).to_f32();
        [map(|i| x[i], widen), map(|i| x[i] >> 16, widen)]
    }

    #[inline(never)]
    fn f_from_bf16_pairs(self, x: Self::I) -> [Self::F; 2] {
        let bits = |b: i32| f32::from_bits(b as u32);
        [map(|i| x[i] << 16, bits), map(|i| x[i] & (-1 << 16), bits)]
    }

    #[inline(never)]
    fn f_transpose(self, x: &mut [Self::F; LANES]) {
        let from = *x;
        for (i, row) in x.iter_mut().enumerate() {
            *row = map(|j| from[j][i], |v| v);
        }
    }

    fn f_from_i(self, x: Self::I) -> Self::F {
        map(|i| x[i], |v| v as f32)
    }

    fn f_add(self, a: Self::F, b: Self::F) -> Self::F {
        map(|i| (a[i], b[i]), |(a, b)| a + b)
    }

    fn f_sub(self, a: Self::F, b: Self::F) -> Self::F {
        map(|i| (a[i], b[i]), |(a, b)| a - b)
    }

    fn f_mul(self, a: Self::F, b: Self::F) -> Self::F {
        map(|i| (a[i], b[i]), |(a, b)| a * b)
    }

    #[inline(never)]
    fn f_div(self, a: Self::F, b: Self::F) -> Self::F {
        map(|i| (a[i], b[i]), |(a, b)| a / b)
    }

    #[inline(never)]
    fn f_fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        map(|i| (a[i], b[i], c[i]), |(a, b, c)| fma(a, b, c))
    }

    #[inline(never)]
    fn f_lt(self, a: Self::F, b: Self::F, yes: Self::F, no: Self::F) -> Self::F {
        map(|i| i, |i| if a[i] < b[i] { yes[i] } else { no[i] })
    }

    #[inline(never)]
    fn f_scale2(self, y: Self::F, n: Self::F) -> Self::F {
        map(
            |i| (y[i], n[i]),
            |(y, n)| y * f32::from_bits(((n as i32).wrapping_add(127) as u32) << 23),
        )
    }

    fn i_splat(self, x: i32) -> Self::I {
        [x; LANES]
    }

    fn i_load(self, x: &[i32; LANES]) -> Self::I {
        *x
    }

    fn i_store(self, x: Self::I, to: &mut [i32; LANES]) {
        *to = x;
    }

    #[inline(never)]
    fn i_load_i8(self, x: &[i8; LANES]) -> Self::I {
        map(|i| x[i], i32::from)
    }

    #[inline(never)]
    fn i_load_u8(self, x: &[u8; LANES]) -> Self::I {
        map(|i| x[i], i32::from)
    }

    fn i_add(self, a: Self::I, b: Self::I) -> Self::I {
        map(|i| (a[i], b[i]), |(a, b)| a.wrapping_add(b))
    }

    fn i_sub(self, a: Self::I, b: Self::I) -> Self::I {
        map(|i| (a[i], b[i]), |(a, b)| a.wrapping_sub(b))
    }

    fn i_mul(self, a: Self::I, b: Self::I) -> Self::I {
        map(|i| (a[i], b[i]), |(a, b)| a.wrapping_mul(b))
    }

    fn i_shl<const N: u32>(self, a: Self::I) -> Self::I {
        map(|i| a[i], |a| a << N)
    }

    fn f_from_bits(self, a: Self::I) -> Self::F {
        map(|i| a[i], |a| f32::from_bits(a as u32))
    }

    #[inline(never)]
    fn dot_i16(self, acc: Self::I, w: Self::I, a: i32) -> Self::I {
        let halves = |x: i32| (i32::from(x as i16), x >> 16);
        let (low, high) = halves(a);
        map(
            |r| (acc[r], halves(w[r])),
            |(acc, (w_low, w_high))| acc.wrapping_add(w_low * low).wrapping_add(w_high * high),
        )
    }

    fn b_store(self, x: Self::B, to: &mut [u8; 64]) {
        *to = x;
    }

    fn f_bits(self, a: Self::F) -> Self::I {
        map(|i| a[i], |a| a.to_bits() as i32)
    }

    #[inline(never)]
    fn f_round_f16(self, a: Self::F) -> Self::F {
        map(|i| a[i], |a| f16::from_f32(a).to_f32())
    }

    fn i_and(self, a: Self::I, b: Self::I) -> Self::I {
        map(|i| (a[i], b[i]), |(a, b)| a & b)
    }

    fn i_max(self, a: Self::I, b: Self::I) -> Self::I {
        map(|i| (a[i], b[i]), |(a, b)| a.max(b))
    }

    #[inline(never)]
    fn i_largest(self, a: Self::I) -> i32 {
        a.into_iter().max().unwrap_or(i32::MIN)
    }

    #[inline(never)]
    fn i_total(self, a: Self::I) -> i32 {
        a.into_iter().fold(0, i32::wrapping_add)
    }

    #[inline(never)]
    fn i_low_bytes(self, a: Self::I) -> [u8; LANES] {
        map(|i| a[i], |a| a as u8)
    }

    fn b_load(self, x: &[u8; 64]) -> Self::B {
        *x
    }

    #[inline(never)]
    fn b_or(self, a: Self::B, b: Self::B) -> Self::B {
        map(|i| (a[i], b[i]), |(a, b)| a | b)
    }

    #[inline(never)]
    fn b_shift_mask(self, a: Self::B, right: i32, mask: u8) -> Self::B {
        if right >= 0 {
            map(|i| a[i], |a| (a >> right) & mask)
        } else {
            map(|i| a[i], |a| (a << -right) & mask)
        }
    }

    #[inline(never)]
    fn b_lut(self, index: Self::B, table: &[u8; 16]) -> Self::B {
        map(|i| index[i], |i| table[usize::from(i & 15)])
    }

    #[inline(never)]
    fn b_columns(self, a: Self::B) -> [Self::I; 4] {
        [0, 1, 2, 3].map(|i| std::array::from_fn(|r| i32::from(a[4 * r + i])))
    }

    #[inline(never)]
    fn dot_u7(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        let a = a.to_le_bytes();
        map(
            |r| r,
            |r| {
                acc[r]
                    + (0..4).map(|i| i32::from(w[4 * r + i]) * i32::from(a[i] as i8)).sum::<i32>()
            },
        )
    }

    #[inline(never)]
    fn dot_i8(self, acc: Self::I, w: Self::B, a: i32) -> Self::I {
        let a = a.to_le_bytes();
        map(
            |r| r,
            |r| {
                acc[r]
                    + (0..4)
                        .map(|i| i32::from(w[4 * r + i] as i8) * i32::from(a[i] as i8))
                        .sum::<i32>()
            },
        )
    }
}
