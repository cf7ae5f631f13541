//! Tiny random models of every architecture, made in memory. All dimensions differ, so that no transposition hides.
#![allow(dead_code, reason = "each test binary uses a part")]

use gguf::{Array, DType, File, Value};
use graph::reference::Reference;
use graph::{Arithmetic, Backend, KvType, LoadOptions};
use model::{Engine, EngineOptions, Role, TensorSpec};
use std::sync::Arc;

pub(crate) const N_VOCAB: usize = 53;
pub(crate) const N_EMBD: u64 = 96;
pub(crate) const N_FF: u64 = 160;
pub(crate) const HEAD_K: u64 = 32;
pub(crate) const N_HEAD: u64 = 6;
/// Three query heads to a key head.
pub(crate) const N_HEAD_KV: u64 = 2;

/// The names of all architectures.
pub(crate) fn archs() -> impl Iterator<Item = &'static str> {
    model::arch::ARCHS.iter().map(|arch| arch.name)
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) dims: Vec<u64>,
    pub(crate) data: Vec<u8>,
}

/// A model file to be: keys and tensors that a test may change.
#[derive(Clone)]
pub(crate) struct Tiny {
    pub(crate) arch: &'static str,
    pub(crate) keys: Vec<(String, Value)>,
    pub(crate) tensors: Vec<Tensor>,
    seed: u64,
}

impl Tiny {
    pub(crate) fn new(arch: &'static str) -> Self {
        Self::with(arch, |_| ())
    }

    /// The same with keys changed before the tensors are made.
    pub(crate) fn with(arch: &'static str, change: impl FnOnce(&mut Self)) -> Self {
        let mut tiny = Self { arch, keys: vec![], tensors: vec![], seed: 7 };
        tiny.set_full("general.architecture", arch);
        let tokens: gguf::Strings = (0..N_VOCAB).map(|i| format!("t{i}")).collect();
        tiny.set_full("tokenizer.ggml.tokens", tokens);
        let n_layer: u32 = match arch {
            "gemma3" => 7,
            // Every fourth layer is another one.
            "cohere2" | "exaone4" | "olmo2" | "smollm3" => 4,
            _ => 3,
        };
        for (key, value) in [
            ("block_count", n_layer),
            ("context_length", 512),
            ("embedding_length", N_EMBD as u32),
            ("feed_forward_length", N_FF as u32),
            ("attention.head_count", N_HEAD as u32),
            ("attention.head_count_kv", N_HEAD_KV as u32),
            ("attention.key_length", HEAD_K as u32),
            ("attention.value_length", head_v(arch) as u32),
        ] {
            tiny.set(key, value);
        }
        let known = model::arch::ARCHS.iter().find(|known| known.name == arch).expect("known");
        tiny.set(known.eps_key(), 1e-5f32);
        tiny.set("rope.freq_base", 50_000.0f32);
        for (key, value) in known.usual_keys() {
            tiny.set(key, value.clone());
        }
        tiny.special();
        change(&mut tiny);
        let spec = model::spec(&tiny.file()).expect("a spec");
        for tensor in known.tensors(&spec).expect("sizes that agree") {
            tiny.fill(&tensor);
        }
        tiny
    }

    /// Fills a tensor that the architecture asks for; those of [`Self::special`] are there already.
    fn fill(&mut self, tensor: &TensorSpec) {
        let sizes: Vec<u64> = tensor.sizes().iter().map(|&n| n as u64).collect();
        match tensor.role {
            Role::Table | Role::Positions | Role::Inner | Role::Branch { .. } | Role::Output => {
                self.matrix(&tensor.name, format(self.arch, &tensor.name), &sizes);
            }
            Role::Conv => self.matrix(&tensor.name, DType::F32, &sizes),
            Role::Norm(_) if sizes.len() > 1 => self.matrix(&tensor.name, DType::F32, &sizes),
            Role::Norm(_) => self.vector(&tensor.name, sizes[0], 1.0),
            Role::Bias if sizes.len() > 1 => self.matrix(&tensor.name, DType::F32, &sizes),
            Role::Bias | Role::Sinks => self.vector(&tensor.name, sizes[0], 0.0),
            Role::RopeFactors => {}
        }
    }

    /// Two of five experts for each token.
    pub(crate) fn experts(&mut self) {
        self.set("expert_count", 5u32);
        self.set("expert_used_count", 2u32);
    }

