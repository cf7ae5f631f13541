//! Qwen (1) (arXiv 2309.16609): queries, keys and values in one tensor with a bias; the file's width of the feed-forward is
//! that of gate and up together. Halves are rotated together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Gated, Result, Spec};

/// Those of Hugging Face's `QWenConfig`, which all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: Some(1e-6), window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { biases: &[Bias::Qkv], fused_qkv: true, ..Usual::PLAIN };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[Bias::Qkv], ..spec }
        .map_gated(|gated| Gated { n_ff: gated.n_ff / 2, ..gated }))
}
