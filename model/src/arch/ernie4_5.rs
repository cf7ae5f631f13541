//! ERNIE 4.5 dense (Baidu): Llama with neighbours rotated together.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::shape::Usual;
use crate::{Bias, Result, Spec};

/// Those of Hugging Face's `Ernie4_5Config`, which all models have.
const DEFAULTS: Defaults =
    Defaults { rope_base: 500_000.0, eps: Some(1e-5), window: Window::Own, scale: inverse_root };

pub(super) const USUAL: Usual = Usual::TIED;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    // llama.cpp reads sections here, which change nothing for text.
    llama::text_sections(meta)?;
    let spec = llama::without_factors(llama::base(meta, DEFAULTS)?);
    Ok(Spec { biases: &[Bias::Qkv], ..spec })
}
