//! Synthetic models: the same bytes for the same request, loadable, and numbers of the promised size.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{LOADS, archs};
use gguf::{Access, File};
use graph::reference::Reference;
use graph::{Backend, Node, Op, Tap, Value};
use model::output::Existing;
use model::synth::{ExpertNumbers, Format, Numbers, Preset, Progress, Request, Shape, synth};
use model::{Engine, EngineOptions, ErrorKind, Wanted, Work};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashSet};
use std::num::NonZero;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use tokenizer::{Ends, Show, Special, Tokenizer};

const GO_ON: fn(Progress) -> ControlFlow<()> = |_| ControlFlow::Continue(());

fn request<'a>(arch: &'a str, format: &str) -> Request<'a> {
    let shape = Shape { n_layer: 3, n_vocab: 700, ..model::synth::small(arch).unwrap() };
    Request {
        arch,
        shape,
        experts: ExpertNumbers::default(),
        format: format.parse().unwrap(),
        seed: 1,
        existing: Existing::Keep,
        threads: NonZero::new(2).unwrap(),
    }
}

fn preset(name: &str) -> (&'static str, Preset) {
    model::synth::presets().find(|(_, preset)| preset.name == name).unwrap()
}

fn written(request: &Request<'_>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    synth(request, &path, GO_ON).unwrap();
    std::fs::read(path).unwrap()
}

fn engine(file: &File) -> Engine {
    let options = EngineOptions { n_ctx: 256, n_batch: 64, n_seqs: 1, keep: model::Keep::All };
    let spec = model::spec(file).unwrap();
    let graph = Arc::new(model::graph(&spec, file).unwrap());
    Engine::new(Reference.load(graph, &[file], LOADS[0], &mut |_| {}).unwrap(), options).unwrap()
}

/// Mean squares of every named value, gathered over all rows.
#[derive(Default)]
struct Sizes(BTreeMap<String, (f64, usize)>);

impl Tap for Sizes {
    fn wants(&mut self, _: &Node, _: &Value) -> bool {
        true
    }

    fn value(&mut self, node: &Node, value: &Value, data: &mut [f32]) {
        // A factor leaves a value its name: what it makes counts.
        if matches!(node.op, Op::Scale { .. }) {
            self.0.remove(&value.name);
        }
        let (sum, n) = self.0.entry(value.name.clone()).or_default();
        *sum += data.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>();
        *n += data.len();
    }
}

impl Sizes {
    /// `None` where the model has no such value.
    fn rms(&self, name: &str) -> Option<f64> {
        let (sum, n) = self.0.get(name)?;
        Some((sum / *n as f64).sqrt())
    }
}

#[test]
fn activations_and_logits_are_of_size_1() {
    for arch in archs() {
        let shape = Shape { n_layer: 8, ..request(arch, "Q8_0").shape };
        let file = File::from_bytes(written(&Request { shape, ..request(arch, "Q8_0") })).unwrap();
        let mut engine = engine(&file);
        let (seq, mut sizes) = (engine.add(), Sizes::default());
        let ids: Vec<u32> = (0..60).map(|i| i * 7 % 700).collect();
        let work = [Work { seq, tokens: &ids, wanted: Wanted::All }];
        engine.step(&work, &mut sizes).unwrap();
        for layer in 0..8 {
            let mut n = 0;
            // Without a norm before it, a mixer's keys and values are as large as the residual stream.
            let is_normed = sizes.rms(&format!("attn_norm-{layer}")).is_some();
            let inner = if is_normed { 0.8..1.2 } else { 0.03..2.0 };
            for (name, allowed) in [
                ("attn_norm", 0.9..1.1),
                ("Kcur", inner.clone()),
                ("Vcur", inner),
                ("kv_cmpr", 0.8..1.2),
                ("conv.bx", 0.8..1.2),
                ("conv.conv", 0.7..1.3),
                ("l_out", 0.1..2.0),
            ] {
                let Some(found) = sizes.rms(&format!("{name}-{layer}")) else { continue };
                assert!(allowed.contains(&found), "{arch}: {name}-{layer} is of size {found}");
                n += 1;
            }
            // The mixer's two among them, whichever it is.
            assert_eq!(n, 3 + usize::from(is_normed), "{arch} {layer}");
        }
        let logits = sizes.rms("result_output").unwrap();
        assert!((2.0..4.5).contains(&logits), "{arch}: logits of size {logits}");
    }
}

