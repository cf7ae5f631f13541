//! The text model of Qwen3-VL (arXiv 2511.21631): Qwen 3 with interleaved M-RoPE, which for text is the plain embedding.

use super::llama::{self, Defaults, Window, inverse_root};
use super::qwen2;
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Bias, QkNorm, Result, Spec};

/// Those of Hugging Face's `Qwen3VLTextConfig`, which all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 5e6, eps: Some(1e-6), window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { text_sections: true, ..Usual::TIED };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    // Where the sections leave out a pair, llama.cpp does not turn it and transformers does; karat turns it, as the model
    // was trained.
    llama::text_sections(meta)?;
    // What the layers of the vision model add to the first layers: nothing where there is no picture.
    meta.opt_count("n_deepstack_layers", 0..=usize::MAX)?;
    let spec = Spec { biases: &[Bias::Qkv], ..qwen2::base(meta, DEFAULTS)? };
    Ok(spec.map_attention(|_, attention| Attention { qk_norm: QkNorm::PerHead, ..attention }))
}
