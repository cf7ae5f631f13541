//! The tensors of a synthetic model: names and shapes from its spec, and how each is filled.
//!
//! The sizes are chosen so that a random model behaves: every norm hands on activations of size 1, projections keep
//! it, the 2 · n_layer branches add up to a residual stream of size 1, scores `q · k / √d` and activations stay of
//! that size whatever the depth. The embedding is small beside the branches, or a model whose embedding is its output
//! would answer every token with itself. Logits have a deviation of 3: some per cent for the best token.

use super::blocks::Extremes;
use crate::shape::Numbers;
use crate::{Bias, Error, ErrorKind, GateUp, PostNorm, QkNorm, Result, Spec};
use gguf::{DType, TensorInfo};

/// Deviation of the logits.
const LOGITS: f64 = 3.0;
/// An embedding that is the output projection, too, is smaller by this.
const ECHO: f64 = 0.3;
/// What an activation function leaves of the gate, to be made good: 1 / √E[silu(x)²]; GELU is near it.
const ACTIVATION: f64 = 1.6;
/// Deviation of norm weights around their mean, and of biases.
const NORM_SPREAD: f64 = 0.1;
const BIAS: f64 = 0.05;
/// Norms of adversarial models blow some channels up by 1e4; products that are squared, multiplied with one another or
/// cached as f16 are shrunk by this, or they would leave the range of f16.
const TAMED: f64 = 0.01;

/// How a tensor is filled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fill {
    /// Mean 0; one deviation for all.
    Matrix {
        /// The deviation.
        std: f64,
        /// What scales at the ends of f16 there are.
        extremes: Extremes,
    },
    /// f32, one number for each channel.
    Vector {
        /// Around which they lie.
        mean: f64,
        /// How far.
        std: f64,
        /// Whether some channels are 1e4.
        outliers: bool,
    },
}

/// One tensor, in F32 until a format is chosen.
#[derive(Clone, Debug)]
pub(super) struct Tensors {
    pub(super) infos: Vec<TensorInfo>,
    pub(super) fills: Vec<Fill>,
}

/// What a list needs beside the spec.
#[derive(Clone, Copy, Debug)]
pub(super) struct Habits<'a> {
    pub(super) tied: bool,
    pub(super) biases: &'a [Bias],
    pub(super) numbers: Numbers,
}

/// Every tensor of `spec`'s model.
///
/// # Errors
/// `BadRequest` where a tensor would have over 2^60 weights.
pub(super) fn list(spec: &Spec, habits: Habits<'_>) -> Result<Tensors> {
    let mut list = Lister {
        spec,
        habits,
        out: Tensors { infos: Vec::new(), fills: Vec::new() },
        // Each of the branches adds its share to the variance of the residual stream.
        branch: 1.0 / (2.0 * spec.layers.len() as f64).sqrt(),
    };
    list.model()?;
    Ok(list.out)
}

struct Lister<'a> {
    spec: &'a Spec,
    habits: Habits<'a>,
    out: Tensors,
    branch: f64,
}

/// What a matrix is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Role {
    /// Its outputs are multiplied with one another or cached.
    Inner,
    /// Its outputs are added to the residual stream or are logits: `gain` is their size.
    Outer { gain: f64 },
    /// The embedding, of a size of its own.
    Embedding { std: f64 },
}