#[test]
fn greedy_text_goes_on() {
    for arch in archs() {
        let file = File::from_bytes(written(&request(arch, "Q4_K_M"))).unwrap();
        let mut engine = engine(&file);
        // A beginning may run into a circle of few ids; not every one does.
        let mut goes_on = |first: u32| {
            let seq = engine.add();
            let (mut id, mut seen) = (first, HashSet::new());
            for _ in 0..60 {
                id = model::sampler::argmax(&engine.decode(seq, id).unwrap());
                seen.insert(id);
            }
            engine.remove(seq).unwrap();
            seen.len() >= 8
        };
        assert!([300, 301, 302].into_iter().any(&mut goes_on), "{arch}: few ids");
    }
}

/// First 16 hex digits of the SHA-256 of a file.
fn hash(request: &Request<'_>) -> String {
    Sha256::digest(written(request))[..8].iter().fold(String::new(), |s, b| s + &format!("{b:02x}"))
}

#[test]
fn the_same_request_gives_the_same_bytes() {
    let one = request("qwen2", "Q4_K_M");
    // Several chunks to a tensor, so that threads have something to share.
    let one = Request { shape: Shape { n_ff: 1536, ..one.shape }, ..one };
    let first = hash(&one);
    for n in [1, 3] {
        assert_eq!(hash(&Request { threads: NonZero::new(n).unwrap(), ..one }), first);
    }
    assert_ne!(hash(&Request { seed: 2, ..one }), first);
    // Whatever the machine and the version: a shape, a format and a seed name a file.
    assert_eq!(first, "1e5a9e38c46d2df3");
}

/// The same for each architecture, whose tensors differ, and for both sorts of numbers.
#[test]
fn the_bytes_of_every_architecture_are_fixed() {
    for (arch, ordinary, adversarial) in [
        ("gemma3", "1cb4177afa8a6e6a", "b2a685ceb1f11c4e"),
        ("lfm2", "7b7e59b04135fe1f", "405fd0c8a10952c5"),
        ("llama", "f5d30c5edf80c801", "f89bf1e50080ea79"),
        ("phi3", "ab342c444c0b9501", "3e71cda319fc288f"),
        ("qwen2", "1da2674515dda3f1", "a1df2a38ced11fb7"),
        ("qwen2moe", "c28d9f524b47b046", "7201075559de5e1d"),
        ("qwen3", "6403ef693d8be985", "c4751a8c3c6ffd8a"),
        ("qwen3moe", "2d28b0206037a079", "aa3562e6559f8d7f"),
    ] {
        let one = request(arch, "Q4_K_M");
        assert_eq!(hash(&one), ordinary, "{arch}");
        // With an output projection where it usually has none, and the other way round.
        let shape = Shape { numbers: Numbers::Adversarial, tied: !one.shape.tied, ..one.shape };
        assert_eq!(hash(&Request { shape, ..one }), adversarial, "{arch}");
    }
}

/// What gpt-oss-20b has, and what its neighbour has not.
#[test]
fn experts_are_as_many_and_as_wide_as_is_asked_for() {
    let experts = ExpertNumbers { n_expert: Some(32), n_used: Some(4), n_ff: Some(96) };
    let one = request("gpt-oss", "MXFP4");
    let file = File::from_bytes(written(&Request { experts, ..one })).unwrap();
    let up = file.tensor("blk.1.ffn_up_exps.weight").unwrap();
    assert_eq!(up.dims, [one.shape.n_embd as u64, 96, 32]);
    assert_eq!(file.get("gpt-oss.expert_used_count"), Some(&4u32.into()));
    let folder = tempfile::tempdir().unwrap();
    for (arch, experts, expect) in [
        ("qwen2", experts, "qwen2.expert_count: 32"),
        (
            "gpt-oss",
            ExpertNumbers { n_used: Some(9), ..ExpertNumbers::default() },
            "9, allowed 1..=8",
        ),
        ("olmoe", experts, "olmoe.expert_feed_forward_length"),
    ] {
        let request = Request { experts, ..request(arch, "Q4_0") };
        let error = synth(&request, &folder.path().join("out"), GO_ON).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadRequest);
        assert!(error.to_string().contains(expect), "{error}");
    }
}

