//! The one builder: spec and tensors → graph. Values are named as llama.cpp names them in its dumps.

use crate::tensors::{Block, FfnIn, Linear, Qkv, Tensor, Tensors};
use crate::{Layer, QueryScale, Result, Spec};
use graph::{Act, Attention, Builder, Graph, KvLayer, RopePairs, ValueId, WeightId};

/// The graph of `spec`'s model over the tensors of `file`, for contexts of up to `n_ctx` positions: longrope chooses
/// its factors by it.
///
/// Nothing is allocated for weights. Errors name the tensor that is missing, unknown or ill-shaped.
pub fn graph(spec: &Spec, file: &gguf::File, n_ctx: usize) -> Result<Graph> {
    let tensors = Tensors::check(spec, file)?;
    let mut builder = Builder::new(spec.n_vocab);
    let ropes = spec.ropes.iter().map(|rope| builder.rope_table(rope.table(n_ctx))).collect();
    let mut decoder = Decoder { spec, builder, ropes };
    decoder.model(&tensors)?;
    Ok(decoder.builder.finish()?)
}

struct Decoder<'a> {
    spec: &'a Spec,
    builder: Builder,
    /// The builder's index of each of the spec's rope tables.
    ropes: Vec<usize>,
}

/// Queries or keys on their way from projection to attention.
#[derive(Clone, Copy)]
struct Heads {
    x: ValueId,
    /// `Qcur` or `Kcur`.
    name: &'static str,
}

