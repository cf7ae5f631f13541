//! A real model through the reference backend, against llama.cpp's own greedy ids. Skipped, with a line that says so,
//! where the model is absent.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test fails by panicking and says what it skips"
)]

use graph::reference::Reference;
use graph::{Arithmetic, Backend, LoadOptions, NoTap};
use model::{
    Engine, EngineOptions, Request, Sampler, SamplerParams, StopRules, Wanted, Work,
    sampler::argmax,
};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

/// Tokens to compare: the reference is slow.
const N: usize = 4;
/// Rows to compare teacher-forced. All 64 of both cases agree; that is what `cargo xtask oracle` is for.
const ROWS: usize = 16;

fn model_path() -> Option<PathBuf> {
    find("KARAT_TEST_MODEL", "SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// The file that the variable names, else the one in karat's cache.
fn find(variable: &str, cached: &str) -> Option<PathBuf> {
    #[allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = || Some(var("HOME")?.join(".cache/karat/models").join(cached));
    var(variable).or_else(cache).filter(|path| path.is_file())
}

/// llama.cpp's greedy ids: `app/tests/llama_cpp/README.md` says where they are from.
fn oracle() -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../app/tests/llama_cpp/greedy.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).expect("the oracle is JSON")
}

/// Says what a test leaves out, past the test harness, which shows what a test prints only if it fails.
fn say_skipped(what: &str) {
    use std::io::Write as _;
    let _ = std::io::stderr().write_all(format!("skipped: {what}\n").as_bytes());
}

fn ids(value: &serde_json::Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("a list of ids")
}

/// The default model in one arithmetic against one case of the oracle: first generated, then teacher-forced over all
/// of llama.cpp's text. Returns the largest difference of a top-5 logit.
fn agrees(case: &str, arithmetic: Arithmetic) -> Option<f64> {
    let Some(path) = model_path() else {
        say_skipped(&format!(
            "{case}: no model at KARAT_TEST_MODEL or in the cache (`karat pull smollm2:135m`)"
        ));
        return None;
    };
    let oracle = oracle();
    let case = &oracle["cases"][case];
    let (prompt, wanted) = (ids(&case["tokens"]), ids(&case["generated"])[..ROWS].to_vec());
    let file = gguf::File::open(&path, gguf::Access::Mmap).unwrap();
    let spec = model::spec(&file).unwrap();
    let graph = Arc::new(model::graph(&spec, &file).unwrap());
    let options = LoadOptions { arithmetic, ..LoadOptions::default() };
    let loaded = Reference.load(graph, &[&file], options, &mut |_| {}).unwrap();
    let mut engine = Engine::new(
        loaded,
        EngineOptions { n_ctx: 256, n_batch: 64, n_seqs: 2, keep: model::Keep::All },
    )
    .unwrap();

    let seq = engine.add();
    let mut sampler = Sampler::new(SamplerParams::greedy()).unwrap();
    let stop = StopRules { end_ids: vec![], max_tokens: Some(N) };
    let request = Request { seq, prompt: &prompt, stop: &stop };
    let text =
        model::generate(&mut engine, request, &mut sampler, &mut |_| ControlFlow::Continue(()))
            .unwrap();
    assert_eq!(text.ids, wanted[..N]);

    let ids: Vec<u32> = prompt.iter().chain(&wanted[..wanted.len() - 1]).copied().collect();
    let forced = engine.add();
    let mut rows = Vec::new();
    for tokens in ids.chunks(17) {
        let work = [Work { seq: forced, tokens, wanted: Wanted::All }];
        rows.extend(engine.step(&work, &mut NoTap).unwrap().remove(0));
    }
    let rows = rows.chunks(engine.n_vocab()).skip(prompt.len() - 1);
    let mut worst = 0.0f64;
    for ((row, best), id) in rows.zip(case["top5_logits"].as_array().unwrap()).zip(&wanted) {
        assert_eq!(argmax(row), *id);
        let best: Vec<(usize, f64)> = serde_json::from_value(best.clone()).unwrap();
        worst = best
            .iter()
            .fold(worst, |worst, &(id, logit)| worst.max((f64::from(row[id]) - logit).abs()));
    }
    eprintln!(
        "{arithmetic:?}: largest difference of a top-5 logit over {} rows: {worst:.4}",
        wanted.len()
    );
    Some(worst)
}

/// Rounding activations to 8 bits is chaotic: one sum in another order flips a rounding, thirty layers amplify it. So
/// the ids count here, and the logits loosely.
#[test]
fn int8_says_what_llama_cpp_says() {
    if let Some(worst) = agrees("Q4_1/france", Arithmetic::Int8) {
        assert!(worst < 1.5, "{worst}");
    }
}

