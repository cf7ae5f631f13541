//! Weights whose codes stand in another order inside their blocks: what a kernel multiplies that unpacks them wrongly.

use crate::Kind;
use crate::exact::weights::decode;
use graph::Weight;

/// An order that kernels were caught with: of each run of `parts · stride` places the k-th gets the code of element
/// `k / parts + k % parts · stride`.
#[derive(Clone, Copy)]
pub(crate) struct Order {
    parts: usize,
    stride: usize,
}

/// Low and high nibbles in turn where all the low ones come first, and the same with the four parts of Q6_K.
pub(crate) const ORDERS: [(Kind, Order); 3] = [
    (Kind::NibbleOrder, Order { parts: 2, stride: 16 }),
    (Kind::NibbleOrder, Order { parts: 2, stride: 32 }),
    (Kind::ElementOrder, Order { parts: 4, stride: 32 }),
];

/// Rows of a weight in this order; `None` where its blocks have no codes, or none of such runs.
pub(crate) fn rows_in<'b>(
    weight: &Weight,
    rows: impl Iterator<Item = &'b [u8]>,
    Order { parts, stride }: Order,
) -> Option<Vec<f32>> {
    let run = parts * stride;
    graph::ints::form(weight.dtype).filter(|form| form.block_len().is_multiple_of(run))?;
    let order = |k: usize| k / run * run + k % run / parts + k % parts * stride;
    let (mut row, mut sizes) = (vec![0.0; weight.n_in], vec![0.0; weight.n_in]);
    let mut all = Vec::new();
    for bytes in rows {
        decode(weight.dtype, bytes, &order, &mut row, &mut sizes);
        all.extend(row.iter().map(|&v| v as f32));
    }
    Some(all)
}