impl Decoder<'_> {
    fn model(&mut self, tensors: &Tensors) -> Result<()> {
        let spec = self.spec;
        let table = self.weight(&tensors.token_embd);
        let mut x = self.builder.get_rows(table, "embd")?; // [tokens, n_embd]
        if let Some(by) = spec.embd_scale {
            x = self.builder.scale(by, x, "inp_scaled");
        }
        let mut stream = Stream {
            x,
            name: if spec.embd_scale.is_some() { "inp_scaled" } else { "embd" }.into(),
        };
        for (i, (layer, block)) in spec.layers.iter().zip(&tensors.blocks).enumerate() {
            stream = self.layer(i, layer, block, stream)?;
        }
        let x = self.norm(&tensors.output_norm, stream.x, "result_norm")?; // [outputs, n_embd]
        let output = match &tensors.output {
            Some(output) => self.weight(output),
            None => table,
        };
        let mut logits = self.builder.mat_mul(output, x, "result_output")?; // [outputs, n_vocab]
        if let Some(bias) = &tensors.output_bias {
            let bias = self.weight(bias);
            logits = self.builder.add_bias(bias, logits, "result_output")?;
        }
        if let Some(cap) = spec.logit_softcap {
            self.builder.softcap(cap, logits, "result_output");
        }
        Ok(())
    }

    fn layer(&mut self, i: usize, layer: &Layer, block: &Block, stream: Stream) -> Result<Stream> {
        let at = |name: &str| format!("{name}-{i}");
        let mut residual = stream.x;
        let x = self.norm(&block.attn_norm, residual, at("attn_norm"))?;
        let mut x = self.attention(i, layer, block, x)?;
        if i + 1 == self.spec.layers.len() {
            // Nothing after this reads other rows: only those whose logits are wanted go on.
            x = self.builder.output_rows(x, at("attn_out"))?;
            residual = self.builder.output_rows(residual, stream.name)?;
        }
        // llama.cpp has another name for the sum where a norm stands before it.
        let sum_name = if block.post_norms.is_some() { "sa_out" } else { "ffn_inp" };
        if let Some([post, _]) = &block.post_norms {
            x = self.norm(post, x, at("attn_post_norm"))?;
        }
        let residual = self.builder.add(x, residual, at(sum_name))?;
        let x = self.norm(&block.ffn_norm, residual, at("ffn_norm"))?;
        let mut x = self.feed_forward(i, layer, block, x)?;
        if let Some([_, post]) = &block.post_norms {
            x = self.norm(post, x, at("ffn_post_norm"))?;
        }
        Ok(Stream { x: self.builder.add(x, residual, at("l_out"))?, name: at("l_out") })
    }

    /// `[tokens, n_embd]` → `[tokens, n_embd]`.
    fn attention(&mut self, i: usize, layer: &Layer, block: &Block, x: ValueId) -> Result<ValueId> {
        let spec = self.spec;
        let [q, k, v] = self.qkv(i, layer, &block.qkv, x)?; // [tokens, n_head · head_dim] each
        let norms = block.qk_norms.as_ref();
        let mut q = self.rotate(i, layer, Heads { x: q, name: "Qcur" }, norms.map(|n| &n[0]))?;
        let k = self.rotate(i, layer, Heads { x: k, name: "Kcur" }, norms.map(|n| &n[1]))?;
        let scale = match spec.query_scale {
            QueryScale::Scores => spec.attn_scale,
            QueryScale::Queries => {
                q = self.builder.scale(spec.attn_scale, q, format!("Qcur-{i}"));
                1.0
            }
        };
        let (n_head_kv, head_dim_k, head_dim_v) =
            (layer.n_head_kv, spec.head_dim_k, spec.head_dim_v);
        let kv_layer = self.builder.kv_layer(KvLayer { n_head_kv, head_dim_k, head_dim_v });
        self.builder.store_kv(kv_layer, k, v)?;
        let attention = Attention {
            kv_layer,
            n_head: layer.n_head,
            scale,
            window: layer.window,
            softcap: spec.attn_softcap,
        };
        let x = self.builder.attention(attention, q, format!("kqv_out-{i}"))?; // [tokens, n_head · head_dim_v]
        self.linear(&block.attn_output, x, format!("attn_out-{i}"))
    }

    fn qkv(&mut self, i: usize, layer: &Layer, qkv: &Qkv, x: ValueId) -> Result<[ValueId; 3]> {
        let names = ["Qcur", "Kcur", "Vcur"].map(|name| format!("{name}-{i}"));
        match qkv {
            Qkv::Separate([q, k, v]) => {
                let [q_name, k_name, v_name] = names;
                Ok([
                    self.linear(q, x, q_name)?,
                    self.linear(k, x, k_name)?,
                    self.linear(v, x, v_name)?,
                ])
            }
            Qkv::Fused(all) => {
                let all = self.linear(all, x, format!("wqkv-{i}"))?;
                let [n_q, n_k, n_v] = layer.qkv_cols(self.spec);
                let [q_name, k_name, v_name] = names;
                Ok([
                    self.builder.columns(0, n_q, all, q_name)?,
                    self.builder.columns(n_q, n_k, all, k_name)?,
                    self.builder.columns(n_q + n_k, n_v, all, v_name)?,
                ])
            }
        }
    }

    /// Norm of each head where the model has one, then the rotary embedding.
    fn rotate(
        &mut self,
        i: usize,
        layer: &Layer,
        heads: Heads,
        norm: Option<&Tensor>,
    ) -> Result<ValueId> {
        let Heads { mut x, name } = heads;
        if let Some(norm) = norm {
            x = self.norm(norm, x, format!("{name}_normed-{i}"))?;
        }
        let pairs: RopePairs = self.spec.ropes[layer.rope].pairs;
        let table = self.ropes[layer.rope];
        Ok(self.builder.rope(table, self.spec.head_dim_k, pairs, x, format!("{name}-{i}"))?)
    }

    fn feed_forward(
        &mut self,
        i: usize,
        layer: &Layer,
        block: &Block,
        x: ValueId,
    ) -> Result<ValueId> {
        let at = |name: &str| format!("{name}-{i}");
        let (gate, up) = match &block.ffn_in {
            FfnIn::Separate { gate, up } => {
                (self.linear(gate, x, at("ffn_gate"))?, self.linear(up, x, at("ffn_up"))?)
            }
            FfnIn::Fused(both) => {
                let both = self.linear(both, x, at("ffn_up"))?; // [rows, 2 · n_ff]
                let gate = self.builder.columns(0, layer.n_ff, both, at("ffn_gate"))?;
                (gate, self.builder.columns(layer.n_ff, layer.n_ff, both, at("ffn_up"))?)
            }
        };
        let name = match self.spec.act {
            Act::Silu => "ffn_swiglu",
            Act::GeluTanh => "ffn_geglu",
        };
        let x = self.builder.glu(self.spec.act, gate, up, at(name))?; // [rows, n_ff]
        self.linear(&block.ffn_down, x, at("ffn_out"))
    }

    fn weight(&mut self, t: &Tensor) -> WeightId {
        self.builder.weight(t.name.clone(), t.dtype, t.n_in, t.n_out)
    }

    fn norm(&mut self, w: &Tensor, x: ValueId, name: impl Into<String>) -> Result<ValueId> {
        let w = self.weight(w);
        Ok(self.builder.rms_norm(w, self.spec.eps, x, name)?)
    }

    fn linear(&mut self, linear: &Linear, x: ValueId, name: String) -> Result<ValueId> {
        let w = self.weight(&linear.weight);
        let y = self.builder.mat_mul(w, x, name.clone())?;
        match &linear.bias {
            Some(bias) => {
                let bias = self.weight(bias);
                Ok(self.builder.add_bias(bias, y, name)?)
            }
            None => Ok(y),
        }
    }
}

/// The residual stream: its value so far, and that value's name.
struct Stream {
    x: ValueId,
    name: String,
}
