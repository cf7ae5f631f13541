//! The feed-forwards.

use super::{At, Decoder, Linear};
use crate::tensors::{Branch, Presence, Role};
use crate::{Bias, GateUp, Gated, Plain, Result};
use graph::{Act, Unary, ValueId};

/// What a gated feed-forward's tensors are called, and its result.
#[derive(Clone, Copy)]
pub(super) struct Names {
    pub(super) gate: &'static str,
    pub(super) up: &'static str,
    pub(super) down: &'static str,
    /// The key of its width.
    pub(super) n_ff: &'static str,
    pub(super) out: &'static str,
}

/// The only feed-forward of a layer.
const ONLY: Names = Names {
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
    n_ff: "feed_forward_length",
    out: "ffn_out",
};

impl Decoder<'_> {
    /// `down(act(gate(x)) · up(x))`: `[rows, n_embd]` → `[rows, n_embd]`.
    pub(super) fn gated(&mut self, at: At<'_>, gated: &Gated, x: ValueId) -> Result<ValueId> {
        self.gated_by(at, gated, ONLY, x)
    }

    /// The same over tensors of these names.
    pub(super) fn gated_by(
        &mut self,
        at: At<'_>,
        gated: &Gated,
        names: Names,
        x: ValueId,
    ) -> Result<ValueId> {
        let (gate, up) = self.gate_and_up(at, gated, names, x)?; // [rows, n_ff] each
        let value = match gated.act {
            Act::Silu => "ffn_swiglu",
            Act::GeluTanh => "ffn_geglu",
            Act::SwigluOai => "ffn_swiglu_oai",
        };
        let x = self.builder.glu(gated.act, gate, up, at.value(value))?;
        self.down(at, gated.n_ff, names, x)
    }

    /// `down(act(up(x)))`: `[rows, n_embd]` → `[rows, n_embd]`.
    pub(super) fn plain(&mut self, at: At<'_>, plain: Plain, x: ValueId) -> Result<ValueId> {
        let (embd, ff) = (self.spec.embd_dim(), self.spec.dim(plain.n_ff, ONLY.n_ff));
        let up = Linear {
            name: ONLY.up,
            n_in: &embd,
            n_out: &ff,
            role: Role::Inner,
            presence: Presence::Required,
            bias: Bias::Ffn,
            value: "ffn_up",
        };
        let x = self.linear(at, &up, x)?; // [rows, n_ff]
        let value = match plain.act {
            Unary::GeluTanh => "ffn_gelu",
            Unary::ReluSquared => "ffn_relu_sqr",
            Unary::Clamp { .. } => "ffn_clamped",
        };
        let x = self.builder.unary(plain.act, x, at.value(value));
        self.down(at, plain.n_ff, ONLY, x)
    }

    /// The last projection of a feed-forward of this width.
    fn down(&mut self, at: At<'_>, n_ff: usize, names: Names, x: ValueId) -> Result<ValueId> {
        let down = Linear {
            name: names.down,
            n_in: &self.spec.dim(n_ff, names.n_ff),
            n_out: &self.spec.embd_dim(),
            role: Role::Branch { branch: Branch::FeedForward, norms: at.layer.norms },
            presence: Presence::Required,
            bias: Bias::Ffn,
            value: names.out,
        };
        self.linear(at, &down, x)
    }

    fn gate_and_up(
        &mut self,
        at: At<'_>,
        gated: &Gated,
        names: Names,
        x: ValueId,
    ) -> Result<(ValueId, ValueId)> {
        let embd = self.spec.embd_dim();
        let ff = self.spec.dim(gated.n_ff, names.n_ff);
        let part = |name, n_out, value| Linear {
            name,
            n_in: &embd,
            n_out,
            role: Role::Inner,
            presence: Presence::Required,
            bias: Bias::Ffn,
            value,
        };
        match gated.gate_up {
            GateUp::Separate => Ok((
                self.linear(at, &part(names.gate, &ff, "ffn_gate"), x)?,
                self.linear(at, &part(names.up, &ff, "ffn_up"), x)?,
            )),
            GateUp::Fused => {
                let both = self.linear(at, &part(names.up, &ff.twice(), "ffn_up"), x)?;
                let gate = self.builder.columns(0, gated.n_ff, both, at.value("ffn_gate"))?;
                let up = self.builder.columns(gated.n_ff, gated.n_ff, both, at.value("ffn_up"))?;
                Ok((gate, up))
            }
        }
    }
}
