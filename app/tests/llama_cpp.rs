//! karat against the small part of llama.cpp's results that is committed in `tests/llama_cpp`, so that `cargo xtask test`
//! compares anywhere; `oracle.rs` compares with all of them. Without the default model each test says so and is skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "the figures are what the tests are run for")]

mod oracle_support;

use graph::{Arithmetic, KvType, LoadOptions};
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
