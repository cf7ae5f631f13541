//! Gemma 3 (arXiv 2503.19786): five layers with a sliding window to one without, each sort with its own rope base;
//! scaled embeddings, norms on queries and keys, norms after attention and feed-forward.

use super::gemma;
use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, Layer, Norms, QkNorm, Result, Rope, RopeScaling, Spec};
use gguf::Value;

/// The base is that of the layers that see all positions: the paper's section 2, and Hugging Face's `Gemma3TextConfig`, which
/// has the epsilon, too. The window is not that of every layer.
const DEFAULTS: Defaults =
    Defaults { rope_base: 1e6, eps: Some(1e-6), window: Window::Own, scale: inverse_root };
/// For the layers with a window, from the same two.
const DEFAULT_LOCAL_BASE: f32 = 10_000.0;
/// Where ollama's converter writes the two bases.
const OTHER_GLOBAL_BASE: &str = "rope.global.freq_base";
const OTHER_LOCAL_BASE: &str = "rope.local.freq_base";
/// Every sixth layer sees all positions, where the file does not say otherwise.
const DEFAULT_PATTERN: usize = 6;
/// The 27B model divides the residual stream among its heads for the attention scale, unlike its siblings; its number
/// of layers is how llama.cpp tells it from them.
const N_LAYER_27B: usize = 62;
/// Index of the local layers' rotary embedding.
const LOCAL: usize = 1;

pub(super) const USUAL: Usual =
    Usual { keys: &[("attention.sliding_window", Value::U32(512))], ..Usual::TIED };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = gemma::base(meta, DEFAULTS)?;
    let n_layer = spec.layers.len();
    let ropes = ropes(meta, &spec.ropes[0])?;
    let window = meta.window(None)?;
    let pattern = llama::windowed(meta, n_layer, DEFAULT_PATTERN)?;
    let is_local = if window.is_some() { pattern } else { vec![false; n_layer] };
    let n_embd = spec.n_embd;
    let attention = |i: usize, attention: Attention| {
        let scale = if n_layer == N_LAYER_27B {
            inverse_root(n_embd / attention.n_head)
        } else {
            attention.scale
        };
        let (rope, window) =
            if is_local[i] { (Some(LOCAL), window) } else { (attention.rope, attention.window) };
        Attention { qk_norm: QkNorm::PerHead, rope, window, scale, ..attention }
    };
    let logit_softcap = meta.opt_factor("final_logit_softcapping")?;
    let spec = Spec { ropes, logit_softcap, ..spec };
    Ok(spec
        .map_layers(|_, layer| Layer { norms: Norms::BeforeAndAfter, ..layer })
        .map_attention(attention))
}

/// The rotary embedding of the layers that see all positions, then that of the layers with a window.
fn ropes(meta: &Meta<'_>, rope: &Rope) -> Result<Vec<Rope>> {
    let stated = meta.opt_positive("rope.freq_base")?;
    let other = meta.opt_positive(OTHER_GLOBAL_BASE)?;
    let base = stated.or(other).unwrap_or(rope.base);
    let global = Rope { base, ..rope.clone() };
    let local = meta.opt_positive("rope.freq_base_swa")?;
    let other_local = meta.opt_positive(OTHER_LOCAL_BASE)?;
    let base = local.or(other_local).unwrap_or(DEFAULT_LOCAL_BASE);
    // The context is stretched for the layers that see all of it, not for those with a window.
    let local = Rope { base, scaling: RopeScaling::None, ..global.clone() };
    Ok(vec![global, local])
}
