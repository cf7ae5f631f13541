//! `karat bench` from outside, on a tiny synthetic model: what it prints, what it refuses, what Ctrl-C leaves. Nothing
//! here says how fast anything is.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on says so, and says what it skips"
)]

mod skip;

use serde_json::Value as Json;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Dimensions that take a moment.
const TINY: [&str; 16] = [
    "synth",
    "tiny.gguf",
    "--arch",
    "llama",
    "--layers",
    "2",
    "--embd",
    "256",
    "--ff",
    "512",
    "--heads",
    "4",
    "--kv-heads",
    "2",
    "--ctx=1024",
    "--format=Q8_0",
];

/// A folder with `tiny.gguf`.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let output = karat(&folder, &TINY);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    folder
}

fn command(folder: &TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_karat"));
    command.current_dir(folder.path()).args(args).stdin(Stdio::null());
    command
}

fn karat(folder: &TempDir, args: &[&str]) -> Output {
    command(folder, args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// What a run printed; no progress, since stderr is no terminal.
fn bench(folder: &TempDir, args: &[&str]) -> String {
    let output = karat(folder, &[&["bench", "-r", "2", "-t", "2"], args].concat());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
    assert!(stderr.is_empty(), "{args:?}: {stderr}");
    text(&output.stdout)
}

fn json(line: &str) -> Json {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The keys of an object, in alphabetical order.
fn keys(value: &Json) -> Vec<&str> {
    let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn positive(value: &Json) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value} is no number"));
    assert!(number > 0.0, "{number}");
    number
}

const TESTS: [&str; 14] = [
    "-m",
    "tiny.gguf",
    "-p",
    "8,70",
    "-n",
    "3",
    "-d",
    "64,0",
    "--batch",
    "1,3",
    "-b",
    "64",
    "-c",
    "200",
];
const NAMES: [&str; 8] =
    ["pp8", "pp70", "tg3", "tg3 x3", "pp8 @ d64", "pp70 @ d64", "tg3 @ d64", "tg3 x3 @ d64"];

#[test]
fn json_has_everything() {
    let folder = folder();
    let printed = bench(&folder, &[&TESTS[..], &["--ops", "--json"]].concat());
    assert_eq!(printed.lines().count(), 1, "one line for each model: {printed}");
    let report = json(&printed);
    assert_eq!(keys(&report), ["model", "tests"]);
    let model = &report["model"];
    assert_eq!(model["path"], "tiny.gguf");
    assert_eq!((&model["threads"], &model["n_ctx"]), (&2.into(), &200.into()));
    for key in ["n_params", "weight_bytes", "file_bytes", "kv_bytes", "load_seconds"] {
        positive(&model[key]);
    }
    let tests = report["tests"].as_array().unwrap();
    let names: Vec<&str> = tests.iter().map(|test| test["name"].as_str().unwrap()).collect();
    assert_eq!(names, NAMES);
    for test in tests {
        assert_eq!(
            keys(test),
            [
                "batch",
                "highest",
                "lowest",
                "mad",
                "median",
                "n_depth",
                "n_gen",
                "n_prompt",
                "name",
                "of_limit",
                "ops",
                "per_second"
            ]
        );
        let runs: Vec<f64> = test["per_second"].as_array().unwrap().iter().map(positive).collect();
        assert_eq!(runs.len(), 2);
        let median = positive(&test["median"]);
        assert!((median - (runs[0] + runs[1]) / 2.0).abs() <= 1e-9 * median, "{test}");
        positive(&test["of_limit"]);
        assert!(positive(&test["lowest"]) <= positive(&test["highest"]));
        ops(test);
    }
    let last = &tests[7];
    assert_eq!(
        (&last["n_gen"], &last["n_depth"], &last["batch"]),
        (&3.into(), &64.into(), &3.into())
    );
}

/// The table by op: its shares make a whole, and the work is what the graph says.
fn ops(test: &Json) {
    let ops = &test["ops"];
    assert_eq!(keys(ops), ["limits", "moved", "ops", "outside", "steps", "total"]);
    // A GPU's to say.
    assert!(ops["moved"].is_null(), "{ops}");
    let steps =
        if test["n_gen"] == 3 { 3 } else { test["n_prompt"].as_u64().unwrap().div_ceil(64) };
    assert_eq!(ops["steps"], steps, "{test}");
    for limit in ["read_gb_s", "int8_gmac_s", "f32_gmac_s"] {
        positive(&ops["limits"][limit]);
    }
    let rows = ops["ops"].as_array().unwrap();
    let share: f64 = rows.iter().map(|row| row["share"].as_f64().unwrap()).sum();
    let outside = ops["outside"]["share"].as_f64().unwrap();
    assert!((share + outside - 1.0).abs() < 1e-6, "{share} {outside}");
    let named = |part: &str| rows.iter().any(|row| row["what"].as_str().unwrap().contains(part));
    for part in ["attn_q", "ffn_down", "output", "kqv_out", "token_embd"] {
        assert!(named(part), "{part}: {rows:#?}");
    }
    let down = rows.iter().find(|row| row["what"].as_str().unwrap().contains("ffn_down")).unwrap();
    positive(&down["gmac_s"]);
    positive(&down["of_mac"]);
    assert_eq!(down["format"], "Q8_0", "{down}");
}

#[test]
fn tables_are_markdown_or_csv() {
    let folder = folder();
    let plain = bench(&folder, &TESTS);
    let lines: Vec<&str> = plain.lines().collect();
    assert_eq!(lines.len(), 2 + NAMES.len(), "{plain}");
    let width = |line: &str| line.chars().count();
    assert!(lines.iter().all(|line| width(line) == width(lines[0])), "{plain}");
    let cell = |line: &str, i: usize| line.split('|').nth(i).unwrap().trim().to_owned();
    assert_eq!(cell(lines[0], 5), "test");
    let names: Vec<String> = lines[2..].iter().map(|line| cell(line, 5)).collect();
    assert_eq!(names, NAMES);

    let csv = bench(&folder, &["-m", "tiny.gguf", "-p", "4", "-n", "2", "-o", "csv"]);
    let lines: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 3, "{csv}");
    // Counted from the right: the backend's name has a comma in it, so it is quoted, and splits in two here.
    let from_right = lines[0].len() - lines[0].iter().position(|&cell| cell == "n_gen").unwrap();
    assert_eq!((lines[2][0], lines[2][lines[2].len() - from_right]), ("tiny", "2"));
    assert!(csv.contains("\"cpu ("), "{csv}");

    let ops = bench(&folder, &["-m", "tiny.gguf", "-p", "4", "-n", "2", "--ops"]);
    for part in
        ["tiny, pp4, 1 step; limits of 2 threads", "tiny, tg2, 2 steps;", "| outside ", "| total "]
    {
        assert!(ops.contains(part), "{part}: {ops}");
    }
}

#[test]
fn several_models_are_measured_one_after_another() {
    let folder = folder();
    std::fs::copy(folder.path().join("tiny.gguf"), folder.path().join("other.gguf")).unwrap();
    let args = ["-m", "tiny.gguf", "-m", "other.gguf", "-p", "4", "-n", "0", "--json"];
    let printed = bench(&folder, &args);
    let paths: Vec<Json> =
        printed.lines().map(|line| json(line)["model"]["path"].clone()).collect();
    assert_eq!(paths, ["tiny.gguf", "other.gguf"]);
}

/// Lists of threads and batch sizes: a row for each combination, in llama-bench's form. Others judge that: what reads
/// llama-bench's output in this project, and SQLite.
#[test]
fn rows_are_llama_bench_s() {
    let folder = folder();
    let run = |output: &str| {
        let lists = ["-p", "4,8", "-n", "2", "-b", "8,16", "-t", "1,2", "-r", "3"];
        let args = [&["bench", "tiny.gguf", "-o", output], &lists[..]].concat();
        let ran = karat(&folder, &args);
        assert_eq!(ran.status.code(), Some(0), "{output}: {}", text(&ran.stderr));
        text(&ran.stdout)
    };
    let jsonl = run("jsonl");
    let rows: Vec<Json> = jsonl.lines().map(json).collect();
    let of = |row: &Json| {
        ["n_batch", "n_threads", "n_prompt", "n_gen"].map(|name| row[name].as_u64().unwrap())
    };
    let mut expected = Vec::new();
    for n_batch in [8, 16] {
        for n_threads in [1, 2] {
            expected.extend([[4, 0], [8, 0], [0, 2]].map(|[p, n]| [n_batch, n_threads, p, n]));
        }
    }
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), expected);
    for row in &rows {
        assert_eq!((&row["type_k"], &row["model_filename"]), (&"f16".into(), &"tiny.gguf".into()));
        let (rates, ns) =
            (row["samples_ts"].as_array().unwrap(), row["samples_ns"].as_array().unwrap());
        assert_eq!((rates.len(), ns.len()), (3, 3));
        let tokens = (of(row)[2] + of(row)[3]) as f64;
        for (rate, ns) in rates.iter().zip(ns) {
            let product = positive(rate) * positive(ns);
            assert!((product / (tokens * 1e9) - 1.0).abs() < 1e-3, "{row}");
        }
        let mean = rates.iter().map(positive).sum::<f64>() / 3.0;
        assert!((positive(&row["avg_ts"]) / mean - 1.0).abs() < 1e-9, "{row}");
    }
    let list: Json = json(&run("json"));
    assert_eq!(list.as_array().unwrap().iter().map(of).collect::<Vec<_>>(), expected);
    let (csv, table) = (run("csv"), run("md"));
    assert_eq!(csv.lines().count(), 1 + expected.len(), "{csv}");
    assert!(table.contains("| threads | n_batch | test "), "{table}");
    assert_eq!(table.lines().count(), 2 + expected.len(), "{table}");
    judged_by_others(&jsonl, &list.to_string(), &run("sql"));
    refused(&folder, &["tiny.gguf", "-t", "1,0"], 2, "whole numbers from 1");
    refused(&folder, &["tiny.gguf", "-p", "8-4"], 2, "end is before its beginning");
    refused(&folder, &["--formats", "-o", "sql"], 2, "-o sql");
}

