//! The mixer with keys and values: projections, norms of heads, rotary embedding, cache, attention, output projection.

use super::{At, Decoder, Linear};
use crate::tensors::{Branch, Dim, HeadDims, NormPlace, Presence, Role, TensorSpec};
use crate::{Attention, Bias, QkNorm, QueryScale, Result};
use graph::{KvHeads, Mask, Unary, ValueId, WeightId};

/// Queries or keys on their way from projection to attention.
#[derive(Clone, Copy)]
struct Heads<'a> {
    x: ValueId,
    /// Its columns.
    n: &'a Dim,
    /// A rotary embedding of its own.
    rope: Option<usize>,
    /// `Qcur` or `Kcur`.
    value: &'a str,
    /// The tensor of their norm, `attn_q_norm`.
    norm: &'a str,
}

impl Decoder<'_> {
    /// `[tokens, n_embd]` → `[tokens, n_embd]`.
    pub(super) fn attention(
        &mut self,
        at: At<'_>,
        attention: &Attention,
        x: ValueId,
    ) -> Result<ValueId> {
        let [q, k, v] = self.qkv(at, attention, x)?; // [tokens, heads · head_dim] each
        let n_q = self.k_dim(attention, attention.n_head, "attention.head_count");
        let n_k = self.k_dim(attention, attention.n_head_kv, "attention.head_count_kv");
        let q =
            Heads { x: q, n: &n_q, rope: attention.query_rope, value: "Qcur", norm: "attn_q_norm" };
        let k = Heads { x: k, n: &n_k, rope: None, value: "Kcur", norm: "attn_k_norm" };
        let mut q = self.rotate(at, attention, q)?;
        let k = self.rotate(at, attention, k)?;
        let scale = match attention.query_scale {
            QueryScale::Scores => attention.scale,
            QueryScale::Queries => {
                q = self.builder.scale(attention.scale, q, at.value("Qcur"));
                1.0
            }
        };
        let &Attention { n_head, n_head_kv, head_dim_k, head_dim_v, window, softcap, .. } =
            attention;
        let heads = KvHeads { n_head_kv, head_dim_k, head_dim_v };
        let cache = self.builder.kv_cache(heads, window);
        self.builder.store_kv(cache, k, v)?;
        let mask = window.map_or(Mask::Causal, Mask::Window);
        let sinks = self.sinks(at, attention)?;
        let op = graph::Attention { cache, n_head, scale, mask, sinks, softcap };
        let x = self.builder.attention(op, q, at.value("kqv_out"))?; // [tokens, n_head · head_dim_v]
        let output = Linear {
            name: "attn_output",
            n_in: &self.v_dim(attention, n_head, "attention.head_count"),
            n_out: &self.spec.embd_dim(),
            role: Role::Branch { branch: Branch::Mixer, norms: at.layer.norms },
            presence: Presence::Required,
            bias: Bias::AttnOut,
            value: "attn_out",
        };
        self.linear(at, &output, x)
    }

    /// The heads' sinks, where the model has some.
    fn sinks(&mut self, at: At<'_>, attention: &Attention) -> Result<Option<WeightId>> {
        if !attention.sinks {
            return Ok(None);
        }
        let n_head = self.spec.dim(attention.n_head, "attention.head_count");
        let sinks = TensorSpec::new(at.weight("attn_sinks"), [n_head], Role::Sinks);
        self.weight(&sinks).map(Some)
    }

    /// Queries, keys and values; from one tensor where the file has it, whatever the architecture.
    fn qkv(&mut self, at: At<'_>, attention: &Attention, x: ValueId) -> Result<[ValueId; 3]> {
        let embd = self.spec.embd_dim();
        let q = self.k_dim(attention, attention.n_head, "attention.head_count");
        let k = self.k_dim(attention, attention.n_head_kv, "attention.head_count_kv");
        let v = self.v_dim(attention, attention.n_head_kv, "attention.head_count_kv");
        let part = |name, n_out, value| Linear {
            name,
            n_in: &embd,
            n_out,
            role: Role::Inner,
            presence: Presence::Required,
            bias: Bias::Qkv,
            value,
        };
        let sum = Dim::sum(&[&q, &k, &v]);
        let fused = Linear { presence: Presence::IfQkvFused, ..part("attn_qkv", &sum, "wqkv") };
        if let Some(all) = self.opt_linear(at, &fused, x)? {
            let all = self.clamped(at, attention, all, "wqkv_clamped");
            return Ok([
                self.builder.columns(0, q.n, all, at.value("Qcur"))?,
                self.builder.columns(q.n, k.n, all, at.value("Kcur"))?,
                self.builder.columns(q.n + k.n, v.n, all, at.value("Vcur"))?,
            ]);
        }
        let [q, k, v] = [
            self.linear(at, &part("attn_q", &q, "Qcur"), x)?,
            self.linear(at, &part("attn_k", &k, "Kcur"), x)?,
            self.linear(at, &part("attn_v", &v, "Vcur"), x)?,
        ];
        Ok([
            self.clamped(at, attention, q, "Qcur_clamped"),
            self.clamped(at, attention, k, "Kcur_clamped"),
            self.clamped(at, attention, v, "Vcur_clamped"),
        ])
    }

    /// A projection, cut off at the model's magnitude where it has one.
    fn clamped(&mut self, at: At<'_>, attention: &Attention, x: ValueId, value: &str) -> ValueId {
        let Some(limit) = attention.qkv_clamp else { return x };
        self.builder.unary(Unary::Clamp { limit }, x, at.value(value))
    }

    /// The norm that queries or keys have, and the rotary embedding, in the model's order.
    fn rotate(&mut self, at: At<'_>, attention: &Attention, heads: Heads<'_>) -> Result<ValueId> {
        let head_dim = self.spec.dim(attention.head_dim_k, "attention.key_length");
        match attention.qk_norm {
            QkNorm::None => self.turn(at, attention, heads),
            QkNorm::EachHead => {
                let n = heads.n.n / attention.head_dim_k;
                let from = format!("heads of {}", heads.n.from);
                let x = self.qk_norm(at, heads, [head_dim, Dim { n, from }], "normed")?;
                self.turn(at, attention, Heads { x, ..heads })
            }
            QkNorm::PerHead => {
                let x = self.qk_norm(at, heads, [head_dim], "normed")?;
                self.turn(at, attention, Heads { x, ..heads })
            }
            QkNorm::PerTurnedHead => {
                let x = self.turn(at, attention, heads)?;
                self.qk_norm(at, Heads { x, ..heads }, [head_dim], "norm")
            }
            QkNorm::PerRow => {
                let x = self.qk_norm(at, heads, [heads.n.clone()], "normed")?;
                self.turn(at, attention, Heads { x, ..heads })
            }
        }
    }

    /// The norm over groups of columns, as its weight's shape says. llama.cpp's name of its value ends in `done`.
    fn qk_norm<const N: usize>(
        &mut self,
        at: At<'_>,
        heads: Heads<'_>,
        shape: [Dim; N],
        done: &str,
    ) -> Result<ValueId> {
        let Heads { x, value, norm, .. } = heads;
        let norm = TensorSpec::new(at.weight(norm), shape, Role::Norm(NormPlace::Heads));
        self.norm(&norm, x, at.value(&format!("{value}_{done}")))
    }

    /// The rotary embedding, where the layer has one.
    fn turn(&mut self, at: At<'_>, attention: &Attention, heads: Heads<'_>) -> Result<ValueId> {
        let Heads { x, value, .. } = heads;
        let Some(rope) = heads.rope.or(attention.rope) else { return Ok(x) };
        let (table, pairs) = (self.ropes[rope], self.spec.ropes[rope].pairs);
        let value = match self.spec.ropes[rope].temperature {
            Some(_) => format!("{value}_attn_temp_scaled"),
            None => value.to_owned(),
        };
        Ok(self.builder.rope(table, attention.head_dim_k, pairs, x, at.value(&value))?)
    }

    /// Columns of `n_head` query or key heads.
    fn k_dim(&self, attention: &Attention, n_head: usize, n_key: &str) -> Dim {
        let head_dim = attention.head_dim_k;
        self.spec.heads_dim(&HeadDims { n_head, n_key, head_dim, dim_key: "key_length" })
    }

    /// Columns of `n_head` value heads.
    fn v_dim(&self, attention: &Attention, n_head: usize, n_key: &str) -> Dim {
        let head_dim = attention.head_dim_v;
        self.spec.heads_dim(&HeadDims { n_head, n_key, head_dim, dim_key: "value_length" })
    }
}
