//! `karat perplexity` against what llama-perplexity prints for the same files: its figures stand here as they were printed,
//! and `tests/perplexity/tiny.logits` is a file that it has written. It was llama.cpp b11063's, its own sources linked with
//! the llama.cpp of the same number that the package xllamacpp 2026.9.11063 has.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stdout, reason = "what the tests of llama.cpp share prints figures")]

mod oracle_support;

use oracle_support::Oracle;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const KARAT: &str = env!("CARGO_BIN_EXE_karat");

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/perplexity").join(name)
}

fn karat(words: &[&str]) -> Output {
    Command::new(KARAT).args(words).stdin(Stdio::null()).output().unwrap()
}

fn json(words: &[&str]) -> Value {
    let output = karat(&[&["perplexity", "--json"], words].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Within 1e-3 of a printed figure, whose last digit was rounded by up to `rounding`.
fn near(found: &Value, printed: f64, rounding: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - printed).abs() <= 1e-3 * printed.abs() + rounding, "{found} {printed}");
}

/// A small model in F32, and one with the weights that 4 bits leave of it. llama.cpp's figures are those of the same files.
struct Tiny {
    folder: tempfile::TempDir,
    exact: String,
    coarse: String,
    text: String,
}

impl Tiny {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let (exact, q4_0, coarse) = (at("exact.gguf"), at("q4_0.gguf"), at("coarse.gguf"));
        let synth = ["--arch", "llama", "--layers", "1", "--vocab", "300", "--format", "F32"];
        for words in [
            [&["synth", &exact][..], &synth].concat(),
            vec!["quantize", &exact, &q4_0, "Q4_0"],
            vec!["quantize", &q4_0, &coarse, "F32"],
        ] {
            assert!(karat(&words).status.success(), "{words:?}");
        }
        let text = file("text.txt").to_str().unwrap().to_owned();
        Self { folder, exact, coarse, text }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }
}

/// `llama-perplexity -m coarse.gguf -c 32 -b 32 -ctk f32 -ctv f32 -fa off --kl-divergence --kl-divergence-base tiny.logits`,
/// whose base was written by llama-perplexity, too: from the exact model, over 7 chunks of the text.
#[test]
fn statistics_are_llama_perplexitys() {
    let tiny = Tiny::new();
    let base = file("tiny.logits");
    let base = base.to_str().unwrap();
    let file = ["--kl-divergence", "--kl-divergence-base", base, "--cache-type", "f32"];
    let found = json(&[&["-m", &tiny.coarse][..], &file].concat());
    let at = |path: &str| found.pointer(path).unwrap();
    let both = |path: &str, value: f64, error: f64, rounding: f64| {
        near(at(&format!("{path}/value")), value, rounding);
        near(at(&format!("{path}/error")), error, rounding);
    };
    assert_eq!((at("/n_counted"), at("/n_chunks")), (&105.into(), &7.into()));
    both("/perplexity", 25266.993085, 7122.485811, 5e-7);
    both("/base_perplexity", 24310.415505, 6982.760556, 5e-7);
    both("/log_ratio", 0.038594, 0.086873, 5e-7);
    both("/ratio", 1.039348, 0.090291, 5e-7);
    both("/difference", 956.577579, 2153.527600, 5e-7);
    near(at("/correlation"), 0.9536, 5e-5);
    both("/kld/mean", 0.320071, 0.021339, 5e-7);
    near(at("/kld/maximum"), 1.492798, 5e-7);
    near(at("/kld/minimum"), 0.026507, 5e-7);
    let klds =
        [1.437423, 0.959491, 0.759085, 0.553894, 0.268948, 0.118566, 0.082486, 0.043139, 0.028217];
    for (i, kld) in klds.into_iter().enumerate() {
        near(at(&format!("/kld/percentiles/{i}/value")), kld, 5e-7);
    }
    let gain = "/probability_difference";
    both(&format!("{gain}/mean"), 0.00037, 0.00036, 5e-6);
    near(at(&format!("{gain}/maximum")), 0.03494, 5e-6);
    near(at(&format!("{gain}/minimum")), -0.00273, 5e-6);
    let gains = [
        0.03278, 0.01381, 0.00025, 0.00013, 0.00001, 0.0, -0.00003, -0.00037, -0.00118, -0.00208,
        -0.00266,
    ];
    for (i, gained) in gains.into_iter().enumerate() {
        near(at(&format!("{gain}/percentiles/{i}/value")), gained, 5e-6);
    }
    both("/rms_probability_difference", 0.00374, 0.00157, 5e-6);
    both("/same_top", 0.55238, 0.04876, 5e-6);
    near(at("/running/2/kld"), 0.30466, 5e-6);
    near(at("/running/4/perplexity"), 18180.4127, 5e-5);
}

