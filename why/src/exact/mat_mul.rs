//! `y = x Wᵀ`: exact integers and scale steps in f64 for `int8` and `int16`, products of decoded weights otherwise.

use super::weights::{Tensor, decode};
use crate::Tolerance;
use crate::bound::{Exact, TINY, U, U_BF16, U_F16, gamma};
use gguf::DType;
use graph::Arithmetic;
use graph::ints::{Form, Ints, MinTerm, Q8Format, Rounding, blocks, form};
use graph::math::round_f16;
use graph::ops::quantize_q8::{Q8Row, quantize_q8};
use graph::ops::quantize_q16::{BLOCK, MAX, Q16Row, quantize_q16};

/// `x` is `[n, n_in]`.
pub(super) fn mat_mul(
    arithmetic: Arithmetic,
    tensor: Tensor<'_>,
    x: &[f32],
    tolerance: Tolerance,
) -> Exact {
    let form = form(tensor.weight.dtype);
    match form.and_then(|form| Some((form, form.rounding(arithmetic)?))) {
        Some((form, Rounding::Q8(_))) => int8(form, tensor, x, tolerance),
        Some((form, Rounding::Q16)) => int16(form, tensor, x, tolerance),
        None => floats(tensor, x, tolerance),
    }
}

/// Elements of each token's outputs are made row by row.
fn transposed(rows: &[(f64, f64, f64)], n: usize) -> Exact {
    let mut exact = Exact::with_room(rows.len());
    for t in 0..n {
        for &(value, bound, size) in rows.iter().skip(t).step_by(n) {
            exact.push(value, bound, size);
        }
    }
    exact
}

/// A product of n terms is rounded n times at most, whatever the order; a decoded weight some times before. Other
/// engines round the activations to the weight's type where that is f16 or bf16.
fn floats(tensor: Tensor<'_>, x: &[f32], tolerance: Tolerance) -> Exact {
    let Tensor { weight, bytes } = tensor;
    let n_in = weight.n_in;
    let as_weight = match (weight.dtype, tolerance) {
        (DType::F16, Tolerance::Rounding) => U_F16,
        (DType::BF16, Tolerance::Rounding) => U_BF16,
        (_, Tolerance::Rounding | Tolerance::Bits) => 0.0,
    };
    let by = gamma(n_in + 8) + as_weight;
    // What f16 leaves of a number too small for it.
    let lost = if as_weight > 0.0 { U / 2.0 } else { 0.0 };
    let (mut row, mut sizes) = (vec![0.0; n_in], vec![0.0; n_in]);
    let (mut rows, n) = (Vec::new(), x.len() / n_in);
    for bytes in bytes.chunks(weight.dtype.row_bytes(n_in)) {
        decode(weight.dtype, bytes, &|i| i, &mut row, &mut sizes);
        let all = sizes.iter().sum::<f64>() * lost;
        for x in x.chunks(n_in) {
            let (mut dot, mut size) = (0.0, 0.0);
            for i in 0..n_in {
                let x = f64::from(x[i]);
                dot += row[i] * x;
                size += sizes[i] * x.abs();
            }
            rows.push((dot, size * by + all + TINY, size));
        }
    }
    transposed(&rows, n)
}

/// One token's rounded activations, and what another engine may make of them.
struct RoundedRow {
    row: Q8Row,
    /// Elements that stand so near between two integers that another order of the same steps rounds them to the other.
    ties: Vec<usize>,
    /// For each block by what share its scale, and by how much its sum, may be rounded to the other side in f16.
    scale: Vec<f64>,
    sum: Vec<f64>,
}

/// Three roundings of a number up to 127.
const TIE: f64 = 127.0 * 4.0 * U;

impl RoundedRow {
    fn new(format: Q8Format, x: &[f32], tolerance: Tolerance) -> Self {
        let row = quantize_q8(format, x);
        let (block, blocks) = (x.len() / row.d.len().max(1), row.d.len());
        let mut rounded =
            Self { row, ties: Vec::new(), scale: vec![0.0; blocks], sum: vec![0.0; blocks] };
        if tolerance == Tolerance::Bits {
            return rounded;
        }
        for (b, x) in x.chunks(block.max(1)).enumerate() {
            let most = f64::from(x.iter().fold(0.0f32, |m, v| m.max(v.abs())));
            for (i, &v) in x.iter().enumerate() {
                let place = f64::from(v) * 127.0 / most;
                if (place.abs().fract() - 0.5).abs() < TIE {
                    rounded.ties.push(b * block + i);
                }
            }
            if format == Q8Format::Q8x32 {
                let d = most / 127.0;
                rounded.scale[b] = other_side(d) / d.max(TINY);
                let q = &rounded.row.q[b * block..][..x.len()];
                rounded.sum[b] = other_side(d * q.iter().map(|&q| f64::from(q)).sum::<f64>());
            }
        }
        rounded
    }
}

