//! Gemma 2 (arXiv 2408.00118): Gemma with norms after attention and feed-forward, caps on scores and logits, and a window
//! in every second layer.

use super::gemma;
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Layer, Norms, Result, Spec};
use gguf::Value;

/// Those of Hugging Face's `Gemma2Config`, which all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-6), window: Window::Own, scale: inverse_root };
/// Where the file does not say otherwise: llama.cpp's and `Gemma2Config`'s. The first files did not say.
const DEFAULT_WINDOW: u32 = 4096;
const DEFAULT_CAPS: Caps = Caps { scores: 50.0, logits: 30.0 };
/// The first of two layers has the window.
const DEFAULT_PATTERN: usize = 2;
/// The 27B model divides the residual stream among its heads for the attention scale; its number of layers is how llama.cpp
/// tells it from its siblings.
const N_LAYER_27B: usize = 46;

/// Caps where the file has none.
struct Caps {
    scores: f32,
    logits: f32,
}

pub(super) const USUAL: Usual = Usual {
    keys: &[
        ("attention.sliding_window", Value::U32(40)),
        ("attn_logit_softcapping", Value::F32(5.0)),
        ("final_logit_softcapping", Value::F32(30.0)),
    ],
    ..Usual::TIED
};

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = gemma::base(meta, DEFAULTS)?;
    let (n_layer, n_embd) = (spec.layers.len(), spec.n_embd);
    let window = meta.window(Some(DEFAULT_WINDOW))?;
    let windowed = llama::windowed(meta, n_layer, DEFAULT_PATTERN)?;
    let softcap = cap(meta, "attn_logit_softcapping", DEFAULT_CAPS.scores)?;
    let logit_softcap = cap(meta, "final_logit_softcapping", DEFAULT_CAPS.logits)?;
    Ok(Spec { logit_softcap, ..spec }
        .map_layers(|_, layer| Layer { norms: Norms::BeforeAndAfter, ..layer })
        .map_attention(|i, attention| {
            let scale = if n_layer == N_LAYER_27B {
                inverse_root(n_embd / attention.n_head)
            } else {
                attention.scale
            };
            Attention { window: window.filter(|_| windowed[i]), softcap, scale, ..attention }
        }))
}

/// The file's cap, of which 0 says "none".
fn cap(meta: &Meta<'_>, key: &str, default: f32) -> Result<Option<f32>> {
    if meta.value(key).is_none() { Ok(Some(default)) } else { meta.opt_factor(key) }
}
