//! Matrix product `y[r] = Σ_k w[r][k] · x[k]`, in all arithmetics. Fast versions: `cpu/src/kernels/mat_mul/`, and
//! `mat_mul_*.wgsl` and `mat_vec_*.wgsl` in `gpu/src/kernels/`.

use crate::ints::{Form, Ints, MinTerm, Rounding, RunFloats, blocks, form};
use crate::math::{dot_f32, fma};
use crate::ops::quantize_q8::{Q8Row, quantize_q8};
use crate::ops::quantize_q16::{Q16Row, quantize_q16};
use crate::{Arithmetic, Weight};
use gguf::DType;

/// `int8`: one row of weights (as in the file) times one row of rounded activations.
///
/// Block after block, from +0: `acc = fma(d_w · d_a, isum, acc)` with the exact integer
/// `isum = Σ scale[sub] · Σ q · q_a`, then the format's [`MinTerm`].
pub fn dot_int8(dtype: DType, form: Form, row: &[u8], x: &Q8Row) -> f32 {
    let mut ints = Ints::new();
    let mut acc = 0.0f32;
    for (b, block) in blocks(dtype, row).enumerate() {
        ints.unpack(dtype, block);
        let q = &x.q[b * form.block_len()..][..form.block_len()];
        let block = Q8Block { q, d: x.d[b], s: x.s.get(b).copied() };
        acc = step_int8(form, &ints, block, acc);
    }
    acc
}

/// One block of a row of quantised activations.
#[derive(Clone, Copy)]
struct Q8Block<'a> {
    q: &'a [i8],
    d: f32,
    /// The rounded sum, in formats that have it.
    s: Option<f32>,
}

fn step_int8(form: Form, w: &Ints, x: Q8Block<'_>, mut acc: f32) -> f32 {
    let Q8Block { q, d: d_a, s } = x;
    let (mut isum, mut msum) = (0i32, 0i32);
    for (sub, a) in q.chunks(16).enumerate() {
        let q = &w.q[16 * sub..];
        let dot: i32 = a.iter().zip(q).map(|(&a, &q)| i32::from(a) * i32::from(q)).sum();
        let bsum: i32 = a.iter().map(|&a| i32::from(a)).sum();
        isum += i32::from(w.scale[sub]) * dot;
        msum += i32::from(w.min[sub]) * bsum;
    }
    acc = fma(w.d * d_a, isum as f32, acc);
    match (form.min(), s) {
        (MinTerm::Sum, Some(s)) => fma(w.m, s, acc),
        (MinTerm::Subs, _) => fma(-(w.m * d_a), msum as f32, acc),
        (MinTerm::None, _) | (MinTerm::Sum, None) => acc,
    }
}

/// `int16`: one row of weights (as in the file) times one row of rounded activations.
///
/// Run after run (the weights that share a scale), from +0: `acc = fma(scale · d_a, isum, acc)` with the exact integer
/// `isum = Σ q · q_a`, then, in formats with a minimum, `acc = fma(min, d_a · Σ q_a, acc)`.
pub fn dot_int16(dtype: DType, form: Form, row: &[u8], x: &Q16Row) -> f32 {
    let (block_len, run_len) = (form.block_len(), form.run_len());
    let mut ints = Ints::new();
    let mut acc = 0.0f32;
    for (b, block) in blocks(dtype, row).enumerate() {
        ints.unpack(dtype, block);
        let q_a = x.q[b * block_len..][..block_len].chunks(run_len);
        for (i, (q, q_a)) in ints.q.chunks(run_len).zip(q_a).enumerate() {
            let d_a = x.d[(b * block_len + i * run_len) / 32];
            let isum: i32 = q.iter().zip(q_a).map(|(&q, &a)| i32::from(q) * i32::from(a)).sum();
            let RunFloats { scale, min } = ints.run(form, i);
            acc = fma(scale * d_a, isum as f32, acc);
            if let Some(min) = min {
                let sum: i32 = q_a.iter().map(|&a| i32::from(a)).sum();
                acc = fma(min, d_a * sum as f32, acc);
            }
        }
    }
    acc
}

/// `x` is `[n, n_in]`, `bytes` holds the rows of `weight` as in the file, `out` is `[n, n_out]`.
///
/// Float formats, and every format in [`Arithmetic::F32`], multiply dequantised weights by f32 activations through
/// [`dot_f32`].
pub fn mat_mul(arithmetic: Arithmetic, weight: &Weight, bytes: &[u8], x: &[f32], out: &mut [f32]) {
    let Weight { dtype, n_in, n_out, .. } = *weight;
    let row_bytes = dtype.row_bytes(n_in);
    let rounding = form(dtype).and_then(|form| Some((form, form.rounding(arithmetic)?)));
    let rows = bytes.chunks(row_bytes).enumerate();
    match rounding {
        Some((form, Rounding::Q8(format))) => {
            let q8: Vec<Q8Row> = x.chunks(n_in).map(|x| quantize_q8(format, x)).collect();
            for (r, row) in rows {
                for (t, x) in q8.iter().enumerate() {
                    out[t * n_out + r] = dot_int8(dtype, form, row, x);
                }
            }
        }
        Some((form, Rounding::Q16)) => {
            let q16: Vec<Q16Row> = x.chunks(n_in).map(quantize_q16).collect();
            for (r, row) in rows {
                for (t, x) in q16.iter().enumerate() {
                    out[t * n_out + r] = dot_int16(dtype, form, row, x);
                }
            }
        }
        None => {
            let mut dequantised = vec![0.0; n_in];
            for (r, row) in rows {
                dtype.dequantize(row, &mut dequantised);
                for (t, x) in x.chunks(n_in).enumerate() {
                    out[t * n_out + r] = dot_f32(&dequantised, x);
                }
            }
        }
    }
}