/// How far apart the f16 on both sides of a number are, if some roundings of f32 decide between them.
fn other_side(x: f64) -> f64 {
    let at = |by: f64| f64::from(round_f16((x * (1.0 + by)) as f32));
    (at(4.0 * U) - at(-4.0 * U)).abs()
}

/// Integers inside a block are exact in any order; then each block's steps are rounded, and lanes joined. Another engine
/// may multiply the codes as they are stored and take their offset away in lanes of other elements, as ggml does with
/// Q6_K: what is added up is larger then.
fn int8(form: Form, tensor: Tensor<'_>, x: &[f32], tolerance: Tolerance) -> Exact {
    let Tensor { weight, bytes } = tensor;
    let (dtype, n_in) = (weight.dtype, weight.n_in);
    let q8: Vec<RoundedRow> =
        x.chunks(n_in).map(|x| RoundedRow::new(form.q8(), x, tolerance)).collect();
    let n_blocks = n_in / form.block_len();
    let offset = match tolerance {
        Tolerance::Bits => 0,
        Tolerance::Rounding => i32::from(form.offset()),
    };
    let by = gamma(2 * n_blocks + 16);
    let mut ints = vec![Ints::new(); n_blocks];
    let mut rows = Vec::with_capacity(q8.len() * weight.n_out);
    for row in bytes.chunks(dtype.row_bytes(n_in)) {
        for (ints, block) in ints.iter_mut().zip(blocks(dtype, row)) {
            ints.unpack(dtype, block);
        }
        for x in &q8 {
            let (mut value, mut size, mut free) = (0.0, 0.0, 0.0);
            for (b, w) in ints.iter().enumerate() {
                let block = product(form, w, x, b, offset);
                value += block.value;
                size += block.size;
                free += block.free;
            }
            for &i in &x.ties {
                let (w, b, at) =
                    (&ints[i / form.block_len()], i / form.block_len(), i % form.block_len());
                let q = f64::from(w.q[at]) * f64::from(w.scale[at / 16]) * f64::from(w.d);
                let min = f64::from(w.m) * f64::from(w.min[at / 16].max(1));
                free += (q.abs() + min.abs()) * f64::from(x.row.d[b].abs());
            }
            rows.push((value, size * by + free + TINY, size));
        }
    }
    transposed(&rows, q8.len())
}

/// One block of a product.
struct Block {
    value: f64,
    /// `Σ|w·a|`
    size: f64,
    /// What f16 may decide the other way.
    free: f64,
}

/// Block `b` of a row, `w`, times that of a token.
fn product(form: Form, w: &Ints, x: &RoundedRow, b: usize, offset: i32) -> Block {
    let a = &x.row.q[b * form.block_len()..][..form.block_len()];
    let (mut dots, mut sizes, mut mins, mut min_sizes) = (0i32, 0i32, 0i32, 0i32);
    for (sub, a) in a.chunks(16).enumerate() {
        let q = &w.q[16 * sub..][..a.len()];
        let (mut dot, mut size, mut sum) = (0i32, 0i32, 0i32);
        for i in 0..a.len() {
            let (a, q) = (i32::from(a[i]), i32::from(q[i]));
            dot += a * q;
            size += a.abs() * if offset > 0 { q + 2 * offset } else { q.abs() };
            sum += a;
        }
        dots += i32::from(w.scale[sub]) * dot;
        sizes += i32::from(w.scale[sub]).abs() * size;
        mins += i32::from(w.min[sub]) * sum;
        min_sizes += i32::from(w.min[sub]) * sum.abs();
    }
    let d = f64::from(w.d) * f64::from(x.row.d[b]);
    let (value, size) = (d * f64::from(dots), d.abs() * f64::from(sizes));
    let free = size * x.scale[b];
    match form.min() {
        MinTerm::None => Block { value, size, free },
        MinTerm::Sum => {
            let (m, s) = (f64::from(w.m), x.row.s.get(b).map_or(0.0, |&s| f64::from(s)));
            let free = free + m.abs() * x.sum[b];
            Block { value: value + m * s, size: size + (m * s).abs(), free }
        }
        MinTerm::Subs => {
            let m = f64::from(w.m) * f64::from(x.row.d[b]);
            let added = m.abs() * f64::from(min_sizes);
            Block { value: value - m * f64::from(mins), size: size + added, free }
        }
    }
}

