//! GLM 4 (arXiv 2406.12793): gate and up in one tensor, norms after attention and feed-forward too, half of each head rotated.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, GateUp, Gated, Layer, Norms, Result, Spec};

/// The base of Hugging Face's `Glm4Config`. The norms' epsilon has no default, as in llama.cpp: models have 1e-5, the config
/// says 1.5625e-7.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { biases: &[Bias::Qkv], ..Usual::PLAIN };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::base(meta, DEFAULTS)?;
    // The model that reads images too has pairs of halves.
    let spec = if llama::text_sections(meta)? {
        llama::halves(spec)
    } else {
        llama::without_factors(spec)
    };
    Ok(Spec { biases: &[Bias::Qkv], ..spec }
        .map_layers(|_, layer| Layer { norms: Norms::BeforeAndAfter, ..layer })
        .map_gated(|gated| Gated { gate_up: GateUp::Fused, ..gated }))
}
