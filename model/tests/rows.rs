//! RELIABILITY rows 39 to 43, 46, 95 and 108: what a bad file or request gets, row by row.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{LOADS, N_VOCAB, Tiny, archs, text};
use gguf::{DType, Value};
use model::{
    Attention, EngineOptions, ErrorKind, Mixer, Request, Sampler, SamplerParams, StopRules,
};
use std::ops::ControlFlow;

const OPTIONS: EngineOptions =
    EngineOptions { n_ctx: 20, n_batch: 7, n_seqs: 1, keep: model::Keep::All };

/// The error of a changed model, from the spec or from the graph. One line always.
fn refused(arch: &'static str, change: impl FnOnce(&mut Tiny)) -> (ErrorKind, String) {
    let mut tiny = Tiny::new(arch);
    change(&mut tiny);
    let file = tiny.file();
    let error = model::spec(&file)
        .and_then(|spec| model::graph(&spec, &file).map(|graph| graph.nodes.len()))
        .expect_err("the graph must not build");
    let text = error.to_string();
    assert!(!text.contains('\n'), "{text}");
    (error.kind(), text)
}

/// The key of an architecture's epsilon.
fn eps_key(arch: &str) -> &'static str {
    model::arch::ARCHS.iter().find(|known| known.name == arch).unwrap().eps_key()
}

#[test]
fn row_39_missing_keys_are_named() {
    for arch in archs() {
        for key in [
            "block_count",
            "context_length",
            "embedding_length",
            "feed_forward_length",
            "attention.head_count",
        ] {
            let wanted = (ErrorKind::MissingKey, format!("missing key \"{arch}.{key}\""));
            assert_eq!(refused(arch, |tiny| tiny.unset(key)), wanted);
        }
    }
    let wanted = |key: &str| (ErrorKind::MissingKey, format!("missing key \"{key}\""));
    assert_eq!(
        refused("llama", |t| t.unset("general.architecture")),
        wanted("general.architecture")
    );
    assert_eq!(
        refused("llama", |t| t.unset("tokenizer.ggml.tokens")),
        wanted("tokenizer.ggml.tokens")
    );
}

