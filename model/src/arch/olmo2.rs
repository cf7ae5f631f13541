//! OLMo 2 and 3 (arXiv 2501.00656): norms only on what attention and feed-forward add, a norm of all heads of queries and
//! of keys together; in OLMo 3 a window in three of four layers. Halves are rotated together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Attention, Bias, Layer, Norms, QkNorm, Result, Rope, RopeScaling, Spec};

/// The base of Hugging Face's `Olmo2Config`. The norms' epsilon has no default, as in llama.cpp: models have 1e-6, the
/// config says 1e-5.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };
/// Every fourth layer sees all positions.
const DEFAULT_PATTERN: usize = 4;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let mut spec = llama::halves(llama::base(meta, DEFAULTS)?);
    let window = meta.window(None)?;
    let windowed = match window {
        Some(_) => llama::windowed(meta, spec.layers.len(), DEFAULT_PATTERN)?,
        None => vec![false; spec.layers.len()],
    };
    // The context is stretched for the layers that see all of it, not for those with a window.
    let global = spec.ropes[0].clone();
    let base = meta.opt_positive("rope.freq_base_swa")?.unwrap_or(global.base);
    let local = Rope { base, scaling: RopeScaling::None, attn_factor: 1.0, ..global };
    if window.is_some() {
        spec.ropes.push(local);
    }
    Ok(Spec { biases: &[Bias::Qkv], ..spec }
        .map_layers(|_, layer| Layer { norms: Norms::After, ..layer })
        .map_attention(|i, attention| Attention {
            qk_norm: QkNorm::PerRow,
            rope: Some(usize::from(windowed[i])),
            window: window.filter(|_| windowed[i]),
            ..attention
        }))
}
