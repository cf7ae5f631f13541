//! `bench/peers`: its own tests, and a whole run against a program that plays llama-bench. Skipped without Python.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]

mod skip;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder of the scripts, or `None` with a line where nothing can run them.
fn scripts() -> Option<PathBuf> {
    let mut python = Command::new("python3");
    python.args(["-c", "import sys; sys.exit(sys.version_info < (3, 9))"]);
    if python.status().is_ok_and(|status| status.success()) {
        return Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../bench"));
    }
    skip::say_skipped("the scripts in bench: no python3, 3.9 or newer");
    None
}

#[test]
fn the_scripts_own_tests_pass() {
    let Some(scripts) = scripts() else { return };
    let output = Command::new("python3").arg(scripts.join("test_peers.py")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("OK") && !said.contains("Ran 0 tests"), "{said}");
}

#[test]
fn a_whole_run() {
    let Some(scripts) = scripts() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (model, json) = (folder.path().join("m.gguf"), folder.path().join("out.json"));
    let mut synth = Command::new(env!("CARGO_BIN_EXE_karat"));
    synth.arg("synth").arg(&model).args(["--arch", "llama", "--layers", "1"]);
    assert!(synth.output().unwrap().status.success());
    // It prints what llama-bench printed when the fixture was recorded.
    let peer = folder.path().join("peer");
    let fixture = scripts.join("fixtures/llama-bench.json");
    std::fs::write(&peer, format!("#!/bin/sh\ncat '{}'\n", fixture.display())).unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&peer, executable).unwrap();
    let mut run = Command::new("python3");
    run.arg(scripts.join("peers")).arg(&model).args(["-p", "16", "-n", "8", "-t", "1", "-r", "2"]);
    run.args(["--karat", env!("CARGO_BIN_EXE_karat"), "--no-llama-cpp"]);
    run.arg("--peer").arg(format!("recorded={}", peer.display())).arg("--json").arg(&json);
    let output = run.output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        table.starts_with("| model | test | karat tok/s | recorded tok/s | karat / recorded |"),
        "{table}"
    );
    assert!(table.contains("| m.gguf | pp16 |") && table.contains("| m.gguf | tg8 |"), "{table}");
    assert!(!table.contains("failed"), "{table}");
    let data: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    for row in data["results"].as_array().unwrap() {
        assert_eq!(row["per_second"]["karat"].as_array().unwrap().len(), 2);
        assert!(row["ratios"]["recorded"]["median"].as_f64().unwrap() > 0.0);
    }
}
