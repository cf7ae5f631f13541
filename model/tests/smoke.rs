//! A real model through the reference backend, against llama.cpp's own greedy ids. Skipped, with a line that says so,
//! where the model or the oracle is absent.

use graph::reference::Reference;
use graph::{Backend, LoadOptions};
use model::{Engine, EngineOptions, Request, Sampler, SamplerParams, StopRules};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// Tokens to compare: the reference is slow.
const N: usize = 6;

fn model_path() -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "a test has no app::config")]
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cached = || Some(var("HOME")?.join(".cache/karat/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    var("KARAT_TEST_MODEL").or_else(cached).filter(|path| path.is_file())
}

fn oracle() -> Option<serde_json::Value> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/oracle/smollm2_greedy.json");
    Some(serde_json::from_slice(&std::fs::read(path).ok()?).expect("the oracle is JSON"))
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

#[test]
fn smollm2_says_what_llama_cpp_says() {
    let Some(path) = model_path() else {
        eprintln!("skipped: no model at KARAT_TEST_MODEL or in the cache (`karat pull smollm2:135m`)");
        return;
    };
    let Some(oracle) = oracle() else {
        eprintln!("skipped: no ../shared/oracle/smollm2_greedy.json");
        return;
    };
    let case = &oracle["cases"]["Q4_1/france"];
    let (prompt, wanted) = (ids(&case["tokens"]), ids(&case["generated"]));
    let file = gguf::File::open(&path, gguf::Access::Mmap).unwrap();
    let spec = model::spec(&file).unwrap();
    let graph = Arc::new(model::graph(&spec, &file, 256).unwrap());
    let loaded = Reference.load(graph, &file, LoadOptions::default(), &mut |_| {}).unwrap();
    let mut engine = Engine::new(loaded, EngineOptions { n_ctx: 256, n_batch: 64, n_seqs: 1 }).unwrap();
    let seq = engine.add();
    let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
    let stop = StopRules { end_ids: vec![], max_tokens: Some(N) };
    let request = Request { seq, prompt: &prompt, stop: &stop };
    let text = model::generate(&mut engine, request, &mut sampler, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(text.ids, wanted[..N]);
    eprintln!("{} prompt tokens in {:?}, {N} tokens in {:?}", prompt.len(), text.prompt_time, text.decode_time);
}
