//! Falcon (arXiv 2311.16867): both branches beside one another, by one norm or (40B and 180B) by two, without gates and biases.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{FirstSum, ParallelNorms, Result, Spec};
use graph::Unary;

/// The base of llama.cpp and of Hugging Face's `FalconConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { fused_qkv: true, ..Usual::LAYER_NORM };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    // Nothing but the tensor says which of both it is, as in llama.cpp.
    let has_second = llama::has_tensor(meta, "attn_norm_2");
    let norms = if has_second { ParallelNorms::Second } else { ParallelNorms::One };
    Ok(llama::halves(llama::with_layer_norm(meta, DEFAULTS)?)
        .without_gates(Unary::GeluTanh)
        .in_parallel(norms, FirstSum::Branches))
}
