//! The tensors that a spec asks for, checked against the file: none missing, none unknown, every shape and format right.

use crate::meta::{Meta, shown};
use crate::{Bias, Error, ErrorKind, GateUp, Layer, PostNorm, QkNorm, Result, RopeFactors, Spec};
use gguf::{DType, File, TensorInfo};
use std::collections::HashSet;

pub(crate) const ROPE_FREQS: &str = "rope_freqs.weight";
pub(crate) const ROPE_LONG: &str = "rope_factors_long.weight";
pub(crate) const ROPE_SHORT: &str = "rope_factors_short.weight";

/// A tensor of the file whose shape has been checked.
#[derive(Clone, Debug)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) n_in: usize,
    /// 1 for vectors.
    pub(crate) n_out: usize,
}

/// A projection with its bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) weight: Tensor,
    pub(crate) bias: Option<Tensor>,
}

/// Projections to queries, keys and values.
#[derive(Clone, Debug)]
pub(crate) enum Qkv {
    Separate([Linear; 3]),
    /// One tensor: queries, then keys, then values.
    Fused(Linear),
}

#[derive(Clone, Debug)]
pub(crate) enum FfnIn {
    Separate {
        gate: Linear,
        up: Linear,
    },
    /// One tensor: the gate, then up.
    Fused(Linear),
}

/// The tensors of one layer.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    pub(crate) attn_norm: Tensor,
    pub(crate) qkv: Qkv,
    /// Norms of queries and keys.
    pub(crate) qk_norms: Option<[Tensor; 2]>,
    pub(crate) attn_output: Linear,
    pub(crate) ffn_norm: Tensor,
    pub(crate) ffn_in: FfnIn,
    pub(crate) ffn_down: Linear,
    /// After attention and after the feed-forward.
    pub(crate) post_norms: Option<[Tensor; 2]>,
}

/// All tensors of a model.
#[derive(Clone, Debug)]
pub(crate) struct Tensors {
    pub(crate) token_embd: Tensor,
    pub(crate) blocks: Vec<Block>,
    pub(crate) output_norm: Tensor,
    /// `None` where the embedding serves as the output projection.
    pub(crate) output: Option<Tensor>,
    pub(crate) output_bias: Option<Tensor>,
}

impl Tensors {
    /// Finds and checks every tensor of `spec` in `file`.
    pub(crate) fn check(spec: &Spec, file: &File) -> Result<Self> {
        let mut checker = Checker { file, spec, known: HashSet::new() };
        let tensors = checker.model()?;
        checker.refuse_unknown()?;
        Ok(tensors)
    }
}

/// The values of a rope factor tensor, or `None` where the file has none of that name.
pub(crate) fn factors(meta: &Meta<'_>, name: &str, n: usize) -> Result<Option<Vec<f32>>> {
    let Some(info) = meta.file.tensor(name) else { return Ok(None) };
    if info.dims != [n as u64] {
        let from = format!("half of {}", meta.key("rope.dimension_count"));
        return Err(wrong_shape(info, &[Dim { n, from }]));
    }
    if info.dtype != DType::F32 {
        return Err(bad(name, format!("format {}, allowed F32", info.dtype.name())));
    }
    let bytes = meta.file.data(info)?;
    let values: Vec<f32> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
    match values.iter().position(|x| !x.is_finite() || *x <= 0.0) {
        Some(i) => {
            Err(bad(name, format!("element {i} is {}, allowed finite numbers above 0", values[i])))
        }
        None => Ok(Some(values)),
    }
}

/// A dimension and the hyper-parameters that say it.
#[derive(Clone)]
struct Dim {
    n: usize,
    from: String,
}

fn bad(name: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadTensor, format!("tensor \"{}\": {what}", shown(name)))
}

fn wrong_shape(info: &TensorInfo, expected: &[Dim]) -> Error {
    let sizes: Vec<_> = expected.iter().map(|dim| dim.n).collect();
    let from: Vec<_> = expected.iter().map(|dim| dim.from.as_str()).collect();
    bad(
        &info.name,
        format!("shape {:?}, expected {sizes:?} (from {})", info.dims, from.join(" and ")),
    )
}

struct Checker<'a> {
    file: &'a File,
    spec: &'a Spec,
    known: HashSet<String>,
}

