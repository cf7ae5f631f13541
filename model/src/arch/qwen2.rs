//! Qwen 2 and 2.5 (arXiv 2407.10671): biases on queries, keys and values; halves are rotated together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::{Numbers, Preset, Shape, Usual};
use crate::{Bias, Result, Spec};

pub(super) const USUAL: Usual = Usual { biases: &[Bias::Qkv], ..Usual::TIED };

pub(super) const PRESETS: &[Preset] = &[Preset {
    name: "qwen2.5-1.5b",
    shape: Shape {
        n_layer: 28,
        n_embd: 1536,
        n_ff: 8960,
        n_head: 12,
        n_head_kv: 2,
        head_dim_k: 128,
        head_dim_v: 128,
        n_vocab: 151_936,
        n_ctx: 32_768,
        rope_base: 1e6,
        eps: 1e-6,
        tied: true,
        numbers: Numbers::Ordinary,
    },
}];

/// The base of Hugging Face's `Qwen2Config`. The norms' epsilon has no default: the config says 1e-6, and Qwen2.5-14B and
/// larger have 1e-5. A window counts only with `use_sliding_window`, which no model sets and no key of a file says.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    base(meta, DEFAULTS)
}

/// What the family has in common.
pub(super) fn base(meta: &Meta<'_>, defaults: Defaults) -> Result<Spec> {
    // No model of the family brings factors; a file that does is refused for its unknown tensor.
    let spec = llama::halves(llama::base(meta, defaults)?);
    Ok(Spec { biases: &[Bias::Qkv, Bias::Output], ..spec })
}
