//! Gemma (arXiv 2403.08295): scaled embeddings, a gate with GELU, queries scaled before attention; halves are rotated
//! together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Attention, Bias, Gated, QueryScale, Result, Spec};
use graph::Act;

/// Those of Hugging Face's `GemmaConfig`, which all models have. Its models have no window.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-6), window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    base(meta, DEFAULTS)
}

/// What the family has in common.
pub(super) fn base(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    let spec = llama::halves(llama::base(meta, defaults)?);
    let embd_scale = Some((spec.n_embd as f32).sqrt());
    Ok(Spec { biases: &[Bias::Qkv], embd_scale, ..spec }
        .map_attention(|_, attention| Attention { query_scale: QueryScale::Queries, ..attention })
        .map_gated(|gated| Gated { act: Act::GeluTanh, ..gated }))
}