/// llama.cpp's where it has one, else that of the configuration class in Hugging Face's transformers, where all models of
/// the architecture have it. A new architecture comes with its line.
#[test]
fn row_39_optional_keys_have_their_architectures_defaults() {
    struct Wanted {
        arch: &'static str,
        bases: &'static [f32],
        eps: Option<f32>,
        scale: f32,
        window: Option<u32>,
    }
    let wanted = |arch, bases, eps| {
        let scale = 1.0 / 32f32.sqrt();
        Wanted { arch, bases, eps, scale, window: None }
    };
    let table = [
        wanted("arcee", &[10_000.0], None),
        wanted("baichuan", &[10_000.0], Some(1e-6)),
        wanted("bailingmoe", &[10_000.0], None),
        wanted("bailingmoe2", &[10_000.0], None),
        wanted("chatglm", &[10_000.0], None),
        wanted("codeshell", &[10_000.0], None),
        Wanted { window: Some(5), ..wanted("cohere2", &[10_000.0], None) },
        wanted("command-r", &[10_000.0], None),
        wanted("deepseek", &[10_000.0], None),
        wanted("deepseek2", &[10_000.0], None),
        wanted("dots1", &[10_000.0], None),
        wanted("ernie4_5", &[500_000.0], Some(1e-5)),
        wanted("ernie4_5-moe", &[500_000.0], Some(1e-5)),
        wanted("exaone", &[10_000.0], None),
        wanted("exaone4", &[10_000.0], Some(1e-5)),
        wanted("falcon", &[10_000.0], None),
        wanted("gemma", &[10_000.0], Some(1e-6)),
        Wanted { window: Some(4096), ..wanted("gemma2", &[10_000.0], Some(1e-6)) },
        wanted("gemma3", &[1e6, 10_000.0], Some(1e-6)),
        wanted("glm4", &[10_000.0], None),
        wanted("glm4moe", &[10_000.0], None),
        Wanted { window: Some(128), ..wanted("gpt-oss", &[150_000.0], Some(1e-5)) },
        wanted("gpt2", &[10_000.0], None),
        wanted("gptneox", &[10_000.0], None),
        wanted("granite", &[10_000.0], None),
        wanted("granitemoe", &[10_000.0], None),
        wanted("hunyuan-dense", &[10_000.0], Some(1e-5)),
        wanted("hunyuan-moe", &[10_000.0], Some(1e-5)),
        wanted("internlm2", &[10_000.0], None),
        wanted("jais2", &[10_000.0], None),
        wanted("lfm2", &[1e6], None),
        wanted("llama", &[10_000.0], None),
        wanted("maincoder", &[10_000.0], None),
        wanted("minicpm", &[10_000.0], None),
        wanted("minimax-m2", &[10_000.0], None),
        wanted("mistral3", &[1e6, 1e6], None),
        wanted("nemotron", &[10_000.0], None),
        wanted("olmo", &[10_000.0], None),
        wanted("olmo2", &[10_000.0], None),
        wanted("olmoe", &[10_000.0], None),
        wanted("openelm", &[10_000.0], None),
        wanted("orion", &[10_000.0], None),
        wanted("pangu-embedded", &[10_000.0], None),
        wanted("phi2", &[10_000.0], None),
        wanted("phi3", &[10_000.0], Some(1e-5)),
        wanted("plamo", &[10_000.0], None),
        wanted("qwen", &[10_000.0], Some(1e-6)),
        wanted("qwen2", &[10_000.0], None),
        wanted("qwen2moe", &[10_000.0], None),
        wanted("qwen2vl", &[1e6], None),
        wanted("qwen3", &[10_000.0], Some(1e-6)),
        wanted("qwen3moe", &[10_000.0], Some(1e-6)),
        wanted("qwen3vl", &[5e6], Some(1e-6)),
        wanted("qwen3vlmoe", &[5e6], Some(1e-6)),
        wanted("seed_oss", &[10_000.0], Some(1e-6)),
        wanted("smollm3", &[2e6], Some(1e-6)),
        wanted("stablelm", &[10_000.0], None),
        wanted("starcoder", &[10_000.0], None),
        wanted("starcoder2", &[10_000.0], None),
        wanted("xverse", &[10_000.0], None),
    ];
    assert!(archs().eq(table.iter().map(|wanted| wanted.arch)));
    for Wanted { arch, bases, eps, scale, window } in table {
        let mut tiny = Tiny::new(arch);
        tiny.unset("rope.freq_base");
        // One architecture must have its window.
        let is_window_or_scale = |key: &str| {
            (key.ends_with("sliding_window") && arch != "cohere2")
                || key.ends_with("attention.scale")
        };
        tiny.keys.retain(|(key, _)| !is_window_or_scale(key));
        let spec = model::spec(&tiny.file()).unwrap();
        let found: Vec<f32> = spec.ropes.iter().map(|rope| rope.base).collect();
        assert_eq!(found, bases, "{arch}");
        let first = spec.layers[usize::from(arch == "lfm2")].mixer;
        assert!(matches!(first, Mixer::Attention(_) | Mixer::Latent(_)), "{arch}");
        if let Mixer::Attention(first) = first {
            assert_eq!(first.window, window, "{arch}");
        }
        for layer in &spec.layers {
            let Mixer::Attention(attention) = layer.mixer else { continue };
            assert_eq!(attention.scale, scale, "{arch}");
            assert!(attention.window.is_none() || window.is_some(), "{arch}");
        }
        tiny.unset(eps_key(arch));
        match eps {
            Some(eps) => assert_eq!(model::spec(&tiny.file()).unwrap().eps, eps, "{arch}"),
            None => {
                let error = model::spec(&tiny.file()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::MissingKey, "{arch}");
            }
        }
    }
    let mut tiny = Tiny::new("qwen3");
    tiny.unset("attention.head_count_kv");
    let spec = model::spec(&tiny.file()).unwrap();
    assert_eq!(spec.ropes[0].n_rot, 32);
    let mixer = spec.layers[0].mixer;
    let is_right = matches!(
        mixer,
        Mixer::Attention(Attention { n_head: 6, n_head_kv: 6, head_dim_k: 32, .. })
    );
    assert!(is_right, "{mixer:?}");
}

