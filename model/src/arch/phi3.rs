//! Phi 3, 3.5 and 4 (arXiv 2404.14219): fused projections, longrope, queries scaled before attention.
//!
//! `attention.sliding_window` is not applied, as in llama.cpp; converters write 0 there for models without one.

use super::llama;
use crate::meta::Meta;
use crate::{Bias, GateUp, QueryScale, Result, Rope, Spec};
use graph::RopePairs;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::spec(meta)?;
    let n_ctx_orig = meta.opt_count("rope.scaling.original_context_length", 1..=usize::MAX)?;
    let n_ctx_orig = n_ctx_orig.unwrap_or(spec.n_ctx_train);
    let mut ropes = Vec::new();
    for rope in spec.ropes.drain(..) {
        // The factors count wherever the file has them, whatever it calls its scaling.
        let factors = llama::by_context(meta, rope.n_rot, n_ctx_orig)?;
        ropes.push(Rope { pairs: RopePairs::Halves, factors, ..rope });
    }
    Ok(Spec {
        ropes,
        gate_up: GateUp::Fused,
        query_scale: QueryScale::Queries,
        biases: &[Bias::Qkv, Bias::AttnOut],
        ..spec
    })
}