/// What karat writes is what llama-perplexity has written of the same model and text: no number differs by more than one
/// of 65,536 steps.
#[test]
fn the_file_is_llama_perplexitys() {
    let tiny = Tiny::new();
    let out = tiny.path("ours.logits");
    let words = ["-m", &tiny.exact, "-f", &tiny.text, "-c", "32", "--chunks", "7"];
    let save = ["--cache-type", "f32", "--save-all-logits", &out];
    let found = json(&[&words[..], &save].concat());
    near(found.pointer("/perplexity/value").unwrap(), 24732.1459, 5e-5);
    near(found.pointer("/perplexity/error").unwrap(), 7199.09802, 5e-6);
    let (ours, theirs) = (fs::read(&out).unwrap(), fs::read(file("tiny.logits")).unwrap());
    let head = 20 + 7 * 32 * 4;
    assert_eq!((ours.len(), &ours[..head]), (theirs.len(), &theirs[..head]));
    for (ours, theirs) in ours[head..].chunks(608).zip(theirs[head..].chunks(608)) {
        for (ours, theirs) in ours[..8].as_chunks().0.iter().zip(theirs[..8].as_chunks().0) {
            let (ours, theirs) = (f32::from_le_bytes(*ours), f32::from_le_bytes(*theirs));
            assert!((ours - theirs).abs() <= 1e-5, "{ours} {theirs}");
        }
        for (ours, theirs) in ours[8..].as_chunks().0.iter().zip(theirs[8..].as_chunks().0) {
            let (ours, theirs) = (u16::from_le_bytes(*ours), u16::from_le_bytes(*theirs));
            assert!(ours.abs_diff(theirs) <= 1, "{ours} {theirs}");
        }
    }
    // It is not written over without being asked.
    let again = karat(&[&["perplexity"], &words[..], &save].concat());
    assert_eq!(again.status.code(), Some(2), "{}", String::from_utf8_lossy(&again.stderr));
}

/// Side by side, nothing is rounded: a model is not at all far from itself, and from another as far as the file says.
#[test]
fn two_models_side_by_side() {
    let tiny = Tiny::new();
    let words = ["-f", &tiny.text, "-c", "32", "--chunks", "7", "--cache-type", "f32"];
    let found = json(&[&["-m", &tiny.coarse, "--against", &tiny.exact], &words[..]].concat());
    near(found.pointer("/kld/mean/value").unwrap(), 0.320071, 5e-7);
    near(found.pointer("/base_perplexity/value").unwrap(), 24732.1459, 5e-5);
    // No weight of the file is quantised: its arithmetics are one.
    let same = json(&[&["-m", &tiny.exact, "--against-arithmetic", "f32"], &words[..]].concat());
    assert_eq!(same.pointer("/kld/maximum").unwrap(), 0.0);
    assert_eq!(same.pointer("/same_top/value").unwrap(), 1.0);
    assert_eq!(same.pointer("/base/arithmetic").unwrap(), "f32");
}

/// Neither threads nor steps nor the way of the text can be seen in the figures.
#[test]
fn the_same_digits_however_it_is_read() {
    let tiny = Tiny::new();
    let digits = |words: &[&str]| {
        let found = json(&[&["-m", &tiny.exact, "-c", "64"], words].concat());
        found.pointer("/running").unwrap().clone()
    };
    let one = digits(&["-f", &tiny.text]);
    assert!(one.as_array().unwrap().len() > 8);
    assert_eq!(digits(&["-f", &tiny.text, "-b", "7", "-t", "1"]), one);
    assert_eq!(digits(&["-f", &tiny.text, "-b", "2000"]), one);
    let mut child = Command::new(KARAT)
        .args(["perplexity", "--json", "-m", &tiny.exact, "-c", "64", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&fs::read(&tiny.text).unwrap()).unwrap();
    let output = child.wait_with_output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found.pointer("/running").unwrap(), &one);
}