#[test]
fn row_40_wrong_types_name_key_found_and_wanted() {
    type Change = fn(&mut Tiny);
    let table: [(Change, &str); 7] = [
        (|t| t.set("block_count", "three"), "llama.block_count: found string, wanted integer"),
        (|t| t.set("block_count", 3.0f32), "llama.block_count: found f32, wanted integer"),
        (
            |t| t.set("embedding_length", vec![96u32]),
            "llama.embedding_length: found array of u32, wanted integer",
        ),
        (|t| t.set("attention.layer_norm_rms_epsilon", 1u32), "rms_epsilon: found u32, wanted f32"),
        (|t| t.set("rope.scaling.type", 1u32), "llama.rope.scaling.type: found u32, wanted string"),
        (
            |t| t.set_full("tokenizer.ggml.tokens", 5u32),
            "tokenizer.ggml.tokens: found u32, wanted array of string",
        ),
        (
            |t| t.set_full("general.architecture", 5u32),
            "general.architecture: found u32, wanted string",
        ),
    ];
    for (change, wanted) in table {
        let (kind, text) = refused("llama", change);
        assert_eq!(kind, ErrorKind::WrongType, "{text}");
        assert!(text.ends_with(wanted), "{text}");
    }
}

#[test]
fn row_40_integers_of_any_width_are_read() {
    let mut tiny = Tiny::new("llama");
    tiny.set("block_count", 3u64);
    tiny.set("embedding_length", 96i32);
    tiny.set("attention.head_count_kv", vec![2i32, 2, 2]);
    let file = tiny.file();
    let spec = model::spec(&file).unwrap();
    assert!(model::graph(&spec, &file).is_ok());
}

#[test]
fn row_41_hyper_parameters_out_of_range_are_refused_by_name() {
    let table: Vec<(&'static str, &str, Value)> = vec![
        ("llama", "attention.head_count", 0u32.into()),
        ("llama", "attention.head_count_kv", 0u32.into()),
        ("llama", "attention.head_count_kv", 4u32.into()),
        ("llama", "attention.head_count_kv", vec![2u32, 2].into()),
        ("llama", "attention.head_count_kv", vec![2u32, 5, 2].into()),
        ("llama", "attention.key_length", 0u32.into()),
        ("llama", "attention.value_length", 0u32.into()),
        ("llama", "block_count", 0u32.into()),
        ("llama", "block_count", 513u32.into()),
        ("llama", "block_count", u32::MAX.into()),
        ("llama", "block_count", (-1i32).into()),
        ("llama", "embedding_length", 0u32.into()),
        ("llama", "embedding_length", u64::MAX.into()),
        ("llama", "feed_forward_length", 0u32.into()),
        ("llama", "context_length", 0u32.into()),
        ("llama", "context_length", u32::MAX.into()),
        ("llama", "attention.layer_norm_rms_epsilon", 0.0f32.into()),
        ("llama", "attention.layer_norm_rms_epsilon", f32::NAN.into()),
        ("llama", "attention.layer_norm_rms_epsilon", (-1e-5f32).into()),
        ("llama", "rope.dimension_count", 34u32.into()),
        ("llama", "rope.dimension_count", 31u32.into()),
        ("llama", "rope.dimension_count", 0u32.into()),
        ("llama", "rope.freq_base", 0.0f32.into()),
        ("llama", "rope.freq_base", f32::INFINITY.into()),
        ("llama", "rope.scaling.factor", (-2.0f32).into()),
        ("llama", "rope.scaling.type", "quartic".into()),
        ("llama", "expert_used_count", 2u32.into()),
        ("llama", "vocab_size", 54u32.into()),
        ("qwen2", "rope.scaling.original_context_length", 0u32.into()),
        ("phi3", "rope.scaling.attn_factor", f32::NAN.into()),
        ("gemma3", "attention.sliding_window", (-1i32).into()),
        ("llama", "attention.sliding_window", (-1i32).into()),
        ("gemma3", "attention.sliding_window_pattern", 0u32.into()),
        ("gemma3", "attention.sliding_window_pattern", vec![true, false].into()),
        ("gemma3", "final_logit_softcapping", (-1.0f32).into()),
        ("qwen", "feed_forward_length", 1u32.into()),
        ("qwen", "feed_forward_length", 161u32.into()),
        ("qwen3moe", "expert_used_count", 0u32.into()),
        ("qwen3moe", "expert_used_count", 6u32.into()),
        ("qwen3moe", "expert_count", 1025u32.into()),
        ("qwen3moe", "expert_shared_feed_forward_length", 1u32.into()),
    ];
    for (arch, key, value) in table {
        let (kind, text) = refused(arch, |tiny| tiny.set(key, value.clone()));
        assert_eq!(kind, ErrorKind::BadHyperParameter, "{key} {value:?}: {text}");
        assert!(text.starts_with(&format!("{arch}.{key}")), "{key} {value:?}: {text}");
    }
}