fn judged_by_others(jsonl: &str, list: &str, sql: &str) {
    let script = r#"
import importlib.machinery, importlib.util, sqlite3, sys
loader = importlib.machinery.SourceFileLoader("peers", sys.argv[1])
peers = importlib.util.module_from_spec(importlib.util.spec_from_loader("peers", loader))
loader.exec_module(peers)
for text in sys.argv[2:4]:
    assert sorted(peers.parse_llama_bench(text)) == ["pp4", "pp8", "tg2"], text
db = sqlite3.connect(":memory:")
db.executescript(sys.argv[4])
db.executescript(sys.argv[4])
rows = db.execute("select count(*), min(n_threads), max(n_batch), min(avg_ts) > 0, max(of_limit) from karat_bench")
assert rows.fetchone() == (24, 1, 16, 1, None)
"#;
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/peers");
    let mut python = Command::new("python3");
    python.arg("-B").args(["-c", script, peers, jsonl, list, sql]);
    match python.output() {
        Ok(judged) => assert!(judged.status.success(), "{}", text(&judged.stderr)),
        Err(error) => skip::say_skipped(&format!("what reads rows of karat bench: {error}")),
    }
}

#[test]
fn formats_are_measured_against_limits() {
    let folder = tempfile::tempdir().unwrap();
    // Wide enough that few copies leave the caches.
    let shape = ["--shape", "4096x8192", "-p", "2"];
    let args = [&["--formats=f32,Q8_0", "--json"][..], &shape].concat();
    let report = json(&bench(&folder, &args));
    assert_eq!(report["shape"], serde_json::json!({"n_in": 4096, "n_out": 8192}));
    let rows = report["formats"].as_array().unwrap();
    let mut names: Vec<&str> = rows.iter().map(|row| row["format"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["F32", "Q8_0"]);
    for row in rows {
        let arithmetic = if row["format"] == "F32" { "f32" } else { "int16" };
        assert_eq!(row["arithmetic"], arithmetic);
        for (product, tokens) in row["products"].as_array().unwrap().iter().zip([1, 2]) {
            assert_eq!(product["tokens"], tokens);
            for key in ["gb_s", "of_read", "gmac_s", "of_mac"] {
                positive(&product[key]);
            }
        }
    }
    let table = bench(&folder, &[&["--formats=Q8_0", "--arithmetic", "f32"][..], &shape].concat());
    assert!(table.contains("4096x8192, f32, the slowest format first"), "{table}");
    assert!(table.contains("| Q8_0   | f32   |"), "{table}");
}

#[test]
fn loads_are_taken_apart() {
    let folder = folder();
    let report = json(&bench(&folder, &["--load", "-m", "tiny.gguf", "--json"]));
    let runs = report["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    for run in runs {
        let parts = ["open", "tokenizer", "graph", "weights", "cache", "first_token"];
        let sum: f64 = parts.iter().map(|part| run[part].as_f64().unwrap()).sum();
        // What is between the parts is small, but not nothing.
        assert!(sum <= positive(&run["total"]) * 1.0001, "{run}");
    }
    assert!(positive(&report["allowed_rss"]) > 150e6);
    #[cfg(target_os = "linux")]
    positive(&report["peak_rss"]);
    let table = bench(&folder, &["--load", "-m", "tiny.gguf"]);
    for part in ["| tokenizer ", "| first token ", "| total ", "peak memory"] {
        assert!(table.contains(part), "{part}: {table}");
    }
}

/// One line on stderr that names `part`, nothing on stdout.
fn refused(folder: &TempDir, args: &[&str], code: i32, part: &str) {
    let output = karat(folder, &[&["bench"], args].concat());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
    assert!(stderr.contains(part), "{args:?}: {part} is not in {stderr}");
    let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{args:?}: {stderr}");
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let folder = folder();
    let model = |args: &[&'static str]| [&["-m", "tiny.gguf"][..], args].concat();
    refused(&folder, &model(&["-d", "8192", "-c", "256"]), 7, "pp512 @ d8192: 8704 positions");
    refused(&folder, &model(&["-p", "1024", "-d", "1", "-c", "0"]), 7, "1025 positions");
    refused(&folder, &model(&["--batch", "16", "-b", "8"]), 7, "tg128 x16: 16 sequences");
    refused(&folder, &model(&["-p", "18446744073709551615"]), 5, "does not fit");
    refused(&folder, &model(&["-p", "0", "-n", "0"]), 2, "-p and -n");
    refused(&folder, &model(&["--ops", "--backend", "reference"]), 2, "--backend");
    refused(&folder, &["--formats", "--backend", "reference"], 2, "--backend");
    refused(&folder, &["--formats=Q9_9"], 2, "Q9_9");
    refused(&folder, &["--formats", "--shape", "100x100"], 2, "100x100");
    refused(&folder, &["--formats", "-m", "tiny.gguf"], 2, "--formats");
    refused(&folder, &model(&["--load", "--ops"]), 2, "--load");
    refused(&folder, &model(&["--batch", "0"]), 2, "--batch");
    refused(&folder, &["-m", "missing.gguf"], 4, "missing.gguf");
}

/// Ctrl-C ends the tests; those that were finished are printed, and the exit code says that it was not all.
#[cfg(unix)]
#[test]
fn an_interrupted_bench_prints_what_it_has() {
    let folder = folder();
    // The second test takes a minute.
    let args = ["bench", "-m", "tiny.gguf", "-p", "0", "-n", "1,1000", "-r", "300", "--json"];
    let child =
        command(&folder, &args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Long enough that the handler is there; whether a test is finished by then is the machine's matter.
    std::thread::sleep(std::time::Duration::from_secs(3));
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
    let report = json(&text(&output.stdout));
    assert!(report["tests"].as_array().unwrap().len() < 2, "{report}");
}
