//! `karat synth` from outside, and its models on the CPU backend: the reference's bits, whatever the numbers.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

use cpu::{Cpu, Level};
use graph::reference::Reference;
use graph::{Arithmetic, Backend, KvType, LoadOptions};
use model::{Engine, EngineOptions, Wanted, Work};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

fn karat(folder: &TempDir, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
    command.current_dir(folder.path()).args(args).stdin(Stdio::null()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

/// Writes a model and says what was printed.
fn synth(folder: &TempDir, args: &[&str]) -> String {
    let output = karat(folder, &[&["synth"], args].concat());
    assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    assert!(output.stdout.is_empty());
    stderr(&output)
}

/// All logits of a prompt and of what greedy decoding makes of it, bit for bit. None is NaN or infinite.
fn run(backend: &dyn Backend, path: &Path, options: LoadOptions) -> Vec<Vec<u32>> {
    let file = gguf::File::open(path, gguf::Access::Pread).unwrap();
    let engine = EngineOptions { n_ctx: 128, n_batch: 64, n_seqs: 1, keep: model::Keep::All };
    let spec = model::spec(&file).unwrap();
    let graph = Arc::new(model::graph(&spec, &file).unwrap());
    let loaded = backend.load(graph, &[&file], options, &mut |_| {}).unwrap();
    let mut engine = Engine::new(loaded, engine).unwrap();
    let seq = engine.add();
    let ids: Vec<u32> = (0..9).map(|i| 250 + 9 * i).collect();
    let work = [Work { seq, tokens: &ids, wanted: Wanted::All }];
    let mut rows = engine.step(&work, &mut graph::NoTap).unwrap();
    for _ in 0..3 {
        let last = rows.last().unwrap();
        let id = model::sampler::argmax(&last[last.len() - engine.n_vocab()..]);
        rows.push(engine.decode(seq, id).unwrap());
    }
    assert!(rows.iter().flatten().all(|x| x.is_finite()), "{}", path.display());
    rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

const FORMATS: [&str; 27] = [
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q5_0", "Q5_1", "Q4_0", "Q4_1",
    "Q2_K", "Q3_K", "IQ4_NL", "IQ4_XS", "MXFP4", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S",
    "IQ1_S", "IQ1_M", "TQ1_0", "TQ2_0", "Q1_0", "Q2_0",
];

/// Every architecture, so that a new one is tried without a list here.
fn archs() -> Vec<&'static str> {
    model::arch::ARCHS.iter().map(|arch| arch.name).collect()
}

/// Dimensions that a reference computes with in a moment; still no two the same.
const TINY: [&str; 18] = [
    "--layers",
    "2",
    "--embd",
    "256",
    "--ff",
    "512",
    "--heads",
    "6",
    "--kv-heads",
    "3",
    "--head-dim",
    "32",
    "--value-dim",
    "128",
    "--vocab",
    "331",
    "--ctx",
    "1024",
];

/// Outlier channels of 1e4, scales of zero, of the smallest and the largest f16: nothing overflows, and every level of
/// the CPU backend agrees with the reference.
#[test]
fn adversarial_models_give_the_reference_bits() {
    let folder = tempfile::tempdir().unwrap();
    let options = [
        LoadOptions { arithmetic: Arithmetic::Int8, kv: KvType::F16 },
        LoadOptions { arithmetic: Arithmetic::F32, kv: KvType::F32 },
        LoadOptions { arithmetic: Arithmetic::Int16, kv: KvType::F16 },
    ];
    let archs = archs();
    for (i, format) in FORMATS.into_iter().enumerate() {
        let arch = archs[i % archs.len()];
        let args =
            ["m.gguf", "--force", "--preset", "adversarial", "--arch", arch, "--format", format];
        synth(&folder, &[&args[..], &TINY].concat());
        let path = folder.path().join("m.gguf");
        for options in options {
            let expected = run(&Reference, &path, options);
            for level in Level::all() {
                let got = run(&Cpu::with_level(2, level), &path, options);
                assert!(got == expected, "{arch} {format} {options:?} {level:?}");
            }
        }
    }
}

#[test]
fn ordinary_models_give_the_reference_bits() {
    let folder = tempfile::tempdir().unwrap();
    for arch in archs() {
        synth(&folder, &[&["m.gguf", "--force", "--arch", arch][..], &TINY].concat());
        let path = folder.path().join("m.gguf");
        let expected = run(&Reference, &path, LoadOptions::default());
        assert!(run(&Cpu::new(2), &path, LoadOptions::default()) == expected, "{arch}");
    }
}

#[test]
fn what_it_says() {
    let folder = tempfile::tempdir().unwrap();
    let said = synth(
        &folder,
        &["a.gguf", "--arch", "qwen2", "--layers", "1", "--vocab", "300", "-s", "7"],
    );
    assert!(
        said.starts_with("karat: a.gguf: ") && said.ends_with("(qwen2, Q4_K_M, seed 7)\n"),
        "{said}"
    );
    let said = synth(&folder, &["b.gguf", "--arch", "phi3", "--embd", "96", "--format", "Q2_K"]);
    assert!(said.starts_with("warning: "), "{said}");
    let text =
        karat(&folder, &["run", "-m", "a.gguf", "--temp", "0", "-n", "5", "--tokens", "bato"]);
    assert_eq!(text.status.code(), Some(0), "{}", stderr(&text));
}

#[test]
fn what_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("there"), "x").unwrap();
    for (args, part) in [
        (&["there", "--arch", "llama"][..], "there: is there already"),
        (&["out"], "--preset"),
        (&["out", "--arch", "abacus"], "abacus"),
        (&["out", "--preset", "abacus"], "abacus"),
        (&["out", "--arch", "llama", "--format", "Q9"], "known: F32"),
        (&["out", "--arch", "llama", "--vocab", "5"], "5 tokens"),
        (&["out", "--arch", "llama", "--heads", "5"], "head_count_kv: 2 in layer 0"),
        (&["out", "--arch", "llama", "--embd", "99999999999"], "embedding_length"),
    ] {
        let output = karat(&folder, &[&["synth"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(part), "{args:?}: {}", stderr(&output));
        assert_eq!(stderr(&output).matches("error: ").count(), 1, "{}", stderr(&output));
    }
    let output = karat(&folder, &["synth", "no/such/folder", "--arch", "llama"]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

/// Ctrl-C in the middle of 4 GB.
#[cfg(unix)]
#[test]
fn an_interrupt_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_karat"))
        .current_dir(folder.path())
        .args(["synth", "big.gguf", "--preset", "tinyllama-1.1b", "--format", "F32", "-t", "1"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while std::fs::read_dir(folder.path()).unwrap().count() == 0 {
        assert!(child.try_wait().unwrap().is_none(), "it ended without a file");
        std::thread::yield_now();
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}
