//! OLMo 1 (arXiv 2402.00838): Llama with LayerNorm that has no factors, and queries, keys and values cut off at a magnitude.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, NormKind, Result, Spec};
use gguf::Value;

/// The base of llama.cpp and of Hugging Face's `OlmoConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual =
    Usual { biases: &[], keys: &[("attention.clamp_kqv", Value::F32(1.5))], ..Usual::LAYER_NORM };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let qkv_clamp = meta.opt_factor("attention.clamp_kqv")?;
    let spec = llama::without_factors(llama::with_layer_norm(meta, DEFAULTS)?);
    Ok(Spec { norm: NormKind::LayerPlain, biases: &[], ..spec }
        .map_attention(|_, attention| Attention { qkv_clamp, ..attention }))
}
