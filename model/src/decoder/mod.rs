//! The one builder: a spec becomes a graph. Each tensor is named here, where it is used, and asked of a [`Source`];
//! values have the names that llama.cpp gives them in its dumps.
//!
//! A layer is made of parts that combine: how the norms stand (here), a mixer (`attention.rs`, `latent.rs`, `short_conv.rs`), a
//! feed-forward (`feed_forward.rs`, `experts.rs`). A new kind of part is a variant in `spec.rs` and one function here.

mod attention;
mod experts;
mod feed_forward;
mod latent;
mod short_conv;

use crate::shape::Usual;
use crate::tensors::{
    self, Dim, FileTensors, Found, NormPlace, Presence, Role, Source, TensorList, TensorSpec,
};
use crate::{
    Bias, EmbdNorm, FeedForward, FfnNorm, FirstSum, Layer, Mixer, NormKind, Norms, OutputNorm,
    Parallel, ParallelNorms, Positions, Result, RopeFactors, Spec,
};
use graph::{Builder, Graph, LayerNorm, ValueId, Weight, WeightId};

/// The graph of `spec`'s model over the tensors of `file`.
///
/// Nothing is allocated for weights. Errors name the tensor that is missing, unknown or ill-shaped.
pub fn graph(spec: &Spec, file: &gguf::File) -> Result<Graph> {
    let mut source = FileTensors::new(spec, file);
    let graph = build(spec, &mut source)?;
    source.refuse_unknown()?;
    Ok(graph)
}

/// The tensors of a file of `spec`'s model, in the order of use. Of what the spec leaves open, `usual` says what the
/// file has.
pub(crate) fn tensors(spec: &Spec, usual: Usual) -> Result<Vec<TensorSpec>> {
    let mut list = TensorList::new(usual);
    build(spec, &mut list)?;
    Ok(list.into_tensors())
}

fn build(spec: &Spec, source: &mut dyn Source) -> Result<Graph> {
    let mut decoder =
        Decoder { spec, source, builder: Builder::new(spec.n_vocab), ropes: Vec::new() };
    decoder.rope_tables()?;
    let (table, mut stream) = decoder.embedding()?;
    decoder.builder.stream(stream.x);
    for (index, layer) in spec.layers.iter().enumerate() {
        stream = decoder.layer(At { index, layer }, stream)?;
        decoder.builder.stream(stream.x);
    }
    decoder.logits(table, stream.x)?;
    Ok(decoder.builder.finish()?)
}

struct Decoder<'a> {
    spec: &'a Spec,
    source: &'a mut dyn Source,
    builder: Builder,
    /// The builder's index of each of the spec's rope tables.
    ropes: Vec<usize>,
}

/// The residual stream: its value so far, and that value's name.
struct Stream {
    x: ValueId,
    name: String,
}

/// The layer that is being built.
#[derive(Clone, Copy)]
struct At<'a> {
    index: usize,
    layer: &'a Layer,
}

impl At<'_> {
    /// `attn_q` → `blk.3.attn_q.weight`.
    fn weight(self, name: &str) -> String {
        format!("blk.{}.{name}.weight", self.index)
    }

    /// `attn_q` → `blk.3.attn_q.bias`.
    fn bias(self, name: &str) -> String {
        format!("blk.{}.{name}.bias", self.index)
    }

    /// `Qcur` → `Qcur-3`.
    fn value(self, name: &str) -> String {
        format!("{name}-{}", self.index)
    }
}

/// A projection of a layer: a matrix, and the bias that a file may have with it.
struct Linear<'a> {
    /// `attn_q`
    name: &'a str,
    n_in: &'a Dim,
    n_out: &'a Dim,
    role: Role,
    presence: Presence,
    bias: Bias,
    /// The value that it makes, `Qcur`.
    value: &'a str,
}

impl Linear<'_> {
    fn matrix(&self, at: At<'_>) -> TensorSpec {
        let shape = [self.n_in.clone(), self.n_out.clone()];
        TensorSpec::new(at.weight(self.name), shape, self.role).optional(self.presence)
    }
}