impl Lister<'_> {
    fn model(&mut self) -> Result<()> {
        let spec = self.spec;
        let (embd, scale) = (spec.n_embd, f64::from(spec.embd_scale.unwrap_or(1.0)));
        let tied = self.habits.tied;
        // Of size 1 after the norm as output; tied, the output norm makes good for what is missing.
        let size = if tied { ECHO / scale } else { 1.0 / scale };
        let std = size / (embd as f64).sqrt();
        self.matrix("token_embd.weight", [embd, spec.n_vocab], Role::Embedding { std })?;
        self.vector("output_norm.weight", embd, if tied { LOGITS / size } else { 1.0 }, true);
        if !tied {
            self.matrix("output.weight", [embd, spec.n_vocab], Role::Outer { gain: LOGITS })?;
        }
        self.bias(Bias::Output, "output.bias", spec.n_vocab);
        for i in 0..spec.layers.len() {
            self.attention(i)?;
            self.feed_forward(i)?;
        }
        Ok(())
    }

    fn attention(&mut self, i: usize) -> Result<()> {
        let (spec, layer) = (self.spec, self.spec.layers[i]);
        let [q, k, v] = layer.qkv_cols(spec);
        let embd = spec.n_embd;
        self.vector(&format!("blk.{i}.attn_norm.weight"), embd, 1.0, true);
        match spec.gate_up {
            GateUp::Separate => {
                for (name, n) in [("attn_q", q), ("attn_k", k), ("attn_v", v)] {
                    self.linear(i, name, [embd, n], (Role::Inner, Bias::Qkv))?;
                }
            }
            // Who fuses the one fuses the other.
            GateUp::Fused => {
                self.linear(i, "attn_qkv", [embd, q + k + v], (Role::Inner, Bias::Qkv))?;
            }
        }
        match spec.qk_norm {
            QkNorm::None => {}
            QkNorm::PerHead => {
                for name in ["attn_q_norm", "attn_k_norm"] {
                    self.vector(&format!("blk.{i}.{name}.weight"), spec.head_dim_k, 1.0, false);
                }
            }
        }
        let out = self.branch_gain(1.0);
        self.linear(
            i,
            "attn_output",
            [layer.n_head * spec.head_dim_v, embd],
            (out, Bias::AttnOut),
        )?;
        self.post_norm(i, "post_attention_norm");
        Ok(())
    }

    fn feed_forward(&mut self, i: usize) -> Result<()> {
        let (embd, ff) = (self.spec.n_embd, self.spec.layers[i].n_ff);
        self.vector(&format!("blk.{i}.ffn_norm.weight"), embd, 1.0, true);
        match self.spec.gate_up {
            GateUp::Separate => {
                for name in ["ffn_gate", "ffn_up"] {
                    self.linear(i, name, [embd, ff], (Role::Inner, Bias::Ffn))?;
                }
            }
            GateUp::Fused => self.linear(i, "ffn_up", [embd, 2 * ff], (Role::Inner, Bias::Ffn))?,
        }
        let out = self.branch_gain(ACTIVATION);
        self.linear(i, "ffn_down", [ff, embd], (out, Bias::Ffn))?;
        self.post_norm(i, "post_ffw_norm");
        Ok(())
    }

    /// The size of what a branch adds; where a norm follows, that norm sets it.
    fn branch_gain(&self, gain: f64) -> Role {
        match self.spec.post_norm {
            PostNorm::None => Role::Outer { gain: gain * self.branch },
            PostNorm::Both => Role::Outer { gain },
        }
    }

    fn post_norm(&mut self, i: usize, name: &str) {
        match self.spec.post_norm {
            PostNorm::None => {}
            PostNorm::Both => {
                let (embd, mean) = (self.spec.n_embd, self.branch);
                // Outliers here would meet those of the next norm, and 1e8 does not fit the f16 sums of Q8_1.
                self.vector(&format!("blk.{i}.{name}.weight"), embd, mean, false);
            }
        }
    }

    fn linear(
        &mut self,
        i: usize,
        name: &str,
        dims: [usize; 2],
        (role, bias): (Role, Bias),
    ) -> Result<()> {
        self.matrix(&format!("blk.{i}.{name}.weight"), dims, role)?;
        self.bias(bias, &format!("blk.{i}.{name}.bias"), dims[1]);
        Ok(())
    }

    fn matrix(&mut self, name: &str, [n_in, n_out]: [usize; 2], role: Role) -> Result<()> {
        let (n_in, n_out) = (n_in as u64, n_out as u64);
        let bytes = n_in.checked_mul(n_out).and_then(|n| n.checked_mul(4));
        let Some(n_bytes) = bytes.filter(|&n| n <= 1 << 62) else {
            let what = format!("tensor {name}: {n_in} × {n_out} weights, allowed up to 2^60");
            return Err(Error::new(ErrorKind::BadRequest, what));
        };
        let unit = 1.0 / (n_in as f64).sqrt();
        let (std, extremes) = match (self.habits.numbers, role) {
            (Numbers::Ordinary, Role::Inner) => (unit, Extremes::None),
            (Numbers::Ordinary, Role::Outer { gain }) => (gain * unit, Extremes::None),
            (Numbers::Ordinary, Role::Embedding { std }) => (std, Extremes::None),
            (Numbers::Adversarial, Role::Inner) => (TAMED * unit, Extremes::Small),
            (Numbers::Adversarial, Role::Outer { gain }) => (gain * unit, Extremes::All),
            (Numbers::Adversarial, Role::Embedding { std }) => (std, Extremes::Small),
        };
        self.push(name, vec![n_in, n_out], n_bytes, Fill::Matrix { std, extremes });
        Ok(())
    }

    fn bias(&mut self, bias: Bias, name: &str, n: usize) {
        if self.habits.biases.contains(&bias) {
            let fill = Fill::Vector { mean: 0.0, std: BIAS, outliers: false };
            self.push(name, vec![n as u64], 4 * n as u64, fill);
        }
    }

    fn vector(&mut self, name: &str, n: usize, mean: f64, may_have_outliers: bool) {
        let outliers = may_have_outliers && self.habits.numbers == Numbers::Adversarial;
        let fill = Fill::Vector { mean, std: mean * NORM_SPREAD, outliers };
        self.push(name, vec![n as u64], 4 * n as u64, fill);
    }

    fn push(&mut self, name: &str, dims: Vec<u64>, n_bytes: u64, fill: Fill) {
        let name = name.to_owned();
        let info = TensorInfo { name, dtype: DType::F32, dims, offset: 0, n_bytes, shard: 0 };
        self.out.infos.push(info);
        self.out.fills.push(fill);
    }
}
