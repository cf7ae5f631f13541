//! Cases of layers of experts.

use super::{Case, CaseBuilder};
use crate::{Act, FileId, Result, Route, ValueId, Weight};
use gguf::DType;

/// A layer of experts in a case.
#[derive(Clone, Copy)]
struct Experts {
    /// Format of the experts' matrices.
    dtype: DType,
    n_embd: usize,
    n_ff: usize,
    n_experts: usize,
    /// Experts for each token.
    slots: usize,
    gate: Gate,
    act: Act,
    /// Magnitude of the embeddings.
    size: f32,
}

/// How the router's numbers become weights.
#[derive(Clone, Copy, PartialEq)]
enum Gate {
    /// Softmax over all, normalised over the chosen.
    Softmax,
    /// Sigmoid; a bias that only takes part in the choice; scaled.
    Sigmoid,
    /// Softmax over the chosen alone; the experts have biases.
    Chosen,
    /// As `Sigmoid`, of the best of three groups.
    Groups,
}

/// A tensor of several matrices; its name comes later.
pub(crate) fn several(dtype: DType, n_in: usize, n_out: usize, n_mats: usize) -> Weight {
    Weight { name: String::new(), file: FileId::BASE, dtype, n_in, n_out, n_mats }
}

/// Layers of experts: rows of a matrix that fill no tile, one expert and very many for a token, more experts than tokens
/// and fewer, and all ways from a router's numbers to weights. The prompts are long enough that an expert has many tokens
/// in one and one or none in another.
pub fn experts() -> Result<Vec<Case>> {
    let plain = Experts {
        dtype: DType::Q8_0,
        n_embd: 96,
        n_ff: 32,
        n_experts: 5,
        slots: 2,
        gate: Gate::Softmax,
        act: Act::Silu,
        size: 1.0,
    };
    let k = Experts { dtype: DType::Q4_K, n_embd: 256, n_ff: 256, n_experts: 9, ..plain };
    [
        plain,
        k,
        Experts { dtype: DType::Q6_K, gate: Gate::Sigmoid, slots: 3, ..k },
        Experts { dtype: DType::MXFP4, gate: Gate::Chosen, n_experts: 33, slots: 4, ..plain },
        Experts { dtype: DType::Q5_1, n_experts: 130, slots: 9, gate: Gate::Sigmoid, ..plain },
        Experts { dtype: DType::F16, n_embd: 33, n_ff: 50, slots: 1, ..plain },
        Experts { dtype: DType::F32, n_embd: 35, n_ff: 17, gate: Gate::Chosen, ..plain },
        Experts { gate: Gate::Groups, n_experts: 9, ..plain },
        Experts { gate: Gate::Groups, n_experts: 33, slots: 7, ..plain },
        // So large that gates and ups are clamped.
        Experts {
            dtype: DType::MXFP4,
            gate: Gate::Chosen,
            act: Act::SwigluOai,
            size: 5.0,
            ..plain
        },
    ]
    .into_iter()
    .map(case)
    .collect()
}

fn case(spec: Experts) -> Result<Case> {
    let Experts { dtype, n_embd, n_ff, n_experts, slots, .. } = spec;
    let mut c = CaseBuilder::new((n_experts * 100 + slots) as u64, 37);
    let table = c.weight(DType::F32, n_embd, 37, spec.size);
    let mut x = c.builder.get_rows(table, "embd")?;
    c.builder.stream(x);
    for il in 0..2 {
        let cur = layer(&mut c, spec, il, x)?;
        x = c.builder.add(cur, x, format!("l_out-{il}"))?;
        c.builder.stream(x);
    }
    let x = c.builder.output_rows(x, "rows")?;
    c.product(DType::F32, x, 37, "result_output")?;
    let mut name = format!("experts {dtype} [{n_embd}, {n_ff}], {slots} of {n_experts}");
    if spec.gate == Gate::Groups {
        name += " by groups";
    }
    if spec.act != Act::Silu {
        name += &format!(", {:?}", spec.act);
    }
    c.finish(name, &[75, 1, 4], 0)
}

fn layer(c: &mut CaseBuilder, spec: Experts, il: usize, x: ValueId) -> Result<ValueId> {
    let Experts { dtype, n_embd, n_ff, n_experts, slots, gate, .. } = spec;
    let named = |name: &str| format!("ffn_moe_{name}-{il}");
    let (chosen, weights) = route(c, spec, il, x)?;
    let part = |c: &mut CaseBuilder, x, [n_in, n_out]: [usize; 2], name: &str| {
        let w = c.matrices(&several(dtype, n_in, n_out, n_experts), 1.7 / (n_in as f32).sqrt());
        let y = c.builder.mat_mul_id(w, x, chosen, named(name))?;
        if gate != Gate::Chosen {
            return Ok(y);
        }
        let b = c.weight(DType::F32, n_out, n_experts, 0.3);
        c.builder.add_id(b, y, chosen, named(&format!("{name}_biased")))
    };
    let up = part(c, x, [n_embd, n_ff], "up")?;
    let gate = part(c, x, [n_embd, n_ff], "gate")?;
    let y = c.builder.glu(spec.act, gate, up, named("swiglu"))?;
    let y = part(c, y, [n_ff, n_embd], "down")?;
    let y = c.builder.weighted(y, weights, named("weighted"))?;
    let sum = c.builder.sum_slots(slots, y, named("out"))?;
    // A gate on the whole row, as shared experts have.
    let gate = c.product(DType::F32, x, 1, &named("shexp_gate"))?;
    let gate = c.builder.route(Route::Sigmoid, gate, named("shexp_gate"))?;
    c.builder.weighted(sum, gate, named("gated"))
}

/// The chosen experts and their weights.
fn route(c: &mut CaseBuilder, spec: Experts, il: usize, x: ValueId) -> Result<(ValueId, ValueId)> {
    let named = |name: &str| format!("ffn_moe_{name}-{il}");
    let (n, slots) = (spec.n_experts, spec.slots);
    let logits = c.product(DType::F32, x, n, &named("logits"))?;
    let probs = match spec.gate {
        Gate::Softmax => c.builder.route(Route::Softmax, logits, named("probs"))?,
        Gate::Sigmoid | Gate::Groups => c.builder.route(Route::Sigmoid, logits, named("probs"))?,
        Gate::Chosen => logits,
    };
    let selection = if matches!(spec.gate, Gate::Sigmoid | Gate::Groups) {
        let bias = c.weight(DType::F32, n, 1, 0.2);
        c.builder.add_bias(bias, probs, named("probs_biased"))?
    } else {
        probs
    };
    let selection = if spec.gate == Gate::Groups {
        let best = Route::TopGroups { groups: 3, used: 2 };
        c.builder.route(best, selection, named("probs_masked"))?
    } else {
        selection
    };
    let chosen = c.builder.top_k(slots, selection, named("topk"))?;
    let weights = c.builder.pick(probs, chosen, named("weights"))?;
    let weights = match spec.gate {
        Gate::Softmax => {
            let normal = Route::Normalise { at_least: 6.103_515_6e-5 };
            c.builder.route(normal, weights, named("weights_norm"))?
        }
        Gate::Sigmoid | Gate::Groups => c.builder.scale(2.5, weights, named("weights_scaled")),
        Gate::Chosen => c.builder.route(Route::Softmax, weights, named("weights_softmax"))?,
    };
    Ok((chosen, weights))
}