impl Checker<'_> {
    fn model(&mut self) -> Result<Tensors> {
        let spec = self.spec;
        let (embd, vocab) = (self.embd(), self.vocab());
        let token_embd = self.matrix("token_embd.weight", &embd, &vocab)?;
        let output = self.opt_matrix("output.weight", &embd, &vocab)?;
        let output_bias = self.bias(Bias::Output, "output.bias", &vocab)?;
        let output_norm = self.vector("output_norm.weight", &embd)?;
        let blocks = spec
            .layers
            .iter()
            .enumerate()
            .map(|(i, layer)| self.block(i, layer))
            .collect::<Result<Vec<_>>>()?;
        for rope in &spec.ropes {
            match rope.factors {
                RopeFactors::None => {}
                RopeFactors::Always(_) => self.know(ROPE_FREQS),
                RopeFactors::ByContext { .. } => {
                    self.know(ROPE_SHORT);
                    self.know(ROPE_LONG);
                }
            }
        }
        Ok(Tensors { token_embd, blocks, output_norm, output, output_bias })
    }

    fn block(&mut self, i: usize, layer: &Layer) -> Result<Block> {
        let embd = self.embd();
        let at = |name: &str| format!("blk.{i}.{name}.weight");
        let attn_norm = self.vector(&at("attn_norm"), &embd)?;
        let qkv = self.qkv(i, layer)?;
        let qk_norms = match self.spec.qk_norm {
            QkNorm::None => None,
            QkNorm::PerHead => {
                let head = self.dim(self.spec.head_dim_k, "attention.key_length");
                Some([
                    self.vector(&at("attn_q_norm"), &head)?,
                    self.vector(&at("attn_k_norm"), &head)?,
                ])
            }
        };
        let heads =
            self.heads(layer.n_head, "attention.head_count", self.spec.head_dim_v, "value_length");
        let attn_output = self.linear(i, "attn_output", Bias::AttnOut, [&heads, &embd])?;
        let ffn_norm = self.vector(&at("ffn_norm"), &embd)?;
        let ff = self.dim(layer.n_ff, "feed_forward_length");
        let ffn_in = match self.spec.gate_up {
            GateUp::Separate => FfnIn::Separate {
                gate: self.linear(i, "ffn_gate", Bias::Ffn, [&embd, &ff])?,
                up: self.linear(i, "ffn_up", Bias::Ffn, [&embd, &ff])?,
            },
            GateUp::Fused => {
                let both = Dim { n: 2 * ff.n, from: format!("2 × {}", ff.from) };
                FfnIn::Fused(self.linear(i, "ffn_up", Bias::Ffn, [&embd, &both])?)
            }
        };
        let ffn_down = self.linear(i, "ffn_down", Bias::Ffn, [&ff, &embd])?;
        let post_norms = match self.spec.post_norm {
            PostNorm::None => None,
            PostNorm::Both => Some([
                self.vector(&at("post_attention_norm"), &embd)?,
                self.vector(&at("post_ffw_norm"), &embd)?,
            ]),
        };
        Ok(Block { attn_norm, qkv, qk_norms, attn_output, ffn_norm, ffn_in, ffn_down, post_norms })
    }

    /// Fused where the file has the fused tensor, whatever the architecture.
    fn qkv(&mut self, i: usize, layer: &Layer) -> Result<Qkv> {
        let spec = self.spec;
        let embd = self.embd();
        let q = self.heads(layer.n_head, "attention.head_count", spec.head_dim_k, "key_length");
        let k =
            self.heads(layer.n_head_kv, "attention.head_count_kv", spec.head_dim_k, "key_length");
        let v =
            self.heads(layer.n_head_kv, "attention.head_count_kv", spec.head_dim_v, "value_length");
        if self.file.tensor(&format!("blk.{i}.attn_qkv.weight")).is_some() {
            let all =
                Dim { n: q.n + k.n + v.n, from: format!("{} + {} + {}", q.from, k.from, v.from) };
            return Ok(Qkv::Fused(self.linear(i, "attn_qkv", Bias::Qkv, [&embd, &all])?));
        }
        Ok(Qkv::Separate([
            self.linear(i, "attn_q", Bias::Qkv, [&embd, &q])?,
            self.linear(i, "attn_k", Bias::Qkv, [&embd, &k])?,
            self.linear(i, "attn_v", Bias::Qkv, [&embd, &v])?,
        ]))
    }

    fn dim(&self, n: usize, key: &str) -> Dim {
        Dim { n, from: format!("{}.{key} = {n}", self.spec.arch) }
    }

    fn embd(&self) -> Dim {
        self.dim(self.spec.n_embd, "embedding_length")
    }

    fn vocab(&self) -> Dim {
        let n = self.spec.n_vocab;
        Dim { n, from: format!("tokenizer.ggml.tokens = {n} entries") }
    }

    fn heads(&self, n: usize, key: &str, width: usize, width_key: &str) -> Dim {
        Dim { n: n * width, from: format!("{}.{key} = {n} × {width_key} {width}", self.spec.arch) }
    }

    fn know(&mut self, name: &str) {
        self.known.insert(name.into());
    }

    fn linear(
        &mut self,
        i: usize,
        name: &str,
        bias: Bias,
        [n_in, n_out]: [&Dim; 2],
    ) -> Result<Linear> {
        let weight = self.matrix(&format!("blk.{i}.{name}.weight"), n_in, n_out)?;
        let bias = self.bias(bias, &format!("blk.{i}.{name}.bias"), n_out)?;
        Ok(Linear { weight, bias })
    }

    fn matrix(&mut self, name: &str, n_in: &Dim, n_out: &Dim) -> Result<Tensor> {
        let found = self.opt_matrix(name, n_in, n_out)?;
        found.ok_or_else(|| missing(name, &[n_in.clone(), n_out.clone()]))
    }

    fn opt_matrix(&mut self, name: &str, n_in: &Dim, n_out: &Dim) -> Result<Option<Tensor>> {
        self.find(name, &[n_in.clone(), n_out.clone()])
    }

    fn vector(&mut self, name: &str, n: &Dim) -> Result<Tensor> {
        let found = self.opt_vector(name, n)?;
        found.ok_or_else(|| missing(name, std::slice::from_ref(n)))
    }

    fn bias(&mut self, bias: Bias, name: &str, n: &Dim) -> Result<Option<Tensor>> {
        if self.spec.biases.contains(&bias) { self.opt_vector(name, n) } else { Ok(None) }
    }

    /// Vectors are added or multiplied element by element: a block format there is a mistake of the converter.
    fn opt_vector(&mut self, name: &str, n: &Dim) -> Result<Option<Tensor>> {
        let found = self.find(name, std::slice::from_ref(n))?;
        match found {
            Some(t) if !matches!(t.dtype, DType::F32 | DType::F16 | DType::BF16) => {
                Err(bad(name, format!("format {}, allowed F32, F16, BF16", t.dtype.name())))
            }
            Some(_) | None => Ok(found),
        }
    }

    fn find(&mut self, name: &str, expected: &[Dim]) -> Result<Option<Tensor>> {
        let Some(info) = self.file.tensor(name) else { return Ok(None) };
        if !info.dims.iter().copied().eq(expected.iter().map(|dim| dim.n as u64)) {
            return Err(wrong_shape(info, expected));
        }
        self.know(name);
        let n_out = expected.get(1).map_or(1, |dim| dim.n);
        Ok(Some(Tensor { name: name.into(), dtype: info.dtype, n_in: expected[0].n, n_out }))
    }

    /// A tensor that nobody reads means that the file's model is another one than its metadata says.
    fn refuse_unknown(&self) -> Result<()> {
        let mut unknown =
            self.file.tensors().iter().filter(|info| !self.known.contains(&info.name));
        let Some(first) = unknown.next() else { return Ok(()) };
        let more = match unknown.count() {
            0 => String::new(),
            n => format!(", and {n} more"),
        };
        let layers = self.spec.layers.len();
        let what = format!("unknown to {} models of {layers} layers{more}", self.spec.arch);
        Err(bad(&first.name, what))
    }
}

fn missing(name: &str, expected: &[Dim]) -> Error {
    let sizes: Vec<_> = expected.iter().map(|dim| dim.n).collect();
    bad(name, format!("missing, expected with shape {sizes:?}"))
}