#[test]
fn row_41_heads_must_divide_the_embedding() {
    let (kind, text) = refused("llama", |tiny| {
        tiny.unset("attention.key_length");
        tiny.set("attention.head_count", 10u32);
    });
    assert_eq!(kind, ErrorKind::BadHyperParameter);
    assert!(
        text.contains(
            "llama.embedding_length: 96, allowed a multiple of attention.head_count = 10"
        ),
        "{text}"
    );
}

#[test]
fn row_41_a_huge_context_is_no_default() {
    let mut tiny = Tiny::new("llama");
    assert_eq!(model::spec(&tiny.file()).unwrap().default_ctx(), 512);
    tiny.set("context_length", 1u32 << 30);
    assert_eq!(model::spec(&tiny.file()).unwrap().default_ctx(), 4096);
}

#[test]
fn row_41_experts_are_refused_not_ignored() {
    let (kind, text) = refused("qwen2", |tiny| {
        tiny.set("expert_count", 8u32);
        tiny.set("expert_used_count", 2u32);
    });
    assert_eq!(
        (kind, text.contains("qwen2.expert_count: 8")),
        (ErrorKind::Unsupported, true),
        "{text}"
    );
}

/// A change of a model's keys, and the error that it must give.
struct Refusal {
    arch: &'static str,
    change: fn(&mut Tiny),
    kind: ErrorKind,
    begins: &'static str,
}

#[test]
fn row_41_what_an_architecture_cannot_be_without_is_named() {
    let refusals = [
        Refusal {
            arch: "qwen3moe",
            change: |tiny| tiny.unset("expert_count"),
            kind: ErrorKind::BadHyperParameter,
            begins: "qwen3moe.expert_used_count",
        },
        Refusal {
            arch: "granite",
            change: |tiny| tiny.unset("logit_scale"),
            kind: ErrorKind::MissingKey,
            begins: "missing key \"granite.logit_scale\"",
        },
        Refusal {
            arch: "baichuan",
            change: |tiny| tiny.set("block_count", 40u32),
            kind: ErrorKind::Unsupported,
            begins: "baichuan.block_count: 40",
        },
        Refusal {
            arch: "mistral3",
            change: |tiny| tiny.set("rope.dimension_count", 16u32),
            kind: ErrorKind::Unsupported,
            begins: "mistral3.rope.dimension_count",
        },
        Refusal {
            arch: "glm4",
            change: |tiny| tiny.set("nextn_predict_layers", 1u32),
            kind: ErrorKind::Unsupported,
            begins: "glm4.nextn_predict_layers: 1",
        },
    ];
    for Refusal { arch, change, kind, begins } in refusals {
        let (found, text) = refused(arch, change);
        assert!(found == kind && text.starts_with(begins), "{arch}: {found:?} {text}");
    }
}

/// Of a position and layer a latent and the keys' part with a position are kept, 32 and 16 numbers here, and no values beside
/// them (arXiv 2405.04434, section 2.1.2).
#[test]
fn a_latent_is_kept_once() {
    let file = Tiny::new("deepseek2").file();
    let graph = model::graph(&model::spec(&file).unwrap(), &file).unwrap();
    let blocks = graph::Blocks::Each(1);
    assert_eq!(graph.kv_bytes(graph::KvType::F16, &blocks), 3 * 64 * (32 + 16) * 2);
}

#[test]
fn a_file_with_keys_and_values_in_one_matrix_is_refused_by_name() {
    let (kind, text) = refused("deepseek2", |tiny| tiny.unset("attention.key_length_mla"));
    assert_eq!(kind, ErrorKind::Unsupported);
    assert!(text.starts_with("deepseek2.attention.key_length_mla"), "{text}");
}

/// Hunyuan's converter once wrote its one feed-forward as the only expert.
#[test]
fn one_expert_is_none() {
    let mut tiny = Tiny::new("hunyuan-dense");
    let before = model::spec(&tiny.file()).unwrap();
    tiny.set("expert_count", 1u32);
    tiny.set("expert_used_count", 1u32);
    assert_eq!(model::spec(&tiny.file()).unwrap(), before);
    tiny.set("expert_count", 2u32);
    let error = model::spec(&tiny.file()).unwrap_err().to_string();
    assert!(error.starts_with("hunyuan-dense.expert_count: 2"), "{error}");
}

