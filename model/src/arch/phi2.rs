//! Phi 1, 1.5 and 2 (arXiv 2309.05463): both branches by one norm, biases everywhere, a part of each head rotated, queries scaled
//! before attention.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, FirstSum, ParallelNorms, QueryScale, Result, Spec};
use graph::Unary;

/// The base of llama.cpp and of Hugging Face's `PhiConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// All places of a layer, and the logits.
const BIASES: &[Bias] = &[Bias::Norm, Bias::Qkv, Bias::AttnOut, Bias::Ffn, Bias::Output];

pub(super) const USUAL: Usual = Usual { biases: BIASES, half_rotary: true, ..Usual::LAYER_NORM };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::with_layer_norm(meta, DEFAULTS)?);
    Ok(Spec { biases: BIASES, ..spec }
        .without_gates(Unary::GeluTanh)
        .in_parallel(ParallelNorms::One, FirstSum::Branches)
        .map_attention(|_, attention| Attention { query_scale: QueryScale::Queries, ..attention }))
}
