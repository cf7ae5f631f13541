//! The ops, each written once over [`crate::simd::Isa`]. The meaning is `graph::ops`; the bits are the same.

pub(crate) mod attention;
pub(crate) mod elementwise;
pub(crate) mod layer_norm;
pub(crate) mod mat_mul;
pub(crate) mod mat_mul_f32;
pub(crate) mod quantize_q16;
pub(crate) mod quantize_q8;
pub(crate) mod rms_norm;
pub(crate) mod rope;
pub(crate) mod rounded;
pub(crate) mod route;
pub(crate) mod ssm_conv;

use crate::simd::LANES;

/// The 16 elements at `at`.
#[inline(always)]
pub(crate) fn lanes<T>(x: &[T], at: usize) -> &[T; LANES] {
    match x[at..].first_chunk() {
        Some(chunk) => chunk,
        None => unreachable!("callers cut their slices to whole vectors"),
    }
}

/// The 16 elements at `at`, to be written.
#[inline(always)]
pub(crate) fn lanes_mut<T>(x: &mut [T], at: usize) -> &mut [T; LANES] {
    match x[at..].first_chunk_mut() {
        Some(chunk) => chunk,
        None => unreachable!("callers cut their slices to whole vectors"),
    }
}
