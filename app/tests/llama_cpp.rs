//! karat against the small part of llama.cpp's results that is committed in `tests/llama_cpp`, so that `cargo xtask test`
//! compares anywhere; `oracle.rs` compares with all of them. Without the default model each test says so and is skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "the figures are what the tests are run for")]

mod oracle_support;

use graph::{Arithmetic, KvType, LoadOptions};
use karat::sampler::{Dry, SamplerKind};
use karat::{Probabilities, ProbabilitiesOf, SamplerParams};
use oracle_support::{Oracle, Trace, assert_products_equal, load, next_tokens, variant};

#[test]
fn prompts_have_llama_cpps_ids() {
    let Some(oracle) = Oracle::small() else { return };
    assert_eq!(oracle.assert_prompts_have_ids(), 10);
}

/// Five prompts with 64 greedy ids each. llama.cpp's model in F32 is the default model dequantised, which is what `f32`
/// arithmetic multiplies.
#[test]
fn teacher_forced_next_tokens_agree() {
    let Some(oracle) = Oracle::small() else { return };
    for (name, arithmetic) in [("Q4_1", Arithmetic::Int8), ("F32", Arithmetic::F32)] {
        let options = LoadOptions { arithmetic, kv: KvType::F16 };
        let mut engine = load(oracle.default_model(), options);
        let counts = next_tokens(&mut engine, &oracle.cases(name));
        println!("{name:9} {} {}", counts.llama_cpp, counts.itself);
        assert_eq!(counts.llama_cpp.total, 320);
        match arithmetic {
            Arithmetic::Int8 => counts.assert_int8_agrees(),
            Arithmetic::Int16 | Arithmetic::F32 => counts.assert_f32_agrees(),
        }
    }
}

/// The products of the first layer, fed llama.cpp's own inputs: in this file of 576 columns Q5_0, Q8_0 and Q6_K.
#[test]
fn int8_products_equal_a_layer_of_a_trace() {
    let Some(oracle) = Oracle::small() else { return };
    let trace = Trace::open(&oracle.dir.join("Q4_K_M-layer-0.safetensors"));
    let mut engine = load(&variant(&oracle, "Q4_K_M"), LoadOptions::default());
    // The prompt's ids are those of every variant.
    let compared = engine.against_trace(&oracle.france("Q4_1"), &trace);
    assert_eq!(trace.count("MUL_MAT"), 7);
    assert_products_equal("Q4_K_M", &compared, &trace);
}

/// Every op of a layer in f32 with an f32 cache, fed llama.cpp's own inputs.
#[test]
fn f32_ops_equal_a_layer_of_a_trace() {
    let Some(oracle) = Oracle::small() else { return };
    let trace = Trace::open(&oracle.dir.join("F32-layer-14.safetensors"));
    let options = LoadOptions { arithmetic: Arithmetic::F32, kv: KvType::F32 };
    let mut engine = load(oracle.default_model(), options);
    // The first value, the output of the layer before, is compared too, but nothing before it was put right.
    let compared = engine.against_trace(&oracle.france("F32"), &trace);
    assert_eq!(compared.len(), trace.len(), "every value of the trace was compared");
    for c in &compared {
        let own_inputs = if c.key.starts_with("l_out-13") { "" } else { " fed llama.cpp's inputs" };
        println!("{:24} NMSE {:.2e}{own_inputs}", c.key, c.nmse);
        assert!(c.nmse <= 1e-10, "{} {:.2e}", c.key, c.nmse);
    }
}

/// A recorded case of `tools/golden_samplers.py --dry`.
#[derive(serde::Deserialize)]
struct Taken {
    text: String,
    breakers: Vec<String>,
    /// Ids, and what DRY takes from their logits.
    taken: Vec<(u32, f64)>,
}

/// Which tokens break a repetition depends on the vocabulary.
#[test]
fn dry_takes_what_llama_cpp_s_takes() {
    let Some(oracle) = Oracle::small() else { return };
    let recorded = std::fs::read_to_string(oracle.dir.join("dry.json")).unwrap();
    let recorded: Vec<Taken> = serde_json::from_str(&recorded).unwrap();
    let model = karat::Model::open(oracle.default_model()).unwrap();
    let n_vocab = model.tokenizer().n_vocab();
    for case in &recorded {
        let breakers = case.breakers.clone();
        let params = SamplerParams {
            dry: Dry { multiplier: 1.0, base: 1.5, allowed_length: 1, last_n: 64, breakers },
            sequence: vec![SamplerKind::Dry],
            ..SamplerParams::default()
        };
        let all = Probabilities { of: ProbabilitiesOf::Sampler, best: n_vocab };
        let mut sampler = model.sampler(params).unwrap().telling(Some(all));
        let ids = model.tokenize(&case.text).unwrap();
        ids.iter().for_each(|&id| sampler.accept(id));
        sampler.sample(&vec![0.0; n_vocab], 0).unwrap();
        let told = &sampler.told().unwrap().best;
        let highest = told[0].log_probability;
        let mut found: Vec<(u32, f64)> = told
            .iter()
            .map(|told| (told.id, highest - told.log_probability))
            .filter(|(_, taken)| *taken > 0.0)
            .collect();
        found.sort_by_key(|(id, _)| *id);
        let near =
            found.iter().zip(&case.taken).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-4);
        let what = format!("{:?} with {:?}", case.text, case.breakers);
        assert!(
            near && found.len() == case.taken.len(),
            "{what}: {found:?}, llama.cpp {:?}",
            case.taken
        );
    }
    assert_eq!(recorded.len(), 24);
}
