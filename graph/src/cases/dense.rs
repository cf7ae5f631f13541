//! Cases of the ops that models have without gates and rotary embeddings: LayerNorm, learned positions, functions of one value.

use super::{Case, CaseBuilder};
use crate::{LayerNorm, Result, Unary};
use gguf::DType;

/// Rows that fill no vector, some, and more than a tile of a GPU; tables of positions in formats of each sort.
pub(super) fn all() -> Result<Vec<Case>> {
    let shapes =
        [(20, 4, DType::F32), (129, 3, DType::F16), (512, 2, DType::Q4_0), (4160, 5, DType::Q8_0)];
    shapes.into_iter().map(|(n, heads, table)| dense(n, heads, table)).collect()
}

/// Norms of rows of `n` columns and of groups of them, with and without factors and what is added; rows of positions; and each
/// function of one value, all around a mean that is far from 0.
fn dense(n: usize, heads: usize, table: DType) -> Result<Case> {
    let mut c = CaseBuilder::new((n + heads) as u64, 37);
    let (tokens, positions) = (c.weight(DType::F32, n, 37, 1.0), c.weight(table, n, 30, 3.0));
    let embd = c.builder.get_rows(tokens, "embd")?;
    let rows = c.builder.position_rows(positions, "pos_embd");
    let mut x = c.builder.add(embd, rows, "inpL")?;
    let bias = c.weight(DType::F32, n, 1, 9.0);
    x = c.builder.add_bias(bias, x, "far")?;
    let eps = 1e-5;
    for (i, (group, elements, added)) in [
        (n, None, false),
        (n, Some(n), false),
        (n, Some(n), true),
        (n / heads, None, false),
        (n / heads, Some(n / heads), true),
        (n / heads, Some(n), false),
        (n / heads, Some(n), true),
    ]
    .into_iter()
    .enumerate()
    {
        let w = elements.map(|n| c.weight(DType::F32, n, 1, 1.0));
        let b = elements.filter(|_| added).map(|n| c.weight(DType::F16, n, 1, 2.0));
        let norm = LayerNorm { group, w, b, eps };
        let y = c.builder.layer_norm(norm, x, format!("norm-{i}"))?;
        let unary = [Unary::GeluTanh, Unary::ReluSquared, Unary::Clamp { limit: 0.75 }][i % 3];
        let y = c.builder.unary(unary, y, format!("of_norm-{i}"));
        x = c.builder.add(y, x, format!("sum-{i}"))?;
    }
    if n.is_multiple_of(32) {
        // Products that want the norm rounded, and a function of one value.
        let w = Some(c.weight(DType::F32, n, 1, 1.0));
        let y = c.builder.layer_norm(LayerNorm { group: n, w, b: None, eps }, x, "ffn_norm")?;
        let y = c.product(DType::Q8_0, y, 96, "ffn_up")?;
        let y = c.builder.unary(Unary::GeluTanh, y, "ffn_gelu");
        let y = c.product(DType::Q4_0, y, n, "ffn_out")?;
        x = c.builder.add(y, x, "l_out")?;
    }
    let x = c.builder.output_rows(x, "rows")?;
    c.product(DType::F32, x, 37, "result_output")?;
    c.finish(
        format!("norms of {n} columns and {heads} heads, positions in {table}"),
        &[19, 1, 4],
        0,
    )
}