/// One token's activations, rounded to 15 bits and a sign.
struct Row16 {
    row: Q16Row,
    /// Elements that another order of the same steps may round to the next integer.
    ties: Vec<usize>,
}

impl Row16 {
    fn new(x: &[f32], tolerance: Tolerance) -> Self {
        let row = quantize_q16(x);
        let most = |i: usize| f64::from(row.d[i / BLOCK]) * f64::from(MAX);
        let place = |i: usize| f64::from(x[i]) * f64::from(MAX) / most(i);
        // Three roundings of a number up to MAX.
        let tie = |i: &usize| (place(*i).abs().fract() - 0.5).abs() < f64::from(MAX) * 4.0 * U;
        let ties = match tolerance {
            Tolerance::Bits => Vec::new(),
            Tolerance::Rounding => (0..x.len()).filter(tie).collect(),
        };
        Self { row, ties }
    }
}

/// Integers inside a run are exact in any order; then each run's steps are rounded.
fn int16(form: Form, tensor: Tensor<'_>, x: &[f32], tolerance: Tolerance) -> Exact {
    let Tensor { weight, bytes } = tensor;
    let (dtype, n_in) = (weight.dtype, weight.n_in);
    let all: Vec<Row16> = x.chunks(n_in).map(|x| Row16::new(x, tolerance)).collect();
    let mut ints = vec![Ints::new(); n_in / form.block_len()];
    let by = gamma(2 * (n_in / form.run_len()) + 16);
    let mut rows = Vec::with_capacity(all.len() * weight.n_out);
    for row in bytes.chunks(dtype.row_bytes(n_in)) {
        for (ints, block) in ints.iter_mut().zip(blocks(dtype, row)) {
            ints.unpack(dtype, block);
        }
        for x in &all {
            let (mut value, mut size, mut free) = (0.0, 0.0, 0.0);
            let q_a = x.row.q.chunks(form.run_len());
            for (run, q_a) in q_a.enumerate() {
                let w = WeightsOfRun::new(form, &ints, run * form.run_len());
                let d_a = f64::from(x.row.d[run * form.run_len() / BLOCK]);
                let (mut dot, mut dots, mut sum) = (0i64, 0i64, 0i64);
                for (&a, &q) in q_a.iter().zip(w.q) {
                    let product = i64::from(a) * i64::from(q);
                    dot += product;
                    dots += product.abs();
                    sum += i64::from(a);
                }
                value += d_a * (w.scale * dot as f64 + w.min * sum as f64);
                size += d_a * ((w.scale * dots as f64).abs() + (w.min * sum as f64).abs());
            }
            for &i in &x.ties {
                let w = WeightsOfRun::new(form, &ints, i);
                let q = f64::from(w.q[i % form.run_len()]);
                let d_a = f64::from(x.row.d[i / BLOCK]);
                free += d_a * ((w.scale * q).abs() + w.min.abs());
            }
            rows.push((value, size * by + free + TINY, size));
        }
    }
    transposed(&rows, all.len())
}

/// The run of weights that holds a column: `w = scale · q + min`.
struct WeightsOfRun<'a> {
    q: &'a [i8],
    scale: f64,
    /// 0 where the format has no minimum.
    min: f64,
}

impl<'a> WeightsOfRun<'a> {
    fn new(form: Form, blocks: &'a [Ints], column: usize) -> Self {
        let (ints, in_block) = (&blocks[column / form.block_len()], column % form.block_len());
        let first = in_block / form.run_len() * form.run_len();
        let (scale, min) = (f64::from(ints.scale[first / 16]), f64::from(ints.min[first / 16]));
        let (d, m) = (f64::from(ints.d), f64::from(ints.m));
        let min = match form.min() {
            MinTerm::None => 0.0,
            MinTerm::Sum => m,
            MinTerm::Subs => -(m * min),
        };
        let scale = if form.run().is_some() { d * scale } else { d };
        Self { q: &ints.q[first..][..form.run_len()], scale, min }
    }
}
