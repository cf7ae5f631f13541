//! XVERSE 7B, 13B and 65B: Llama without biases.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Result, Spec};

/// The base of llama.cpp and of the models' `XverseConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::without_factors(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[], ..spec })
}