#[test]
fn row_42_a_tensor_for_each_expert_is_refused_by_name() {
    let (kind, text) = refused("qwen3moe", |tiny| {
        tiny.remove("blk.0.ffn_up_exps.weight");
        tiny.matrix("blk.0.ffn_up.0.weight", DType::F32, &[96, 64]);
    });
    assert_eq!(kind, ErrorKind::BadTensor, "{text}");
    let begins = "tensor \"blk.0.ffn_up.0.weight\": a tensor for each expert";
    assert!(text.starts_with(begins) && text.contains("\"blk.0.ffn_up_exps.weight\""), "{text}");
}

/// Mixtral's experts are as wide as the feed-forward that they stand for, and that key is named.
#[test]
fn row_42_the_key_of_an_expert_s_width_is_the_file_s() {
    let mut tiny = Tiny::with("llama", Tiny::experts);
    assert_eq!(model::spec(&tiny.file()).unwrap().warnings, [""; 0]);
    tiny.set("feed_forward_length", 64u32);
    let file = tiny.file();
    let spec = model::spec(&file).unwrap();
    let text = model::graph(&spec, &file).map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("llama.feed_forward_length = 64"), "{text}");
}

#[test]
fn row_42_missing_tensors_are_named() {
    for arch in archs() {
        for tensor in Tiny::new(arch).tensors {
            let is_optional = tensor.name == "output.weight"
                || tensor.name == "rope_freqs.weight"
                || tensor.name.ends_with(".bias");
            if is_optional {
                continue;
            }
            // Without the fused tensor the separate ones are looked for.
            let named = tensor.name.replace("attn_qkv", "attn_q");
            let named = match named.as_str() {
                "rope_factors_short.weight" | "rope_factors_long.weight" => named,
                _ => named,
            };
            let (kind, text) = refused(arch, |tiny| tiny.remove(&tensor.name));
            assert_eq!(kind, ErrorKind::BadTensor, "{text}");
            assert!(text.starts_with(&format!("tensor \"{named}\": missing")), "{text}");
        }
    }
}

#[test]
fn row_42_extra_tensors_are_named() {
    let table = [
        ("llama", "blk.3.attn_norm.weight"),
        ("llama", "blk.0.attn_q_norm.weight"),
        ("llama", "output.bias"),
        ("llama", "rope_factors_long.weight"),
        ("qwen2", "rope_freqs.weight"),
        ("qwen2", "blk.0.attn_output.bias"),
        ("qwen3", "blk.0.ffn_up.bias"),
        ("gemma3", "rope_freqs.weight"),
        ("lfm2", "blk.0.attn_q_norm.weight"),
        ("lfm2", "output_norm.weight"),
        ("phi3", "blk.1.ffn_gate.weight"),
        ("phi3", "blk.1.attn_q.weight"),
    ];
    for (arch, name) in table {
        let (kind, text) = refused(arch, |tiny| {
            if name.starts_with("rope") {
                tiny.floats(name, &[1.0; 16]);
            } else {
                tiny.vector(name, 96, 1.0);
            }
        });
        assert_eq!(kind, ErrorKind::BadTensor, "{text}");
        let one_of_two = name == "rope_factors_long.weight";
        assert!(
            one_of_two || text.starts_with(&format!("tensor \"{name}\": unknown to {arch} models")),
            "{text}"
        );
    }
}

/// The windows of the layers that have attention.
fn windows(tiny: &Tiny) -> Vec<Option<u32>> {
    let spec = model::spec(&tiny.file()).unwrap();
    let window = |layer: &model::Layer| match layer.mixer {
        Mixer::Attention(attention) => Some(attention.window),
        Mixer::Latent(_) | Mixer::ShortConv(_) => None,
    };
    spec.layers.iter().filter_map(window).collect()
}

/// Mistral 7B v0.1 and Phi-3-mini-4k have a window in every layer; 0 is none, and one as long as the context is none.
#[test]
fn windows_of_every_layer() {
    for arch in ["llama", "phi3"] {
        let mut tiny = Tiny::new(arch);
        for (window, wanted) in [(8u32, Some(8)), (0, None), (512, None), (511, Some(511))] {
            tiny.set("attention.sliding_window", window);
            assert_eq!(windows(&tiny), [wanted; 3], "{arch} {window}");
        }
    }
    let mut tiny = Tiny::new("lfm2");
    tiny.set("attention.sliding_window", 8u32);
    assert_eq!(windows(&tiny), [Some(8)]);
    let mut tiny = Tiny::new("gemma3");
    assert_eq!(windows(&tiny)[4..], [Some(5), None, Some(5)]);
    tiny.set("attention.sliding_window", 0u32);
    assert_eq!(windows(&tiny), [None; 7]);
}

