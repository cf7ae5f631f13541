//! `cargo xtask oracle`: karat against llama.cpp's recorded results in `../shared/oracle`. Every test prints what it
//! measured; where the recordings or the default model are absent it says so and is skipped.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod oracle_support;

use graph::compare::nmse;
use graph::{Arithmetic, KvType, LoadOptions, NoTap};
use oracle_support::{Oracle, Trace, load, softmax_kl, variants};
use std::collections::BTreeMap;
use tokenizer::{Ends, Special, Tokenizer};

/// Of llama.cpp's 64 greedy ids for each of 35 cases, the share that karat picks too when fed llama.cpp's text.
#[test]
fn teacher_forced_next_tokens_agree() {
    let Some(oracle) = Oracle::find() else { return };
    let (mut total, mut agree, mut wide) = (0, 0, 0);
    let mut by_type: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for (name, path) in variants(&oracle) {
        let mut engine = load(&path, LoadOptions::default());
        for (case, prompt) in oracle.cases(&name) {
            let rows = engine.teacher_forced(&prompt.tokens, &prompt.generated, &mut NoTap);
            for (i, row) in rows.iter().enumerate() {
                let best = model::sampler::argmax(row);
                total += 1;
                let counts = by_type.entry(name.clone()).or_default();
                counts.1 += 1;
                if best == prompt.generated[i] {
                    agree += 1;
                    counts.0 += 1;
                    continue;
                }
                let gap = prompt.top5[i][0].1 - prompt.top5[i][1].1;
                wide += usize::from(gap >= 0.1);
                println!(
                    "{case} token {i}: llama.cpp {}, karat {best}; llama.cpp's gap {gap:.4}",
                    prompt.generated[i]
                );
            }
        }
    }
    for (name, (agree, total)) in by_type {
        println!("{name:8} {agree:4} of {total}");
    }
    println!(
        "agreement {agree} of {total} = {:.3} %, {wide} with a gap of 0.1 or more",
        100.0 * agree as f64 / total as f64
    );
    assert!(agree as f64 >= 0.995 * total as f64 && wide == 0);
}

/// The ids of all 35 prompts.
#[test]
fn prompts_have_llama_cpps_ids() {
    let Some(oracle) = Oracle::find() else { return };
    let Some(path) = oracle.default_model() else { return };
    let file = gguf::File::open(&path, gguf::Access::Pread).unwrap();
    let tokenizer = Tokenizer::from_gguf(&file).unwrap();
    let mut n = 0;
    for (case, prompt) in oracle.all_cases() {
        let text = oracle.prompt_text(&case);
        let ids = tokenizer.encode(&text, Special::Parse, Ends::Default).unwrap();
        assert_eq!(ids, prompt.tokens, "{case}");
        n += 1;
    }
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
        let tokens = oracle
            .all_cases()
            .find(|(case, _)| case == &format!("{name}/france"))
            .unwrap()
            .1
            .tokens;
        let compared = engine.against_trace(&tokens, &trace);
        let products: Vec<_> = compared.iter().filter(|c| c.op == "MUL_MAT").collect();
        let worst = products.iter().max_by(|a, b| a.nmse.total_cmp(&b.nmse)).unwrap();
        println!(
            "{name:8} {} MUL_MAT, worst NMSE {:.2e} at {}",
            products.len(),
            worst.nmse,
            worst.key
        );
        for c in products.iter().filter(|c| !(c.nmse <= 1e-12)) {
            println!("  {} {:.2e}", c.key, c.nmse);
        }
        assert_eq!(
            products.len(),
            trace.count("MUL_MAT"),
            "every MUL_MAT of the trace was compared"
        );
        assert!(worst.nmse <= 1e-12);
    }
}

/// Each op of the trace without flash attention and with an f32 cache, fed the trace's own inputs.
#[test]
fn f32_ops_equal_the_trace() {
    let Some(oracle) = Oracle::find() else { return };
    let variants: BTreeMap<_, _> = variants(&oracle).into_iter().collect();
    let trace =
        Trace::open(&oracle.dir.join("traces/smollm2-f32-noflash-f32kv-france.safetensors"));
    let tokens = oracle.all_cases().find(|(case, _)| case == "F32/france").unwrap().1.tokens;
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
    let over: Vec<_> = compared.iter().filter(|c| !(c.nmse <= 1e-10)).collect();
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
    let tokens = oracle.all_cases().find(|(case, _)| case == "F32/france").unwrap().1.tokens;
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

struct Perturb(f32, &'static str);
impl graph::Tap for Perturb {
    fn wants(&mut self, _: &graph::Node, value: &graph::Value) -> bool {
        value.name.starts_with(self.1)
    }
    fn value(&mut self, _: &graph::Node, _: &graph::Value, data: &mut [f32]) {
        for (i, v) in data.iter_mut().enumerate() {
            *v *= 1.0 + self.0 * ((i * 7919 % 13) as f32 / 6.0 - 1.0);
        }
    }
}

#[test]
fn tmp_chaos() {
    let oracle = Oracle::find().unwrap();
    let path = oracle.default_model().unwrap();
    let mut engine = load(&path, LoadOptions::default());
    for (what, size) in [
        ("embd", 1.2e-7f32),
        ("embd", 1e-6),
        ("kqv_out", 1e-6),
        ("kqv_out", 3e-4),
        ("kqv_out", 1e-3),
    ] {
        let (mut agree, mut total, mut worst, mut sq) = (0, 0, 0.0f32, 0.0f64);
        for (_, prompt) in oracle.cases("Q4_1") {
            let rows = engine.teacher_forced(&prompt.tokens, &prompt.generated, &mut NoTap);
            let other =
                engine.teacher_forced(&prompt.tokens, &prompt.generated, &mut Perturb(size, what));
            for (a, b) in rows.iter().zip(&other) {
                total += 1;
                agree += usize::from(model::sampler::argmax(a) == model::sampler::argmax(b));
                let d = a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
                sq += a.iter().zip(b).map(|(x, y)| f64::from(x - y).powi(2)).sum::<f64>()
                    / a.len() as f64;
                worst = worst.max(d);
            }
        }
        println!(
            "{what} {size:e}: agree {agree}/{total} worst {worst} rms {}",
            (sq / total as f64).sqrt()
        );
    }
    for name in ["Q4_K_M"] {
        let _ = name;
    }
}
