//! The mixer over a latent (MLA): queries are brought to the latent, attention goes over it, and what comes out is brought to
//! values, head by head.

use super::{At, Decoder, Linear};
use crate::tensors::{Branch, Dim, NormPlace, Presence, Role, TensorSpec};
use crate::{Bias, Latent, Result};
use graph::{HeadPart, JoinedHeads, KvHeads, Mask, ValueId};

/// The latent of the step's tokens, and the part of the keys that has a position.
struct Keys {
    latent: ValueId,
    rope: ValueId,
}

impl Decoder<'_> {
    /// `[tokens, n_embd]` → `[tokens, n_embd]`.
    pub(super) fn latent(&mut self, at: At<'_>, latent: &Latent, x: ValueId) -> Result<ValueId> {
        let &Latent { n_head, kv_rank, head_dim_rope, scale, .. } = latent;
        let q = self.latent_queries(at, latent, x)?; // [tokens, n_head · (nope + rope)]
        let keys = self.latent_keys(at, latent, x)?;
        let each = self.builder.each(n_head, x, at.value("heads"))?;
        let q = self.absorbed(at, latent, [q, each])?; // [tokens, n_head · (kv_rank + rope)]
        let one = JoinedHeads { n_head: 1, n_head_b: 1 };
        let k = self.builder.join_heads(one, [keys.latent, keys.rope], at.value("Kcur"))?;
        let head_dim_k = kv_rank + head_dim_rope;
        let heads = KvHeads { n_head_kv: 1, head_dim_k, head_dim_v: kv_rank };
        let cache = self.builder.latent_cache(heads)?;
        self.builder.store_kv(cache, k, keys.latent)?;
        let mask = Mask::Causal;
        let op = graph::Attention { cache, n_head, scale, mask, sinks: None, softcap: None };
        let y = self.builder.attention(op, q, at.value("kqv"))?; // [tokens, n_head · kv_rank]
        let y = self.latent_values(at, latent, [y, each])?; // [tokens, n_head · head_dim_v]
        let n_in = n_head * latent.head_dim_v;
        let output = Linear {
            name: "attn_output",
            n_in: &self.spec.dim(n_in, "attention.head_count × value_length_mla"),
            n_out: &self.spec.embd_dim(),
            role: Role::Branch { branch: Branch::Mixer, norms: at.layer.norms },
            presence: Presence::Required,
            bias: Bias::AttnOut,
            value: "attn_out",
        };
        self.linear(at, &output, y)
    }

    /// The queries, by way of a latent of their own where the model has one.
    fn latent_queries(&mut self, at: At<'_>, latent: &Latent, x: ValueId) -> Result<ValueId> {
        let embd = self.spec.embd_dim();
        let n = latent.n_head * (latent.head_dim_nope + latent.head_dim_rope);
        let heads = self.spec.dim(n, "attention.head_count × key_length_mla");
        let Some(rank) = latent.q_rank else {
            return self.linear(at, &part("attn_q", [&embd, &heads], "q"), x);
        };
        let rank = self.spec.dim(rank, "attention.q_lora_rank");
        let q = self.linear(at, &part("attn_q_a", [&embd, &rank], "q"), x)?;
        let norm = latent_norm(at, "attn_q_a_norm", &rank);
        let q = self.norm(&norm, q, at.value("q"))?;
        self.linear(at, &part("attn_q_b", [&rank, &heads], "q_b"), q)
    }

    /// The latent of keys and values, and the keys' part with a position.
    fn latent_keys(&mut self, at: At<'_>, latent: &Latent, x: ValueId) -> Result<Keys> {
        let &Latent { kv_rank, head_dim_rope: n_rope, .. } = latent;
        let embd = self.spec.embd_dim();
        let rank = self.rank_dim(latent);
        let both = Dim::sum(&[&rank, &self.spec.dim(n_rope, "rope.dimension_count")]);
        let kv = self.linear(at, &part("attn_kv_a_mqa", [&embd, &both], "kv_cmpr_pe"), x)?;
        let rope = self.builder.columns(kv_rank, n_rope, kv, at.value("k_pe"))?;
        let rope = self.turn_part(latent, rope, at.value("k_pe"))?;
        let kv = self.builder.columns(0, kv_rank, kv, at.value("kv_cmpr"))?;
        let norm = latent_norm(at, "attn_kv_a_norm", &rank);
        Ok(Keys { latent: self.norm(&norm, kv, at.value("kv_cmpr"))?, rope })
    }

    /// Queries that meet the latent as they would have met keys; `each` is the numbers of the heads.
    fn absorbed(
        &mut self,
        at: At<'_>,
        latent: &Latent,
        [q, each]: [ValueId; 2],
    ) -> Result<ValueId> {
        let &Latent { n_head, head_dim_nope: n_nope, head_dim_rope: n_rope, .. } = latent;
        let of = |start, n| HeadPart { head_dim: n_nope + n_rope, start, n };
        let nope = self.builder.head_columns(of(0, n_nope), q, at.value("q_nope"))?;
        let rope = self.builder.head_columns(of(n_nope, n_rope), q, at.value("q_pe"))?;
        let rope = self.turn_part(latent, rope, at.value("q_pe"))?;
        let n_in = self.spec.dim(n_nope, "attention.key_length_mla - rope.dimension_count");
        let n_heads = self.spec.dim(n_head, "attention.head_count");
        let shape = [n_in, self.rank_dim(latent), n_heads];
        let w = self.weight(&TensorSpec::new(at.weight("attn_k_b"), shape, Role::Inner))?;
        let name = at.value("q_nope_absorbed_perm");
        let nope = self.builder.mat_mul_id(w, nope, each, name)?;
        let heads = JoinedHeads { n_head, n_head_b: n_head };
        Ok(self.builder.join_heads(heads, [nope, rope], at.value("Qcur"))?)
    }

    /// What the heads have gathered of latents, as values.
    fn latent_values(
        &mut self,
        at: At<'_>,
        latent: &Latent,
        [y, each]: [ValueId; 2],
    ) -> Result<ValueId> {
        let n_out = self.spec.dim(latent.head_dim_v, "attention.value_length_mla");
        let n_heads = self.spec.dim(latent.n_head, "attention.head_count");
        let shape = [self.rank_dim(latent), n_out, n_heads];
        let w = self.weight(&TensorSpec::new(at.weight("attn_v_b"), shape, Role::Inner))?;
        Ok(self.builder.mat_mul_id(w, y, each, at.value("kqv_out"))?)
    }

    fn turn_part(&mut self, latent: &Latent, x: ValueId, value: String) -> Result<ValueId> {
        let (table, pairs) = (self.ropes[latent.rope], self.spec.ropes[latent.rope].pairs);
        Ok(self.builder.rope(table, latent.head_dim_rope, pairs, x, value)?)
    }

    fn rank_dim(&self, latent: &Latent) -> Dim {
        self.spec.dim(latent.kv_rank, "attention.kv_lora_rank")
    }
}

/// The norm of a latent.
fn latent_norm(at: At<'_>, name: &str, n: &Dim) -> TensorSpec {
    TensorSpec::new(at.weight(name), [n.clone()], Role::Norm(NormPlace::Heads))
}

/// A projection inside the mixer.
fn part<'a>(name: &'a str, [n_in, n_out]: [&'a Dim; 2], value: &'a str) -> Linear<'a> {
    let (role, presence, bias) = (Role::Inner, Presence::Required, Bias::Qkv);
    Linear { name, n_in, n_out, role, presence, bias, value }
}