#[test]
fn what_cannot_be_measured_is_refused_in_a_line() {
    let tiny = Tiny::new();
    let refused = |words: &[&str], code: i32, part: &str| {
        let output = karat(&[&["perplexity", "-m", &tiny.exact], words].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {stderr}");
        assert!(stderr.contains(part) && output.stdout.is_empty(), "{words:?}: {stderr}");
    };
    let short = "you need at least 1024 tokens to evaluate perplexity with a context of 512";
    refused(&["-p", "short"], 7, short);
    refused(&["-f", "no such file"], 4, "no such file");
    refused(&["-f", &tiny.text, "-c", "2"], 2, "-c: 2, allowed are 3 and more");
    refused(&["-f", &tiny.text, "--chunks", "0"], 2, "--chunks");
    refused(&["--kl-divergence", "-p", "text"], 2, "--kl-divergence");
    let both = ["-c", "8", "-p", "a", "--against-arithmetic", "f32", "--save-all-logits"];
    refused(&[&both[..], &[&tiny.path("x")]].concat(), 2, "--save-all-logits");
    assert!(!Path::new(&tiny.path("x")).exists());
    let base = |bytes: &[u8]| {
        let path = tiny.path("base");
        fs::write(&path, bytes).unwrap();
        path
    };
    let whole = fs::read(file("tiny.logits")).unwrap();
    for (bytes, part) in [
        (&b"hello"[..], "is no file of logits"),
        (&whole[..whole.len() - 1], "it may not be whole"),
        (&[&whole[..20], &[0xff; 4], &whole[24..]].concat(), "token 0 is id 4294967295"),
    ] {
        refused(&["--kl-divergence", "--kl-divergence-base", &base(bytes)], 3, part);
    }
}

/// `llama-perplexity -m F32.gguf -f text.txt -c 64 -b 64`, the default model dequantised, which is what `f32` multiplies;
/// and the same with `--ppl-stride 32 --chunks 4`.
#[test]
fn the_default_model_foretells_as_in_llama_cpp() {
    let Some(oracle) = Oracle::small() else { return };
    let (model, text) = (oracle.default_model(), file("text.txt"));
    let words = ["-m", model.to_str().unwrap(), "-f", text.to_str().unwrap()];
    let f32 = ["-c", "64", "--arithmetic", "f32"];
    let found = json(&[&words[..], &f32].concat());
    near(found.pointer("/perplexity/value").unwrap(), 32.4527, 5e-5);
    near(found.pointer("/perplexity/error").unwrap(), 4.64268, 5e-6);
    let running = [
        23.3338, 26.8150, 26.9853, 26.2035, 24.6570, 26.9111, 31.7903, 31.8161, 35.0126, 33.0007,
        32.4527,
    ];
    for (i, perplexity) in running.into_iter().enumerate() {
        near(found.pointer(&format!("/running/{i}")).unwrap(), perplexity, 5e-5);
    }
    let stride = ["--ppl-stride", "32", "--chunks", "4"];
    let found = json(&[&words[..], &f32, &stride].concat());
    for (i, perplexity) in [19.0492, 19.6338, 18.0322, 21.9367].into_iter().enumerate() {
        near(found.pointer(&format!("/running/{i}")).unwrap(), perplexity, 5e-5);
    }
}

/// `llama-perplexity -m F32.gguf -f hellaswag.txt --hellaswag` ends with 83.33333333% [43.6497%, 96.9947%].
#[test]
fn the_default_model_answers_as_many_questions_as_in_llama_cpp() {
    let Some(oracle) = Oracle::small() else { return };
    let (model, text) = (oracle.default_model(), file("hellaswag.txt"));
    let words = ["-m", model.to_str().unwrap(), "-f", text.to_str().unwrap()];
    let found = json(&[&words[..], &["--hellaswag", "--arithmetic", "f32"]].concat());
    assert_eq!((&found["n_questions"], &found["n_right"]), (&6.into(), &5.into()));
    near(&found["lowest"], 0.436497, 5e-7);
    near(&found["highest"], 0.969947, 5e-7);
}
