//! Feed-forwards of experts: a router chooses some for each token, and their results are added by its weights. The names of
//! values are llama.cpp's (`build_moe_ffn`).

use super::{At, Decoder};
use crate::tensors::{Branch, Presence, Role, TensorSpec};
use crate::{Bias, Dim, ExpertGroups, Experts, GateUp, Gated, Gating, Result, SharedExpert};
use graph::{Act, Route, ValueId};

/// The least sum that weights are divided by, in llama.cpp: the smallest normal f16.
const LEAST_SUM: f32 = 6.103_515_6e-5;

/// What a router's numbers are made into.
const PROBS: &str = "ffn_moe_probs";

/// What a router gives for each token.
#[derive(Clone, Copy)]
struct Routed {
    /// The experts, `[rows, n_used]`.
    chosen: ValueId,
    /// Their weights.
    weights: ValueId,
}

/// A projection of all experts: `gate`, `up` or `down`.
#[derive(Clone, Copy)]
struct Part<'a> {
    name: &'a str,
    n_in: &'a Dim,
    n_out: &'a Dim,
    n_expert: usize,
    role: Role,
}

impl Decoder<'_> {
    /// `Σ weight · down(act(gate(x)) · up(x))` over the chosen experts, and the shared one: `[rows, n_embd]`.
    pub(super) fn experts(&mut self, at: At<'_>, experts: &Experts, x: ValueId) -> Result<ValueId> {
        let routed = self.routed(at, experts, x)?;
        let (embd, ff) = (self.spec.embd_dim(), self.expert_dim(experts));
        let n_expert = experts.n_expert;
        let inner = |name| Part { name, n_in: &embd, n_out: &ff, n_expert, role: Role::Inner };
        let up = self.chosen(at, inner("up"), routed, x)?;
        let gate = self.chosen(at, inner("gate"), routed, x)?;
        let value = match experts.act {
            Act::Silu => "ffn_moe_swiglu",
            Act::GeluTanh => "ffn_moe_geglu",
            Act::SwigluOai => "ffn_moe_swiglu_oai",
        };
        let y = self.builder.glu(experts.act, gate, up, at.value(value))?;
        let role = Role::Branch { branch: Branch::FeedForward, norms: at.layer.norms };
        let down = Part { name: "down", n_in: &ff, n_out: &embd, n_expert, role };
        let y = self.chosen(at, down, routed, y)?;
        let y = self.builder.weighted(y, routed.weights, at.value("ffn_moe_weighted"))?;
        let y = self.builder.sum_slots(experts.n_used, y, at.value("ffn_moe_out"))?;
        let Some(shared) = &experts.shared else { return Ok(y) };
        let shared = self.shared(at, *shared, experts.act, x)?;
        Ok(self.builder.add(y, shared, at.value("ffn_out"))?)
    }

    fn expert_dim(&self, experts: &Experts) -> Dim {
        self.spec.dim(experts.n_ff, experts.n_ff_key)
    }

    /// From the router's logits to the chosen experts and their weights.
    fn routed(&mut self, at: At<'_>, experts: &Experts, x: ValueId) -> Result<Routed> {
        let logits = self.router(at, experts, x)?;
        let probs = match experts.gating {
            Gating::Softmax => self.builder.route(Route::Softmax, logits, at.value(PROBS))?,
            Gating::Sigmoid => self.builder.route(Route::Sigmoid, logits, at.value(PROBS))?,
            Gating::Chosen => logits,
        };
        let chosen = self.choice(at, experts, probs)?;
        let mut weights = self.builder.pick(probs, chosen, at.value("ffn_moe_weights"))?;
        if experts.gating == Gating::Chosen {
            let name = at.value("ffn_moe_weights_softmax");
            weights = self.builder.route(Route::Softmax, weights, name)?;
        }
        if experts.normalise {
            let route = Route::Normalise { at_least: LEAST_SUM };
            weights = self.builder.route(route, weights, at.value("ffn_moe_weights_norm"))?;
        }
        if let Some(by) = experts.scale {
            weights = self.builder.scale(by, weights, at.value("ffn_moe_weights_scaled"));
        }
        Ok(Routed { chosen, weights })
    }

    /// The chosen experts, by numbers that may be others than those which become their weights.
    fn choice(&mut self, at: At<'_>, experts: &Experts, probs: ValueId) -> Result<ValueId> {
        let n = self.spec.dim(experts.n_expert, "expert_count");
        let bias = self.opt_bias(Bias::Selection, at.bias("exp_probs_b"), &n)?;
        let mut by = probs;
        if let Some(bias) = bias {
            by = self.builder.add_bias(bias, by, at.value("ffn_moe_probs_biased"))?;
        }
        if let Some(ExpertGroups { n_group: groups, n_used: used }) = experts.groups {
            let route = Route::TopGroups { groups, used };
            by = self.builder.route(route, by, at.value("ffn_moe_probs_masked"))?;
        }
        Ok(self.builder.top_k(experts.n_used, by, at.value("ffn_moe_topk"))?)
    }

    /// The router's number for each expert. llama.cpp calls the last of them by what is made of them, where that is nothing.
    fn router(&mut self, at: At<'_>, experts: &Experts, x: ValueId) -> Result<ValueId> {
        let [embd, n] = [self.spec.embd_dim(), self.spec.dim(experts.n_expert, "expert_count")];
        let shape = [embd, n.clone()];
        let w = TensorSpec::new(at.weight("ffn_gate_inp"), shape, Role::Inner);
        let w = self.weight(&w)?;
        let bias = self.opt_bias(Bias::Router, at.bias("ffn_gate_inp"), &n)?;
        let is_last = experts.gating == Gating::Chosen;
        let name = if is_last && bias.is_none() { PROBS } else { "ffn_moe_logits" };
        let logits = self.builder.mat_mul(w, x, at.value(name))?;
        let Some(bias) = bias else { return Ok(logits) };
        let name = if is_last { PROBS } else { "ffn_moe_logits_biased" };
        Ok(self.builder.add_bias(bias, logits, at.value(name))?)
    }

    /// A projection by each row's chosen experts, and their biases, where the file has some.
    fn chosen(
        &mut self,
        at: At<'_>,
        part: Part<'_>,
        routed: Routed,
        x: ValueId,
    ) -> Result<ValueId> {
        let Part { name, n_in, n_out, n_expert, role } = part;
        let n_expert = self.spec.dim(n_expert, "expert_count");
        let shape = [n_in.clone(), n_out.clone(), n_expert.clone()];
        let tensor = TensorSpec::new(at.weight(&format!("ffn_{name}_exps")), shape, role);
        self.source.refuse_apart(&tensor, &at.weight(&format!("ffn_{name}.0")))?;
        let w = self.weight(&tensor)?;
        let value = at.value(&format!("ffn_moe_{name}"));
        let y = self.builder.mat_mul_id(w, x, routed.chosen, value)?;
        if !self.spec.biases.contains(&Bias::Experts) {
            return Ok(y);
        }
        let name = format!("ffn_{name}_exps");
        let bias = TensorSpec::new(at.bias(&name), [n_out.clone(), n_expert], Role::Bias)
            .optional(Presence::IfBiased(Bias::Experts));
        let Some(bias) = self.opt_weight(&bias)? else { return Ok(y) };
        let value = at.value(&format!("ffn_moe_{}_biased", part.name));
        Ok(self.builder.add_id(bias, y, routed.chosen, value)?)
    }

    /// The expert that every token has, times its gate where it has one.
    fn shared(
        &mut self,
        at: At<'_>,
        shared: SharedExpert,
        act: Act,
        x: ValueId,
    ) -> Result<ValueId> {
        let SharedExpert { n_ff, gated } = shared;
        let ff = Gated { n_ff, gate_up: GateUp::Separate, act };
        let y = self.gated_by(at, &ff, SHARED, x)?;
        if !gated {
            return Ok(y);
        }
        let name = at.weight("ffn_gate_inp_shexp");
        let shape = [self.spec.embd_dim()];
        let w = self.weight(&TensorSpec::new(name, shape, Role::Inner))?;
        let gate = self.builder.mat_mul(w, x, at.value("ffn_shexp_gate_inp"))?;
        let gate = self.builder.route(Route::Sigmoid, gate, at.value("ffn_shexp_gate"))?;
        Ok(self.builder.weighted(y, gate, at.value("ffn_shexp_out"))?)
    }
}

/// The tensors of a shared expert.
const SHARED: super::feed_forward::Names = super::feed_forward::Names {
    gate: "ffn_gate_shexp",
    up: "ffn_up_shexp",
    down: "ffn_down_shexp",
    n_ff: "expert_shared_feed_forward_length",
    out: "ffn_shexp",
};