#[test]
fn gemma3_s_bases_under_ollama_s_names() {
    let mut tiny = Tiny::new("gemma3");
    let standard = |tiny: &mut Tiny| {
        tiny.set("rope.freq_base", 5e5f32);
        tiny.set("rope.freq_base_swa", 2e4f32);
    };
    standard(&mut tiny);
    let wanted = model::spec(&tiny.file()).unwrap();
    tiny.unset("rope.freq_base");
    tiny.unset("rope.freq_base_swa");
    tiny.set("rope.global.freq_base", 5e5f32);
    tiny.set("rope.local.freq_base", 2e4f32);
    assert_eq!(model::spec(&tiny.file()).unwrap(), wanted);
    // The standard names go first.
    standard(&mut tiny);
    tiny.set("rope.global.freq_base", 7.0f32);
    assert_eq!(model::spec(&tiny.file()).unwrap(), wanted);
}

/// Some converters write a vector with a second dimension of 1.
#[test]
fn dimensions_of_one_at_the_end_are_no_other_shape() {
    for arch in archs() {
        let mut tiny = Tiny::new(arch);
        for tensor in &mut tiny.tensors {
            tensor.dims.resize(4, 1);
        }
        let file = tiny.file();
        let spec = model::spec(&file).unwrap();
        let plain = Tiny::new(arch).file();
        assert_eq!(model::graph(&spec, &file).unwrap(), model::graph(&spec, &plain).unwrap());
    }
}

#[test]
fn keys_of_no_use_are_named() {
    let mut tiny = Tiny::new("llama");
    assert!(model::spec(&tiny.file()).unwrap().warnings.is_empty());
    tiny.set("logit_scale", 0.5f32);
    tiny.set("rope.scaling.finetuned", true);
    tiny.set("attention.causal", true);
    let warnings = model::spec(&tiny.file()).unwrap().warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("llama.logit_scale: not used by karat's llama"),
        "{warnings:?}"
    );
    for i in 0..20 {
        tiny.set(&format!("x{i}"), i as u32);
    }
    let warnings = model::spec(&tiny.file()).unwrap().warnings;
    assert!(warnings[0].contains(" and 13 more: "), "{warnings:?}");
    tiny.set("attention.causal", false);
    assert_eq!(model::spec(&tiny.file()).unwrap_err().kind(), ErrorKind::Unsupported);
}

/// Every tensor of every architecture with one dimension more, with its dimensions swapped, and flattened.
#[test]
fn row_42_wrong_shapes_are_named_with_their_origin() {
    for arch in archs() {
        for tensor in Tiny::new(arch).tensors {
            let mut shapes = vec![[tensor.dims.as_slice(), &[2]].concat()];
            shapes.push([&[1], tensor.dims.as_slice()].concat());
            if let [n_in, n_out] = tensor.dims[..] {
                // A square one is its own.
                if n_in != n_out {
                    shapes.push(vec![n_out, n_in]);
                }
                shapes.push(vec![n_in * n_out]);
                shapes.push(vec![n_in, n_out + 1]);
            }
            for dims in shapes {
                let (kind, text) = refused(arch, |tiny| {
                    let t = tiny.tensor(&tensor.name);
                    let n: u64 = dims.iter().product();
                    (t.dtype, t.dims, t.data) = (DType::F32, dims.clone(), vec![0; 4 * n as usize]);
                });
                assert_eq!(kind, ErrorKind::BadTensor, "{text}");
                assert!(
                    text.starts_with(&format!(
                        "tensor \"{}\": shape {dims:?}, expected",
                        tensor.name
                    )),
                    "{text}"
                );
                assert!(text.contains("from "), "{text}");
            }
        }
    }
    let (_, text) = refused("llama", |t| t.set("attention.head_count_kv", 1u32));
    let wanted = "tensor \"blk.0.attn_k.weight\": shape [96, 64], expected [96, 32] (from llama.embedding_length = 96 \
                  and llama.attention.head_count_kv = 1 × key_length 32)";
    assert_eq!(text, wanted);
}