    /// What some architectures have of their own, among it every sort of rope scaling.
    fn special(&mut self) {
        match self.arch {
            "exaone4" | "olmo2" => {
                self.set("attention.sliding_window", 5u32);
                self.set("rope.scaling.type", "yarn");
                self.set("rope.scaling.factor", 4.0f32);
            }
            "gemma2" => self.set("attention.sliding_window", 5u32),
            // Twice the width of the feed-forward.
            "qwen" => self.set("feed_forward_length", 2 * N_FF as u32),
            "glm4" | "chatglm" | "gptneox" | "nemotron" | "phi2" | "stablelm" => {
                self.set("rope.dimension_count", 16u32);
            }
            "cohere2" => self.set("attention.sliding_window", 5u32),
            // Layers of unlike widths.
            "openelm" => {
                let list = |ns: [u32; 3]| Value::Array(Array::U32(ns.to_vec()));
                self.set("attention.head_count", list([2, 4, 6]));
                self.set("attention.head_count_kv", list([1, 2, 2]));
                self.set("feed_forward_length", list([96, N_FF as u32, 192]));
            }
            "qwen2vl" | "qwen3vl" => {
                let sections = Array::I32(vec![4, 6, 6, 0]);
                self.set("rope.dimension_sections", Value::Array(sections));
            }
            "gemma3" => {
                self.set("attention.sliding_window", 5u32);
                self.set("rope.scaling.type", "linear");
                self.set("rope.scaling.factor", 8.0f32);
            }
            "lfm2" => {
                // Attention between two convolutions.
                let heads = Array::U32(vec![0, N_HEAD_KV as u32, 0]);
                self.set("attention.head_count_kv", Value::Array(heads));
                self.set("shortconv.l_cache", 4u32);
            }
            "llama" => {
                let factors: Vec<f32> = (0..HEAD_K / 2).map(|i| 1.0 + i as f32 / 4.0).collect();
                self.floats("rope_freqs.weight", &factors);
            }
            "phi3" => {
                self.set("rope.dimension_count", 24u32);
                self.set("rope.scaling.original_context_length", 128u32);
                self.set("rope.scaling.attn_factor", 1.19f32);
                self.floats("rope_factors_short.weight", &[1.0; 12]);
                self.floats("rope_factors_long.weight", &[2.5; 12]);
            }
            "olmoe" => self.experts(),
            "gpt-oss" => {
                self.experts();
                self.set("expert_feed_forward_length", 64u32);
                self.set("attention.sliding_window", 5u32);
                self.set("rope.scaling.type", "yarn");
            }
            "bailingmoe2" => {
                // The best two of three groups.
                self.set("expert_count", 6u32);
                self.set("expert_used_count", 3u32);
                self.set("expert_group_count", 3u32);
                self.set("expert_feed_forward_length", 64u32);
                self.set("expert_shared_feed_forward_length", 32u32);
                self.set("rope.dimension_count", 16u32);
            }
            "deepseek2" => {
                self.set("rope.scaling.type", "yarn");
                for (key, n) in [
                    ("expert_count", 6u32),
                    ("expert_group_count", 3),
                    ("expert_feed_forward_length", 64),
                    ("rope.dimension_count", 16),
                    ("attention.q_lora_rank", 64),
                    ("attention.kv_lora_rank", 32),
                    ("attention.key_length_mla", 48),
                    ("attention.value_length_mla", 32),
                    ("attention.key_length", 48),
                    ("attention.value_length", 32),
                ] {
                    self.set(key, n);
                }
            }
            "qwen3vlmoe" => {
                self.experts();
                self.set("expert_feed_forward_length", 64u32);
                let sections = Array::I32(vec![4, 6, 6, 0]);
                self.set("rope.dimension_sections", Value::Array(sections));
            }
            "granitemoe" | "ernie4_5-moe" | "hunyuan-moe" => {
                self.experts();
                self.set("expert_feed_forward_length", 64u32);
                self.set("expert_shared_feed_forward_length", 32u32);
            }
            "bailingmoe" | "deepseek" | "dots1" | "glm4moe" | "minimax-m2" | "qwen2moe"
            | "qwen3moe" => {
                self.experts();
                self.set("expert_feed_forward_length", 64u32);
            }
            "qwen2" | "mistral3" => {
                self.set("rope.scaling.type", "yarn");
                self.set("rope.scaling.factor", 4.0f32);
                let n = if self.arch == "qwen2" { 128u32 } else { 16 };
                self.set("rope.scaling.original_context_length", n);
            }
            _ => {}
        }
    }

