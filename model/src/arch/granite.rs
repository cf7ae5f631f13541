//! Granite 3 and 4 dense (IBM): Llama with factors on the embeddings, on what each branch adds, on scores and on logits.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, Result, Spec};
use gguf::Value;

/// The base of Hugging Face's `GraniteConfig`. The norms' epsilon has no default, as in llama.cpp: models have 1e-5, the
/// config says 1e-6.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    keys: &[
        ("embedding_scale", Value::F32(12.0)),
        ("residual_scale", Value::F32(0.22)),
        ("attention.scale", Value::F32(0.0625)),
        ("logit_scale", Value::F32(8.0)),
    ],
    ..Usual::TIED
};

pub(super) const BIASES: &[Bias] = &[Bias::Qkv, Bias::AttnOut, Bias::Ffn];

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    with_factors(meta, base(meta, DEFAULTS)?)
}

/// With the factors that the file says.
pub(super) fn with_factors(meta: &Meta<'_>, spec: Spec) -> Result<Spec> {
    // No key is an old name of another: the logits' scale must be there, as in llama.cpp.
    let logit_scale =
        meta.opt_positive("logit_scale")?.ok_or_else(|| meta.missing("logit_scale"))?;
    let embd_scale = meta.opt_factor("embedding_scale")?;
    let residual_scale = meta.opt_factor("residual_scale")?;
    let scale = meta.opt_factor("attention.scale")?;
    // Files of hybrid models without positions say so by this key, which elsewhere is information only.
    let has_rope = meta.opt_flag("rope.scaling.finetuned")? != Some(false);
    let logit_scale = Some(1.0 / logit_scale);
    Ok(Spec { embd_scale, residual_scale, logit_scale, ..spec }.map_attention(|_, attention| {
        Attention {
            scale: scale.unwrap_or(attention.scale),
            rope: attention.rope.filter(|_| has_rope),
            ..attention
        }
    }))
}

/// What the family has in common, without its factors.
pub(super) fn base(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    Ok(Spec { biases: BIASES, ..llama::base(meta, defaults)? })
}
