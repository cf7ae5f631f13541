//! StarCoder 1 (arXiv 2305.06161), GPT-BigCode: GPT-2 whose query heads share one key and value head.

use super::gpt2;
use crate::meta::Meta;
use crate::{Result, Spec};

pub(super) use gpt2::USUAL;

pub(super) fn spec(meta: &Meta<'_>) -> Result<Spec> {
    gpt2::spec(meta)
}
