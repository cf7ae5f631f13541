//! The page of `karat why --html` in a real browser: headless Chromium runs its script, and the map is there.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]

mod skip;

use std::path::Path;
use std::process::{Command, Output};

fn karat(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
    command.current_dir(dir).env("KARAT_CACHE", dir).args(args).output().unwrap()
}

fn chromium() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let runs = |name: &&str| {
        Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success())
    };
    let found = names.into_iter().find(runs);
    if found.is_none() {
        skip::say_skipped("the page of `karat why` in a browser: no chromium on the path");
    }
    found
}

/// Adds 1 to every element of one value of a trace.
fn break_value(path: &Path, part: &str) {
    let mut bytes = std::fs::read(path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let about: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let (_, tensor) = about.as_object().unwrap().iter().find(|(k, _)| k.contains(part)).unwrap();
    let at = |i: usize| 8 + header + tensor["data_offsets"][i].as_u64().unwrap() as usize;
    for element in bytes[at(0)..at(1)].as_chunks_mut::<4>().0 {
        *element = (f32::from_le_bytes(*element) + 1.0).to_le_bytes();
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn the_page_shows_the_op_that_is_wrong() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let shape = ["--arch", "llama", "--layers", "3", "--embd", "64", "--ff", "96"];
    let made = karat(dir, &[&["synth", "m.gguf"], &shape[..], &["--format", "Q8_0"]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let traced = karat(dir, &["trace", "-m", "m.gguf", "-p", "Hello", "-o", "b.safetensors"]);
    assert!(traced.status.success(), "{}", String::from_utf8_lossy(&traced.stderr));
    break_value(&dir.join("b.safetensors"), "ffn_norm-1#0:RMS_NORM");
    let judged = karat(
        dir,
        &["why", "-m", "m.gguf", "-p", "Hello", "--b", "b.safetensors", "--html", "p.html"],
    );
    assert_eq!(judged.status.code(), Some(6), "{}", String::from_utf8_lossy(&judged.stderr));
    let page = format!("file://{}", dir.join("p.html").display());
    let browse = |flags: &[&str]| {
        let mut command = Command::new(chromium);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900"]);
        let profile = format!("--user-data-dir={}", dir.join("profile").display());
        command.args(["--virtual-time-budget=4000", &profile]).args(flags).arg(&page);
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    // What the script made of the data, not what stands in the file before it.
    let file = std::fs::read_to_string(dir.join("p.html")).unwrap();
    assert!(!file.split("<script").next().unwrap().contains("ffn_norm-1:RMS_NORM"));
    let dom = browse(&["--dump-dom"]);
    let shown = dom.split("<script").next().unwrap();
    assert!(shown.contains("ffn_norm-1:RMS_NORM"), "{}", &shown[..shown.len().min(3000)]);
    let picture = dir.join("p.png");
    browse(&[&format!("--screenshot={}", picture.display())]);
    let bytes = std::fs::read(&picture).unwrap();
    assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 10_000, "{} bytes", bytes.len());
}
