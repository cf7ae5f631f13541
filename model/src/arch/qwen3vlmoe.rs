//! The text model of Qwen3-VL with experts (arXiv 2511.21631): Qwen 3 with experts and interleaved M-RoPE, which for text is the
//! plain embedding.

use super::llama::experts::{self, Width};
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, QkNorm, Result, Spec};
use gguf::Value;

/// Those of Hugging Face's `Qwen3VLMoeTextConfig`, which all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 5e6, eps: Some(1e-6), window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual {
    text_sections: true,
    keys: &[
        ("expert_count", Value::U32(8)),
        ("expert_used_count", Value::U32(3)),
        ("expert_feed_forward_length", Value::U32(256)),
    ],
    ..Usual::PLAIN
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    llama::text_sections(meta)?;
    // What the layers of the vision model add to the first layers: nothing where there is no picture.
    meta.opt_count("n_deepstack_layers", 0..=usize::MAX)?;
    let spec = llama::halves(llama::with_experts(meta, DEFAULTS)?);
    let spec = Spec { biases: &[Bias::Qkv], ..spec };
    let spec = experts::in_place(meta, spec, experts::SOFTMAX, Width::Own)?;
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerHead, ..attention }))
}
