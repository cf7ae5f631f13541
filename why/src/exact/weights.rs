//! Weights in f64: a block's integers and scales multiplied without rounding.

use crate::bound::{Exact, TINY, gamma};
use gguf::DType;
use graph::Weight;
use graph::ints::{Ints, MinTerm, blocks, form};

/// A weight and its bytes in the file.
#[derive(Clone, Copy)]
pub(super) struct Tensor<'a> {
    pub(super) weight: &'a Weight,
    pub(super) bytes: &'a [u8],
}

/// All elements of a weight, row by row.
pub(super) fn all(weight: &Weight, bytes: &[u8]) -> Vec<f64> {
    let ids: Vec<u32> = (0..weight.rows() as u32).collect();
    rows(weight, bytes, &ids).value
}

/// One row of a weight: `out` gets its elements, `sizes` what is added up for each. Place i of a block has the code at
/// `order(i)`, which is i where all is right. Float formats are exact.
pub(crate) fn decode(
    dtype: DType,
    bytes: &[u8],
    order: &dyn Fn(usize) -> usize,
    out: &mut [f64],
    sizes: &mut [f64],
) {
    let Some(form) = form(dtype) else {
        let mut row = vec![0.0; out.len()];
        dtype.dequantize(bytes, &mut row);
        for (i, v) in row.into_iter().enumerate() {
            (out[i], sizes[i]) = (f64::from(v), f64::from(v.abs()));
        }
        return;
    };
    let mut ints = Ints::new();
    for (b, block) in blocks(dtype, bytes).enumerate() {
        ints.unpack(dtype, block);
        let (d, m) = (f64::from(ints.d), f64::from(ints.m));
        for i in 0..form.block_len() {
            let product = d * f64::from(ints.scale[i / 16]) * f64::from(ints.q[order(i)]);
            let added = match form.min() {
                MinTerm::None => 0.0,
                MinTerm::Sum => m,
                MinTerm::Subs => -(m * f64::from(ints.min[i / 16])),
            };
            let at = b * form.block_len() + i;
            (out[at], sizes[at]) = (product + added, product.abs() + added.abs());
        }
    }
}

/// Rows of a table: factor, scale, minimum and sum are rounded once each.
pub(super) fn rows(weight: &Weight, bytes: &[u8], rows: &[u32]) -> Exact {
    let (n, row_bytes) = (weight.n_in, weight.dtype.row_bytes(weight.n_in));
    let by = if graph::ints::form(weight.dtype).is_some() { gamma(4) } else { 0.0 };
    let (mut row, mut sizes) = (vec![0.0; n], vec![0.0; n]);
    let mut exact = Exact::with_room(rows.len() * n);
    for &at in rows {
        let bytes = &bytes[at as usize * row_bytes..][..row_bytes];
        decode(weight.dtype, bytes, &|i| i, &mut row, &mut sizes);
        for (&v, &size) in row.iter().zip(&sizes) {
            exact.push(v, size * by + if by > 0.0 { TINY } else { 0.0 }, size);
        }
    }
    exact
}