impl Decoder<'_> {
    fn rope_tables(&mut self) -> Result<()> {
        for rope in &self.spec.ropes {
            // The spec holds the values already; asked for, the tensors count as known.
            let names: &[&str] = match rope.factors {
                RopeFactors::None => &[],
                RopeFactors::Always(_) => &[tensors::ROPE_FREQS],
                RopeFactors::ByLength { .. } => &[tensors::ROPE_SHORT, tensors::ROPE_LONG],
            };
            let n = self.spec.rope_factors_dim(rope.n_rot / 2);
            for &name in names {
                let wanted = TensorSpec::new(name, [n.clone()], Role::RopeFactors);
                self.source.find(&wanted)?.ok_or_else(|| tensors::missing(&wanted))?;
            }
            self.ropes.push(self.builder.rope_table(rope.table()));
        }
        Ok(())
    }

    /// The table, and the tokens' rows of it.
    fn embedding(&mut self) -> Result<(WeightId, Stream)> {
        let shape = [self.spec.embd_dim(), self.spec.vocab_dim()];
        let table = self.weight(&TensorSpec::new("token_embd.weight", shape, Role::Table))?;
        let x = self.builder.get_rows(table, "embd")?; // [tokens, n_embd]
        let mut stream = Stream { x, name: "embd".into() };
        if let Some(by) = self.spec.embd_scale {
            let x = self.builder.scale(by, stream.x, "inp_scaled");
            stream = Stream { x, name: "inp_scaled".into() };
        }
        match self.spec.positions {
            Positions::None => {}
            Positions::Learned => stream = self.with_positions(&stream)?,
        }
        match self.spec.embd_norm {
            EmbdNorm::None => {}
            EmbdNorm::TokenEmbd => {
                let role = Role::Norm(NormPlace::Embedding);
                let norm = TensorSpec::new("token_embd_norm.weight", [self.spec.embd_dim()], role);
                let name = "inp_norm-0".to_owned();
                stream = Stream { x: self.norm(&norm, stream.x, name.clone())?, name };
            }
        }
        Ok((table, stream))
    }

    /// The stream, and the learned row of each token's position.
    fn with_positions(&mut self, stream: &Stream) -> Result<Stream> {
        let n = self.spec.dim(self.spec.n_ctx_train, "context_length");
        let shape = [self.spec.embd_dim(), n];
        let table =
            self.weight(&TensorSpec::new("position_embd.weight", shape, Role::Positions))?;
        let rows = self.builder.position_rows(table, "pos_embd");
        let x = self.builder.add(stream.x, rows, "inpL")?;
        Ok(Stream { x, name: "inpL".into() })
    }

    fn logits(&mut self, table: WeightId, x: ValueId) -> Result<()> {
        let (spec, embd, vocab) = (self.spec, self.spec.embd_dim(), self.spec.vocab_dim());
        let role = Role::Norm(NormPlace::BeforeOutput);
        let name = match spec.output_norm {
            OutputNorm::Output => "output_norm.weight",
            OutputNorm::TokenEmbd => "token_embd_norm.weight",
        };
        let norm = TensorSpec::new(name, [embd.clone()], role);
        let x = self.norm(&norm, x, "result_norm".into())?; // [outputs, n_embd]
        let output = TensorSpec::new("output.weight", [embd, vocab.clone()], Role::Output);
        let output = self.opt_weight(&output.optional(Presence::UnlessTied))?.unwrap_or(table);
        let mut logits = self.builder.mat_mul(output, x, "result_output")?; // [outputs, n_vocab]
        if let Some(bias) = self.opt_bias(Bias::Output, "output.bias".into(), &vocab)? {
            logits = self.builder.add_bias(bias, logits, "result_output")?;
        }
        if let Some(by) = spec.logit_scale {
            logits = self.builder.scale(by, logits, "result_output");
        }
        if let Some(cap) = spec.logit_softcap {
            self.builder.softcap(cap, logits, "result_output");
        }
        Ok(())
    }

    fn layer(&mut self, at: At<'_>, stream: Stream) -> Result<Stream> {
        match at.layer.norms {
            Norms::Before => self.norms_before(at, stream),
            Norms::BeforeAndAfter => self.norms_before_and_after(at, stream),
            Norms::After => self.norms_after(at, stream),
            Norms::Parallel(parallel) => self.parallel(at, parallel, stream),
        }
    }

    /// `x += mixer(norm(x)); x += feed_forward(norm(x))`
    fn norms_before(&mut self, at: At<'_>, stream: Stream) -> Result<Stream> {
        let x = self.branch_norm(at, "attn_norm", stream.x, "attn_norm")?;
        let x = self.mixer(at, x)?;
        let (x, residual) = self.wanted_rows(at, x, stream)?;
        let residual = self.join(x, residual, at.value("ffn_inp"))?;
        let name = match self.spec.ffn_norm {
            FfnNorm::Ffn => "ffn_norm",
            FfnNorm::PostAttention => "post_attention_norm",
        };
        let x = self.branch_norm(at, name, residual, "ffn_norm")?;
        let x = self.feed_forward(at, x)?;
        self.end(at, x, residual)
    }

    /// `x += norm(mixer(norm(x))); x += norm(feed_forward(norm(x)))`
    fn norms_before_and_after(&mut self, at: At<'_>, stream: Stream) -> Result<Stream> {
        let x = self.branch_norm(at, "attn_norm", stream.x, "attn_norm")?;
        let x = self.mixer(at, x)?;
        let (x, residual) = self.wanted_rows(at, x, stream)?;
        let x = self.post_norm(at, "post_attention_norm", x, "attn_post_norm")?;
        let residual = self.join(x, residual, at.value("sa_out"))?;
        let x = self.branch_norm(at, "ffn_norm", residual, "ffn_norm")?;
        let x = self.feed_forward(at, x)?;
        let x = self.post_norm(at, "post_ffw_norm", x, "ffn_post_norm")?;
        self.end(at, x, residual)
    }

    /// `x += norm(mixer(x)); x += norm(feed_forward(x))`
    fn norms_after(&mut self, at: At<'_>, stream: Stream) -> Result<Stream> {
        let x = self.mixer(at, stream.x)?;
        let (x, residual) = self.wanted_rows(at, x, stream)?;
        let x = self.post_norm(at, "post_attention_norm", x, "attn_post_norm")?;
        let residual = self.join(x, residual, at.value("ffn_inp"))?;
        let x = self.feed_forward(at, residual)?;
        let x = self.post_norm(at, "post_ffw_norm", x, "ffn_post_norm")?;
        self.end(at, x, residual)
    }

    /// `x += mixer(norm(x)) + feed_forward(norm(x))`
    fn parallel(&mut self, at: At<'_>, parallel: Parallel, stream: Stream) -> Result<Stream> {
        let first = self.branch_norm(at, "attn_norm", stream.x, "attn_norm")?;
        let (for_mixer, for_ffn) = match parallel.norms {
            ParallelNorms::One => (first, Some(first)),
            ParallelNorms::Two => (first, None),
            ParallelNorms::Second => {
                (self.branch_norm(at, "attn_norm_2", stream.x, "attn_norm_2")?, Some(first))
            }
        };
        let mixed = self.mixer(at, for_mixer)?;
        let (mixed, residual) = self.wanted_rows(at, mixed, stream)?;
        let x = match for_ffn {
            Some(x) if self.is_last(at) => self.builder.output_rows(x, at.value("attn_norm"))?,
            Some(x) => x,
            None => self.branch_norm(at, "ffn_norm", residual, "ffn_norm")?,
        };
        let x = self.feed_forward(at, x)?;
        match parallel.first {
            FirstSum::Branches => {
                let both = self.builder.add(mixed, x, at.value("attn_ffn"))?;
                self.end(at, both, residual)
            }
            FirstSum::FeedForward => {
                let sum = self.join(x, residual, at.value("ffn_res"))?;
                self.end(at, mixed, sum)
            }
            FirstSum::Mixer => {
                let sum = self.join(mixed, residual, at.value("ffn_inp"))?;
                self.end(at, x, sum)
            }
        }
    }

    /// What a branch made, added to the residual stream.
    fn join(&mut self, x: ValueId, residual: ValueId, name: String) -> Result<ValueId> {
        let x = match self.spec.residual_scale {
            Some(by) => self.builder.scale(by, x, name.clone()),
            None => x,
        };
        Ok(self.builder.add(x, residual, name)?)
    }

    /// The same for the last branch of a layer.
    fn end(&mut self, at: At<'_>, x: ValueId, residual: ValueId) -> Result<Stream> {
        Ok(Stream { x: self.join(x, residual, at.value("l_out"))?, name: at.value("l_out") })
    }

    /// After the last mixer nothing reads other rows: only those whose logits are wanted go on.
    fn wanted_rows(
        &mut self,
        at: At<'_>,
        x: ValueId,
        stream: Stream,
    ) -> Result<(ValueId, ValueId)> {
        if !self.is_last(at) {
            return Ok((x, stream.x));
        }
        let x = self.builder.output_rows(x, at.value("attn_out"))?;
        Ok((x, self.builder.output_rows(stream.x, stream.name)?))
    }

    fn is_last(&self, at: At<'_>) -> bool {
        at.index + 1 == self.spec.layers.len()
    }

    /// `[tokens, n_embd]` → `[tokens, n_embd]`.
    fn mixer(&mut self, at: At<'_>, x: ValueId) -> Result<ValueId> {
        match &at.layer.mixer {
            Mixer::Attention(attention) => self.attention(at, attention, x),
            Mixer::Latent(latent) => self.latent(at, latent, x),
            Mixer::ShortConv(conv) => self.short_conv(at, *conv, x),
        }
    }

    /// `[rows, n_embd]` → `[rows, n_embd]`.
    fn feed_forward(&mut self, at: At<'_>, x: ValueId) -> Result<ValueId> {
        match &at.layer.feed_forward {
            FeedForward::Gated(gated) => self.gated(at, gated, x),
            FeedForward::Plain(plain) => self.plain(at, *plain, x),
            FeedForward::Experts(experts) => self.experts(at, experts, x),
        }
    }

    fn branch_norm(&mut self, at: At<'_>, name: &str, x: ValueId, value: &str) -> Result<ValueId> {
        let role = Role::Norm(NormPlace::BeforeBranch);
        let norm = TensorSpec::new(at.weight(name), [self.spec.embd_dim()], role);
        self.norm(&norm, x, at.value(value))
    }

    fn post_norm(&mut self, at: At<'_>, name: &str, x: ValueId, value: &str) -> Result<ValueId> {
        let role = Role::Norm(NormPlace::AfterBranch);
        let norm = TensorSpec::new(at.weight(name), [self.spec.embd_dim()], role);
        self.norm(&norm, x, at.value(value))
    }

    /// The model's norm over groups of as many columns as the tensor's rows have.
    fn norm(&mut self, norm: &TensorSpec, x: ValueId, value: String) -> Result<ValueId> {
        let (group, eps) = (norm.shape[0].n, self.spec.eps);
        let layer_norm = match self.spec.norm {
            NormKind::Rms => {
                let w = self.weight(norm)?;
                return Ok(self.builder.rms_norm(w, eps, x, value)?);
            }
            NormKind::Layer => {
                let (w, b) = (Some(self.weight(norm)?), self.norm_bias(norm)?);
                LayerNorm { group, w, b, eps }
            }
            NormKind::LayerPlain => LayerNorm { group, w: None, b: None, eps },
        };
        Ok(self.builder.layer_norm(layer_norm, x, value)?)
    }

    /// The bias of a norm, where the file has it; norms of heads have none.
    fn norm_bias(&mut self, norm: &TensorSpec) -> Result<Option<WeightId>> {
        if norm.role == Role::Norm(NormPlace::Heads) {
            return Ok(None);
        }
        let name = norm.name.replace(".weight", ".bias");
        self.opt_bias(Bias::Norm, name, &norm.shape[0])
    }

    /// A projection whose matrix must be there.
    fn linear(&mut self, at: At<'_>, linear: &Linear<'_>, x: ValueId) -> Result<ValueId> {
        let y = self.opt_linear(at, linear, x)?;
        y.ok_or_else(|| tensors::missing(&linear.matrix(at)))
    }

    /// A projection, or `None` where the source does not have its matrix.
    fn opt_linear(
        &mut self,
        at: At<'_>,
        linear: &Linear<'_>,
        x: ValueId,
    ) -> Result<Option<ValueId>> {
        let Some(w) = self.opt_weight(&linear.matrix(at))? else { return Ok(None) };
        let value = at.value(linear.value);
        let y = self.builder.mat_mul(w, x, value.clone())?;
        match self.opt_bias(linear.bias, at.bias(linear.name), linear.n_out)? {
            Some(bias) => Ok(Some(self.builder.add_bias(bias, y, value)?)),
            None => Ok(Some(y)),
        }
    }

    fn weight(&mut self, wanted: &TensorSpec) -> Result<WeightId> {
        self.opt_weight(wanted)?.ok_or_else(|| tensors::missing(wanted))
    }

    fn opt_weight(&mut self, wanted: &TensorSpec) -> Result<Option<WeightId>> {
        let Some(Found { file, dtype }) = self.source.find(wanted)? else { return Ok(None) };
        let dim = |i: usize| wanted.shape.get(i).map_or(1, |dim| dim.n);
        let (name, n_in, n_out, n_mats) = (wanted.name.clone(), dim(0), dim(1), dim(2));
        Ok(Some(self.builder.declare(Weight { name, file, dtype, n_in, n_out, n_mats })))
    }

    /// A bias, where the model may have one at this place and the source has it.
    fn opt_bias(&mut self, place: Bias, name: String, n: &Dim) -> Result<Option<WeightId>> {
        if !self.spec.biases.contains(&place) {
            return Ok(None);
        }
        let bias =
            TensorSpec::new(name, [n.clone()], Role::Bias).optional(Presence::IfBiased(place));
        self.opt_weight(&bias)
    }
}
