//! Phi 3, 3.5 and 4 (arXiv 2404.14219): fused projections, longrope, queries scaled before attention, and a window in
//! every layer of Phi-3-mini-4k, which llama.cpp does not apply.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, GateUp, Gated, QueryScale, Result, Rope, Spec};
use graph::RopePairs;

/// What Hugging Face's `Phi3Config` has where a model's configuration says nothing; all of Phi 3 and 4 have its epsilon.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-5), window: Window::All, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { fused_qkv: true, ..Usual::PLAIN };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::base(meta, DEFAULTS)?;
    let n_ctx_orig = meta.opt_count("rope.scaling.original_context_length", 1..=usize::MAX)?;
    let n_ctx_orig = n_ctx_orig.unwrap_or(spec.n_ctx_train);
    let mut ropes = Vec::new();
    for rope in spec.ropes.drain(..) {
        // The factors count wherever the file has them, whatever it calls its scaling.
        let factors = llama::by_length(meta, rope.n_rot, n_ctx_orig)?;
        ropes.push(Rope { pairs: RopePairs::Halves, factors, ..rope });
    }
    let spec = Spec { ropes, biases: &[Bias::Qkv, Bias::AttnOut], ..spec };
    Ok(spec
        .map_attention(|_, attention| Attention { query_scale: QueryScale::Queries, ..attention })
        .map_gated(|gated| Gated { gate_up: GateUp::Fused, ..gated }))
}
