//! Maincoder: Llama with a norm of each head of queries and keys behind the rotary embedding.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Attention, QkNorm, Result, Spec};

/// The base of llama.cpp. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual::TIED;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::without_factors(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[], ..spec }
        .map_attention(|_, attention| Attention { qk_norm: QkNorm::PerTurnedHead, ..attention }))
}