/// The oracle's F32 model is this model dequantised, which is what `f32` arithmetic computes; llama.cpp's cache is in
/// f16 too. Logits are about 20.
#[test]
fn f32_gives_llama_cpps_logits() {
    if let Some(worst) = agrees("F32/france", Arithmetic::F32) {
        assert!(worst < 0.05, "{worst}");
    }
}

/// Names and columns of llama.cpp's own dump: `name:OP` → elements of a row.
fn trace() -> Option<HashMap<String, usize>> {
    let path = "../../shared/oracle/traces/smollm2-f32-noflash-f32kv-france.safetensors";
    let bytes = std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)).ok()?;
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: HashMap<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    let tensors = header.iter().filter(|(key, _)| *key != "__metadata__").map(|(key, tensor)| {
        // `00683/ffn_inp-29#0:ADD`, shape `[5, 9, 64]` or, for the one wanted row, `[576]`.
        let (name, op) = key.split_once('/').unwrap().1.split_once(':').unwrap();
        let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).unwrap();
        let cols = if shape.len() == 1 { &shape[..] } else { &shape[1..] };
        (format!("{}:{op}", name.split_once('#').unwrap().0), cols.iter().product())
    });
    Some(tensors.collect())
}

/// Every value of our graph stands in llama.cpp's dump, under the same name, at the same op, with as many columns.
#[test]
fn values_are_named_as_llama_cpp_names_them() {
    let (Some(path), Some(trace)) = (model_path(), trace()) else {
        say_skipped(
            "llama.cpp's names: no model (`karat pull smollm2:135m`), or no ../shared/oracle/traces",
        );
        return;
    };
    let file = gguf::File::open(&path, gguf::Access::Mmap).unwrap();
    let graph = model::graph(&model::spec(&file).unwrap(), &file).unwrap();
    let mut n = 0;
    for node in &graph.nodes {
        let Some(output) = node.output else { continue };
        let value = graph.value(output);
        let op = match node.op.kind() {
            // ggml multiplies by the norm's weight in an op of its own, and that is the one with the name.
            "RMS_NORM" => "MUL",
            // Without flash attention the last of several ops has the name.
            "FLASH_ATTN_EXT" => "CONT",
            // ggml's rows of outputs have no name.
            "OUTPUT_ROWS" => continue,
            op => op,
        };
        let key = format!("{}:{op}", value.name);
        assert_eq!(trace.get(&key), Some(&value.cols), "{key}");
        n += 1;
    }
    // 15 values in each of 30 layers, the embedding, the last norm, the logits.
    assert_eq!(n, 30 * 15 + 3);
}

/// Gemma 3 270M, where somebody has it: a right model finds plain English likely, and knows its capitals.
#[test]
fn gemma3_knows_its_capitals() {
    let Some(path) = find("KARAT_TEST_GEMMA", "gemma-3-270m-q4_k_m.gguf") else {
        say_skipped("Gemma 3: no model at KARAT_TEST_GEMMA");
        return;
    };
    let text =
        "Paris is the capital of France. Berlin is the capital of Germany. Rome is the capital of";
    let file = gguf::File::open(&path, gguf::Access::Mmap).unwrap();
    let tokenizer = tokenizer::Tokenizer::from_gguf(&file).unwrap();
    let ids = tokenizer.encode(text, tokenizer::Special::AsText, tokenizer::Ends::Default).unwrap();
    let graph = Arc::new(model::graph(&model::spec(&file).unwrap(), &file).unwrap());
    let loaded = Reference.load(graph, &[&file], LoadOptions::default(), &mut |_| {}).unwrap();
    let mut engine = Engine::new(
        loaded,
        EngineOptions { n_ctx: 64, n_batch: 64, n_seqs: 1, keep: model::Keep::All },
    )
    .unwrap();
    let work = [Work { seq: engine.add(), tokens: &ids, wanted: Wanted::All }];
    let rows = engine.step(&work, &mut NoTap).unwrap().remove(0);
    let rows: Vec<&[f32]> = rows.chunks(engine.n_vocab()).collect();
    let surprise = |row: &[f32], id: u32| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|x| f64::from(x - max).exp()).sum();
        sum.ln() - f64::from(row[id as usize] - max)
    };
    let total: f64 = rows.iter().zip(&ids[1..]).map(|(row, &id)| surprise(row, id)).sum();
    let perplexity = (total / (ids.len() - 1) as f64).exp();
    eprintln!("perplexity {perplexity:.2}");
    assert!(perplexity < 10.0, "{perplexity}");
    assert_eq!(tokenizer.piece(argmax(rows[rows.len() - 1])), " Italy".as_bytes());
}