#[test]
fn every_format_is_in_the_file() {
    for name in Format::names() {
        let format: Format = name.parse().unwrap();
        for (format, arch) in [(format, "llama"), (format.pure(), "phi3")] {
            let bytes = written(&Request { format, ..request(arch, name) });
            let file = File::from_bytes(bytes).unwrap();
            for tensor in file.tensors() {
                let data = file.data(tensor).unwrap();
                assert_eq!(gguf::check_tensor(tensor.dtype, &data), None, "{name} {}", tensor.name);
            }
            let gate = file.tensor("blk.0.ffn_up.weight").unwrap();
            assert_eq!(gate.dtype, format.dtype(), "{name}");
            let output = file.tensor("output.weight").unwrap();
            assert!(output.dtype == format.dtype() || format != format.pure(), "{name}");
            engine(&file);
        }
    }
}

#[test]
fn the_tokenizer_spells_any_text() {
    let file = File::from_bytes(written(&request("qwen3", "Q4_0"))).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    assert_eq!(tokenizer.warnings(), [] as [String; 0]);
    for text in ["bato kami", "Grüße, 世界\n\0 x", ""] {
        let ids = tokenizer.encode(text, Special::AsText, Ends::None).unwrap();
        assert_eq!(tokenizer.decode(&ids, Show::Text).unwrap(), text);
    }
    assert!(tokenizer.encode("<|end|>", Special::Parse, Ends::Default).unwrap() == [256, 257]);
    assert_eq!(tokenizer.encode("bato kami", Special::AsText, Ends::None).unwrap().len(), 3);
}

#[test]
fn no_two_dimensions_of_the_adversarial_preset_are_the_same() {
    let (_, Preset { shape, .. }) = preset("adversarial");
    let dims = [
        shape.n_layer,
        shape.n_embd,
        shape.n_ff,
        shape.n_head,
        shape.n_head_kv,
        shape.head_dim_k,
        shape.head_dim_v,
        shape.n_vocab,
        shape.n_ctx,
        shape.n_head * shape.head_dim_k,
        shape.n_head * shape.head_dim_v,
        shape.n_head_kv * shape.head_dim_k,
        shape.n_head_kv * shape.head_dim_v,
    ];
    assert_eq!(dims.iter().collect::<HashSet<_>>().len(), dims.len(), "{dims:?}");
    assert_eq!(shape.numbers, Numbers::Adversarial);
}

/// A file of 4 GB, of which the first pieces are written.
#[test]
fn a_stopped_run_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.gguf");
    let (arch, preset) = preset("tinyllama-1.1b");
    let request = Request { shape: preset.shape, ..request(arch, "F32") };
    let mut pieces = 0;
    let error = synth(&request, &path, |now| {
        assert_eq!(now.total, 1_100_048_384);
        pieces += 1;
        if pieces == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Stopped);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let there = folder.path().join("there");
    std::fs::write(&there, "x").unwrap();
    let llama = request("llama", "Q4_0");
    let check = |request: &Request<'_>, path: &Path, expect: &str| {
        let error = synth(request, path, GO_ON).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(expect) && !text.contains('\n'), "{text}");
        error.kind()
    };
    assert_eq!(check(&llama, &there, "there already"), ErrorKind::BadRequest);
    assert_eq!(check(&llama, folder.path(), "is a folder"), ErrorKind::BadRequest);
    assert_eq!(check(&llama, &folder.path().join("no/folder"), "no/folder"), ErrorKind::Write);
    let out = folder.path().join("out");
    let unknown = Request { arch: "abacus", ..llama };
    assert_eq!(check(&unknown, &out, "\"abacus\" is unknown"), ErrorKind::UnknownArchitecture);
    for (shape, expect) in [
        (Shape { n_vocab: 10, ..llama.shape }, "10 tokens, allowed 261..="),
        (Shape { n_layer: 0, ..llama.shape }, "block_count: 0, allowed"),
        (Shape { n_head_kv: 3, ..llama.shape }, "head_count_kv: 3 in layer 0"),
        (Shape { head_dim_k: 7, ..llama.shape }, "an even number"),
        (Shape { n_embd: usize::MAX, ..llama.shape }, "embedding_length"),
        (Shape { eps: 0.0, ..llama.shape }, "layer_norm_rms_epsilon"),
        (
            Shape {
                n_ff: 1 << 24,
                n_embd: 1 << 24,
                n_head: 1 << 16,
                head_dim_k: 1 << 24,
                ..llama.shape
            },
            "weights, allowed up to 2^60",
        ),
    ] {
        let request = Request { shape, ..llama };
        assert_eq!(check(&request, &out, expect), ErrorKind::BadRequest, "{expect}");
    }
    assert!(!out.exists());
    assert_eq!(std::fs::read(&there).unwrap(), b"x");
    synth(&Request { existing: Existing::Replace, ..llama }, &there, GO_ON).unwrap();
    File::open(&there, Access::Pread).unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
