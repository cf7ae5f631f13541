//! The text model of Qwen2-VL and Qwen2.5-VL (arXiv 2409.12191): Qwen 2 with M-RoPE, which for text is the plain embedding.

use super::llama::{self, Defaults, Window, inverse_root};
use super::qwen2;
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Result, Spec};

/// The base of Hugging Face's `Qwen2VLTextConfig`. The norms' epsilon has no default: the config says 1e-5, and models have
/// 1e-6. llama.cpp reads none and computes with 0.
const DEFAULTS: Defaults =
    Defaults { rope_base: 1e6, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { biases: &[Bias::Qkv], text_sections: true, ..Usual::TIED };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    llama::text_sections(meta)?;
    Ok(Spec { biases: &[Bias::Qkv], ..qwen2::base(meta, DEFAULTS)? })
}
