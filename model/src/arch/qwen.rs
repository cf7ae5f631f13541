//! Qwen (1) (arXiv 2309.16609): queries, keys and values in one tensor with a bias; the file's width of the feed-forward is
//! that of gate and up together. Halves are rotated together.

use super::llama::{self, Defaults, MAX_WIDTH, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Gated, Result, Spec};

/// Those of Hugging Face's `QWenConfig`, which all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-6), window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { biases: &[Bias::Qkv], fused_qkv: true, ..Usual::PLAIN };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::base(meta, DEFAULTS)?);
    let key = "feed_forward_length";
    let both = meta.per_layer(key, spec.layers.len(), 2..=MAX_WIDTH)?;
    if let Some(odd) = both.iter().find(|n| !n.is_multiple_of(2)) {
        return Err(meta.bad(key, format!("{odd}, allowed an even number")));
    }
    Ok(Spec { biases: &[Bias::Qkv], ..spec }
        .map_gated(|gated| Gated { n_ff: gated.n_ff / 2, ..gated }))
}
