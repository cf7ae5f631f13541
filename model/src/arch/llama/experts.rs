//! Experts as metadata tells of them, for the architectures that have some: how many, how wide, and in place of the
//! feed-forwards of a spec.

use super::{MAX_LAYERS, MAX_WIDTH};
use crate::meta::Meta;
use crate::{ExpertGroups, Experts, FeedForward, Gating, Layer, Result, SharedExpert, Spec};
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
    groups: None,
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

/// Which layers have experts; the others keep their feed-forward.
#[derive(Clone, Copy)]
pub(in crate::arch) struct Layers {
    /// The first ones have none.
    dense: usize,
    /// Of the others every one whose number this divides, counted from 1.
    period: usize,
}

impl Layers {
    const ALL: Self = Self { dense: 0, period: 1 };

    /// Those behind `leading_dense_block_count`.
    pub(in crate::arch) fn behind_the_first(meta: &Meta<'_>) -> Result<Self> {
        let dense = meta.opt_count("leading_dense_block_count", 0..=MAX_LAYERS)?;
        Ok(Self { dense: dense.unwrap_or(0), ..Self::ALL })
    }

    /// Of these every one that `interleave_moe_layer_step` says.
    pub(in crate::arch) fn with_period(meta: &Meta<'_>) -> Result<Self> {
        let period = meta.count("interleave_moe_layer_step", 1..=MAX_LAYERS)?;
        Ok(Self { period, ..Self::behind_the_first(meta)? })
    }

    fn has(self, layer: usize) -> bool {
        layer >= self.dense && (layer + 1).is_multiple_of(self.period)
    }
}

/// The spec with experts in place of its feed-forwards.
pub(in crate::arch) fn in_place(
    meta: &Meta<'_>,
    spec: Spec,
    experts: Experts,
    width: Width,
) -> Result<Spec> {
    in_layers(meta, spec, experts, width, Layers::ALL)
}

/// The same for some of the layers.
pub(in crate::arch) fn in_layers(
    meta: &Meta<'_>,
    spec: Spec,
    experts: Experts,
    width: Width,
    layers: Layers,
) -> Result<Spec> {
    let Some(Count { n_expert, n_used }) = count(meta)? else {
        return Err(meta.missing("expert_count"));
    };
    let own = match width {
        Width::Whole => None,
        Width::Own => own_width(meta, EXPERT_WIDTH)?,
    };
    let groups = groups(meta, Count { n_expert, n_used })?;
    let n_ff_key = if own.is_some() { EXPERT_WIDTH } else { "feed_forward_length" };
    Ok(spec.map_layers(|i, layer| {
        let FeedForward::Gated(gated) = layer.feed_forward else { return layer };
        if !layers.has(i) {
            return layer;
        }
        let n_ff = own.unwrap_or(match width {
            Width::Whole => gated.n_ff,
            Width::Own => (gated.n_ff / n_used).max(1),
        });
        let experts = Experts { n_expert, n_used, n_ff, n_ff_key, groups, ..experts };
        Layer { feed_forward: FeedForward::Experts(experts), ..layer }
    }))
}

/// The groups of experts, where a token may choose from some of them only. Every architecture may have them, as in llama.cpp.
fn groups(meta: &Meta<'_>, count: Count) -> Result<Option<ExpertGroups>> {
    let Count { n_expert, n_used: chosen } = count;
    let key = "expert_group_count";
    let n_group = meta.opt_count(key, 0..=MAX_EXPERTS)?.unwrap_or(0);
    let n_used = meta.opt_count("expert_group_used_count", 0..=MAX_EXPERTS)?.unwrap_or(0);
    if n_group < 2 {
        return Ok(None);
    }
    // A group is worth the sum of its best two.
    if !n_expert.is_multiple_of(n_group) || n_expert / n_group < 2 {
        let what = format!("{n_group}, allowed groups of one size, of two or more of {n_expert}");
        return Err(meta.bad(key, what));
    }
    let fewest = chosen.div_ceil(n_expert / n_group);
    if !(fewest..=n_group).contains(&n_used) {
        let what = format!("{n_used}, allowed {fewest}..={n_group}");
        return Err(meta.bad("expert_group_used_count", what));
    }
    Ok(Some(ExpertGroups { n_group, n_used }))
}

/// A width that the file states; 0 says nothing, as in llama.cpp.
fn own_width(meta: &Meta<'_>, key: &str) -> Result<Option<usize>> {
    Ok(meta.opt_count(key, 0..=MAX_WIDTH)?.filter(|&n| n > 0))
}

/// Experts that say themselves how they are weighed, and how many every token has, each as wide as the others.
pub(in crate::arch) fn stated(meta: &Meta<'_>, usual: Gating) -> Result<Experts> {
    let n_ff = meta.count(EXPERT_WIDTH, 1..=MAX_WIDTH)?;
    let n_shared = meta.opt_count("expert_shared_count", 0..=MAX_EXPERTS)?.unwrap_or(0);
    let shared = (n_shared > 0).then_some(SharedExpert { n_ff: n_ff * n_shared, gated: false });
    Ok(Experts {
        n_ff,
        gating: gating(meta, usual)?,
        normalise: meta.opt_flag("expert_weights_norm")?.unwrap_or(false),
        scale: meta.opt_factor("expert_weights_scale")?.filter(|&by| by != 1.0),
        shared,
        ..SOFTMAX
    })
}

/// How the router's numbers become weights: llama.cpp's numbers, of which 0 says nothing.
pub(in crate::arch) fn gating(meta: &Meta<'_>, usual: Gating) -> Result<Gating> {
    Ok(match meta.opt_count("expert_gating_func", 0..=3)? {
        None | Some(0) => usual,
        Some(1) => Gating::Softmax,
        Some(2) => Gating::Sigmoid,
        Some(_) => Gating::Chosen,
    })
}

/// The width of the expert that every token has, where the file states one.
pub(in crate::arch) fn shared_width(meta: &Meta<'_>) -> Result<Option<usize>> {
    own_width(meta, SHARED_WIDTH)
}

/// The expert that every token has, where the file states its width; without a gate.
pub(in crate::arch) fn opt_shared(meta: &Meta<'_>) -> Result<Option<SharedExpert>> {
    Ok(shared_width(meta)?.map(|n_ff| SharedExpert { n_ff, gated: false }))
}

/// The expert that every token has, with a gate: as wide as `expert_shared_feed_forward_length` says, else as the
/// feed-forward.
pub(in crate::arch) fn shared(meta: &Meta<'_>, n_ff: usize) -> Result<SharedExpert> {
    let own = shared_width(meta)?;
    Ok(SharedExpert { n_ff: own.unwrap_or(n_ff), gated: true })
}