#[test]
fn row_42_a_norm_in_a_block_format_is_refused() {
    let (kind, text) = refused("llama", |tiny| {
        let norm = tiny.tensor("blk.1.ffn_norm.weight");
        (norm.dtype, norm.data) = (DType::Q8_0, vec![0; 3 * 34]);
    });
    assert_eq!(kind, ErrorKind::BadTensor);
    assert_eq!(text, "tensor \"blk.1.ffn_norm.weight\": format Q8_0, allowed F32, F16, BF16");
}

#[test]
fn row_42_rope_factors_must_be_positive() {
    for bad in [0.0, f32::NAN, f32::INFINITY, -1.0] {
        let (kind, text) = refused("llama", |tiny| {
            tiny.remove("rope_freqs.weight");
            let mut factors = [1.0; 16];
            factors[5] = bad;
            tiny.floats("rope_freqs.weight", &factors);
        });
        assert_eq!(kind, ErrorKind::BadTensor);
        assert!(text.starts_with("tensor \"rope_freqs.weight\": element 5 is"), "{text}");
    }
}

#[test]
fn row_43_vocabulary_and_embedding_must_agree() {
    let (kind, text) = refused("llama", |tiny| {
        let tokens: gguf::Strings = (0..N_VOCAB + 1).map(|i| format!("t{i}")).collect();
        tiny.set_full("tokenizer.ggml.tokens", tokens);
    });
    assert_eq!(kind, ErrorKind::BadTensor);
    let wanted = "tensor \"token_embd.weight\": shape [96, 53], expected [96, 54] (from llama.embedding_length = 96 \
                  and tokenizer.ggml.tokens = 54 entries)";
    assert_eq!(text, wanted);
}

#[test]
fn row_43_an_absent_output_is_the_embedding() {
    let mut tiny = Tiny::new("llama");
    tiny.remove("output.weight");
    let file = tiny.file();
    let graph = model::graph(&model::spec(&file).unwrap(), &file).unwrap();
    let last = graph.to_string().lines().last().unwrap().to_owned();
    assert_eq!(
        last,
        "result_output:MUL_MAT [outputs, 53] <- result_norm:RMS_NORM  token_embd.weight Q8_0 [53, 96]"
    );
    // The table is resident once.
    assert_eq!(graph.weights.iter().filter(|w| w.name == "token_embd.weight").count(), 1);
}

#[test]
fn an_unknown_architecture_is_refused_with_the_known_ones() {
    let (kind, text) = refused("llama", |tiny| tiny.set_full("general.architecture", "unk\nown"));
    assert_eq!(kind, ErrorKind::UnknownArchitecture);
    let known = archs().collect::<Vec<_>>().join(", ");
    assert_eq!(text, format!("general.architecture: \"unk\\nown\" is unknown, karat runs {known}"));
    let text = refused("llama", |tiny| tiny.set_full("general.architecture", "gemma9")).1;
    assert!(text.ends_with("; the nearest is gemma3"), "{text}");
}

fn go_on(_: model::Event) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn row_46_end_ids_out_of_range_are_refused_and_none_warns() {
    let rules = |end_ids: Vec<u32>| StopRules { end_ids, max_tokens: None };
    for id in [N_VOCAB as u32, u32::MAX] {
        let error = rules(vec![1, id]).check(N_VOCAB).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("end-of-text token id {id} out of vocabulary (0..53)")
        );
    }
    assert!(rules(vec![]).check(N_VOCAB).unwrap().unwrap().contains("stops by length only"));
    assert_eq!(rules(vec![52]).check(N_VOCAB).unwrap(), None);
    // And it does stop by length.
    let mut engine = Tiny::new("llama").engine(LOADS[0], OPTIONS);
    let seq = engine.add();
    let request = Request { seq, prompt: &[1, 2, 3], stop: &rules(vec![]) };
    let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
    let text = model::generate(&mut engine, request, &mut sampler, &mut go_on).unwrap();
    assert_eq!(text.finish, model::Finish::ContextFull);
    assert_eq!(text.ids.len(), OPTIONS.n_ctx - 3 + 1);
}

