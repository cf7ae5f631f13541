//! `cargo xtask oracle`: karat against llama.cpp's recorded results in `../shared/oracle`. Every test prints what it
//! measured; where the recordings or the default model are absent it says so and is skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "the figures are what the tests are run for")]

mod oracle_support;

use graph::compare::nmse;
use graph::{Arithmetic, KvType, LoadOptions};
use oracle_support::{
    Counts, Oracle, Trace, assert_products_equal, load, next_tokens, softmax_kl, variants,
};
use std::collections::BTreeMap;

/// Of llama.cpp's 64 greedy ids for each of 35 cases, the share that karat picks too when fed llama.cpp's text.
///
/// In f32 arithmetic the share must be 99.5 % with no wide gap. In `int8` arithmetic no engine reaches that but
/// llama.cpp's own build, bit for bit: rounding activations to 8 bits is chaotic, and karat fed with embeddings that
/// differ in the last bit agrees with *itself* no better. So there the share must not be lower than karat's with
/// itself, measured here in the same run, by more than three standard deviations of such a count.
#[test]
fn teacher_forced_next_tokens_agree() {
    let Some(oracle) = Oracle::find() else { return };
    let (mut all, mut int8) = (Counts::default(), Counts::default());
    println!("variant    with llama.cpp (wide)   with itself, embeddings off by one bit (wide)");
    for (name, path) in variants(&oracle) {
        let mut engine = load(&path, LoadOptions::default());
        let counts = next_tokens(&mut engine, &oracle.cases(&name));
        println!("{name:9} {} {}", counts.llama_cpp, counts.itself);
        if name == "F32" {
            counts.assert_f32_agrees();
        } else {
            int8.extend(counts);
        }
        all.extend(counts);
    }
    println!("int8      {} {}", int8.llama_cpp, int8.itself);
    println!("all       {} {}", all.llama_cpp, all.itself);
    assert_eq!(all.llama_cpp.total, 2240);
    int8.assert_int8_agrees();
}

/// The ids of all 35 prompts.
#[test]
fn prompts_have_llama_cpps_ids() {
    let Some(oracle) = Oracle::find() else { return };
    let n = oracle.assert_prompts_have_ids();
    println!("{n} of 35 prompts have llama.cpp's ids");
    assert_eq!(n, 35);
}

/// Each product of the quantised traces, fed the trace's own input.
#[test]
fn int8_products_equal_the_traces() {
    let Some(oracle) = Oracle::find() else { return };
    let variants: BTreeMap<_, _> = variants(&oracle).into_iter().collect();
    for name in ["Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"] {
        let trace =
            Trace::open(&oracle.dir.join(format!("traces/smollm2-{name}-france.safetensors")));
        let mut engine = load(&variants[name], LoadOptions::default());
        let compared = engine.against_trace(&oracle.france(name), &trace);
        assert_products_equal(name, &compared, &trace);
    }
}

/// Each op of the trace without flash attention and with an f32 cache, fed the trace's own inputs.
#[test]
fn f32_ops_equal_the_trace() {
    let Some(oracle) = Oracle::find() else { return };
    let variants: BTreeMap<_, _> = variants(&oracle).into_iter().collect();
    let trace =
        Trace::open(&oracle.dir.join("traces/smollm2-f32-noflash-f32kv-france.safetensors"));
    let tokens = oracle.france("F32");
    let options = LoadOptions { arithmetic: Arithmetic::F32, kv: KvType::F32 };
    let mut engine = load(&variants["F32"], options);
    let mut compared = engine.against_trace(&tokens, &trace);
    compared.extend(oracle_support::attention_parts(&trace, engine.graph()));
    compared.extend(oracle_support::plain_norms(&trace, engine.graph()));
    compared.extend(trace.reshapes());
    let mut by_op: BTreeMap<&str, (usize, f64)> = BTreeMap::new();
    for c in &compared {
        let entry = by_op.entry(&c.op).or_default();
        *entry = (entry.0 + 1, entry.1.max(c.nmse));
    }
    for (op, (n, worst)) in by_op {
        println!("{op:10} {n:4} values, worst NMSE {worst:.2e}");
    }
    let over: Vec<_> = compared.iter().filter(|c| c.nmse.is_nan() || c.nmse > 1e-10).collect();
    for c in &over {
        println!("  over 1e-10: {} {:.2e}", c.key, c.nmse);
    }
    println!("{} of {} values of the trace compared", compared.len(), trace.len());
    assert_eq!(compared.len(), trace.len());
    assert!(over.is_empty());
}

/// The whole model in f32 against llama.cpp's logits.
#[test]
fn f32_logits_are_close_in_kl_divergence() {
    let Some(oracle) = Oracle::find() else { return };
    let variants: BTreeMap<_, _> = variants(&oracle).into_iter().collect();
    let tokens = oracle.france("F32");
    for (name, kv) in
        [("smollm2-f32-noflash-f32kv-france", KvType::F32), ("smollm2-f32-france", KvType::F16)]
    {
        let trace = Trace::open(&oracle.dir.join(format!("traces/{name}.safetensors")));
        let mut engine = load(&variants["F32"], LoadOptions { arithmetic: Arithmetic::F32, kv });
        let ours = engine.last_logits(&tokens);
        let theirs = trace.get("result_output", "MUL_MAT", 0).unwrap();
        let kl = softmax_kl(theirs, &ours);
        println!(
            "{name}: KL(llama.cpp || karat) {kl:.2e}, NMSE of the logits {:.2e}",
            nmse(&ours, theirs)
        );
        assert!(kl <= 1e-4);
    }
}
