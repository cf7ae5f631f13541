//! EXAONE 3 and 3.5 (arXiv 2408.03541): Llama whose pairs are the halves of a head.

use super::llama::{self, Defaults, Window, inverse_root};
use crate::meta::Meta;
use crate::{Result, Rope, Spec};
use graph::RopePairs;

/// The base of llama.cpp and of the models' `ExaoneConfig`. The norms' epsilon has no default, as in llama.cpp.
const DEFAULTS: Defaults =
    Defaults { rope_base: 10_000.0, eps: None, window: Window::Own, scale: inverse_root };

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    let spec = llama::base(meta, DEFAULTS)?;
    let halves = |rope| Rope { pairs: RopePairs::Halves, ..rope };
    let ropes = spec.ropes.into_iter().map(halves).collect();
    Ok(Spec { ropes, biases: &[], ..spec })
}
