//! The GPU backend from outside: no device is one clear line, and a real model gives the CPU's ids and text.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so")]
#![allow(clippy::print_stderr, reason = "what was moved is shown")]
#![allow(clippy::disallowed_methods, reason = "a test has no karat::Config")]

mod skip;

use skip::say_skipped;
use std::path::PathBuf;
use std::process::{Command, Output};

fn karat(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
    command.env_remove("KARAT_TEST_MODEL").args(args).output().unwrap()
}

/// The default model, or `None` with a line.
fn default_model() -> Option<String> {
    let var = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cached = || Some(var("HOME")?.join(".cache/karat/models/SmolLM2-135M-Instruct.Q4_1.gguf"));
    let found = var("KARAT_TEST_MODEL").or_else(cached).filter(|path| path.is_file());
    if found.is_none() {
        say_skipped("no model at KARAT_TEST_MODEL or in the cache (`karat pull`)");
    }
    Some(found?.to_string_lossy().into_owned())
}

/// The test that runs.
fn test_name() -> String {
    std::thread::current().name().unwrap_or("a test").to_owned()
}

/// The devices' names; none with a line that names the test, which is a failure in CI.
fn devices() -> Vec<String> {
    let output = karat(&["devices", "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let names: Vec<String> = rows
        .as_array()
        .unwrap()
        .iter()
        .inspect(|row| assert_eq!(row["usable"], true, "{row}"))
        .map(|row| row["name"].as_str().unwrap().to_owned())
        .collect();
    if names.is_empty() {
        assert!(std::env::var_os("CI").is_none(), "no GPU device, and CI is set");
        say_skipped(&format!("{}: no GPU device", test_name()));
    }
    names
}

/// The Vulkan loader says everything that it does, and Mesa that there is no desktop: none of it looks like karat's.
#[test]
fn what_drivers_write_does_not_look_like_karat_s() {
    if devices().is_empty() {
        return;
    }
    let command = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        command.env_remove("XDG_RUNTIME_DIR").env_remove("WAYLAND_DISPLAY").args(args);
        command
    };
    let text = |output: Output| String::from_utf8(output.stderr).unwrap();
    let quiet = text(command(&["devices"]).output().unwrap());
    assert!(!quiet.contains("XDG_RUNTIME_DIR"), "{quiet}");
    let missing = ["check", "--backend", "gpu", "--device", "no such GPU"];
    for args in [&["devices"][..], &missing] {
        let said = text(command(args).env("VK_LOADER_DEBUG", "all").output().unwrap());
        let (drivers, own): (Vec<&str>, Vec<&str>) =
            said.lines().partition(|line| line.starts_with("driver: "));
        if drivers.is_empty() {
            say_skipped("what drivers write: no Vulkan loader that tells what it does");
        }
        // Without the default model there is another error.
        let is_own = |line: &&str| line.starts_with("error: ");
        assert!(own.iter().all(is_own), "{args:?}: {own:?}");
        assert_eq!(own.len(), usize::from(args.len() > 1), "{said}");
    }
}

#[test]
fn a_device_that_is_not_there_is_6() {
    let Some(model) = default_model() else { return };
    let refused = |args: &[&str], part: &str, code: i32| {
        let output = karat(&[&["run", "-m", &model, "hi"], args].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(text.contains(part) && text.lines().count() == 1, "{text}");
        assert!(output.stdout.is_empty());
    };
    // Not a platform of this test's machine, whichever it is.
    let other = if cfg!(target_os = "windows") { "metal" } else { "dx12" };
    refused(&["--backend", other], "no ", 6);
    refused(&["--device", "0"], "--device", 2);
    refused(&["-ngl", "3"], "gpu_layers: only with", 2);
    if !devices().is_empty() {
        refused(
            &["--backend", "gpu", "--device", "no such thing"],
            "no such GPU device; found: 0: ",
            6,
        );
        refused(&["--backend", "gpu", "--device", "4711"], "4711", 6);
    }
}

#[test]
fn a_machine_without_devices_is_6_and_never_the_cpu() {
    let Some(model) = default_model() else { return };
    let without = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        // Vulkan's loader takes its drivers from here and nowhere else.
        command.env("VK_DRIVER_FILES", "/nowhere").env("VK_ICD_FILENAMES", "/nowhere");
        command.env("NODEVICE_SELECT", "1").args(args).output().unwrap()
    };
    if !cfg!(target_os = "linux") {
        say_skipped(&format!("{}: there is more than Vulkan here", test_name()));
        return;
    }
    let devices = without(&["devices"]);
    assert!(devices.status.success() && devices.stdout.starts_with(b"no GPU: no driver"));
    for backend in ["gpu", "vulkan", "hybrid-f32"] {
        let output = without(&["run", "-m", &model, "--backend", backend, "hi"]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(6), "{text}");
        assert!(text.starts_with("error: no ") && text.lines().count() == 1, "{text}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_model_that_is_larger_than_its_gpu_memory_is_5_with_the_sum() {
    let (Some(model), false) = (default_model(), devices().is_empty()) else { return };
    let run = |args: &[&str]| {
        let base = ["run", "-m", &model, "-c", "256", "-n", "1", "--temp", "0", "--unchecked"];
        karat(&[&base, args, &["hi"]].concat())
    };
    let refused = |args: &[&str], part: &str| {
        let output = run(&[&["--backend", "gpu"], args].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(5), "{text}");
        assert!(text.contains(part) && text.contains("model does not fit: weights"), "{text}");
        assert!(text.contains("together") && text.contains("8.0 MiB may be used"), "{text}");
    };
    refused(&["--gpu-memory", "8"], "");
    refused(&["--gpu-memory", "8", "-ngl", "1"], "on the GPU: ");
    let fits = run(&["--backend", "gpu", "--gpu-memory", "100", "-ngl", "1"]);
    assert!(fits.status.success(), "{}", String::from_utf8_lossy(&fits.stderr));
    let usage = run(&["--gpu-memory", "100"]);
    assert_eq!(usage.status.code(), Some(2), "{}", String::from_utf8_lossy(&usage.stderr));
}

#[test]
fn nearly_all_bytes_of_a_token_are_weights_cache_and_logits() {
    let (Some(model), false) = (default_model(), devices().is_empty()) else { return };
    let flags = ["--backend", "gpu", "--ops", "--json", "-r", "1", "-p", "8", "-n", "2"];
    let output = karat(&[&["bench", "-m", &model, "--unchecked"], &flags[..]].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = report["tests"].as_array().unwrap();
    let token = tests.iter().find(|test| test["name"] == "tg2").unwrap();
    let moved = &token["ops"]["moved"];
    eprintln!("{moved}");
    let of = |name: &str| moved[name].as_f64().unwrap();
    assert!(of("needed") >= 0.95, "{moved}");
    // The model is read once, in whole tiles.
    assert!((1.0..1.05).contains(&(of("weights") / of("of_model"))), "{moved}");
    assert!(of("dispatches") > 100.0 && of("dispatches") < 600.0, "{moved}");
}

#[test]
fn a_real_model_gives_the_cpu_s_answer() {
    let Some(model) = default_model() else { return };
    let answer = |backend: &[&str]| {
        let base = [
            "run",
            "-m",
            &model,
            "-n",
            "12",
            "--temp",
            "0",
            "-c",
            "256",
            "--tokens",
            "What is rain?",
        ];
        let output = karat(&[&base, backend].concat());
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{text}");
        String::from_utf8(output.stdout).unwrap()
    };
    let names = devices();
    let expected = if names.is_empty() { return } else { answer(&[]) };
    assert!(expected.lines().count() > 12, "{expected}");
    let in_f32 = answer(&["--arithmetic", "f32"]);
    for name in names {
        let on = |more: &[&str]| answer(&[&["--device", &name], more].concat());
        assert_eq!(on(&["--backend", "gpu"]), expected, "{name}");
        assert_eq!(on(&["--backend", "gpu", "-ngl", "15"]), expected, "{name}");
        assert_eq!(on(&["--backend", "gpu", "--gpu-layers", "0"]), expected, "{name}");
        assert_eq!(on(&["--backend", "hybrid-f32"]), in_f32, "{name}");
    }
}

#[test]
fn a_device_that_failed_its_self_test_is_6_unless_told_otherwise() {
    let (Some(model), false) = (default_model(), devices().is_empty()) else { return };
    let cache = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
        command.env("NODEVICE_SELECT", "1").env("KARAT_CACHE", cache.path()).args(args);
        command.args(["-m", &model, "--backend", "gpu"]).output().unwrap()
    };
    let answer = ["run", "--temp", "0", "-n", "2", "hi"];
    // The first use tests the kernels and remembers that they are right.
    let first = run(&answer);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let checks = cache.path().join("checks");
    let receipt = std::fs::read_dir(&checks).unwrap().next().unwrap().unwrap().path();
    let mut held: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&receipt).unwrap()).unwrap();
    assert_eq!(held["wrong"], serde_json::json!([]));
    held["wrong"] = serde_json::json!(["ROPE 576: at 1"]);
    std::fs::write(&receipt, held.to_string()).unwrap();
    let refused = run(&answer);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(6), "{text}");
    assert!(text.contains("ROPE 576: at 1") && text.contains("--unchecked"), "{text}");
    let anyway = run(&[&answer[..], &["--unchecked"]].concat());
    assert_eq!(anyway.stdout, first.stdout, "{}", String::from_utf8_lossy(&anyway.stderr));
    // `karat check` tests it again, and what it finds is remembered.
    let checked = run(&["check", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    let kernels = report["kernels"].as_array().unwrap();
    assert!(checked.status.success() && kernels.len() > 8, "{report}");
    assert!(kernels.iter().all(|k| k["wrong"].is_null() && k["values"].as_u64() > Some(1000)));
    assert!(run(&answer).status.success());
}
