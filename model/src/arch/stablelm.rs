//! StableLM 2 and StableLM 3B (arXiv 2402.17834): LayerNorm, a part of each head rotated; the 12B has both branches by one norm and
//! a norm of each head of queries and keys.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, FirstSum, ParallelNorms, QkNorm, Result, Spec};

/// The base of llama.cpp and of Hugging Face's `StableLmConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { half_rotary: true, ..Usual::LAYER_NORM };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let stated = meta.opt_flag("use_parallel_residual")?.unwrap_or(false);
    let has = |name: &str| llama::has_tensor(meta, name);
    let spec = llama::halves(llama::with_layer_norm(meta, DEFAULTS)?);
    let qk_norm = if has("attn_q_norm") { QkNorm::EachHead } else { QkNorm::None };
    let spec = Spec { biases: &[Bias::Norm, Bias::Qkv], ..spec }
        .map_attention(|_, attention| Attention { qk_norm, ..attention });
    // The tensors say it, as in llama.cpp: converters wrote the key for models whose branches follow one another, too.
    let is_parallel = if has("attn_norm") { !has("ffn_norm") } else { stated };
    if is_parallel {
        return Ok(spec.in_parallel(ParallelNorms::One, FirstSum::Mixer));
    }
    Ok(spec)
}
