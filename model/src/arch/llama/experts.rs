//! Experts as metadata tells of them, for the architectures that have some: how many, how wide, and in place of the
//! feed-forwards of a spec.

use super::MAX_WIDTH;
use crate::meta::Meta;
use crate::{Experts, FeedForward, Gating, Layer, Result, SharedExpert, Spec};
use graph::Act;

/// Most experts of a layer: llama.cpp's limit.
pub(super) const MAX_EXPERTS: usize = 1024;

/// The key of an expert's width.
const EXPERT_WIDTH: &str = "expert_feed_forward_length";
/// That of the expert that every token has.
pub(in crate::arch) const SHARED_WIDTH: &str = "expert_shared_feed_forward_length";

/// How many experts a layer has, and how many each token has.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Count {
    pub(in crate::arch) n_expert: usize,
    pub(in crate::arch) n_used: usize,
}

/// The counts, or `None` for a model without experts.
pub(in crate::arch) fn count(meta: &Meta<'_>) -> Result<Option<Count>> {
    let n_expert = meta.opt_count("expert_count", 0..=MAX_EXPERTS)?.unwrap_or(0);
    let n_used = meta.opt_count("expert_used_count", 0..=MAX_EXPERTS)?.unwrap_or(0);
    let least = usize::from(n_expert > 0);
    if n_used > n_expert || n_used < least {
        let what = format!("{n_used}, allowed {least}..={n_expert} (expert_count)");
        return Err(meta.bad("expert_used_count", what));
    }
    Ok((n_expert > 0).then_some(Count { n_expert, n_used }))
}

/// Experts whose weights are a softmax, divided by the sum of the chosen: Mixtral's and Qwen 3's. The counts come later.
pub(in crate::arch) const SOFTMAX: Experts = Experts {
    n_expert: 0,
    n_used: 0,
    n_ff: 0,
    n_ff_key: EXPERT_WIDTH,
    act: Act::Silu,
    gating: Gating::Softmax,
    normalise: true,
    scale: None,
    shared: None,
};

/// How wide an expert is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::arch) enum Width {
    /// As the feed-forward that the experts stand for: `feed_forward_length`.
    Whole,
    /// `expert_feed_forward_length`; without it the feed-forward's width divided among the experts of a token.
    Own,
}

/// The spec with experts in place of its feed-forwards.
pub(in crate::arch) fn in_place(
    meta: &Meta<'_>,
    spec: Spec,
    experts: Experts,
    width: Width,
) -> Result<Spec> {
    let Some(Count { n_expert, n_used }) = count(meta)? else {
        return Err(meta.missing("expert_count"));
    };
    let own = match width {
        Width::Whole => None,
        Width::Own => own_width(meta, EXPERT_WIDTH)?,
    };
    let n_ff_key = if own.is_some() { EXPERT_WIDTH } else { "feed_forward_length" };
    Ok(spec.map_layers(|_, layer| {
        let FeedForward::Gated(gated) = layer.feed_forward else { return layer };
        let n_ff = own.unwrap_or(match width {
            Width::Whole => gated.n_ff,
            Width::Own => (gated.n_ff / n_used).max(1),
        });
        let experts = Experts { n_expert, n_used, n_ff, n_ff_key, ..experts };
        Layer { feed_forward: FeedForward::Experts(experts), ..layer }
    }))
}

/// A width that the file states; 0 says nothing, as in llama.cpp.
fn own_width(meta: &Meta<'_>, key: &str) -> Result<Option<usize>> {
    Ok(meta.opt_count(key, 0..=MAX_WIDTH)?.filter(|&n| n > 0))
}

/// The expert that every token has, with a gate: as wide as `expert_shared_feed_forward_length` says, else as the
/// feed-forward.
pub(in crate::arch) fn shared(meta: &Meta<'_>, n_ff: usize) -> Result<SharedExpert> {
    let own = own_width(meta, SHARED_WIDTH)?;
    Ok(SharedExpert { n_ff: own.unwrap_or(n_ff), gated: true })
}