#[test]
fn row_46_a_vocabulary_of_one_token_runs() {
    let mut tiny = Tiny::new("qwen3");
    tiny.set_full("tokenizer.ggml.tokens", vec!["a"]);
    tiny.remove("token_embd.weight");
    tiny.matrix("token_embd.weight", DType::F32, &[96, 1]);
    let mut engine = tiny.engine(LOADS[0], OPTIONS);
    let seq = engine.add();
    let stop = StopRules { end_ids: vec![], max_tokens: Some(4) };
    let mut sampler = Sampler::new(SamplerParams::default()).unwrap();
    let request = Request { seq, prompt: &[0], stop: &stop };
    assert_eq!(
        model::generate(&mut engine, request, &mut sampler, &mut go_on).unwrap().ids,
        [0; 4]
    );
}

#[test]
fn row_88_ids_out_of_the_vocabulary_are_refused() {
    let mut engine = Tiny::new("llama").engine(LOADS[0], OPTIONS);
    let seq = engine.add();
    let error =
        engine.prefill(seq, &[1, 2, 3, 999_999], &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    assert_eq!(error.to_string(), "prompt[3]: token id 999999 out of vocabulary (0..53)");
    let error = engine.prefill(seq, &[], &mut |_| ControlFlow::Continue(())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadRequest);
    assert!(engine.ids(seq).is_empty());
}

#[test]
fn row_95_prompts_around_the_context() {
    let n_ctx = OPTIONS.n_ctx;
    let stop = StopRules { end_ids: vec![], max_tokens: None };
    for (n, generated) in [(n_ctx - 1, Some(2)), (n_ctx, Some(1)), (n_ctx + 1, None)] {
        let mut engine = Tiny::new("llama").engine(LOADS[0], OPTIONS);
        let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
        let request = Request { seq: engine.add(), prompt: &text(n, 1), stop: &stop };
        let result = model::generate(&mut engine, request, &mut sampler, &mut go_on);
        match (result, generated) {
            (Ok(text), Some(wanted)) => {
                assert_eq!(
                    (text.ids.len(), text.finish),
                    (wanted, model::Finish::ContextFull),
                    "{n}"
                );
            }
            (Err(error), None) => {
                assert_eq!(error.kind(), ErrorKind::PromptTooLong);
                assert!(
                    error.to_string().starts_with("prompt of 21 tokens is over the context of 20"),
                    "{error}"
                );
            }
            (result, _) => panic!("{n}: {result:?}"),
        }
    }
}

/// Rows of `output.bias` that are −∞ mask ids which the vocabulary only pads with: they are never drawn, and the logits of
/// the others are what they were.
#[test]
fn masked_ids_are_never_drawn() {
    let generated = |masked: bool, params: &SamplerParams| {
        let mut tiny = Tiny::new("qwen2");
        let allowed = [7, 20, 33];
        let bias = |id| if masked && !allowed.contains(&id) { f32::NEG_INFINITY } else { 0.0 };
        let bias: Vec<f32> = (0..N_VOCAB).map(bias).collect();
        tiny.floats("output.bias", &bias);
        let mut engine = tiny.engine(LOADS[0], OPTIONS);
        let stop = StopRules { end_ids: vec![], max_tokens: Some(3) };
        let request = Request { seq: engine.add(), prompt: &text(17, 1), stop: &stop };
        let mut sampler = Sampler::new(params.clone()).unwrap();
        model::generate(&mut engine, request, &mut sampler, &mut go_on).unwrap().ids
    };
    let open = SamplerParams { top_k: 0, top_p: 1.0, min_p: 0.0, ..SamplerParams::default() };
    for params in [SamplerParams::greedy(), SamplerParams::default(), open] {
        let ids = generated(true, &params);
        assert!(ids.len() == 3 && ids.iter().all(|id| [7, 20, 33].contains(id)), "{ids:?}");
        assert_ne!(generated(false, &params), ids);
    }
}

#[test]
fn row_108_non_finite_logits_are_an_error_that_names_the_token() {
    for params in [SamplerParams::greedy(), SamplerParams::default()] {
        let mut tiny = Tiny::new("llama");
        tiny.tensor("output_norm.weight").data[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
        let mut engine = tiny.engine(LOADS[0], OPTIONS);
        let stop = StopRules { end_ids: vec![], max_tokens: Some(3) };
        let request = Request { seq: engine.add(), prompt: &text(17, 1), stop: &stop };
        let mut sampler = Sampler::new(params).unwrap();
        let error = model::generate(&mut engine, request, &mut sampler, &mut go_on).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(
            error.to_string().starts_with("model produced non-finite logits at token 17"),
            "{error}"
        );
    }
}