    /// Sets a key of the architecture.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.set_full(&format!("{}.{key}", self.arch), value);
    }

    pub(crate) fn set_full(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.retain(|(there, _)| there != key);
        self.keys.push((key.into(), value.into()));
    }

    pub(crate) fn unset(&mut self, key: &str) {
        let key = if key.contains("general.") || key.contains("tokenizer.") {
            key.to_owned()
        } else {
            format!("{}.{key}", self.arch)
        };
        let before = self.keys.len();
        self.keys.retain(|(there, _)| *there != key);
        assert_eq!(self.keys.len() + 1, before, "{key} was there");
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let before = self.tensors.len();
        self.tensors.retain(|tensor| tensor.name != name);
        assert_eq!(self.tensors.len() + 1, before, "{name} was there");
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).expect("a tensor of this name")
    }

    /// Uniform in -1..1, from SplitMix64 (OOPSLA 2014).
    fn random(&mut self) -> f32 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z >> 40) as f32 / (1u32 << 23) as f32) - 1.0
    }

    /// Rows of `dims[0]` random weights.
    pub(crate) fn matrix(&mut self, name: &str, dtype: DType, dims: &[u64]) {
        let n = dims.iter().product::<u64>() as usize;
        let size = (3.0 / dims[0] as f32).sqrt();
        let data = if dtype == DType::F32 {
            (0..n).flat_map(|_| (self.random() * size).to_le_bytes()).collect()
        } else {
            assert_eq!(dtype, DType::Q8_0, "no random ones");
            let mut data = Vec::new();
            for _ in 0..n / 32 {
                data.extend(
                    half::f16::from_f32((1.0 + self.random() * 0.5) * size / 127.0).to_le_bytes(),
                );
                data.extend((0..32).map(|_| (self.random() * 127.0) as i8 as u8));
            }
            data
        };
        self.tensors.push(Tensor { name: name.into(), dtype, dims: dims.to_vec(), data });
    }

    pub(crate) fn vector(&mut self, name: &str, n: u64, around: f32) {
        let values: Vec<f32> = (0..n).map(|_| around + self.random() * 0.3).collect();
        self.floats(name, &values);
    }

    pub(crate) fn floats(&mut self, name: &str, values: &[f32]) {
        let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let dims = vec![values.len() as u64];
        self.tensors.push(Tensor { name: name.into(), dtype: DType::F32, dims, data });
    }

    pub(crate) fn file(&self) -> File {
        let mut builder = gguf::Builder::new();
        for (key, value) in &self.keys {
            builder = builder.kv(key, value.clone());
        }
        for t in &self.tensors {
            builder = builder.tensor(&t.name, t.dtype, &t.dims, &t.data);
        }
        File::from_bytes(builder.build().expect("a whole file")).expect("a readable file")
    }

    /// The engine on the reference backend.
    pub(crate) fn engine(&self, load: LoadOptions, options: EngineOptions) -> Engine {
        let file = self.file();
        let spec = model::spec(&file).expect("a spec");
        let graph = Arc::new(model::graph(&spec, &file).expect("a graph"));
        let loaded = Reference.load(graph, &[&file], load, &mut |_| {}).expect("a loaded model");
        Engine::new(loaded, options).expect("an engine")
    }
}

/// Both kinds of product are in each model: with quantised weights and with floats.
fn format(arch: &str, name: &str) -> DType {
    let is_float = ["attn_k.", "attn_output.", "ffn_up."].iter().any(|part| name.contains(part))
        || (arch == "llama" && name == "output.weight");
    if is_float { DType::F32 } else { DType::Q8_0 }
}

/// The builder takes value heads of another width than key heads; no model of these architectures has them, but the
/// difference shows a swap of the two.
fn head_v(arch: &str) -> u64 {
    if arch == "llama" { 64 } else { HEAD_K }
}

/// All arithmetics and both caches.
pub(crate) const LOADS: [LoadOptions; 3] = [
    LoadOptions { arithmetic: Arithmetic::Int8, kv: KvType::F16 },
    LoadOptions { arithmetic: Arithmetic::F32, kv: KvType::F32 },
    LoadOptions { arithmetic: Arithmetic::Int16, kv: KvType::F16 },
];

/// A text of `n` ids.
pub(crate) fn text(n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * i * 7 + i * 13 + seed * 29) % N_VOCAB) as u32).collect()
}
