//! Orion 14B (arXiv 2401.12246): Llama with LayerNorm, and halves that are rotated together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Result, Spec};

/// The base of llama.cpp and of the models' `OrionConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    Ok(llama::halves(llama::with_layer_norm(meta, DEFAULTS)?))
}
