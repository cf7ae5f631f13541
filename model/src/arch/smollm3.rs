//! SmolLM3: Llama, but for every fourth layer, whose queries and keys do not know their position (NoPE, arXiv 2501.18795).

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Attention, Result, Spec};

/// Those of Hugging Face's `SmolLM3Config`. A window counts only with `use_sliding_window`, which no key of a file says.
const DEFAULTS: Defaults =
    Defaults { rope_base: 2e6, eps: Some(1e-6), window: Window::Own, scale: inverse_root };
/// `no_rope_layer_interval`, which no key of a file says.
const NO_ROPE_EVERY: usize = 4;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::without_factors(llama::base(meta, DEFAULTS)?);
    let rope = |i: usize| Some(0).filter(|_| !(i + 1).is_multiple_of(NO_ROPE_EVERY));
    Ok(spec.map_attention(|i, attention| Attention { rope: rope(i), ..attention }))
}
