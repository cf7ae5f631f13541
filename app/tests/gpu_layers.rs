//! A model with its layers on two backends gives the CPU's bits, wherever it is cut, and on the GPU alone.
//!
//! Without further ado one format, one prompt and a few tokens. `KARAT_GPU_PROOF=1` takes six formats, all prompts of
//! `../shared/oracle` and 64 tokens, which is what the GPU backend is accepted by; software devices need an hour for it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "the figures are what the proof is run for")]
#![allow(clippy::disallowed_methods, reason = "a test has no app::config")]

use cpu::Cpu;
use graph::split::Split;
use graph::{Arithmetic, Backend, Graph, KvType, LoadOptions, NoTap, Step};
use model::sampler::argmax;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// The default model, or `None` with a line.
fn default_model() -> Option<PathBuf> {
    let cached =
        || Some(variable("HOME")?.join(".cache/karat/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let found = variable("KARAT_TEST_MODEL").or_else(cached).filter(|path| path.is_file());
    if found.is_none() {
        println!("skipped: no model at KARAT_TEST_MODEL or in the cache (`karat pull`)");
    }
    found
}

fn gpus() -> Vec<gpu::Gpu> {
    let all: Vec<gpu::Gpu> =
        gpu::adapters(gpu::Api::Any).iter().map(|adapter| adapter.open(2).unwrap()).collect();
    if all.is_empty() {
        assert!(variable("CI").is_none(), "no GPU device, and CI is set");
        println!("skipped: no GPU device");
    }
    all
}

/// Token ids of each prompt: "The capital of France is", and in the proof what was recorded.
fn prompts(proof: bool) -> Vec<Vec<u32>> {
    let file =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle/smollm2_greedy.json");
    let recorded = || -> Option<Vec<Vec<u32>>> {
        let all: serde_json::Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
        let cases = all["cases"].as_object()?.iter().filter(|(name, _)| name.starts_with("Q8_0/"));
        let ids = |case: &serde_json::Value| serde_json::from_value(case["tokens"].clone()).ok();
        cases.map(|(_, case)| ids(case)).collect()
    };
    let mut all = vec![vec![504, 3575, 282, 4649, 314]];
    if proof {
        match recorded() {
            Some(recorded) => all = recorded,
            None => println!("skipped: the prompts of ../shared/oracle, which is absent"),
        }
    }
    all
}

/// The files to run: the default model, and in the proof those that are made from it.
fn files(model: &Path, proof: bool) -> Vec<(String, PathBuf)> {
    let mut all = vec![("Q4_1".to_owned(), model.to_owned())];
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("gpu-layers");
    std::fs::create_dir_all(&dir).unwrap();
    for name in ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0"].into_iter().filter(|_| proof) {
        let path = dir.join(format!("{name}.gguf"));
        let file = gguf::File::open(model, gguf::Access::Mmap).unwrap();
        let threads = std::num::NonZero::new(2).unwrap();
        model::quantize::quantize(&file, &path, name.parse().unwrap(), threads, |_| {}).unwrap();
        all.push((name.to_owned(), path));
    }
    all
}

/// What is run: a graph and its file.
struct Subject {
    graph: Arc<Graph>,
    file: gguf::File,
    options: LoadOptions,
}

impl Subject {
    fn open(path: &Path, options: LoadOptions) -> Self {
        let file = gguf::File::open(path, gguf::Access::Mmap).unwrap();
        let spec = model::spec(&file).unwrap();
        let graph = Arc::new(model::graph(&spec, &file, 256).unwrap());
        Self { graph, file, options }
    }

    /// The bits of the logits of every token of a prompt, and of `n` tokens that follow greedily, one at a time.
    fn logits(&self, backend: &dyn Backend, prompts: &[Vec<u32>], n: usize) -> Vec<Vec<u32>> {
        let graph = Arc::clone(&self.graph);
        let mut loaded = backend.load(graph, &self.file, self.options, &mut |_| {}).unwrap();
        let mut all = Vec::new();
        for prompt in prompts {
            let mut kv = loaded.new_kv(4).unwrap();
            let mut step = Step::single(prompt, 0);
            step.outputs = (0..prompt.len() as u32).collect();
            for at in prompt.len()..=prompt.len() + n {
                let logits = loaded.run(&step, &mut kv, &mut NoTap).unwrap();
                let last = &logits[logits.len() - self.graph.n_vocab..];
                step = Step::single(&[argmax(last)], at as u32);
                all.push(logits.iter().map(|v| v.to_bits()).collect());
            }
        }
        all
    }
}

fn compare(options: LoadOptions) {
    let Some(model) = default_model() else { return };
    let proof = variable("KARAT_GPU_PROOF").is_some();
    let (gpus, prompts, n) = (gpus(), prompts(proof), if proof { 64 } else { 6 });
    if gpus.is_empty() {
        return;
    }
    for (format, path) in files(&model, proof) {
        let subject = Subject::open(&path, options);
        let expected = subject.logits(&Cpu::new(2), &prompts, n);
        let steps = expected.len();
        for i in 0..gpus.len() {
            let whole = gpu::adapters(gpu::Api::Any)[i].open(2).unwrap();
            let name = whole.name();
            let got = subject.logits(&whole, &prompts, n);
            assert!(got == expected, "{format}: {name} alone differs from the CPU");
            let layers = subject.graph.kv_layers.len();
            for on_gpu in [1, 15] {
                let tail = gpu::adapters(gpu::Api::Any)[i].open(2).unwrap();
                let both = Split {
                    head: Box::new(Cpu::new(2)),
                    tail: Box::new(tail),
                    layers: layers + 1 - on_gpu,
                };
                let got = subject.logits(&both, &prompts, n);
                assert!(got == expected, "{format}: {on_gpu} layers on {name} differ from the CPU");
            }
            println!(
                "{format} {:?}: {steps} steps of {} prompts, bit for bit the CPU's on {name} with 1, 15 and all layers",
                options.arithmetic,
                prompts.len()
            );
        }
    }
}

#[test]
fn int8_logits_are_the_cpu_s_wherever_the_layers_lie() {
    compare(LoadOptions::default());
}

#[test]
fn f32_logits_are_the_cpu_s_wherever_the_layers_lie() {
    compare(LoadOptions { arithmetic: Arithmetic::F32, kv: KvType::F16 });
}
