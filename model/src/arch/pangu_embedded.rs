//! openPangu Embedded (arXiv 2505.22375): Llama with biases in attention, and halves that are rotated together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Result, Spec};

/// The base of llama.cpp. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual { biases: &[Bias::Qkv, Bias::AttnOut], ..Usual::PLAIN };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::halves(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[Bias::Qkv, Bias::AttnOut, Bias::Ffn, Bias::Output], ..spec })
}
